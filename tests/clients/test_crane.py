"""crane (go-containerregistry)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import images
from tests.accounts import PASSWORD
from tests.clients import wire
from tests.clients.cutting import Direction, cutting
from tests.clients.hubs import EVERY_HUB, USER, Hub
from tests.servers import distribution


class Crane:
    """crane with credentials of its own. It trusts what Go does, by the file that SSL_CERT_FILE names."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self._hub, self._directory = hub, directory
        self._environment = os.environ | {"DOCKER_CONFIG": str(directory)}
        if hub.authority:
            self._environment["SSL_CERT_FILE"] = str(hub.authority)

    def __call__(self, *arguments: str, stdin: bytes = b"") -> str:
        return self._hub.run("crane", *arguments, environment=self._environment, cwd=self._directory, stdin=stdin)

    def login(self, name: str, password: str = PASSWORD) -> None:
        self("auth", "login", self._hub.address, "-u", name, "--password-stdin", stdin=password.encode())

    def logout(self) -> None:
        self("auth", "logout", self._hub.address)

    def push_image(self, content: images.Content, reference: str) -> str:
        """Push from a layout; the digest that crane says it pushed."""
        layout = images.write_layout(self._directory / "layout" / content.digest[7:19], only=content)
        options = ["--index"] if content.media_type in (images.OCI_INDEX, images.DOCKER_LIST) else []
        return self("push", *options, str(layout), reference).strip().partition("@")[2]


@pytest.fixture
def crane(hub: Hub, tmp_path: Path) -> Crane:
    program = Crane(hub, tmp_path)
    if hub.authority:
        program.login(USER)
    return program


@EVERY_HUB
@pytest.mark.parametrize("is_docker", [False, True], ids=["oci", "docker"])
def test_push_then_pull_by_tag_and_digest(is_docker: bool, crane: Crane, hub: Hub, tmp_path: Path) -> None:
    sent, name = images.small(is_docker=is_docker), f"{hub.address}/crane/push-{is_docker}".lower()
    assert crane.push_image(sent, f"{name}:1") == sent.digest
    for reference in (f"{name}:1", f"{name}@{sent.digest}"):
        assert crane("digest", reference).strip() == sent.digest
        assert crane("manifest", reference).encode() == sent.raw
        crane("pull", "--format=oci", reference, str(tmp_path / "back"))
        for digest, data in sent.blobs.items():
            assert (tmp_path / "back/blobs" / digest.replace(":", "/")).read_bytes() == data
    crane("validate", "--remote", f"{name}:1")


@EVERY_HUB
def test_multi_platform_index(crane: Crane, hub: Hub, tmp_path: Path) -> None:
    name = f"{hub.address}/crane/multi"
    sent = images.multi_platform()
    crane("push", "--index", str(images.write_layout(tmp_path / "layout", only=sent)), f"{name}:layout")
    for architecture in ("amd64", "arm64"):
        crane.push_image(images.small(architecture=architecture), f"{name}:{architecture}")
    crane("index", "append", "-m", f"{name}:amd64", "-m", f"{name}:arm64", "-t", f"{name}:all")
    assert crane("digest", f"{name}:all").strip() == wire.digest_of(hub.witness, "crane/multi", "all")
    arm = images.small(architecture="arm64")
    assert crane("digest", "--platform=linux/arm64", f"{name}:all").strip() == arm.digest
    assert json.loads(crane("config", "--platform=linux/arm64", f"{name}:all"))["architecture"] == "arm64"
    crane("validate", "--remote", f"{name}:all")


def test_copy_keeps_an_index_whole_and_mounts(crane: Crane, hub: Hub, tmp_path: Path) -> None:
    sent = images.multi_platform()
    layout = images.write_layout(tmp_path / "layout", only=sent)
    crane("push", "--index", str(layout), f"{hub.address}/crane/source:1")
    digest = crane("digest", f"{hub.address}/crane/source:1").strip()
    crane("copy", f"{hub.address}/crane/source:1", f"{hub.address}/crane/copied:1")
    assert wire.digest_of(hub.witness, "crane/copied", "1") == digest
    for child in images.multi_platform().manifests[:-1]:
        assert wire.digest_of(hub.witness, "crane/copied", child) == child


@EVERY_HUB
def test_list_tags_catalogue_and_delete(crane: Crane, hub: Hub, tmp_path: Path) -> None:
    sent, name = images.small("crane tags"), f"{hub.address}/crane/tags"
    crane.push_image(sent, f"{name}:1")
    crane("tag", f"{name}:1", "2")
    assert crane("ls", name).split() == ["1", "2"]
    assert "crane/tags" in crane("catalog", hub.address).split()
    crane("delete", f"{name}:1")
    assert crane("ls", name).split() == ["2"], "a tag goes alone"
    crane("delete", f"{name}@{sent.digest}")
    assert wire.is_gone(hub.witness, "crane/tags", "2")


def test_layers_and_labels_change_in_the_registry(crane: Crane, hub: Hub, tmp_path: Path) -> None:
    name = f"{hub.address}/crane/mutate"
    crane.push_image(images.small(), f"{name}:1")
    (tmp_path / "more.tar").write_bytes(images.tar({"srv/more": b"more\n"}))
    crane("append", "-b", f"{name}:1", "-f", str(tmp_path / "more.tar"), "-t", f"{name}:2")
    crane("mutate", f"{name}:2", "-l", "made.by=crane", "-t", f"{name}:3")
    assert json.loads(crane("config", f"{name}:3"))["config"]["Labels"] == {"made.by": "crane"}
    assert len(wire.manifest(hub.witness, "crane/mutate", "3").json["layers"]) == 3
    crane("validate", "--remote", f"{name}:3")


@pytest.mark.parametrize("hub", ["open"], indirect=True)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_transfer_goes_on(direction: Direction, crane: Crane, hub: Hub, tmp_path: Path) -> None:
    """crane sends a layer again after a cut. A pull that is cut it gives up; its copy to another registry goes on."""
    sent = images.large(24, seed=17 if direction == "up" else 21)
    name = f"crane/cut-{direction}:1"
    with cutting(hub.address, direction, after=8_000_000) as proxy, distribution(tmp_path / "other") as other:
        if direction == "up":
            assert crane.push_image(sent, f"{proxy.address}/{name}") == sent.digest
        else:
            crane.push_image(sent, f"{hub.address}/{name}")
            crane("copy", f"{proxy.address}/{name}", f"{other.address}/{name}")
        assert proxy.cuts == 1
        assert (
            wire.digest_of(hub.witness if direction == "up" else other.address, f"crane/cut-{direction}", "1")
            == sent.digest
        )
