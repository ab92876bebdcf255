from __future__ import annotations

import functools
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from oci import mediatypes
from oci.digest import Digest
from storage.collector import UPLOAD_LIFETIME, CollectionEnded, Collector, Policy
from storage.database import Connection
from storage.file_collecting import FileCollecting
from storage.sql_audit import SQLAudit
from storage.sql_collecting import SQLCollecting, StoredBlob, Terms
from storage.uploads import append
from tests.storage.blob_conformance import content
from tests.storage.collecting import DAY, Storage
from tests.storage.metadata_conformance import manifest, subject_of

KEPT = Policy(window=DAY, grace=DAY)
AT_ONCE = Policy(window=0, grace=0, untagged=0)


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = Storage.open(tmp_path / "root")
    yield opened
    opened.metadata.close()


def test_a_blob_waits_for_its_manifest_then_for_the_grace(storage: Storage) -> None:
    digest = storage.push("app", b"x")
    assert storage.collect(KEPT).is_nothing()
    storage.pass_time(DAY + 1)
    found = storage.collect(KEPT)
    assert (found.doomed_links, found.links, storage.has("app", b"x")) == (1, 0, True)
    storage.pass_time(DAY - 60)
    found = storage.collect(KEPT)
    assert (found.doomed_links, found.waiting, storage.has("app", b"x")) == (0, 1, True)
    storage.pass_time(61)
    found = storage.collect(KEPT)
    assert (found.links, found.blobs, found.bytes) == (1, 1, 1)
    assert storage.store.size(digest) is None
    assert storage.left() == (set(), set(), set(), [])


@pytest.mark.parametrize("how", ["push", "mount", "touch"])
def test_whoever_counts_on_a_doomed_blob_keeps_it(storage: Storage, how: str) -> None:
    digest = storage.push("app", b"x")
    storage.push("other", b"x")
    storage.pass_time(DAY + 1)
    assert storage.collect(KEPT).doomed_links == 2
    storage.pass_time(DAY + 1)
    if how == "push":
        storage.push("app", b"x")
    elif how == "mount":
        storage.metadata.mount_blob("app", digest, "other")
    else:
        assert storage.metadata.touch("app", digest)
    assert storage.collect(KEPT).links == 1
    assert (storage.has("app", b"x"), storage.has("other", b"x")) == (True, False)
    storage.pass_time(DAY + 1)
    assert storage.collect(KEPT).doomed_links == 1, "its time begins anew"


def test_what_a_manifest_refers_to_again_has_its_whole_grace_when_it_does_no_more(storage: Storage) -> None:
    storage.push("app", b"x")
    storage.pass_time(2 * DAY)
    assert storage.collect(KEPT).doomed_links == 1
    image = storage.metadata.put_manifest
    made = manifest("", layers=[{"mediaType": "a/b", "digest": str(Digest.of(b"x")), "size": 1}])
    image("app", made, ["1"])
    assert storage.collect(KEPT).waiting == 0
    storage.pass_time(2 * DAY)
    storage.metadata.delete_manifest("app", made.digest)
    assert storage.collect(KEPT).doomed_links == 1
    assert storage.has("app", b"x")


def test_a_layer_stays_while_any_image_of_its_repository_has_it(storage: Storage) -> None:
    one = storage.image("app", b"shared", b"one", tags=["1"])
    storage.image("app", b"shared", b"two", tags=["2"])
    storage.image("other", b"one", tags=["1"])
    assert storage.collect().is_nothing()
    storage.metadata.delete_manifest("app", one.digest)
    found = storage.collect()
    assert (found.links, found.blobs) == (1, 0)
    assert [storage.has("app", data) for data in (b"shared", b"one", b"two")] == [True, False, True]
    assert storage.has("other", b"one")


def test_untagged_manifests_stay_unless_the_policy_says_otherwise(storage: Storage) -> None:
    image = storage.image("app", b"x", tags=["1"])
    storage.metadata.delete_tag("app", "1")
    assert storage.collect().is_nothing()
    assert storage.metadata.find_manifest("app", image.digest) is not None
    weekly = Policy(window=DAY, grace=DAY, untagged=7 * DAY)
    assert storage.collect(weekly).doomed_manifests == 0, "it was pushed just now"
    storage.pass_time(2 * DAY)
    found = storage.collect(weekly)
    assert (found.doomed_manifests, found.waiting) == (1, 0)
    storage.pass_time(6 * DAY)
    found = storage.collect(weekly)
    assert (found.manifests, found.waiting) == (0, 1)
    storage.pass_time(1 * DAY)
    assert storage.collect(weekly).manifests == 1
    assert storage.metadata.find_manifest("app", image.digest) is None
    assert storage.metadata.events(0, 100)[-1].kind == "manifest.delete"
    (record,) = SQLAudit(storage.metadata.database).find_records()
    assert (record.who, record.kind, record.subject) == ("collector", "delete", f"app@{image.digest}")


