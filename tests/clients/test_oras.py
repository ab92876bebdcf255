"""oras-py: artifacts from Python."""

from __future__ import annotations

from pathlib import Path

import oras.client  # type: ignore[import-untyped]
import oras.oci  # type: ignore[import-untyped]
import pytest

from tests import images
from tests.accounts import PASSWORD
from tests.clients import wire
from tests.clients.hubs import EVERY_HUB, USER, Hub
from tests.clients.wire import Witness


@pytest.fixture
def client(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> oras.client.OrasClient:
    """A client that works in a directory of its own, without anyone's credentials but those of the test.

    It sends the password with each request: of the tokens that it gets it would go on using the first one, whatever that is for.
    """
    return make_client(hub.witness, tmp_path, monkeypatch, USER if hub.authority else "")


def make_client(
    at: Witness,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str = "",
    password: str = PASSWORD,
    *,
    how: str = "basic",
) -> oras.client.OrasClient:
    """A new client, logged in when there is a name; ``how``: ``basic`` or ``token``. It runs in this process, so not on another machine."""
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.chdir(directory)
    if at.authority:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(at.authority))
    client = oras.client.OrasClient(hostname=at.address, insecure=not at.authority, auth_backend=how)
    if name:
        client.login(username=name, password=password, hostname=at.address)
    return client


@EVERY_HUB
@pytest.mark.parametrize(("how", "is_chunked"), [("basic", False), ("token", True)], ids=["whole", "chunked"])
def test_push_then_pull_by_tag_and_digest(
    how: str, is_chunked: bool, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_client(hub.witness, tmp_path, monkeypatch, USER if hub.authority else "", how=how)
    repository = f"oras/push-{is_chunked}".lower()
    target = f"{hub.witness.address}/{repository}:1"
    payload = images.noise(3_000_000)
    (tmp_path / "payload.bin").write_bytes(payload)
    sent = client.push(
        target=target,
        files=["payload.bin:application/vnd.example.payload"],
        manifest_annotations={"said.by": "oras"},
        do_chunked=is_chunked,
        chunk_size=1_000_000,
    )
    assert sent.status_code == 201
    answer = wire.manifest(hub.witness, repository, "1")
    digest = answer.headers["docker-content-digest"]
    assert sent.headers["Docker-Content-Digest"] == digest
    assert answer.json["annotations"] == {"said.by": "oras"}
    assert answer.json["layers"][0]["digest"] == images.sha256(payload)
    for reference in (target, f"{hub.witness.address}/{repository}@{digest}"):
        (pulled,) = client.pull(target=reference, outdir=str(tmp_path / "back"), overwrite=True)
        assert Path(pulled).read_bytes() == payload


@EVERY_HUB
def test_list_tags_and_delete(client: oras.client.OrasClient, hub: Hub, tmp_path: Path) -> None:
    name = f"{hub.witness.address}/oras/tags"
    for tag in ("1", "2", "3"):
        (tmp_path / "payload.txt").write_text(tag)
        client.push(target=f"{name}:{tag}", files=["payload.txt:text/plain"])
    assert client.get_tags(name) == ["1", "2", "3"]
    assert client.get_tags(name, N=2) == ["1", "2"]
    assert client.delete_tags(name, "2") == ["2"]
    assert client.get_tags(name) == ["1", "3"]


def test_an_artifact_that_refers_to_an_image(client: oras.client.OrasClient, hub: Hub, tmp_path: Path) -> None:
    name = f"{hub.witness.address}/oras/subject"
    (tmp_path / "payload.txt").write_text("the subject")
    client.push(target=f"{name}:1", files=["payload.txt:text/plain"])
    digest = wire.digest_of(hub.witness, "oras/subject", "1")
    size = len(wire.manifest(hub.witness, "oras/subject", "1").body)
    (tmp_path / "note.txt").write_text("a note on it")
    subject = oras.oci.Subject(images.OCI_MANIFEST, digest, size)
    sent = client.push(target=f"{name}:note", files=["note.txt:text/plain"], subject=subject)
    assert sent.headers["OCI-Subject"] == digest
    (found,) = wire.referrers(hub.witness, "oras/subject", digest)
    assert found["digest"] == wire.digest_of(hub.witness, "oras/subject", "note")
