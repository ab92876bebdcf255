"""skopeo: copies that keep every byte, deletion, tag lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import images
from tests.clients import wire
from tests.clients.cutting import Direction, cutting, once_more
from tests.clients.hubs import EVERY_HUB, Hub
from tests.servers import Containers

CONTENTS = {
    "image": images.small(),
    "docker": images.small(is_docker=True),
    "index": images.multi_platform(),
    "list": images.multi_platform(is_docker=True),
}


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """A source for skopeo of each content: a layout, or for what is not OCI's the directory format of its own."""
    images.write_layout(tmp_path / "layout", image=CONTENTS["image"], index=CONTENTS["index"])
    for name in ("docker", "list"):
        write_directory(tmp_path / name, CONTENTS[name])
    return {name: f"oci:{tmp_path}/layout:{name}" for name in ("image", "index")} | {
        name: f"dir:{tmp_path / name}" for name in ("docker", "list")
    }


def write_directory(directory: Path, content: images.Content) -> None:
    """skopeo's ``dir:`` format: blobs by their hex digests, other manifests than the first by theirs and a suffix."""
    directory.mkdir()
    (directory / "version").write_text("Directory Transport Version: 1.2\n")
    for digest, data in content.blobs.items():
        suffix = ".manifest.json" if digest in content.manifests else ""
        (directory / f"{digest.partition(':')[2]}{suffix}").write_bytes(data)
    (directory / "manifest.json").write_bytes(content.raw)


def copy(hub: Hub, containers: Containers, source: str, target: str, *options: str) -> None:
    """Copy without changing a byte: skopeo fails when it would have to."""
    plain = [] if hub.authority else ["--src-tls-verify=false", "--dest-tls-verify=false"]
    containers("skopeo", "copy", "--preserve-digests", *plain, *options, source, target)


@EVERY_HUB
@pytest.mark.parametrize("tag", CONTENTS)
def test_push_then_pull_by_tag_and_digest(
    tag: str, sources: dict[str, str], hub: Hub, containers: Containers, tmp_path: Path
) -> None:
    sent, name = CONTENTS[tag], f"{hub.address}/skopeo/push"
    copy(hub, containers, sources[tag], f"docker://{name}:{tag}", "--all")
    answer = wire.manifest(hub.witness, "skopeo/push", tag)
    assert (answer.body, answer.headers["content-type"]) == (sent.raw, sent.media_type)

    for reference in (f":{tag}", f"@{sent.digest}"):
        back = tmp_path / f"back{reference[0]}"
        copy(hub, containers, f"docker://{name}{reference}", f"dir:{back}", "--all")
        assert (back / "manifest.json").read_bytes() == sent.raw
        for digest, data in sent.blobs.items():
            suffix = ".manifest.json" if digest in sent.manifests else ""
            if digest != sent.digest:
                assert (back / f"{digest.partition(':')[2]}{suffix}").read_bytes() == data


def test_one_platform_of_an_index(sources: dict[str, str], hub: Hub, containers: Containers, tmp_path: Path) -> None:
    name = f"docker://{hub.address}/skopeo/platform:1"
    copy(hub, containers, sources["index"], name, "--all")
    assert (
        json.loads(containers("skopeo", "inspect", hub.tls_verify, "--override-arch=arm64", name))["Architecture"]
        == "arm64"
    )
    copy(hub, containers, name, f"dir:{tmp_path / 'arm'}", "--override-arch=arm64")
    assert (tmp_path / "arm/manifest.json").read_bytes() == images.small(architecture="arm64").raw


@EVERY_HUB
def test_list_tags_and_delete(sources: dict[str, str], hub: Hub, containers: Containers) -> None:
    name = f"docker://{hub.address}/skopeo/tags"
    for tag in ("1", "2"):
        copy(hub, containers, sources["image"], f"{name}:{tag}")
    copy(hub, containers, sources["docker"], f"{name}:3")
    listed = json.loads(containers("skopeo", "list-tags", hub.tls_verify, name))
    assert listed["Tags"] == ["1", "2", "3"]
    # skopeo deletes the manifest that the tag names, and with it every tag of the same manifest.
    containers("skopeo", "delete", hub.tls_verify, f"{name}:1")
    assert wire.is_gone(hub.witness, "skopeo/tags", images.small().digest)
    assert wire.tags(hub.witness, "skopeo/tags") == ["3"]


@pytest.mark.parametrize("hub", ["open"], indirect=True)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_transfer_goes_on(direction: Direction, hub: Hub, containers: Containers, tmp_path: Path) -> None:
    sent = images.large(24)
    images.write_layout(tmp_path / "layout", large=sent)
    name = f"skopeo/cut-{direction}:1"
    local = f"oci:{tmp_path}/layout:large"
    if direction == "down":
        containers("skopeo", "copy", "--dest-tls-verify=false", local, f"docker://{hub.address}/{name}")
    with cutting(hub.address, direction, after=8_000_000) as proxy:
        there = f"docker://{proxy.address}/{name}"
        ends = (local, there) if direction == "up" else (there, f"oci:{tmp_path}/back:large")
        plain = ("--retry-times=3", "--src-tls-verify=false", "--dest-tls-verify=false")
        once_more(proxy, lambda: containers("skopeo", "copy", *plain, *ends))
        assert proxy.cuts == 1
    assert wire.digest_of(hub.witness, f"skopeo/cut-{direction}", "1") == sent.digest
    if direction == "down":
        for digest, data in sent.blobs.items():
            assert (tmp_path / "back/blobs" / digest.replace(":", "/")).read_bytes() == data
