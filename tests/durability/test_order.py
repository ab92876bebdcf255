"""A 201 comes last: the file is synced, renamed, its directory synced, the metadata committed, and only then the answer written.

Shown by the record of the server's system calls, not by its code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.durability.tracing import Call, parse, traced
from tests.images import OCI_MANIFEST
from tests.servers import portside
from tests.wire.client import Answer, Connection
from tests.wire.content import blob, digest_of, query, small_image, start_upload

SYNCS = ("fsync", "fdatasync")
PUBLISHES = ("rename", "renameat", "renameat2", "link", "linkat")
SENDS = ("write", "writev", "sendto", "sendmsg")
WRITES = ("write", "writev", "pwrite64", "pwritev")


def first(calls: list[Call], what: str, is_it: Callable[[Call], bool], after: int = -1) -> Call:
    """The first call of a kind that began after a line; AssertionError with the whole record where there is none."""
    for call in calls:
        if call.begin > after and is_it(call):
            return call
    record = "\n".join(f"{call.begin}-{call.end} {call.name}{call.text}" for call in calls)
    raise AssertionError(f"no {what} after line {after} of:\n{record}")


def blob_order(calls: list[Call], root: Path, digest: str) -> list[Call]:
    """The steps of one blob's commit, each begun after the one before had ended."""
    algorithm, _, encoded = digest.partition(":")
    place = root / "blobs" / algorithm / encoded[:2] / encoded
    published = first(calls, "rename to the blob's name", lambda c: c.name in PUBLISHES and f'"{place}"' in c.text)
    source = published.text.split('"')[1]
    last_write = max(
        (c for c in calls if c.name in WRITES and f"<{source}>" in c.text), key=lambda c: c.end, default=None
    )
    assert last_write is not None, "the bytes were written to the file that was renamed"
    assert last_write.end < published.begin
    synced = first(calls, "sync of the file", lambda c: c.name in SYNCS and f"<{source}>" in c.text, last_write.end)
    assert synced.end < published.begin, "the file is synced before it has its name"
    directory = synced_into(calls, place.parent, published.end)
    return [last_write, synced, published, directory, *answered(calls, root, directory.end)]


def synced_into(calls: list[Call], directory: Path, after: int) -> Call:
    """The sync of a directory after a line."""
    return first(calls, f"sync of {directory}", lambda c: c.name in SYNCS and f"<{directory}>" in c.text, after)


def answered(calls: list[Call], root: Path, after: int) -> list[Call]:
    """The commit of the metadata after a line, and the answer after that."""
    wal = root / "metadata.db-wal"
    written = first(calls, "write of the log", lambda c: c.name in WRITES and f"<{wal}>" in c.text, after)
    synced = first(calls, "sync of the log", lambda c: c.name in SYNCS and f"<{wal}>" in c.text, written.end)
    answer = first(calls, "201", lambda c: c.name in SENDS and "HTTP/1.1 201" in c.text)
    assert answer.begin > synced.end, "201 is written when everything is on disk"
    return [written, synced, answer]


WAYS = ["post only", "post+put", "patch+put", "large patch"]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("way", WAYS)
def test_a_blob(tmp_path: Path, way: str, algorithm: str) -> None:
    root = tmp_path / "root"
    data = blob(way, 2_000_000 if way == "large patch" else 5000)
    digest = digest_of(data, algorithm)
    with portside(root, "--floor", "0") as server, Connection(server.address) as connection:
        with traced(server.process.pid, tmp_path / "trace") as calls:
            created = _push(connection, way, data, digest)
            assert created.status == 201
        steps = blob_order(calls(), root, digest)
    made = [call for call in calls() if call.name in ("mkdir", "mkdirat") and " = 0" in call.text]
    for call in made:
        synced = synced_into(calls(), Path(call.text.split('"')[1]).parent, call.end)
        assert synced.end < steps[-1].begin, "a new directory is synced into its parent before the 201"


def _push(connection: Connection, way: str, data: bytes, digest: str) -> Answer:
    if way == "post only":
        return connection.request("POST", f"/v2/order/blobs/uploads/?{query(digest=digest)}", body=data)
    location = start_upload(connection, "order")
    if way == "post+put":
        return connection.request("PUT", f"{location}?{query(digest=digest)}", body=data)
    assert connection.request("PATCH", location, body=data).status == 202
    return connection.request("PUT", f"{location}?{query(digest=digest)}", body=b"")


