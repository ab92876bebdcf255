"""regctl (regclient): layouts, artifacts and referrers, chunks, resumed transfers."""

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


class Regctl:
    """regctl with a configuration of its own. It trusts what Docker's ``certs.d`` says, and the hosts of `use` speak plain HTTP."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self._hub, self._directory = hub, directory
        self.environment = os.environ | {
            "REGCTL_CONFIG": str(directory / "regctl.json"),
            "DOCKER_CONFIG": str(directory),
        }

    def use(self, address: str, *options: str) -> None:
        self.set(address, "--tls=disabled", *options)

    def set(self, address: str, *options: str) -> None:
        self("registry", "set", "--skip-check", *options, address)

    def __call__(self, *arguments: str, stdin: bytes = b"") -> str:
        return self._hub.run("regctl", *arguments, environment=self.environment, cwd=self._directory, stdin=stdin)

    def login(self, name: str, password: str = PASSWORD) -> None:
        self("registry", "login", self._hub.address, "-u", name, "--pass-stdin", stdin=password.encode())

    def logout(self) -> None:
        self("registry", "logout", self._hub.address)


@pytest.fixture
def regctl(hub: Hub, tmp_path: Path) -> Regctl:
    program = Regctl(hub, tmp_path)
    if hub.authority:
        program.login(USER)
    else:
        program.use(hub.address)
    return program


@EVERY_HUB
@pytest.mark.parametrize("kind", ["image", "docker", "index", "list"])
def test_push_then_pull_by_tag_and_digest(kind: str, regctl: Regctl, hub: Hub, tmp_path: Path) -> None:
    sent = {
        "image": images.small(),
        "docker": images.small(is_docker=True),
        "index": images.multi_platform(),
        "list": images.multi_platform(is_docker=True),
    }[kind]
    images.write_layout(tmp_path / "layout", sent=sent)
    name = f"{hub.address}/regctl/push-{kind}"
    regctl("image", "copy", f"ocidir://{tmp_path}/layout:sent", f"{name}:1")
    assert wire.digest_of(hub.witness, f"regctl/push-{kind}", "1") == sent.digest
    for reference in (f"{name}:1", f"{name}@{sent.digest}"):
        assert regctl("manifest", "head", reference).strip() == sent.digest
        assert regctl("manifest", "get", "--format=raw-body", reference).encode() == sent.raw
        back = tmp_path / "back"
        regctl("image", "copy", reference, f"ocidir://{back}:back")
        for digest, data in sent.blobs.items():
            assert (back / "blobs" / digest.replace(":", "/")).read_bytes() == data
    regctl("image", "export", f"{name}:1", str(tmp_path / "export.tar"))
    regctl("image", "import", f"{name}:imported", str(tmp_path / "export.tar"))
    assert wire.digest_of(hub.witness, f"regctl/push-{kind}", "imported") == sent.digest


@EVERY_HUB
def test_list_tags_and_delete(regctl: Regctl, hub: Hub, tmp_path: Path) -> None:
    sent, name = images.small("regctl tags"), f"{hub.address}/regctl/tags"
    images.write_layout(tmp_path / "layout", sent=sent)
    for tag in ("1", "2", "3"):
        regctl("image", "copy", f"ocidir://{tmp_path}/layout:sent", f"{name}:{tag}")
    assert regctl("tag", "ls", name).split() == ["1", "2", "3"]
    assert "regctl/tags" in regctl("repo", "ls", hub.address).split()
    regctl("tag", "delete", f"{name}:1")
    assert regctl("tag", "ls", name).split() == ["2", "3"]
    assert wire.digest_of(hub.witness, "regctl/tags", "2") == sent.digest
    regctl("manifest", "delete", f"{name}@{sent.digest}")
    assert wire.is_gone(hub.witness, "regctl/tags", sent.digest)
    assert wire.is_gone(hub.witness, "regctl/tags", "3")


def test_an_artifact_and_its_referrers(regctl: Regctl, hub: Hub, tmp_path: Path) -> None:
    subject, name = images.small(), f"{hub.address}/regctl/artifacts"
    images.write_layout(tmp_path / "layout", sent=subject)
    regctl("image", "copy", f"ocidir://{tmp_path}/layout:sent", f"{name}:1")
    kinds = ("application/vnd.example.sbom", "application/vnd.example.note")
    for kind in kinds:
        put = ("artifact", "put", "--artifact-type", kind, "--annotation", "said.by=regctl", "--subject", f"{name}:1")
        regctl(*put, stdin=f"payload of {kind}".encode())
    found = wire.referrers(hub.witness, "regctl/artifacts", subject.digest)
    assert {entry["artifactType"] for entry in found} == set(kinds)
    assert all(entry["annotations"]["said.by"] == "regctl" for entry in found)
    listed = json.loads(regctl("artifact", "list", "--format={{json .}}", f"{name}:1"))
    assert {entry["digest"] for entry in listed["descriptors"]} == {entry["digest"] for entry in found}
    got = regctl("artifact", "get", "--subject", f"{name}:1", "--filter-artifact-type", kinds[0])
    assert got == f"payload of {kinds[0]}"
    # Taken along when the image is copied.
    regctl("image", "copy", "--referrers", f"{name}:1", f"{hub.address}/regctl/artifacts-copied:1")
    copied = wire.referrers(hub.witness, "regctl/artifacts-copied", subject.digest)
    assert {entry["digest"] for entry in copied} == {entry["digest"] for entry in found}
    # And gone when it is deleted.
    regctl("manifest", "delete", f"{name}@{found[0]['digest']}")
    assert wire.referrers(hub.witness, "regctl/artifacts", subject.digest) == found[1:]


def test_a_push_in_chunks(regctl: Regctl, hub: Hub, tmp_path: Path) -> None:
    regctl.set(hub.address, "--blob-max=1000000", "--blob-chunk=300000")
    sent = images.large(4, seed=18)
    images.write_layout(tmp_path / "layout", sent=sent)
    regctl("image", "copy", f"ocidir://{tmp_path}/layout:sent", f"{hub.address}/regctl/chunks:1")
    assert wire.digest_of(hub.witness, "regctl/chunks", "1") == sent.digest
    for digest, data in sent.blobs.items():
        if digest not in sent.manifests:
            got = wire.ask(hub.witness, "GET", f"/v2/regctl/chunks/blobs/{digest}")
            assert (got.status, got.body) == (200, data)


@pytest.mark.parametrize("hub", ["open"], indirect=True)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_transfer_goes_on(direction: Direction, regctl: Regctl, hub: Hub, tmp_path: Path) -> None:
    sent = images.large(24, seed=19)
    images.write_layout(tmp_path / "layout", sent=sent)
    repository = f"regctl/cut-{direction}"
    # regctl asks for the rest of a body that ended early, not of one whose connection was reset.
    with cutting(hub.address, direction, after=8_000_000, is_reset=direction == "up") as proxy:
        # In chunks, of which regctl sends the broken one again; a broken upload in one piece it gives up.
        regctl.use(proxy.address, "--blob-max=1000000", "--blob-chunk=3000000")
        target = proxy.address if direction == "up" else hub.address
        regctl("image", "copy", f"ocidir://{tmp_path}/layout:sent", f"{target}/{repository}:1")
        if direction == "down":
            regctl("image", "copy", f"{proxy.address}/{repository}:1", f"ocidir://{tmp_path}/back:1")
            assert proxy.bytes_down < 30_000_000, "what had come before the cut was asked for again"
        assert proxy.cuts == 1
    assert wire.digest_of(hub.witness, repository, "1") == sent.digest
    if direction == "down":
        for digest, data in sent.blobs.items():
            assert (tmp_path / "back/blobs" / digest.replace(":", "/")).read_bytes() == data
