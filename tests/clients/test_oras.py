"""oras-py: artifacts from Python."""

from __future__ import annotations

from pathlib import Path

import oras.client  # type: ignore[import-untyped]
import oras.oci  # type: ignore[import-untyped]
import pytest

from tests import images
from tests.clients import wire
from tests.servers import Server


@pytest.fixture
def client(hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> oras.client.OrasClient:
    """A client that speaks plain HTTP and works in a directory of its own, without anyone's credentials."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return oras.client.OrasClient(hostname=hub.address, insecure=True)


@pytest.mark.parametrize("is_chunked", [False, True], ids=["whole", "chunked"])
def test_push_then_pull_by_tag_and_digest(
    is_chunked: bool, client: oras.client.OrasClient, hub: Server, tmp_path: Path
) -> None:
    repository = f"oras/push-{is_chunked}".lower()
    target = f"{hub.address}/{repository}:1"
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
    answer = wire.manifest(hub.address, repository, "1")
    digest = answer.headers["docker-content-digest"]
    assert sent.headers["Docker-Content-Digest"] == digest
    assert answer.json["annotations"] == {"said.by": "oras"}
    assert answer.json["layers"][0]["digest"] == images.sha256(payload)
    for reference in (target, f"{hub.address}/{repository}@{digest}"):
        (pulled,) = client.pull(target=reference, outdir=str(tmp_path / "back"), overwrite=True)
        assert Path(pulled).read_bytes() == payload


def test_list_tags_and_delete(client: oras.client.OrasClient, hub: Server, tmp_path: Path) -> None:
    name = f"{hub.address}/oras/tags"
    for tag in ("1", "2", "3"):
        (tmp_path / "payload.txt").write_text(tag)
        client.push(target=f"{name}:{tag}", files=["payload.txt:text/plain"])
    assert client.get_tags(name) == ["1", "2", "3"]
    assert client.get_tags(name, N=2) == ["1", "2"]
    assert client.delete_tags(name, "2") == ["2"]
    assert client.get_tags(name) == ["1", "3"]


def test_an_artifact_that_refers_to_an_image(client: oras.client.OrasClient, hub: Server, tmp_path: Path) -> None:
    name = f"{hub.address}/oras/subject"
    (tmp_path / "payload.txt").write_text("the subject")
    client.push(target=f"{name}:1", files=["payload.txt:text/plain"])
    digest = wire.digest_of(hub.address, "oras/subject", "1")
    size = len(wire.manifest(hub.address, "oras/subject", "1").body)
    (tmp_path / "note.txt").write_text("a note on it")
    subject = oras.oci.Subject(images.OCI_MANIFEST, digest, size)
    sent = client.push(target=f"{name}:note", files=["note.txt:text/plain"], subject=subject)
    assert sent.headers["OCI-Subject"] == digest
    (found,) = wire.referrers(hub.address, "oras/subject", digest)
    assert found["digest"] == wire.digest_of(hub.address, "oras/subject", "note")