def test_pushing_a_blob_again_writes_and_syncs_it_again(tmp_path: Path) -> None:
    """It has to: that is what heals a damaged one."""
    root, data = tmp_path / "root", blob("again", 5000)
    with portside(root, "--floor", "0") as server, Connection(server.address) as connection:
        assert _push(connection, "post only", data, digest_of(data)).status == 201
        with traced(server.process.pid, tmp_path / "trace") as calls:
            assert connection.request("DELETE", f"/v2/order/blobs/{digest_of(data)}").status == 202
            assert _push(connection, "post only", data, digest_of(data)).status == 201
        blob_order(calls(), root, digest_of(data))


def test_a_push_is_noted_from_before_its_name_until_its_link_is_kept(tmp_path: Path) -> None:
    """So that a collector finds what a crash in between leaves, and takes nothing that is about to be linked."""
    root, data = tmp_path / "root", blob("noted", 5000)
    digest = digest_of(data)
    with portside(root, "--floor", "0") as server, Connection(server.address) as connection:
        with traced(server.process.pid, tmp_path / "trace") as calls:
            assert _push(connection, "post only", data, digest).status == 201
        record = calls()
        published, _, _, logged, _ = blob_order(record, root, digest)[2:]

    def is_note(call: Call) -> bool:
        return call.name in WRITES and f"<{root}/publishing/" in call.text

    noted = first(record, "note", is_note)
    assert digest in noted.text
    cleared = first(record, "clearing of the note", is_note, noted.end)
    assert digest not in cleared.text
    assert noted.end < published.begin
    assert logged.end < cleared.begin


@pytest.mark.parametrize("change", ["manifest", "tag", "mount"])
def test_what_is_metadata_only(tmp_path: Path, change: str) -> None:
    root = tmp_path / "root"
    raw, blobs = small_image(change)
    with portside(root, "--floor", "0") as server, Connection(server.address) as connection:
        for data in blobs:
            assert _push(connection, "post only", data, digest_of(data)).status == 201
        headers = {"Content-Type": OCI_MANIFEST}
        if change == "tag":
            assert connection.request("PUT", "/v2/order/manifests/a", headers, raw).status == 201
        with traced(server.process.pid, tmp_path / "trace") as calls:
            if change == "mount":
                parameters = query(**{"mount": digest_of(blobs[0]), "from": "order"})
                answer = connection.request("POST", f"/v2/other/blobs/uploads/?{parameters}", body=b"")
            else:
                answer = connection.request("PUT", f"/v2/order/manifests/{change}", headers, raw)
            assert answer.status == 201
        answered(calls(), root, -1)


def test_the_order_is_really_looked_at(tmp_path: Path) -> None:
    """The record of a server that renames first and syncs later is refused, and so is one that answers too early."""
    root, digest = Path("/r"), digest_of(b"")
    place = f"/r/blobs/sha256/{digest[7:9]}/{digest[7:]}"
    good = [
        '1 write(5</r/uploads/u>, "x", 1) = 1',
        "1 fsync(5</r/uploads/u> <unfinished ...>",
        '2 write(9<socket:[1]>, "x", 1) = 1',
        "1 <... fsync resumed>) = 0",
        f'1 rename("/r/uploads/u", "{place}") = 0',
        f"1 fsync(6<{Path(place).parent}>) = 0",
        '1 pwrite64(7</r/metadata.db-wal>, "x", 1, 0) = 1',
        "1 fdatasync(7</r/metadata.db-wal>) = 0",
        f"3 sendto(8<socket:[2]>, {json.dumps('HTTP/1.1 201 Created')}, 9, 0, NULL, 0) = 9",
    ]
    assert len(blob_order(parse("\n".join(good)), root, digest)) == 7
    for wrong in (
        [0, 2, 4, 1, 3, 5, 6, 7, 8],
        [0, 1, 2, 3, 5, 4, 6, 7, 8],
        [8, 0, 1, 2, 3, 4, 5, 6, 7],
        [0, 1, 2, 3, 4, 5, 6, 8, 7],
        [0, 2, 4, 5, 6, 7, 8],
    ):
        with pytest.raises(AssertionError):
            blob_order(parse("\n".join(good[n] for n in wrong)), root, digest)
