"""`portside gc` and `portside why`, as a person calls them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from oci import mediatypes
from oci.digest import Digest
from tests.cli.running import call, run
from tests.storage.collecting import DAY, Storage
from tests.storage.metadata_conformance import manifest, subject_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def storage(root: Path) -> Iterator[Storage]:
    opened = Storage.open(root)
    yield opened
    opened.metadata.close()


def test_a_person_frees_room(storage: Storage, root: Path) -> None:
    image = storage.image("app", b"x" * 5000, tags=["1"])
    assert call("gc", "--root", root).stdout == "0 B freed, in 0 blobs that no repository holds\n"
    storage.metadata.delete_manifest("app", image.digest)
    storage.pass_time(2 * DAY)
    assert "1 blobs found unused now: they go in 24 h; with --now at once" in call("gc", "--root", root).stdout
    assert "1 were found unused before and wait still" in call("gc", "--root", root).stdout
    before = storage.contents()
    assert "5 kB would be freed, in 1 blobs" in call("gc", "--root", root, "--dry-run", "--now").stdout
    assert storage.contents() == before
    out = run("gc", "--root", root, "--now").stdout
    assert "5 kB freed, in 1 blobs" in out
    assert "1 blobs taken out of a repository none of whose manifests refers to them" in out
    assert storage.left() == (set(), set(), set(), [])


def test_now_keeps_what_was_pushed_just_now(storage: Storage, root: Path) -> None:
    storage.push("app", b"x")
    call("gc", "--root", root, "--now")
    assert storage.has("app", b"x")
    call("gc", "--root", root, "--now", "--window", "0")
    assert not storage.has("app", b"x")


def test_untagged_manifests_go_only_when_asked_for(storage: Storage, root: Path) -> None:
    storage.image("app", b"x", tags=[])
    storage.pass_time(2 * DAY)
    assert "manifests" not in call("gc", "--root", root, "--now").stdout
    assert "1 manifests removed" in call("gc", "--root", root, "--now", "--untagged", "0").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gc", "--grace", "soon"], "--grace: 'soon' is not a duration"),
        (["gc", "--window", "1"], "--window: '1' is not a duration"),
        (["why", "latest"], "'latest' is not a digest"),
    ],
)
def test_what_is_no_duration_or_digest(storage: Storage, root: Path, arguments: list[str], message: str) -> None:
    assert message in call(*arguments, "--root", root, code=2).stderr


@pytest.mark.parametrize("verb", [["gc"], ["why", str(Digest.of(b"x"))]])
def test_what_is_no_root(tmp_path: Path, verb: list[str]) -> None:
    assert "is no root of a hub" in call(*verb, "--root", tmp_path / "nowhere", code=1).stderr
    assert not (tmp_path / "nowhere").exists()


def why(root: Path, digest: Digest, *options: str) -> list[str]:
    return call("why", str(digest), "--root", root, *options).stdout.splitlines()


def test_why_something_is_kept(storage: Storage, root: Path) -> None:
    image = storage.image("team/app", b"x", tags=["1", "latest"])
    index = manifest(
        "index",
        mediaType=mediatypes.OCI_INDEX,
        manifests=[{"mediaType": image.media_type, "digest": str(image.digest), "size": len(image.raw)}],
    )
    storage.metadata.put_manifest("team/app", index, ["all"])
    signature = storage.image("team/app", b"signature", tags=[], **subject_of(index))
    assert why(root, Digest.of(b"x"))[1:] == [
        f"blob of team/app: manifest {image.digest} (tag 1; tag latest; index {index.digest}, tag all)"
    ]
    assert why(root, image.digest)[1:] == [
        "manifest of team/app: tag 1",
        "manifest of team/app: tag latest",
        f"manifest of team/app: index {index.digest}, tag all",
    ]
    assert why(root, signature.digest)[1:] == [f"manifest of team/app: subject {index.digest}"]


def test_why_something_is_there_still(storage: Storage, root: Path) -> None:
    digest = storage.push("app", b"x")
    (line,) = why(root, digest)[1:]
    assert line.startswith("blob of app: nothing refers to it yet; pushed or asked for at ")
    storage.pass_time(2 * DAY)
    storage.collect_by_default()
    (line,) = why(root, digest)[1:]
    assert "a collection found at" in line
    assert "; it goes with the first one after " in line
    storage.metadata.unlink_blob("app", digest)
    assert why(root, digest)[1:] == ["no repository holds it: its bytes go with the next collection"]
    storage.collect()
    assert "nothing in" in call("why", str(digest), "--root", root, code=1).stderr
    image = storage.image("app", b"y", tags=[])
    (line,) = why(root, image.digest)[1:]
    assert "untagged manifests stay" in line
    (line,) = why(root, image.digest, "--untagged", "7")[1:]
    assert "nothing refers to it yet" in line
