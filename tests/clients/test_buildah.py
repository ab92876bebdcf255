"""buildah: images made from scratch, pushed and pulled."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import images
from tests.clients import wire
from tests.clients.cutting import Direction, cutting, once_more
from tests.clients.hubs import EVERY_HUB, Hub
from tests.servers import Containers


def build(containers: Containers, tmp_path: Path, reference: str, payload: bytes = b"built\n") -> None:
    """An image of one file."""
    (tmp_path / "payload").write_bytes(payload)
    container = containers("buildah", "from", "scratch").strip()
    containers("buildah", "copy", container, str(tmp_path / "payload"), "/srv/payload")
    containers("buildah", "config", "--cmd", "/srv/payload", container)
    containers("buildah", "commit", "--rm", container, reference)


def push(hub: Hub, containers: Containers, tmp_path: Path, reference: str, *options: str) -> str:
    """Push; the digest that buildah says it pushed."""
    containers("buildah", "push", hub.tls_verify, "--digestfile", str(tmp_path / "digest"), *options, reference)
    return (tmp_path / "digest").read_text()


def pulled_digest(hub: Hub, containers: Containers, reference: str) -> str:
    """Pull into an emptied store; the digest that buildah knows the image by afterwards."""
    containers("buildah", "rmi", "--all", "--force")
    containers("buildah", "pull", "-q", hub.tls_verify, reference)
    digest: str = json.loads(containers("buildah", "inspect", "--type=image", reference))["FromImageDigest"]
    return digest


@EVERY_HUB
@pytest.mark.parametrize("form", ["oci", "docker"])
def test_push_then_pull_by_tag_and_digest(form: str, hub: Hub, containers: Containers, tmp_path: Path) -> None:
    name = f"{hub.address}/buildah/push-{form}"
    build(containers, tmp_path, f"{name}:1")
    digest = push(hub, containers, tmp_path, f"{name}:1", "--format", "v2s2" if form == "docker" else form)
    answer = wire.manifest(hub.witness, f"buildah/push-{form}", "1")
    assert answer.headers["docker-content-digest"] == digest
    assert answer.headers["content-type"] == (images.OCI_MANIFEST if form == "oci" else images.DOCKER_MANIFEST)
    assert pulled_digest(hub, containers, f"{name}:1") == digest
    assert pulled_digest(hub, containers, f"{name}@{digest}") == digest


def test_a_build_on_a_base_from_the_hub(hub: Hub, containers: Containers, tmp_path: Path) -> None:
    base, name = f"{hub.address}/buildah/base:1", f"{hub.address}/buildah/derived:1"
    build(containers, tmp_path, base)
    push(hub, containers, tmp_path, base)
    (tmp_path / "Containerfile").write_text(f"FROM {base}\nCOPY payload /srv/second\n")
    containers("buildah", "bud", hub.tls_verify, "-t", name, str(tmp_path))
    digest = push(hub, containers, tmp_path, name)
    layers = wire.manifest(hub.witness, "buildah/derived", digest).json["layers"]
    below = wire.manifest(hub.witness, "buildah/base", "1").json["layers"]
    assert len(layers) == 2
    assert layers[0]["digest"] == below[0]["digest"]


def test_multi_platform_index(hub: Hub, containers: Containers, tmp_path: Path) -> None:
    name = f"{hub.address}/buildah/multi"
    containers("buildah", "manifest", "create", f"{name}:all")
    for architecture in ("amd64", "arm64"):
        content = images.small(architecture=architecture)
        layout = images.write_layout(tmp_path / architecture, **{architecture: content})
        containers("buildah", "manifest", "add", f"{name}:all", f"oci:{layout}:{architecture}")
    arguments = [
        "--all",
        hub.tls_verify,
        "--digestfile",
        str(tmp_path / "digest"),
        f"{name}:all",
        f"docker://{name}:all",
    ]
    containers("buildah", "manifest", "push", *arguments)
    answer = wire.manifest(hub.witness, "buildah/multi", "all")
    assert answer.headers["docker-content-digest"] == (tmp_path / "digest").read_text()
    assert {entry["platform"]["architecture"] for entry in answer.json["manifests"]} == {"amd64", "arm64"}
    containers("buildah", "manifest", "rm", f"{name}:all")
    containers("buildah", "pull", "-q", hub.tls_verify, "--arch=arm64", f"{name}:all")
    assert (
        json.loads(containers("buildah", "inspect", "--type=image", f"{name}:all"))["OCIv1"]["architecture"] == "arm64"
    )


@pytest.mark.parametrize("hub", ["open"], indirect=True)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_transfer_goes_on(direction: Direction, hub: Hub, containers: Containers, tmp_path: Path) -> None:
    with cutting(hub.address, direction, after=8_000_000) as proxy:
        near, far = (f"{address}/buildah/cut-{direction}:1" for address in (hub.address, proxy.address))
        build(containers, tmp_path, near, images.noise(24_000_000, seed=15 if direction == "up" else 16))
        containers("buildah", "tag", near, far)
        digest = once_more(proxy, lambda: push(hub, containers, tmp_path, far if direction == "up" else near))
        assert once_more(proxy, lambda: pulled_digest(hub, containers, far if direction == "down" else near)) == digest
        assert proxy.cuts == 1
    containers("buildah", "rmi", "--all", "--force")