def test_a_manifest_that_is_tagged_again_is_as_new(storage: Storage) -> None:
    image = storage.image("app", b"x", tags=["1"])
    storage.metadata.delete_tag("app", "1")
    weekly = Policy(window=DAY, grace=DAY, untagged=7 * DAY)
    storage.pass_time(2 * DAY)
    assert storage.collect(weekly).doomed_manifests == 1
    storage.pass_time(8 * DAY)
    storage.metadata.put_manifest("app", image, ["2"])
    storage.metadata.delete_tag("app", "2")
    assert storage.collect(weekly).manifests == 0


def test_a_manifest_that_somebody_counts_on_stays(storage: Storage) -> None:
    image = storage.image("app", b"x", tags=[])
    short = Policy(window=DAY, grace=0, untagged=0)
    storage.pass_time(2 * DAY)
    assert storage.plan(short).manifests == 1
    assert storage.metadata.touch("app", image.digest, is_manifest=True)
    assert not storage.metadata.touch("other", image.digest, is_manifest=True)
    assert storage.collect(short).is_nothing()


def test_indexes_and_subjects_keep_what_they_need_and_all_goes_at_once_with_them(storage: Storage) -> None:
    child = storage.image("app", b"x", tags=[])
    index = manifest(
        "",
        mediaType=mediatypes.OCI_INDEX,
        manifests=[{"mediaType": child.media_type, "digest": str(child.digest), "size": len(child.raw)}],
    )
    storage.metadata.put_manifest("app", index, ["1"])
    signature = storage.image("app", b"signature", tags=[], **subject_of(index))
    about_it = storage.image("app", b"about", tags=[], **subject_of(signature))
    assert storage.collect(AT_ONCE).is_nothing()
    storage.metadata.delete_tag("app", "1")
    found = storage.collect(AT_ONCE)
    assert (found.manifests, found.links, found.blobs) == (4, 3, 3)
    assert storage.metadata.list_referrers("app", index.digest, None, 10, "").descriptors == []
    for gone in (child, index, signature, about_it):
        assert storage.metadata.find_manifest("app", gone.digest) is None
    assert storage.left() == (set(), set(), set(), [])


def test_an_index_of_another_repository_keeps_nothing_here(storage: Storage) -> None:
    child = storage.image("app", b"x", tags=[])
    entry = {"mediaType": child.media_type, "digest": str(child.digest), "size": len(child.raw)}
    storage.metadata.put_manifest("other", manifest("", mediaType=mediatypes.OCI_INDEX, manifests=[entry]), ["1"])
    assert storage.collect(AT_ONCE).manifests == 1


def test_a_plan_changes_nothing_and_says_what_is_done_then(storage: Storage) -> None:
    storage.image("app", b"x", b"y", tags=["1"])
    storage.push("app", b"unused")
    storage.push("other", b"unused")
    storage.push("third", b"of another")
    storage.metadata.unlink_blob("third", Digest.of(b"of another"))
    before = storage.contents()
    for policy in (Policy(0, 0), KEPT, Policy(0, DAY)):
        storage.plan(policy)
        assert storage.contents() == before
    planned = storage.plan(Policy(0, DAY))
    assert (planned.doomed_links, planned.links, planned.blobs) == (2, 0, 1)
    planned = storage.plan(Policy(0, 0))
    assert (planned.links, planned.blobs, planned.bytes) == (2, 2, len(b"unused") + len(b"of another"))
    assert storage.collect() == planned


# -- beside others


def test_no_collection_takes_bytes_between_their_name_and_their_link(storage: Storage) -> None:
    """With a row that nobody holds any more, which is what makes them look like garbage."""
    digest = storage.push("app", b"x")
    storage.metadata.unlink_blob("app", digest)
    collections: list[threading.Thread] = []

    def collect() -> None:
        for _ in range(2):
            thread = threading.Thread(target=storage.collect)
            thread.start()
            thread.join(0.3)  # it waits for the push; were it not to wait, it were done by now
            collections.append(thread)

    made = storage.image("other", b"y", tags=["1"])
    storage.push("app", b"x", collect)
    storage.metadata.put_manifest("app", made, ["1"])
    for thread in collections:
        thread.join()
    assert storage.store.size(digest) == 1 or storage.metadata.find_blob("app", digest) is None
    assert storage.left()[0] == storage.left()[1]


def test_a_push_that_was_cut_leaves_nothing_for_long(storage: Storage) -> None:
    storage.image("app", b"x", tags=["1"])
    cut = [storage.cut_push(b"%d" % number) for number in range(120)]
    kept = storage.cut_push(b"x")
    assert storage.store.size(cut[0]) is not None
    found = storage.collect(KEPT)
    assert (found.strays, found.blobs) == (120, 0)
    assert storage.left()[0] == {str(kept)}
    assert storage.left()[3] == []
    assert storage.has("app", b"x")


