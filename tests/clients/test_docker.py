"""The docker command line with a Docker daemon."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests import images
from tests.clients import wire
from tests.clients.cutting import Direction, cutting
from tests.clients.hubs import EVERY_HUB, Hub
from tests.servers import Docker


def load(docker: Docker, content: images.Content, reference: str) -> None:
    docker("load", stdin=images.docker_archive(content, reference))


def push(docker: Docker, reference: str) -> str:
    """Push; the digest that docker says it pushed."""
    said = re.search(r"digest: (sha256:[0-9a-f]{64})", docker("push", reference))
    assert said
    return said[1]


def pulled_digest(docker: Docker, reference: str) -> str:
    """Pull; the digest that docker knows the image by afterwards, said twice alike."""
    said = re.search(r"Digest: (sha256:[0-9a-f]{64})", docker("pull", reference))
    assert said
    known = json.loads(docker("image", "inspect", reference))[0]["RepoDigests"]
    name = re.sub(r"(:[^:/]+|@sha256:.*)$", "", reference)
    assert f"{name}@{said[1]}" in known
    return said[1]


@pytest.fixture(autouse=True)
def _forget(docker: Docker) -> Iterator[None]:
    """The daemon forgets every image after a test, so that each pull transfers."""
    yield
    if ids := docker("images", "-aq").split():
        docker("rmi", "-f", *dict.fromkeys(ids))


@EVERY_HUB
def test_push_then_pull_by_tag_and_digest(docker: Docker, hub: Hub) -> None:
    reference = f"{hub.address}/docker/push:1"
    load(docker, images.small(), reference)
    identity = json.loads(docker("image", "inspect", reference))[0]["Id"]
    digest = push(docker, reference)
    assert wire.digest_of(hub.witness, "docker/push", "1") == digest
    for name in (reference, f"{hub.address}/docker/push@{digest}"):
        docker("rmi", "-f", identity)
        assert pulled_digest(docker, name) == digest
        assert json.loads(docker("image", "inspect", name))[0]["Id"] == identity


def test_a_second_push_sends_nothing_and_a_second_repository_mounts(docker: Docker, hub: Hub) -> None:
    load(docker, images.small(), f"{hub.address}/docker/first:1")
    digest = push(docker, f"{hub.address}/docker/first:1")
    assert "Layer already exists" in docker("push", f"{hub.address}/docker/first:1")
    docker("tag", f"{hub.address}/docker/first:1", f"{hub.address}/docker/second:1")
    said = docker("push", f"{hub.address}/docker/second:1")
    assert said.count("Mounted from docker/first") == 2
    assert digest in said


@EVERY_HUB
def test_all_tags(docker: Docker, hub: Hub) -> None:
    name = f"{hub.address}/docker/tags"
    load(docker, images.small(), f"{name}:1")
    docker("tag", f"{name}:1", f"{name}:2")
    docker("push", "--all-tags", name)
    assert wire.tags(hub.witness, "docker/tags") == ["1", "2"]
    docker("rmi", f"{name}:1", f"{name}:2")
    docker("pull", "--all-tags", name)
    assert docker("images", "--format", "{{.Tag}}", name).split() in (["1", "2"], ["2", "1"])


def test_multi_platform_list(docker: Docker, hub: Hub) -> None:
    name = f"{hub.address}/docker/multi"
    for architecture in ("amd64", "arm64"):
        load(docker, images.small(architecture=architecture), f"{name}:{architecture}")
        push(docker, f"{name}:{architecture}")
    plain = [] if hub.authority else ["--insecure"]
    docker("manifest", "create", *plain, f"{name}:all", f"{name}:amd64", f"{name}:arm64")
    digest = docker("manifest", "push", *plain, f"{name}:all").strip()
    assert wire.digest_of(hub.witness, "docker/multi", "all") == digest
    listed = json.loads(docker("manifest", "inspect", *plain, f"{name}:all"))
    assert {entry["platform"]["architecture"] for entry in listed["manifests"]} == {"amd64", "arm64"}
    docker("rmi", f"{name}:amd64", f"{name}:arm64")
    assert pulled_digest(docker, f"{name}:all") == digest
    own = json.loads(docker("image", "inspect", f"{name}:all"))[0]
    assert own["Architecture"] == images.machine_architecture()


def test_an_image_of_ours_runs(docker: Docker, hub: Hub) -> None:
    reference = f"{hub.address}/docker/busybox:1"
    load(docker, images.busybox(), reference)
    push(docker, reference)
    docker("rmi", reference)
    assert docker("run", "--rm", "--network=none", reference, "echo", "from the hub") == "from the hub\n"


@pytest.mark.parametrize("hub", ["open"], indirect=True)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_transfer_goes_on(direction: Direction, docker: Docker, hub: Hub) -> None:
    with cutting(hub.address, direction, after=8_000_000) as proxy:
        near, far = (f"{address}/docker/cut-{direction}:1" for address in (hub.address, proxy.address))
        load(docker, images.large(24, seed=11 if direction == "up" else 12), near)
        docker("tag", near, far)
        digest = push(docker, far if direction == "up" else near)
        docker("rmi", near, far)
        assert pulled_digest(docker, far if direction == "down" else near) == digest
        assert proxy.cuts == 1
        if direction == "down":
            assert proxy.bytes_down < 30_000_000, "what had come before the cut was asked for again"
