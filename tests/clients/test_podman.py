"""podman: images in and out of a store of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import images
from tests.clients import wire
from tests.clients.cutting import Direction, cutting, once_more
from tests.clients.hubs import EVERY_HUB, Hub
from tests.servers import Containers


def load(containers: Containers, content: images.Content, reference: str) -> None:
    containers("podman", "load", stdin=images.docker_archive(content, reference))


def push(hub: Hub, containers: Containers, tmp_path: Path, reference: str, *options: str) -> str:
    """Push; the digest that podman says it pushed."""
    containers("podman", "push", hub.tls_verify, "--digestfile", str(tmp_path / "digest"), *options, reference)
    return (tmp_path / "digest").read_text()


def pulled_digest(hub: Hub, containers: Containers, reference: str) -> str:
    """Pull; the digest that podman knows the image by afterwards."""
    containers("podman", "rmi", "--all", "--force")
    containers("podman", "pull", "-q", hub.tls_verify, reference)
    digest: str = json.loads(containers("podman", "image", "inspect", reference))[0]["Digest"]
    return digest


@EVERY_HUB
@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_push_then_pull_by_tag_and_digest(form: str, hub: Hub, containers: Containers, tmp_path: Path) -> None:
    name = f"{hub.address}/podman/push-{form}"
    load(containers, images.small(), f"{name}:1")
    digest = push(hub, containers, tmp_path, f"{name}:1", "--format", form)
    assert wire.digest_of(hub.witness, f"podman/push-{form}", "1") == digest
    assert pulled_digest(hub, containers, f"{name}:1") == digest
    assert pulled_digest(hub, containers, f"{name}@{digest}") == digest


@EVERY_HUB
def test_list_tags(hub: Hub, containers: Containers, tmp_path: Path) -> None:
    name = f"{hub.address}/podman/tags"
    load(containers, images.small(), f"{name}:1")
    containers("podman", "tag", f"{name}:1", f"{name}:2")
    for tag in ("1", "2"):
        push(hub, containers, tmp_path, f"{name}:{tag}")
    header, *rows = containers("podman", "search", "--list-tags", hub.tls_verify, name).splitlines()
    assert header.split() == ["NAME", "TAG"]
    assert [row.split() for row in rows] == [[name, "1"], [name, "2"]]


@EVERY_HUB
def test_multi_platform_index(hub: Hub, containers: Containers, tmp_path: Path) -> None:
    name = f"{hub.address}/podman/multi"
    containers("podman", "manifest", "create", f"{name}:all")
    for architecture in ("amd64", "arm64"):
        content = images.small(architecture=architecture)
        layout = images.write_layout(tmp_path / architecture, **{architecture: content})
        containers("podman", "manifest", "add", f"{name}:all", f"oci:{layout}:{architecture}")
    arguments = [
        "--all",
        hub.tls_verify,
        "--digestfile",
        str(tmp_path / "digest"),
        f"{name}:all",
        f"docker://{name}:all",
    ]
    containers("podman", "manifest", "push", *arguments)
    digest = (tmp_path / "digest").read_text()
    answer = wire.manifest(hub.witness, "podman/multi", "all")
    assert answer.headers["docker-content-digest"] == digest
    assert {entry["platform"]["architecture"] for entry in answer.json["manifests"]} == {"amd64", "arm64"}
    for child in answer.json["manifests"]:
        assert wire.digest_of(hub.witness, "podman/multi", child["digest"]) == child["digest"]
    containers("podman", "manifest", "rm", f"{name}:all")
    containers("podman", "pull", "-q", hub.tls_verify, "--arch=arm64", f"{name}:all")
    own = json.loads(containers("podman", "image", "inspect", f"{name}:all"))[0]
    assert own["Architecture"] == "arm64"
    containers("podman", "rmi", f"{name}:all")


@pytest.mark.parametrize("hub", ["open"], indirect=True)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_transfer_goes_on(direction: Direction, hub: Hub, containers: Containers, tmp_path: Path) -> None:
    with cutting(hub.address, direction, after=8_000_000) as proxy:
        near, far = (f"{address}/podman/cut-{direction}:1" for address in (hub.address, proxy.address))
        load(containers, images.large(24, seed=13 if direction == "up" else 14), near)
        containers("podman", "tag", near, far)
        digest = once_more(proxy, lambda: push(hub, containers, tmp_path, far if direction == "up" else near))
        assert once_more(proxy, lambda: pulled_digest(hub, containers, far if direction == "down" else near)) == digest
        assert proxy.cuts == 1
    assert wire.digest_of(hub.witness, f"podman/cut-{direction}", "1") == digest
    containers("podman", "rmi", "--all", "--force")