def test_pushes_that_overlap_do_not_keep_a_collector_out(storage: Storage) -> None:
    """Each push ends when the next has begun: there is no moment without one, as long as none has to wait."""
    is_over, turns, count = threading.Event(), threading.Condition(), itertools.count(1)
    last = 0

    def push_on() -> None:
        nonlocal last
        while not is_over.is_set():
            with storage.store.publishing(Digest.of(b"x")), turns:
                last = mine = next(count)
                turns.notify_all()
                turns.wait_for(functools.partial(has_next, mine), 0.2)

    def has_next(mine: int) -> bool:
        return last > mine

    threads = [threading.Thread(target=push_on) for _ in range(2)]
    for thread in threads:
        thread.start()
    found: list[int] = []

    def collect() -> None:
        for _ in range(3):
            with storage.files.alone():
                found.append(len(storage.files.cut_publishings()))

    collector = threading.Thread(target=collect)
    collector.start()
    collector.join(10)
    came_in_time = not collector.is_alive()
    is_over.set()
    for thread in (*threads, collector):
        thread.join()
    assert came_in_time
    assert found == [0, 0, 0]
    assert not storage.store.guard.notes()


def test_collections_at_once_do_the_work_of_one(storage: Storage) -> None:
    for number in range(300):
        storage.push(f"r{number % 7}", b"%d" % (number // 2))
    for number in range(40):
        storage.image(f"r{number % 7}", b"layer %d" % (number // 3), tags=[] if number % 2 else ["1"])
    failures: list[BaseException] = []

    def collect() -> None:
        try:
            storage.collect(AT_ONCE)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=collect) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    storage.collect(AT_ONCE)
    assert failures == []
    files, rows, references, left = storage.left()
    assert files == rows == references
    assert left == []


@pytest.mark.parametrize("policy", [AT_ONCE, Policy(0, 0)])
def test_a_collection_may_end_between_any_two_steps(storage: Storage, policy: Policy) -> None:
    for after in itertools.count():
        for number in range(3):
            storage.push("app", b"%d" % number)
        storage.image("app", b"x", tags=["1"])
        storage.image("app", b"y", tags=[])
        storage.cut_push(b"cut")
        steps = iter([False] * after)
        collector = Collector(
            storage.metadata.database, storage.files, policy, is_ending=functools.partial(next, steps, True)
        )
        try:
            collector.collect()
        except CollectionEnded:
            assert storage.has("app", b"x")
            continue
        break
    assert after >= 3
    files, rows, references, left = storage.left()
    assert files == rows == references
    assert left == []


class Failing(FileCollecting):
    """A disk that is full when the transaction is to be committed."""

    def discard(self, connection: Connection, blobs: Sequence[StoredBlob]) -> None:
        super().discard(connection, blobs)
        raise OSError(28, "No space left on device")


def test_a_transaction_that_fails_after_its_renames_loses_nothing(storage: Storage) -> None:
    digest = storage.push("app", b"x")
    collector = Collector(storage.metadata.database, Failing(storage.store), Policy(0, 0))
    with pytest.raises(OSError, match="No space"):
        collector.collect()
    assert (storage.store.size(digest), storage.has("app", b"x")) == (None, False)
    storage.push("app", b"x")
    assert storage.has("app", b"x")
    storage.metadata.unlink_blob("app", digest)
    assert storage.collect().blobs == 1
    assert storage.left() == (set(), set(), set(), [])


def test_a_reader_keeps_what_is_collected(storage: Storage) -> None:
    digest = storage.push("app", b"x" * 100_000)
    reader = storage.store.open(digest)
    storage.collect()
    assert storage.store.size(digest) is None
    assert reader.read(50_000, 100_000) == b"x" * 50_000
    reader.close()


def test_a_digest_may_come_and_go(storage: Storage) -> None:
    for _ in range(5):
        storage.push("app", b"x")
        assert content(storage.store, Digest.of(b"x")) == b"x"
        assert storage.collect().blobs == 1


def test_uploads_that_nobody_goes_on_with_are_dropped(storage: Storage) -> None:
    upload = storage.store.start("app")
    append(upload, b"x")
    upload.close()
    assert storage.collect(KEPT).uploads == 0
    os.utime(storage.store.paths.uploads / upload.id, (0, UPLOAD_LIFETIME))
    assert storage.collect(KEPT).uploads == 1


def test_a_link_to_what_very_many_refer_to_is_left(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """It frees nothing, and finding out in a transaction takes long."""
    monkeypatch.setattr("storage.sql_collecting.POPULAR", 5)
    for number in range(5):
        storage.image("app", b"shared", b"%d" % number, tags=[str(number)])
    storage.push("other", b"shared")
    assert storage.collect().links == 1
    storage.push("other", b"shared")
    storage.image("app", b"shared", b"5", tags=["5"])
    assert storage.collect().is_nothing()


def test_no_question_scans_a_table_for_each_row(storage: Storage) -> None:
    """What is asked in a transaction goes by indexes."""
    seen: list[str] = []
    with storage.metadata.database.transaction() as connection:
        connection.set_trace_callback(seen.append)  # type: ignore[attr-defined]
    storage.image("app", b"x", tags=[])
    storage.push("app", b"y")
    storage.collect(AT_ONCE)
    with storage.metadata.database.transaction() as connection:
        connection.set_trace_callback(None)  # type: ignore[attr-defined]
    asked = [query for query in seen if query.startswith(("SELECT", "UPDATE", "DELETE")) and "manifest" in query]
    assert len(asked) > 8
    for query in asked:
        plan = [row[3] for row in storage.metadata.database.rows(f"EXPLAIN QUERY PLAN {query}", ())]
        assert not [step for step in plan if step.startswith("SCAN") and "CONSTANT" not in step], (query, plan)


def test_blobs_of_a_store_without_a_lock_wait_until_they_have_settled(storage: Storage) -> None:
    class Settling(FileCollecting):
        settling = 600.0

    storage.metadata.unlink_blob("app", storage.push("app", b"x"))
    collector = Collector(storage.metadata.database, Settling(storage.store), Policy(0, 0))
    assert collector.collect().blobs == 0
    with storage.metadata.database.transaction() as connection:
        connection.execute("UPDATE blobs SET published_at = published_at - 601")
    assert collector.collect().blobs == 1


def test_repositories_are_asked_in_parts(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.collector.READ_BATCH", 7)
    for number in range(30):
        storage.push("app", b"%d" % number)
    assert len(SQLCollecting(storage.metadata.database).unreferenced_links(1, 9e9, "", 7)) == 7
    assert storage.collect().links == 30


def test_the_notes_of_a_process_that_was_killed_are_found_and_swept_up(storage: Storage, tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom tests.storage.collecting import Storage\n"
        "storage = Storage.open(Path(sys.argv[1]))\nstorage.push('app', b'whole')\n"
        "storage.push('app', b'cut', lambda: os.kill(os.getpid(), 9))"
    )
    for _ in range(3):
        command = [sys.executable, "-c", code, str(tmp_path / "root")]
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
        assert done.returncode == -signal.SIGKILL
    storage.image("app", b"mine", tags=["1"])
    assert len(storage.store.guard.notes()) == 3
    found = storage.collect(KEPT)
    assert found.strays == 1
    assert storage.has("app", b"whole")
    assert storage.store.size(Digest.of(b"cut")) is None
    assert storage.collect().blobs == 1
    notes = [name for name in os.listdir(storage.store.paths.publishing) if len(name) == 32]
    assert len(notes) == 1, "that of this process, which lives"


def test_each_removal_asks_again(storage: Storage) -> None:
    """What came between the question and the removal is seen."""
    facts, terms = SQLCollecting(storage.metadata.database), Terms(9e9, 9e9, 9e9)
    storage.push("app", b"x")
    ((key, _),) = facts.repositories()
    links = facts.unreferenced_links(key, terms.touched, "", 10)
    assert len(links) == 1
    image = storage.image("app", b"x", tags=[])
    assert facts.judge_links(key, links, terms) == (0, [])
    manifests = facts.untagged_manifests(key, terms.touched)
    assert len(manifests) == 1
    storage.metadata.put_manifest("app", image, ["1"])
    assert facts.judge_manifests(key, "app", manifests, terms) == (0, [])
    storage.metadata.delete_manifest("app", image.digest)
    storage.metadata.unlink_blob("app", Digest.of(b"x"))
    blobs = [blob.id for blob in facts.unlinked_blobs(9e9)]
    assert len(blobs) == 1
    storage.push("other", b"x")
    assert facts.drop_blobs(blobs, 9e9, storage.files.discard) == []
    assert storage.has("other", b"x")
    stray = storage.cut_push(b"y")
    storage.push("other", b"y")
    assert facts.drop_strays([str(stray)], storage.files.discard) == []
    assert storage.has("other", b"y")


def test_what_was_touched_after_the_question_stays(storage: Storage) -> None:
    facts = SQLCollecting(storage.metadata.database)
    storage.push("app", b"x")
    storage.pass_time(2 * DAY)
    ((key, _),) = facts.repositories()
    now = time.time()
    links = facts.unreferenced_links(key, now - DAY, "", 10)
    assert len(links) == 1
    storage.metadata.touch("app", Digest.of(b"x"))
    assert facts.judge_links(key, links, Terms(now, now - DAY, now)) == (0, [])
