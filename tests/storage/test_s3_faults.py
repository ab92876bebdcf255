"""A store whose service, or the network to it, fails: nothing is acknowledged that is not there, and nothing is left behind."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci.digest import Digest
from storage import s3_bucket, s3_reader
from storage.errors import StorageError, StoreFull, StoreUnavailable
from storage.s3 import S3BlobStore
from storage.s3_names import new_data
from storage.sqlite import SQLiteDatabase
from storage.uploads import Upload, append
from tests import s3
from tests.s3_proxy import Fault, Kind, Proxy, s3_proxy
from tests.servers import Server
from tests.storage.blob_conformance import SCOPE, content, push
from tests.storage.test_s3 import LARGE, MIB

SMALL = b"hello"


@pytest.fixture(scope="module", params=s3.SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3.s3_server(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with s3_proxy(server.address) as running:
        yield running


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def store(proxy: Proxy, tmp_path: Path, prefix: str) -> Iterator[S3BlobStore]:
    database = SQLiteDatabase(tmp_path / "root")
    made = S3BlobStore(s3.location(proxy.url, prefix), database)
    yield made
    made.close()
    database.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not pass is given up soon."""
    for module in (s3_bucket, s3_reader):
        monkeypatch.setattr(module, "READ_PATIENCE", 0.3)
    monkeypatch.setattr(s3_bucket, "WRITE_PATIENCE", 0.3)
    monkeypatch.setattr(s3_reader, "STREAM_PATIENCE", 0.5)


def nothing_is_left(store: S3BlobStore, server: Server, prefix: str, blobs: int) -> None:
    """But for the blobs and their pointers."""
    store.expire_uploads(0)
    store.empty_trash(0)
    left = s3.objects(server.url, prefix)
    assert sum(name.startswith("data/") for name in left) == blobs
    assert not any(name.startswith("tails/") for name in left)
    assert s3.parts_of(server) == []


def finish(upload: Upload, offset: int, *, is_committed: bool) -> None:
    """As a request does."""
    try:
        append(upload, LARGE[offset:])
        if is_committed:
            upload.commit(Digest.of(LARGE))
    finally:
        upload.close()


PASSING = [
    Fault(Kind.ANSWER, "PUT", "partNumber", 3),
    Fault(Kind.ANSWER, "PUT", "partNumber", 5, 503, "SlowDown"),
    Fault(Kind.RESET, "PUT", "partNumber", 3),
    Fault(Kind.TRUNCATE, "PUT", "partNumber", 3),
    Fault(Kind.CORRUPT, "PUT", "partNumber", 2),
    Fault(Kind.LOST, "PUT", "partNumber", 2),
    Fault(Kind.ANSWER, "POST", "uploads", 2, 503, "ServiceUnavailable"),
    Fault(Kind.ANSWER, "POST", "uploadId", 2),
    Fault(Kind.LOST, "POST", "uploadId", 1),
    Fault(Kind.ANSWER, "PUT", "/index/", 2),
    Fault(Kind.LOST, "PUT", "/index/", 2),
]


@pytest.mark.parametrize(
    "fault", PASSING, ids=lambda fault: f"{fault.kind.name} {fault.method} {fault.words} {fault.code}"
)
def test_what_passes_is_not_noticed(
    store: S3BlobStore, proxy: Proxy, server: Server, prefix: str, fault: Fault
) -> None:
    proxy.faults = [Fault(fault.kind, fault.method, fault.words, fault.times, fault.status, fault.code)]
    digest = push(store, LARGE)
    assert proxy.faults[0].times == 0
    assert content(store, digest) == LARGE
    nothing_is_left(store, server, prefix, 1)


@pytest.mark.parametrize("kind", [Kind.ANSWER, Kind.RESET, Kind.TRUNCATE, Kind.CORRUPT, Kind.LOST])
def test_what_passes_in_small_pushes(store: S3BlobStore, proxy: Proxy, server: Server, prefix: str, kind: Kind) -> None:
    proxy.faults = [Fault(kind, "PUT", "/data/", 2)]
    digest = push(store, SMALL)
    assert proxy.faults[0].times == 0
    assert content(store, digest) == SMALL
    nothing_is_left(store, server, prefix, 1)


@pytest.mark.parametrize("kind", [Kind.ANSWER, Kind.CUT, Kind.LOST])
def test_a_download_goes_on_where_it_was_cut(store: S3BlobStore, proxy: Proxy, kind: Kind) -> None:
    digest = push(store, LARGE)
    proxy.faults = [Fault(kind, "GET", "/data/", 4)]
    stream = store.open(digest).stream(1000, len(LARGE))
    buffer, got = memoryview(bytearray(300_000)), bytearray()
    while size := stream.readinto(buffer):
        got += buffer[:size]
    stream.close()
    assert got == LARGE[1000:]
    assert proxy.faults[0].times == 0


