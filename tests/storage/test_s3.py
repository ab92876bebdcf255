from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from oci.digest import Digest
from storage import resumable, s3_leases, s3_uploads, sql_uploads
from storage.errors import BlobNotFound, DatabaseUnavailable, DigestMismatch, StoreUnusable, UploadBusy, UploadNotFound
from storage.s3 import S3BlobStore
from storage.s3_names import S3Location
from storage.s3_parts import GROWTH, PART_MIN, PART_SIZE, part_size
from storage.sql_metadata import SQLMetadata
from storage.sqlite import SQLiteDatabase
from storage.uploads import append
from tests import s3
from tests.servers import Server, free_port, wait_until
from tests.storage.blob_conformance import SCOPE, BlobStoreConformance, content, push

MIB = 1024 * 1024
LARGE = random.Random(7).randbytes(30 * MIB + 12345)
"""Four parts."""


@pytest.fixture(scope="module", params=s3.SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3.s3_server(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SQLiteDatabase]:
    opened = SQLiteDatabase(tmp_path / "root")
    yield opened
    opened.close()


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def store(server: Server, database: SQLiteDatabase, prefix: str) -> Iterator[S3BlobStore]:
    made = S3BlobStore(s3.location(server.url, prefix), database)
    yield made
    made.close()


@pytest.fixture
def kept(server: Server, prefix: str) -> Callable[[str], dict[str, int]]:
    """What is in the bucket, of the names that begin so."""

    def kept(start: str = "") -> dict[str, int]:
        return {name: size for name, size in s3.objects(server.url, prefix).items() if name.startswith(start)}

    return kept


def damage_all(server: Server, prefix: str) -> None:
    for name in s3.objects(server.url, f"{prefix}/data"):
        s3.client(server.url).put_object(Bucket=s3.BUCKET, Key=f"{prefix}/data/{name}", Body=b"damaged")


def is_under_way(server: Server, prefix: str, place: str, multipart: str) -> bool:
    """Whether the service still has an upload in parts."""
    try:
        s3.client(server.url).list_parts(Bucket=s3.BUCKET, Key=f"{prefix}/{place}", UploadId=multipart)
    except ClientError:
        return False
    return True


class TestConformance(BlobStoreConformance):
    @pytest.fixture
    def damage(self, server: Server, prefix: str) -> Callable[[Digest], None]:
        return lambda digest: damage_all(server, prefix)


# -- uploads in parts


@pytest.mark.parametrize("size", [PART_MIN - 1, PART_MIN, PART_SIZE, PART_SIZE + PART_MIN, 30 * MIB])
@pytest.mark.parametrize("is_closed", [False, True], ids=["one request", "closed before its commit"])
def test_sizes_around_those_of_parts(
    store: S3BlobStore, kept: Callable[[str], dict[str, int]], size: int, is_closed: bool
) -> None:
    data = LARGE[:size]
    upload = store.start(SCOPE)
    for at in range(0, size, MIB):
        append(upload, data[at : at + MIB])
    if is_closed:
        upload.close()
        upload = store.resume(SCOPE, upload.id)
    assert upload.commit(Digest.of(data)) == size
    assert content(store, Digest.of(data)) == data
    assert list(kept("data").values()) == [size]
    assert len(kept("")) == 2, "the data, its pointer, and nothing else"


@pytest.mark.parametrize("chunk", [700_000, 3 * MIB, 6 * MIB, 12 * MIB, 13 * MIB])
@pytest.mark.parametrize("is_hashed", [True, False], ids=["state kept", "state lost"])
def test_many_small_requests(
    store: S3BlobStore,
    kept: Callable[[str], dict[str, int]],
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    is_hashed: bool,
) -> None:
    """Each resumes what the one before it left, of whatever form: a small object, parts, parts and a tail."""
    data = LARGE[: 20 * MIB]
    compared: list[object] = []
    monkeypatch.setattr(s3_uploads.S3Upload, "_compare", lambda self, pointer: compared.append(pointer))
    if not is_hashed:
        monkeypatch.setattr(resumable, "is_available", lambda: False)
    upload = store.start(SCOPE)
    for at in range(0, len(data), chunk):
        append(upload, data[at : at + chunk])
        upload.close()
        assert store.offset(SCOPE, upload.id) == min(at + chunk, len(data))
        assert sum(kept("tails").values()) < PART_MIN, "no tail but the last is kept"
        upload = store.resume(SCOPE, upload.id)
    upload.commit(Digest.of(data))
    assert bool(compared) != is_hashed, "read back only where the hash is not known"
    assert content(store, Digest.of(data)) == data
    assert len(kept("")) == 2


@pytest.mark.parametrize("size", [1000, 20 * MIB])
def test_bytes_of_others_are_read_back_before_they_are_published(
    store: S3BlobStore, kept: Callable[[str], dict[str, int]], size: int
) -> None:
    for expected, is_right in ((Digest.of(LARGE[:size]), True), (Digest.of(b"other"), False)):
        upload = store.start(SCOPE)
        upload.write(LARGE[:size])  # never hashed
        upload.close()
        upload = store.resume(SCOPE, upload.id)
        if is_right:
            upload.commit(expected)
            continue
        with pytest.raises(DigestMismatch) as caught:
            upload.commit(expected)
        assert caught.value.actual == Digest.of(LARGE[:size])
        with pytest.raises(UploadNotFound):
            store.offset(SCOPE, upload.id)
    assert len(kept("")) == 2
    assert list(store.digests()) == [Digest.of(LARGE[:size])]


def test_other_algorithms_are_read_back(store: S3BlobStore) -> None:
    digest = push(store, LARGE, "sha512")
    assert content(store, digest) == LARGE
    upload = store.start(SCOPE)
    append(upload, LARGE)
    with pytest.raises(DigestMismatch):
        upload.commit(Digest.of(b"other", "sha512"))
    assert list(store.digests()) == [digest]


def test_the_hash_may_be_far_behind(store: S3BlobStore) -> None:
    """What is saved in between belongs to the ends of parts, wherever the two threads are."""
    upload = store.start(SCOPE)
    for at in range(0, len(LARGE), 999_999):
        upload.write(LARGE[at : at + 999_999])
    for at in range(0, len(LARGE), 777_777):
        upload.hash(LARGE[at : at + 777_777])
    assert set(upload._states) == {8 * MIB, 16 * MIB, 24 * MIB}
    for at, state in upload._states.items():
        loaded = resumable.SHA256.load(state)
        assert loaded is not None
        assert loaded.hexdigest() == Digest.of(LARGE[:at]).hex
    upload.commit(Digest.of(LARGE))


def test_parts_grow_until_the_most_that_s3_takes() -> None:
    assert part_size(1) == part_size(GROWTH - 1) == 8 * MIB
    assert sum(part_size(number) for number in range(1, 10_001)) >= 5 * 1024**4
    assert part_size(10_000 - 1) <= 5 * 1024**3


def resident() -> int:
    """What this process has in memory, in bytes (man 5 proc_pid_statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_the_memory_of_an_upload_is_bounded(store: S3BlobStore) -> None:
    block = memoryview(bytearray(LARGE[:MIB]))
    digest = Digest.of(bytes(block) * 300)
    before, most = resident(), 0
    upload = store.start(SCOPE)
    for _ in range(300):
        append(upload, block)
        most = max(most, resident() - before)
    upload.commit(digest)
    assert most < 80 * MIB


# -- what is published


def test_what_is_pushed_again_goes_to_another_place(
    store: S3BlobStore, server: Server, prefix: str, kept: Callable[[str], dict[str, int]]
) -> None:
    digest = push(store, LARGE)
    damage_all(server, prefix)
    with pytest.raises(BlobNotFound):
        content(store, digest)
    assert store.size(digest) == len(LARGE)
    push(store, LARGE)
    assert content(store, digest) == LARGE
    assert len(kept("")) == 4
    assert store.empty_trash(3600) == 0
    assert store.empty_trash(0) == 1
    assert sorted(kept("").values()) == [0, len(LARGE)]
    assert content(store, digest) == LARGE


def test_a_reader_goes_on_when_its_object_is_replaced_and_deleted(store: S3BlobStore) -> None:
    digest = push(store, LARGE)
    reader = store.open(digest)
    assert reader.read(5, 10) == LARGE[5:15]
    push(store, LARGE)
    store.empty_trash(0)
    assert reader.read(20 * MIB, 10) == LARGE[20 * MIB : 20 * MIB + 10]
    store.delete(digest)
    with pytest.raises(BlobNotFound):
        reader.read(0, 10)
    with pytest.raises(BlobNotFound):
        reader.stream(0, 10)


def test_another_servers_changes_are_seen(
    store: S3BlobStore, database: SQLiteDatabase, server: Server, prefix: str
) -> None:
    other_database = SQLiteDatabase(database.paths.root)
    other = S3BlobStore(s3.location(server.url, prefix), other_database)
    digest = push(store, b"hello")
    assert content(other, digest) == b"hello"
    push(store, b"hello")
    store.empty_trash(0)
    assert content(other, digest) == b"hello", "its remembered place is gone"
    store.delete(digest)
    with pytest.raises(BlobNotFound):
        content(other, digest)
    other.close()
    other_database.close()


def test_two_pushes_of_one_blob_at_once(store: S3BlobStore, kept: Callable[[str], dict[str, int]]) -> None:
    uploads = [store.start(SCOPE) for _ in range(4)]
    for upload in uploads:
        append(upload, LARGE)
    threads = [threading.Thread(target=upload.commit, args=(Digest.of(LARGE),)) for upload in uploads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept("data")) == 4
    assert store.empty_trash(0) == 3
    assert len(kept("")) == 2
    assert content(store, Digest.of(LARGE)) == LARGE


def test_metadata_keep_the_place(store: S3BlobStore, database: SQLiteDatabase) -> None:
    digest = push(store, b"hello")
    before = database.rows("SELECT digest, place, size FROM blobs", ())
    metadata = SQLMetadata(database)
    metadata.link_blob("app", digest, 5)
    assert database.rows("SELECT digest, place, size FROM blobs", ()) == before
    assert metadata.find_blob("app", digest) == 5
    push(store, b"hello")
    ((_, place, _),) = database.rows("SELECT digest, place, size FROM blobs", ())
    assert place != before[0][1]
    assert metadata.find_blob("app", digest) == 5


def test_a_deletion_that_was_killed_is_finished(
    store: S3BlobStore, database: SQLiteDatabase, kept: Callable[[str], dict[str, int]]
) -> None:
    digest = push(store, b"hello")
    store._facts.remove(digest)
    assert len(kept("")) == 2
    assert store.empty_trash(0) == 1
    assert kept("") == {}


def test_a_pointer_whose_upload_was_never_published_goes_in_a_day(
    store: S3BlobStore, kept: Callable[[str], dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DatabaseUnavailable("it went away", 0.0)

    upload = store.start(SCOPE)
    append(upload, b"bytes")
    monkeypatch.setattr(sql_uploads.SQLUploads, "publish", fail)
    with pytest.raises(DatabaseUnavailable):
        upload.commit(Digest.of(b"bytes"))
    upload.close()
    assert store.expire_uploads(0) == 1
    assert store.empty_trash(0) == 0, "it might be published still"
    assert len(kept("")) == len(kept("index")) == 1
    assert store.empty_trash(-sql_uploads.ANNOUNCED) == 1
    assert kept("") == {}


def test_trash_that_a_blob_has_stays(store: S3BlobStore, database: SQLiteDatabase) -> None:
    digest = push(store, b"hello")
    with database.transaction() as connection:
        connection.execute("INSERT INTO trash (place, since) SELECT place, 0 FROM blobs")
    store.empty_trash(0)
    assert content(store, digest) == b"hello"
    assert database.rows("SELECT place FROM trash", ()) == []


def test_the_bucket_alone_gives_the_blobs_back(
    store: S3BlobStore, server: Server, prefix: str, tmp_path: Path, kept: Callable[[str], dict[str, int]]
) -> None:
    blobs = {push(store, data): data for data in (b"", b"hello", LARGE)}
    healed = push(store, b"healed")
    name = next(name for name in kept("data") if kept("data")[name] == 6)
    s3.client(server.url).put_object(Bucket=s3.BUCKET, Key=f"{prefix}/{name}", Body=b"wrong!")
    push(store, b"healed")
    gone = push(store, b"gone")
    store.delete(gone)
    trashed = push(store, b"trashed")
    store._facts.remove(trashed)  # deleted, its objects not yet
    lost = push(store, b"lost data")
    name = next(name for name in kept("data") if kept("data")[name] == 9)
    s3.client(server.url).delete_object(Bucket=s3.BUCKET, Key=f"{prefix}/{name}")
    open_upload = store.start(SCOPE)
    append(open_upload, b"half")
    open_upload.close()
    fresh_database = SQLiteDatabase(tmp_path / "fresh")
    fresh = S3BlobStore(s3.location(server.url, prefix), fresh_database)
    try:
        assert fresh.rebuild() == 5
        assert set(fresh.digests()) == {*blobs, healed, trashed}
        for digest, data in (*blobs.items(), (healed, b"healed")):
            assert content(fresh, digest) == data
        assert fresh.size(lost) is None
        assert fresh.rebuild() == 0
        assert store.rebuild() == 0, "nothing is new to who knows all, and what is trash stays trash"
        assert store.size(trashed) is None
    finally:
        fresh.close()
        fresh_database.close()


def test_a_url_reads_a_blob_for_a_while(store: S3BlobStore) -> None:
    digest = push(store, LARGE)
    url = store.url(digest, 60, "application/vnd.oci.image.layer.v1.tar+gzip", 'a"b\r\n.tar')
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.read() == LARGE
        assert answer.headers["content-type"] == "application/vnd.oci.image.layer.v1.tar+gzip"
        assert answer.headers["content-disposition"] == 'attachment; filename="a_b__.tar"'
    for forged in (url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"), url[:-1] + ("0" if url[-1] != "0" else "1")):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(forged, timeout=30)
        assert caught.value.code == 403
        caught.value.close()
    with pytest.raises(BlobNotFound):
        store.url(Digest.of(b"other"), 60, "text/plain")


# -- uploads that are left, lost, or taken by another


def test_abandoned_uploads_are_dropped_and_others_stay(
    store: S3BlobStore, server: Server, prefix: str, kept: Callable[[str], dict[str, int]]
) -> None:
    small, parted, tailed, held, empty = (store.start(SCOPE) for _ in range(5))
    append(small, b"x")
    append(parted, LARGE)
    append(tailed, LARGE[: 20 * MIB])
    for upload in (small, parted, tailed, empty):
        upload.close()
    tailed = store.resume(SCOPE, tailed.id)
    append(tailed, b"tail")
    tailed.close()
    append(held, LARGE)
    assert kept("tails")
    assert store.expire_uploads(3600) == 0
    assert store.expire_uploads(0) == 4
    for upload in (small, parted, tailed, empty):
        with pytest.raises(UploadNotFound):
            store.offset(SCOPE, upload.id)
    assert not is_under_way(server, prefix, parted._place, parted._multipart)
    assert not is_under_way(server, prefix, tailed._place, tailed._multipart)
    assert kept("") == {}
    held.commit(Digest.of(LARGE))
    assert content(store, Digest.of(LARGE)) == LARGE


CHILD = """
import os, sys
from pathlib import Path
from oci.digest import Digest
from storage import s3_leases, sql_uploads
from storage.s3 import S3BlobStore
from storage.s3_names import S3Location
from storage.sqlite import SQLiteDatabase
from storage.uploads import append
sql_uploads.LEASE = s3_leases.LEASE = 1.0
store = S3BlobStore(S3Location("portside-test", sys.argv[2], sys.argv[3], access_key="portside", secret_key="portside-secret"),
                    SQLiteDatabase(Path(sys.argv[1])))
"""


def child(database: SQLiteDatabase, prefix: str, server: Server, code: str, *arguments: str) -> subprocess.Popen[str]:
    """A server of its own, with short leases."""
    command = [sys.executable, "-c", CHILD + code, str(database.paths.root), prefix, server.url, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=environment)


def resumed(store: S3BlobStore, upload_id: str) -> s3_uploads.S3Upload:
    """An upload whose holder was killed, as soon as its lease has ended."""
    taken: list[s3_uploads.S3Upload] = []

    def is_free() -> bool:
        try:
            taken.append(store.resume(SCOPE, upload_id))
        except UploadBusy:
            return False
        return True

    wait_until(is_free, "the lease has ended")
    return taken[0]


def test_another_server_goes_on_after_a_kill(
    store: S3BlobStore,
    database: SQLiteDatabase,
    server: Server,
    prefix: str,
    kept: Callable[[str], dict[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With what was saved in the middle, and its hash."""
    process = child(
        database,
        prefix,
        server,
        "upload = store.start('team/app')\n"
        "for number in range(128): append(upload, bytes([number]) * 2**20)\n"
        "print(upload.id, flush=True); sys.stdin.read()",
    )
    assert process.stdout is not None
    upload_id = process.stdout.readline().strip()
    with pytest.raises(UploadBusy):
        store.resume(SCOPE, upload_id)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    upload = resumed(store, upload_id)
    assert upload.offset >= 64 * MIB
    assert upload.offset % PART_SIZE == 0
    monkeypatch.setattr(s3_uploads.S3Upload, "_compare", None)
    for number in range(upload.offset // MIB, 128):
        append(upload, bytes([number]) * MIB)
    whole = b"".join(bytes([number]) * MIB for number in range(128))
    upload.commit(Digest.of(whole))
    assert content(store, Digest.of(whole)) == whole
    assert len(kept("")) == 2


@pytest.mark.parametrize("size", [1000, 20 * MIB])
@pytest.mark.parametrize("moment", ["publish", "save"])
def test_a_kill_in_a_commit_or_a_close_leaves_what_can_be_finished(
    store: S3BlobStore,
    database: SQLiteDatabase,
    server: Server,
    prefix: str,
    kept: Callable[[str], dict[str, int]],
    size: int,
    moment: str,
) -> None:
    """Killed when all objects are written, just before the database says so."""
    process = child(
        database,
        prefix,
        server,
        f"data = b'd' * {size}\n"
        "upload = store.start('team/app'); append(upload, data[:-10]); upload.close()\n"
        "upload = store.resume('team/app', upload.id); append(upload, data[-10:])\n"
        "print(upload.id, flush=True)\n"
        f"sql_uploads.SQLUploads.{moment} = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        f"upload.{'commit(Digest.of(data))' if moment == 'publish' else 'close()'}",
    )
    upload_id = process.communicate()[0].strip()
    assert process.returncode == -signal.SIGKILL
    assert list(store.digests()) == []
    data = b"d" * size
    upload = resumed(store, upload_id)
    assert upload.offset >= size - 10
    append(upload, data[upload.offset :])
    upload.commit(Digest.of(data))
    assert content(store, Digest.of(data)) == data
    assert len(kept("data")) == 1
    assert kept("tails") == {}


@pytest.mark.parametrize("size", [1000, 20 * MIB])
def test_who_was_paused_and_lost_its_lease_spoils_nothing(
    store: S3BlobStore,
    server: Server,
    database: SQLiteDatabase,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    kept: Callable[[str], dict[str, int]],
    size: int,
) -> None:
    monkeypatch.setattr(sql_uploads, "LEASE", 0.2)
    paused = S3BlobStore(s3.location(server.url, prefix), database)
    paused._means.leases.close()  # it does not prolong
    ends: list[Callable[[s3_uploads.S3Upload], object]] = [
        lambda upload: upload.close(),
        lambda upload: upload.commit(Digest.of(LARGE[:size] + b"stale")),
        lambda upload: upload.cancel(),
    ]
    for end in ends:
        first = paused.start(SCOPE)
        append(first, LARGE[:size])
        first.close()
        first = paused.resume(SCOPE, first.id)
        append(first, b"stale")
        monkeypatch.setattr(sql_uploads, "LEASE", 10.0)
        second = resumed(store, first.id)
        assert second.offset == size
        first._lease.until = float("inf")  # it was paused after it had looked
        try:
            end(first)
        except UploadBusy:
            pass
        else:
            assert end is ends[-1]
        append(second, b"good")
        second.commit(Digest.of(LARGE[:size] + b"good"))
        assert content(store, Digest.of(LARGE[:size] + b"good")) == LARGE[:size] + b"good"
        assert list(store.digests()) == [Digest.of(LARGE[:size] + b"good")]
        monkeypatch.setattr(sql_uploads, "LEASE", 0.2)
    store.empty_trash(0)
    paused.close()


def test_parts_that_come_late_are_nobodys(
    store: S3BlobStore, server: Server, database: SQLiteDatabase, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was paused sends on, under numbers that the other one does not use."""
    monkeypatch.setattr(sql_uploads, "LEASE", 0.2)
    paused = S3BlobStore(s3.location(server.url, prefix), database)
    paused._means.leases.close()
    first = paused.start(SCOPE)
    append(first, LARGE[: 20 * MIB])
    first.close()
    first = paused.resume(SCOPE, first.id)
    monkeypatch.setattr(sql_uploads, "LEASE", 10.0)
    second = resumed(store, first.id)
    append(second, LARGE[20 * MIB :] + LARGE)
    first._lease.until = float("inf")
    append(first, bytes(20 * MIB))
    with pytest.raises(UploadBusy):
        first.close()
    whole = LARGE + LARGE
    second.commit(Digest.of(whole))
    assert content(store, Digest.of(whole)) == whole
    paused.close()


def test_a_lease_that_is_lost_stops_the_upload(store: S3BlobStore, database: SQLiteDatabase) -> None:
    upload = store.start(SCOPE)
    append(upload, b"x")
    with database.transaction() as connection:
        connection.execute("UPDATE uploads SET holder = 'another'")
    store._means.leases._renew([upload._lease], time.monotonic())
    for act in (lambda: append(upload, b"y"), lambda: upload.commit(Digest.of(b"xy")), upload.close):
        with pytest.raises(UploadBusy):
            act()
    assert list(store.digests()) == []


def test_leases_are_prolonged(store: S3BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sql_uploads, s3_leases):
        monkeypatch.setattr(module, "LEASE", 0.5)
    upload = store.start(SCOPE)
    first = upload._lease.until
    wait_until(lambda: upload._lease.until > first + 1.0, "it was prolonged")
    with pytest.raises(UploadBusy):
        store.resume(SCOPE, upload.id)
    append(upload, b"x")
    upload.commit(Digest.of(b"x"))


def test_an_upload_that_the_service_dropped_is_unknown(store: S3BlobStore, server: Server, prefix: str) -> None:
    """As a rule of the bucket may do with old ones: the client begins again."""
    upload = store.start(SCOPE)
    append(upload, LARGE)
    upload.close()
    place, multipart = upload._place, upload._multipart
    s3.client(server.url).abort_multipart_upload(Bucket=s3.BUCKET, Key=f"{prefix}/{place}", UploadId=multipart)
    upload = store.resume(SCOPE, upload.id)
    append(upload, LARGE)
    with pytest.raises(UploadNotFound):
        upload.close()
    upload = store.resume(SCOPE, upload.id)
    with pytest.raises(UploadNotFound):
        upload.commit(Digest.of(LARGE))
    upload.close()
    assert store.expire_uploads(0) == 1
    assert list(store.digests()) == []


SOAK = """
import random, threading
chance = random.Random(int(sys.argv[4]))
body = chance.randbytes(2**20)
def work(number):
    while True:
        data = number.to_bytes(2) + chance.randbytes(8) + body * chance.choice([0, 1, 6, 14, 30])
        upload = store.start('team/app')
        for at in range(0, len(data), 3 * 2**20):
            append(upload, data[at:at + 3 * 2**20])
            if not chance.randrange(4):
                upload.close()
                upload = store.resume('team/app', upload.id)
        size = upload.commit(Digest.of(data))
        os.write(1, f'{Digest.of(data)} {size}\\n'.encode())
        if not chance.randrange(4):
            os.write(1, f'- {Digest.of(data)}\\n'.encode())
            store.delete(Digest.of(data))
        if not chance.randrange(8):
            store.empty_trash(0)
for number in range(4):
    threading.Thread(target=work, args=(number,)).start()
sys.stdin.read()
"""


def test_servers_that_are_killed_at_any_moment(
    store: S3BlobStore,
    database: SQLiteDatabase,
    server: Server,
    prefix: str,
    kept: Callable[[str], dict[str, int]],
) -> None:
    """What was acknowledged is there, and when all is quiet nothing else is."""
    chance = random.Random(5)
    there: dict[str, int] = {}
    deleted: set[str] = set()
    for seed in range(5):
        process = child(database, prefix, server, SOAK, str(seed))
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        threading.Timer(chance.uniform(0.1, 1.5), process.kill).start()
        lines += process.stdout.readlines()
        process.communicate()
        for line in lines:
            if line.endswith("\n"):
                first, second = line.split()
                if first == "-":
                    deleted.add(second)
                else:
                    there[first] = int(second)
    for text in there.keys() - deleted:
        digest = Digest.parse(text)
        assert store.size(digest) == there[text]
        assert digest.matches(content(store, digest))
    with database.transaction() as connection:
        connection.execute("UPDATE uploads SET held_until = 0")
    store.expire_uploads(0)
    store.empty_trash(0)
    blobs = list(store.digests())
    assert there.keys() - deleted <= {str(digest) for digest in blobs}
    assert len(kept("data")) == len(blobs)
    assert kept("tails") == {}
    for digest in blobs:
        assert digest.matches(content(store, digest))
    assert store.rebuild() == 0


# -- the service


def test_services_that_cannot_be_used(server: Server, database: SQLiteDatabase) -> None:
    good = s3.location(server.url)
    for wrong, words in (
        (S3Location("no-such-bucket", "", server.url, "us-east-1", s3.ACCESS_KEY, s3.SECRET_KEY), "create it"),
        (S3Location(s3.BUCKET, "", server.url, "us-east-1", "stranger", s3.SECRET_KEY), "does not know the access key"),
        (S3Location(s3.BUCKET, "", server.url, "us-east-1", s3.ACCESS_KEY, "wrong"), "secret key is wrong"),
        (S3Location("Not A Name", "", server.url, "us-east-1", s3.ACCESS_KEY, s3.SECRET_KEY), "no name that a bucket"),
        (S3Location(s3.BUCKET, "", "no url", "us-east-1", s3.ACCESS_KEY, s3.SECRET_KEY), "no url"),
    ):
        with pytest.raises(StoreUnusable, match=words):
            S3BlobStore(wrong, database)
    assert s3.SECRET_KEY not in repr(good)


def test_a_service_that_is_not_there(database: SQLiteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.s3_bucket.READ_PATIENCE", 0.2)
    with pytest.raises(StoreUnusable, match=r"cannot be reached.*correct the endpoint"):
        S3BlobStore(s3.location(f"http://127.0.0.1:{free_port()}"), database)


def test_the_service_is_killed_and_comes_back(tmp_path: Path, database: SQLiteDatabase) -> None:
    for name in s3.SERVERS:
        running = s3.start_s3(name, tmp_path / name)
        try:
            s3.client(running.url).create_bucket(Bucket=s3.BUCKET)
            store = S3BlobStore(s3.location(running.url), database)
            before = push(store, name.encode())
            upload = store.start(SCOPE)
            append(upload, LARGE[: 22 * MIB])
            running.kill()
            writer = threading.Thread(target=append, args=(upload, LARGE[22 * MIB :]))
            writer.start()
            running = s3.start_s3(name, tmp_path / name, running.port)
            writer.join()
            upload.commit(Digest.of(LARGE))
            assert content(store, Digest.of(LARGE)) == LARGE
            assert content(store, before) == name.encode()
            store.delete(Digest.of(LARGE))
            store.close()
        finally:
            running.kill()


def test_a_hub_on_files_imports_nothing_of_this() -> None:
    code = (
        "import sys, cli.main, cli.hub, cli.serve, storage.filesystem, storage.sqlite, storage.s3_names, storage.sql_uploads\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('boto3', 'botocore', 'urllib3')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
