from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci.digest import Digest
from storage.check import check
from storage.scrub import ROUND_SECONDS, Scrub, Scrubbed, scrubbed
from storage.tasks import Task
from tests.storage.blob_conformance import push
from tests.storage.collecting import Storage

FAST = 1e12


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = Storage.open(tmp_path / "root")
    for number in range(120):
        opened.push("app", b"%d" % number * 1000)
    yield opened
    opened.metadata.close()


class Pauses:
    """Waits that take no time; the scrub is to end after some. ``asked`` in seconds."""

    def __init__(self, until: int = 1 << 30) -> None:
        self.asked: list[float] = []
        self._until = until

    def __call__(self, seconds: float) -> bool:
        self.asked.append(seconds)
        return len(self.asked) >= self._until


def scrub(storage: Storage, rate: float = FAST, pauses: Pauses | None = None, now: float = 1e9) -> Scrubbed:
    pauses = pauses or Pauses()
    Scrub(storage.store, storage.files, storage.metadata.database, rate, pauses, lambda: now).run()
    return scrubbed(storage.metadata.database)


def damage(storage: Storage, data: bytes) -> Digest:
    path = storage.store.paths.blob(Digest.of(data))
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    return Digest.of(data)


def test_a_round(storage: Storage) -> None:
    assert scrubbed(storage.metadata.database) == Scrubbed()
    assert scrub(storage) == Scrubbed(last_ended=1e9, last_blobs=120)
    assert os.listdir(storage.store.paths.quarantine) == []
    assert check(storage.store, storage.metadata.database).scrubbed.last_blobs == 120


def test_a_damaged_blob_is_set_aside_told_and_healed_by_a_push(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    digest = damage(storage, b"7" * 1000)
    assert scrub(storage).last_damaged == 1
    assert [name.partition(".")[0] for name in os.listdir(storage.store.paths.quarantine)] == [f"sha256-{digest.hex}"]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert str(digest) in record.getMessage()
    assert storage.store.size(digest) is None
    storage.push("app", b"7" * 1000)
    assert storage.has("app", b"7" * 1000)
    assert scrub(storage, now=1e9 + ROUND_SECONDS).last_damaged == 0


def test_the_next_round_waits(storage: Storage) -> None:
    scrub(storage)
    damage(storage, b"7" * 1000)
    assert scrub(storage, now=1e9 + ROUND_SECONDS - 1).last_ended == 1e9
    assert scrub(storage, now=1e9 + ROUND_SECONDS).last_damaged == 1


def test_it_keeps_to_its_rate_and_goes_on_where_it_ended(storage: Storage) -> None:
    pauses = Pauses(until=40)
    state = scrub(storage, 1e6, pauses)
    assert state.last_ended == 0.0
    assert 30 < state.blobs < 120, "a pause for most of them"
    assert sum(pauses.asked[:1]) == pytest.approx(0.002, rel=1)
    digests = list(storage.store.digests())
    assert state.after == str(digests[state.blobs - 1])
    damage(storage, b"0" * 1000)
    before = str(Digest.of(b"0" * 1000)) <= state.after
    state = scrub(storage)
    assert state.last_blobs == 120
    assert state.last_damaged == (0 if before else 1)


def test_files_that_no_row_knows_are_removed_and_pushes_are_not(storage: Storage) -> None:
    stray = push(storage.store, b"left by an old version")
    scrub(storage)
    assert storage.store.size(stray) is None
    assert storage.left()[0] == storage.left()[1]
    assert len(storage.left()[0]) == 120


def test_one_process_scrubs_at_a_time(storage: Storage) -> None:
    other = Task(storage.metadata.database, "scrub")
    assert other.take()
    assert scrub(storage).last_ended == 0.0
    other.leave()
    assert scrub(storage).last_ended == 1e9


def test_a_walk_begins_above_any_digest(storage: Storage) -> None:
    push(storage.store, b"x", "sha512")
    digests = list(storage.store.digests())
    assert len(digests) == 121
    for at, digest in enumerate(digests):
        assert list(storage.store.digests(str(digest))) == digests[at + 1 :]
