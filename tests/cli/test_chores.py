"""What a server does in the background, without a server."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import chores
from cli.chores import Chores, last_collection
from cli.place import Stored
from oci.digest import Digest
from storage.collector import Policy
from storage.scrub import scrubbed
from storage.tasks import Task
from tests.cli.running import call
from tests.servers import wait_until
from tests.storage.collecting import Storage

POLICY = Policy(window=7.0, grace=5.0, untagged=3.0)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = Storage.open(tmp_path / "root")
    yield opened
    opened.metadata.close()


def start(storage: Storage, interval: float, *, rate: float = 0.0) -> Chores:
    stored = Stored(storage.store, storage.files, lambda: None, files=storage.store)
    made = Chores(storage.metadata.database, stored, POLICY, interval, rate)
    made.start()
    return made


def test_what_is_unused_goes_by_itself(storage: Storage) -> None:
    digest = storage.push("app", b"x")
    storage.metadata.unlink_blob("app", digest)
    running = start(storage, 0.05)
    wait_until(lambda: storage.store.size(digest) is None, "it is collected")
    running.close()
    last = last_collection(storage.metadata.database)
    assert last is not None
    assert last.policy == POLICY


def test_of_several_processes_one_collects_in_an_interval(storage: Storage) -> None:
    assert last_collection(storage.metadata.database) is None
    several = [start(storage, 0.3) for _ in range(4)]
    ends: set[float] = set()

    def has_seen_three() -> bool:
        if (last := last_collection(storage.metadata.database)) is not None and last.ended:
            ends.add(last.ended)
        return len(ends) == 3

    wait_until(has_seen_three, "three collections")
    for one in several:
        one.close()
    assert all(later - earlier >= 0.3 for earlier, later in itertools.pairwise(sorted(ends)))


def test_the_scrub_goes_on_by_itself(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "SCRUB_LOOK", 0.05)
    storage.push("app", b"x")
    running = start(storage, 0.0, rate=1e9)
    wait_until(lambda: scrubbed(storage.metadata.database).last_blobs == 1, "everything is read")
    running.close()


def test_what_cannot_go_on_is_told_and_tried_again(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    storage.store.paths.trash.rmdir()
    storage.store.paths.trash.write_text("in the way")
    digest = storage.push("app", b"x")
    storage.metadata.unlink_blob("app", digest)
    running = start(storage, 0.05)
    wait_until(lambda: "the collector could not go on" in caplog.text, "it complains")
    storage.store.paths.trash.unlink()
    storage.store.paths.trash.mkdir()
    wait_until(lambda: storage.store.size(digest) is None, "it is collected")
    running.close()


def test_ending_does_not_wait_for_the_next_time(storage: Storage) -> None:
    running = start(storage, 3600.0, rate=10.0)
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 5


def test_the_commands_go_by_the_policy_of_the_servers(storage: Storage) -> None:
    digest = storage.push("app", b"x")
    root = storage.store.paths.root
    task = Task(storage.metadata.database, "collector")
    storage.pass_time(3600)
    assert "waits" not in call("gc", "--root", root).stdout
    assert storage.metadata.find_blob("app", digest) is not None
    assert task.take()
    task.write_note('{"ended": 0.0, "policy": {"window": 1800.0, "grace": 7200.0, "untagged": null}}')
    assert "they go in 2 h" in call("gc", "--root", root).stdout
    assert "1 blobs taken out" in call("gc", "--root", root, "--grace", "0").stdout
    assert storage.store.size(Digest.of(b"x")) is None
