"""Facts and numbers of a hub that is copied: what `tests/cli/test_store.py` does not get at through whole hubs."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oci.digest import Digest
from storage.collector import Collector, Policy
from storage.file_collecting import FileCollecting
from storage.filesystem import FilesystemBlobStore
from storage.moving import DestinationInUse, Hub, move
from storage.opening import open_database
from storage.people import Kind
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople
from tests.accounts import BY, make, token
from tests.storage.blob_conformance import content, push
from tests.storage.metadata_conformance import manifest

UNLINKED = Policy(3600.0, 0.0, None)
"""What no repository holds goes at once; links stay."""


@contextlib.contextmanager
def hub_in(root: Path, url: str | None = None) -> Iterator[Hub]:
    database = open_database(root, url)
    blobs = FilesystemBlobStore(root, floor=0)
    try:
        yield Hub(database, blobs, FileCollecting(blobs))
    finally:
        database.close()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Hub]:
    with hub_in(tmp_path / "source") as hub:
        yield hub


@pytest.fixture(params=["sqlite", "postgres"])
def destination(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hub]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    with hub_in(tmp_path / "destination", url) as hub:
        yield hub


def link(hub: Hub, data: bytes) -> Digest:
    digest = push(hub.blobs, data)
    SQLMetadata(hub.database).link_blob("app", digest, len(data))
    return digest


def number_of(hub: Hub, digest: Digest) -> int:
    return int(hub.database.row("SELECT id FROM blobs WHERE digest = ?", (str(digest),))[0])


def copy(source: Hub, destination: Hub) -> None:
    done = move(source, destination, lambda words: None)
    assert (done.problems, done.behind) == ([], 0)


def test_numbers_that_sqlite_gives_again(source: Hub, destination: Hub) -> None:
    """Two rows that change their numbers with each other, one whose number another gets, and the bytes of one that goes."""
    first, one, two = (link(source, data) for data in (b"first", b"one", b"two"))
    copy(source, destination)
    facts = SQLMetadata(source.database)
    numbers = number_of(source, one), number_of(source, two)
    for digest in (one, two):
        facts.unlink_blob("app", digest)
    Collector(source.database, source.collected, UNLINKED).collect()
    assert link(source, b"two") == two
    assert link(source, b"one") == one
    assert (number_of(source, two), number_of(source, one)) == numbers
    copy(source, destination)
    assert {number_of(destination, digest) for digest in (one, two)} == set(numbers)
    assert [content(destination.blobs, digest) for digest in (first, one, two)] == [b"first", b"one", b"two"]
    facts.unlink_blob("app", one)
    Collector(source.database, source.collected, UNLINKED).collect()
    three = link(source, b"three")
    assert number_of(source, three) == numbers[1]
    copy(source, destination)
    assert sorted(map(str, destination.blobs.digests())) == sorted(map(str, (first, two, three)))


@pytest.mark.parametrize("cut", ["_delete", "_unname", "_write"])
def test_a_copy_that_is_cut_between_its_steps(
    cut: str, source: Hub, destination: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_numbers_that_sqlite_gives_again(source, destination)
    facts = SQLMetadata(source.database)
    for data in (b"two", b"three"):
        facts.unlink_blob("app", Digest.of(data))
    Collector(source.database, source.collected, UNLINKED).collect()
    for data in (b"three", b"two", b"four"):
        link(source, data)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as cutting:
        cutting.setattr(f"storage.moving_facts.{cut}", fail)
        with contextlib.suppress(KeyboardInterrupt):
            move(source, destination, lambda words: None)
    copy(source, destination)
    assert sorted(map(str, destination.blobs.digests())) == sorted(map(str, source.blobs.digests()))


def test_numbers_go_on_above_those_that_have_gone(source: Hub, destination: Hub) -> None:
    """Access tokens name credentials by number, and outlive them by minutes; epochs are sequences of the audit trail."""
    people = SQLPeople(source.database)
    make(people, "ann")
    token(people, "ann")
    (gone,) = people.list_credentials("ann")
    people.remove_credential("ann", gone.id, BY)
    copy(source, destination)
    there = SQLPeople(destination.database)
    token(there, "ann")
    (fresh,) = there.list_credentials("ann")
    assert fresh.id > gone.id
    there.add_account("bob", Kind.USER, BY)
    facts = SQLMetadata(destination.database)
    facts.put_manifest("new", manifest(), ["1"])
    link(destination, b"new")
    assert facts.find_manifest("new", "1") is not None


def write_people(hub: Hub) -> None:
    SQLPeople(hub.database).add_account("eve", Kind.USER, BY)


def write_metadata(hub: Hub) -> None:
    SQLMetadata(hub.database).put_manifest("eve", manifest(), ["1"])


@pytest.mark.parametrize("write", [write_people, write_metadata])
def test_a_destination_that_was_written_to_is_refused(
    write: Callable[[Hub], None], source: Hub, destination: Hub
) -> None:
    link(source, b"data")
    make(SQLPeople(source.database), "ann")
    copy(source, destination)
    write(destination)
    for _ in range(2):
        with pytest.raises(DestinationInUse, match="has been written to since"):
            move(source, destination, lambda words: None)
        link(source, b"more")  # whose events get the same numbers
        SQLPeople(source.database).set_setting("name", uuid.uuid4().hex, BY)


def test_a_damaged_manifest_comes_when_it_was_healed(source: Hub, destination: Hub) -> None:
    facts = SQLMetadata(source.database)
    link(source, b"{}")
    facts.put_manifest("app", manifest(), ["1"])
    with source.database.transaction() as connection:
        connection.execute("UPDATE manifests SET body = ?", (bytes(len(manifest().raw)),))
    (problem,) = move(source, destination, lambda words: None).problems
    assert f"manifest {manifest().digest} is damaged at the source" in problem
    facts.put_manifest("app", manifest(), ["1"])
    copy(source, destination)
    found = SQLMetadata(destination.database).find_manifest("app", "1")
    assert found is not None
    assert found.body == manifest().raw
