"""crane (go-containerregistry)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import images
from tests.clients import wire
from tests.clients.cutting import Direction, cutting
from tests.servers import Server, distribution, run
from tests.tools import tool


def crane(*arguments: str) -> str:
    environment = os.environ | {"DOCKER_CONFIG": "/nonexistent"}
    return run([str(tool("crane")), *arguments], environment)


def push(content: images.Content, reference: str, tmp_path: Path) -> str:
    """Push from a layout; the digest that crane says it pushed."""
    layout = images.write_layout(tmp_path / "layout" / content.digest[7:19], only=content)
    options = ["--index"] if content.media_type in (images.OCI_INDEX, images.DOCKER_LIST) else []
    return crane("push", *options, str(layout), reference).strip().partition("@")[2]


@pytest.mark.parametrize("is_docker", [False, True], ids=["oci", "docker"])
def test_push_then_pull_by_tag_and_digest(is_docker: bool, hub: Server, tmp_path: Path) -> None:
    sent, name = images.small(is_docker=is_docker), f"{hub.address}/crane/push-{is_docker}".lower()
    assert push(sent, f"{name}:1", tmp_path) == sent.digest
    for reference in (f"{name}:1", f"{name}@{sent.digest}"):
        assert crane("digest", reference).strip() == sent.digest
        assert crane("manifest", reference).encode() == sent.raw
        crane("pull", "--format=oci", reference, str(tmp_path / "back"))
        for digest, data in sent.blobs.items():
            assert (tmp_path / "back/blobs" / digest.replace(":", "/")).read_bytes() == data
    crane("validate", "--remote", f"{name}:1")


def test_multi_platform_index(hub: Server, tmp_path: Path) -> None:
    name = f"{hub.address}/crane/multi"
    sent = images.multi_platform()
    crane("push", "--index", str(images.write_layout(tmp_path / "layout", only=sent)), f"{name}:layout")
    for architecture in ("amd64", "arm64"):
        push(images.small(architecture=architecture), f"{name}:{architecture}", tmp_path)
    crane("index", "append", "-m", f"{name}:amd64", "-m", f"{name}:arm64", "-t", f"{name}:all")
    assert crane("digest", f"{name}:all").strip() == wire.digest_of(hub.address, "crane/multi", "all")
    arm = images.small(architecture="arm64")
    assert crane("digest", "--platform=linux/arm64", f"{name}:all").strip() == arm.digest
    assert json.loads(crane("config", "--platform=linux/arm64", f"{name}:all"))["architecture"] == "arm64"
    crane("validate", "--remote", f"{name}:all")


def test_copy_keeps_an_index_whole_and_mounts(hub: Server, tmp_path: Path) -> None:
    sent = images.multi_platform()
    layout = images.write_layout(tmp_path / "layout", only=sent)
    crane("push", "--index", str(layout), f"{hub.address}/crane/source:1")
    digest = crane("digest", f"{hub.address}/crane/source:1").strip()
    crane("copy", f"{hub.address}/crane/source:1", f"{hub.address}/crane/copied:1")
    assert wire.digest_of(hub.address, "crane/copied", "1") == digest
    for child in images.multi_platform().manifests[:-1]:
        assert wire.digest_of(hub.address, "crane/copied", child) == child


def test_list_tags_catalogue_and_delete(hub: Server, tmp_path: Path) -> None:
    sent, name = images.small("crane tags"), f"{hub.address}/crane/tags"
    push(sent, f"{name}:1", tmp_path)
    crane("tag", f"{name}:1", "2")
    assert crane("ls", name).split() == ["1", "2"]
    assert "crane/tags" in crane("catalog", hub.address).split()
    crane("delete", f"{name}:1")
    assert crane("ls", name).split() == ["2"], "a tag goes alone"
    crane("delete", f"{name}@{sent.digest}")
    assert wire.is_gone(hub.address, "crane/tags", "2")


def test_layers_and_labels_change_in_the_registry(hub: Server, tmp_path: Path) -> None:
    name = f"{hub.address}/crane/mutate"
    push(images.small(), f"{name}:1", tmp_path)
    (tmp_path / "more.tar").write_bytes(images.tar({"srv/more": b"more\n"}))
    crane("append", "-b", f"{name}:1", "-f", str(tmp_path / "more.tar"), "-t", f"{name}:2")
    crane("mutate", f"{name}:2", "-l", "made.by=crane", "-t", f"{name}:3")
    assert json.loads(crane("config", f"{name}:3"))["config"]["Labels"] == {"made.by": "crane"}
    assert len(wire.manifest(hub.address, "crane/mutate", "3").json["layers"]) == 3
    crane("validate", "--remote", f"{name}:3")


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_transfer_goes_on(direction: Direction, hub: Server, tmp_path: Path) -> None:
    """crane sends a layer again after a cut. A pull that is cut it gives up; its copy to another registry goes on."""
    sent = images.large(24, seed=17 if direction == "up" else 21)
    name = f"crane/cut-{direction}:1"
    with cutting(hub.address, direction, after=8_000_000) as proxy, distribution(tmp_path / "other") as other:
        if direction == "up":
            assert push(sent, f"{proxy.address}/{name}", tmp_path) == sent.digest
        else:
            push(sent, f"{hub.address}/{name}", tmp_path)
            crane("copy", f"{proxy.address}/{name}", f"{other.address}/{name}")
        assert proxy.cuts == 1
        assert (
            wire.digest_of(hub.address if direction == "up" else other.address, f"crane/cut-{direction}", "1")
            == sent.digest
        )