def test_a_download_that_never_comes_is_given_up(store: S3BlobStore, proxy: Proxy, impatient: None) -> None:
    digest = push(store, LARGE)
    for fault in (Fault(Kind.LOST, "GET", "/data/", 1000), Fault(Kind.ANSWER, "GET", "/data/", 1000, 503, "SlowDown")):
        proxy.faults = [fault]
        with pytest.raises(StoreUnavailable):
            content(store, digest)
    proxy.faults = []
    assert content(store, digest) == LARGE


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(Kind.ANSWER, "PUT", "", 1000, 503, "SlowDown"), "asks for fewer requests"),
        (Fault(Kind.ANSWER, "PUT", "", 1000, 500, "InternalError"), "look at its log"),
        (Fault(Kind.ANSWER, "PUT", "", 1000, 400, "ExpiredToken"), "give the hub new ones"),
        (Fault(Kind.ANSWER, "PUT", "", 1000, 403, "AccessDenied"), "allow it to"),
        (Fault(Kind.ANSWER, "PUT", "", 1000, 403, "RequestTimeTooSkewed"), "clock"),
        (Fault(Kind.ANSWER, "PUT", "", 1000, 404, "NoSuchBucket"), "create it"),
        (Fault(Kind.CORRUPT, "PUT", "/data/", 1000), "damaged on the way"),
        (Fault(Kind.RESET, "PUT", "", 1000), "cannot be reached"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_pass_is_told_and_can_be_resumed(
    store: S3BlobStore, proxy: Proxy, server: Server, prefix: str, impatient: None, fault: Fault, words: str
) -> None:
    upload = store.start(SCOPE)
    append(upload, LARGE[: 10 * MIB])
    upload.close()
    kept = store.offset(SCOPE, upload.id)
    assert kept == 10 * MIB
    for end in ("close", "commit"):
        proxy.faults = [fault]
        upload = store.resume(SCOPE, upload.id)
        assert upload.offset == kept
        with pytest.raises(StoreUnavailable, match=words) as caught:
            finish(upload, 10 * MIB, is_committed=end == "commit")
        if fault.kind is Kind.ANSWER:
            assert (caught.value.code, caught.value.status) == (fault.code, fault.status)
        proxy.faults = []
        assert store.offset(SCOPE, upload.id) == kept
        assert list(store.digests()) == []
    upload = store.resume(SCOPE, upload.id)
    append(upload, LARGE[10 * MIB :])
    upload.commit(Digest.of(LARGE))
    assert content(store, Digest.of(LARGE)) == LARGE
    nothing_is_left(store, server, prefix, 1)


@pytest.mark.parametrize("size", [5, len(LARGE)])
@pytest.mark.parametrize("target", ["/data/", "/index/"])
def test_a_failed_push_leaves_nothing(
    store: S3BlobStore, proxy: Proxy, server: Server, prefix: str, impatient: None, size: int, target: str
) -> None:
    data = LARGE[:size]
    proxy.faults = [Fault(Kind.ANSWER, "PUT", target, 1000)]
    upload = store.start(SCOPE)
    with pytest.raises(StoreUnavailable):  # noqa: PT012 - whichever of the two it is
        append(upload, data)
        upload.commit(Digest.of(data))
    upload.cancel()
    assert list(store.digests()) == []
    proxy.faults = []
    nothing_is_left(store, server, prefix, 0)


def test_what_cannot_be_dropped_now_is_dropped_later(
    store: S3BlobStore, proxy: Proxy, server: Server, prefix: str, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = store.start(SCOPE)
    append(upload, LARGE)
    proxy.faults = [Fault(Kind.ANSWER, "DELETE", "", 1000), Fault(Kind.ANSWER, "POST", "delete", 1000)]
    upload.cancel()
    digest = push(store, SMALL)
    with pytest.raises(StoreUnavailable):
        store.delete(digest)
    assert store.size(digest) is None
    proxy.faults = []
    with store._facts.database.transaction() as connection:
        connection.execute("UPDATE uploads SET held_until = 0")  # as after its lease
    nothing_is_left(store, server, prefix, 0)


def test_what_a_killed_server_left_is_swept_when_that_can_be_done(
    store: S3BlobStore, proxy: Proxy, server: Server, prefix: str, impatient: None
) -> None:
    upload = store.start(SCOPE)
    append(upload, SMALL)
    upload.close()
    stray = new_data(upload.id)
    s3.client(server.url).put_object(Bucket=s3.BUCKET, Key=f"{prefix}/{stray}", Body=b"half")
    with store._facts._database.transaction() as connection:
        connection.execute("UPDATE uploads SET holder = 'killed'")
    proxy.faults = [Fault(Kind.ANSWER, "GET", "list-type", 1000)]
    store.resume(SCOPE, upload.id).close()
    assert stray in s3.objects(server.url, prefix)
    proxy.faults = []
    upload = store.resume(SCOPE, upload.id)
    assert stray not in s3.objects(server.url, prefix)
    upload.commit(Digest.of(SMALL))
    assert content(store, Digest.of(SMALL)) == SMALL


def test_a_service_that_falls_silent_is_asked_again(
    proxy: Proxy, tmp_path: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_bucket, "READ_TIMEOUT", 0.5)
    database = SQLiteDatabase(tmp_path / "root")
    store = S3BlobStore(s3.location(proxy.url, prefix), database)
    proxy.faults = [Fault(Kind.STALL, "PUT", "partNumber"), Fault(Kind.STALL, "GET", "/data/", 2)]
    digest = push(store, LARGE)
    assert content(store, digest) == LARGE
    assert [fault.times for fault in proxy.faults] == [0, 0]
    store.close()
    database.close()


def test_a_full_service_is_full(store: S3BlobStore, proxy: Proxy) -> None:
    proxy.faults = [Fault(Kind.ANSWER, "PUT", "", 1000, 507, "XMinioStorageFull")]
    with pytest.raises(StoreFull):
        push(store, SMALL)


def test_errors_have_what_the_log_needs(store: S3BlobStore, proxy: Proxy, impatient: None) -> None:
    proxy.faults = [Fault(Kind.ANSWER, "PUT", "", 1000, 403, "AccessDenied")]
    with pytest.raises(StorageError) as caught:
        push(store, SMALL)
    error = caught.value
    assert isinstance(error, StoreUnavailable)
    assert (error.operation, error.bucket, error.request_id) == ("PutObject", s3.BUCKET, "R1")
    assert str(error).startswith("PutObject in the bucket portside-test failed: AccessDenied (HTTP 403, request R1). ")
