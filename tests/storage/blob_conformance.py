"""What every blob store has to do. A store's test module subclasses this and gives it fixtures ``store`` and ``damage``.

Nothing here knows where bytes are kept; whoever changes it for one store changes what a store is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from oci.digest import Digest
from storage.blobs import BlobStore
from storage.errors import BlobNotFound, DigestMismatch, UploadBusy, UploadNotFound
from storage.uploads import Upload, append

SCOPE = "team/app"
BIG = bytes(range(256)) * 5000


def push(store: BlobStore, data: bytes, algorithm: str = "sha256") -> Digest:
    digest = Digest.of(data, algorithm)
    upload = store.start(SCOPE)
    append(upload, data)
    assert upload.commit(digest) == len(data)
    return digest


def content(store: BlobStore, digest: Digest) -> bytes:
    reader = store.open(digest)
    try:
        return reader.read(0, reader.size + 10)
    finally:
        reader.close()


class BlobStoreConformance:
    """The suite."""

    @pytest.mark.parametrize("data", [b"", b"x", BIG], ids=["empty", "one byte", "big"])
    @pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
    def test_what_was_committed_is_read_back(self, store: BlobStore, data: bytes, algorithm: str) -> None:
        digest = Digest.of(data, algorithm)
        assert store.size(digest) is None
        with pytest.raises(BlobNotFound):
            store.open(digest)
        assert push(store, data, algorithm) == digest
        assert store.size(digest) == len(data)
        assert content(store, digest) == data
        assert list(store.digests()) == [digest]

    def test_a_part_is_read_without_the_rest(self, store: BlobStore) -> None:
        reader = store.open(push(store, BIG))
        assert reader.size == len(BIG)
        assert reader.read(300, 7) == BIG[300:307]
        assert reader.read(len(BIG) - 2, 100) == BIG[-2:]
        assert reader.read(len(BIG), 1) == b""
        reader.close()

    def test_an_upload_is_seen_by_nobody_before_its_commit(self, store: BlobStore) -> None:
        upload = store.start(SCOPE)
        append(upload, b"hello")
        assert store.size(Digest.of(b"hello")) is None
        assert list(store.digests()) == []
        upload.cancel()

    def test_an_upload_is_resumed_where_it_was_left(self, store: BlobStore) -> None:
        upload = store.start(SCOPE)
        for start in range(0, len(BIG), 100_000):
            append(upload, BIG[start : start + 100_000])
            upload.close()
            assert store.offset(SCOPE, upload.id) == min(start + 100_000, len(BIG))
            upload = store.resume(SCOPE, upload.id)
        assert upload.offset == len(BIG)
        upload.commit(Digest.of(BIG))
        assert content(store, Digest.of(BIG)) == BIG

    def test_writing_and_hashing_go_on_in_two_threads(self, store: BlobStore) -> None:
        upload = store.start(SCOPE)
        pieces = [BIG[start : start + 7000] for start in range(0, len(BIG), 7000)]

        def hash_all() -> None:
            for piece in pieces:
                upload.hash(piece)

        hashing = threading.Thread(target=hash_all)
        hashing.start()
        for piece in pieces:
            upload.write(piece)
        hashing.join()
        assert upload.commit(Digest.of(BIG)) == len(BIG)

    def test_bytes_that_were_written_and_never_hashed_count(self, store: BlobStore) -> None:
        upload = store.start(SCOPE)
        append(upload, b"abc")
        upload.write(b"def")
        upload.close()
        upload = store.resume(SCOPE, upload.id)
        append(upload, b"ghi")
        assert upload.commit(Digest.of(b"abcdefghi")) == 9

    def test_other_bytes_than_announced_are_refused_and_gone(self, store: BlobStore) -> None:
        upload = store.start(SCOPE)
        append(upload, b"hello")
        with pytest.raises(DigestMismatch) as caught:
            upload.commit(Digest.of(b"other"))
        assert (caught.value.actual, caught.value.size) == (Digest.of(b"hello"), 5)
        upload.close()
        with pytest.raises(UploadNotFound):
            store.resume(SCOPE, upload.id)
        assert list(store.digests()) == []

    @pytest.mark.parametrize(
        "end", [lambda upload: upload.cancel(), lambda upload: upload.commit(Digest.of(b"x"))], ids=["cancel", "commit"]
    )
    def test_an_ended_upload_is_unknown(self, store: BlobStore, end: Callable[[Upload], object]) -> None:
        upload = store.start(SCOPE)
        append(upload, b"x")
        end(upload)
        upload.close()
        upload.cancel()
        for ask in (store.resume, store.offset):
            with pytest.raises(UploadNotFound):
                ask(SCOPE, upload.id)

    def test_an_upload_belongs_to_one_request(self, store: BlobStore) -> None:
        upload = store.start(SCOPE)
        with pytest.raises(UploadBusy):
            store.resume(SCOPE, upload.id)
        upload.close()
        store.resume(SCOPE, upload.id).close()

    def test_an_upload_belongs_to_one_scope(self, store: BlobStore) -> None:
        upload = store.start(SCOPE)
        upload.close()
        for ask in (store.resume, store.offset):
            with pytest.raises(UploadNotFound):
                ask("team/other", upload.id)

    @pytest.mark.parametrize(
        "upload_id", ["", ".", "..", "../x", "a/b", "\0", "x" * 300, "\N{SNOWMAN}", "0" * 32 + "-" + "0" * 16]
    )
    def test_ids_that_were_never_given_out(self, store: BlobStore, upload_id: str) -> None:
        for ask in (store.resume, store.offset):
            with pytest.raises(UploadNotFound):
                ask(SCOPE, upload_id)

    def test_committing_again_changes_nothing(self, store: BlobStore) -> None:
        digest = push(store, b"hello")
        reader = store.open(digest)
        assert push(store, b"hello") == digest
        assert reader.read(0, 10) == content(store, digest) == b"hello"
        reader.close()

    def test_a_push_heals_a_damaged_blob(self, store: BlobStore, damage: Callable[[Digest], None]) -> None:
        digest = push(store, b"hello")
        damage(digest)
        assert content(store, digest) != b"hello"
        push(store, b"hello")
        assert content(store, digest) == b"hello"

    def test_a_commit_that_was_prepared(self, store: BlobStore) -> None:
        digest = Digest.of(BIG)
        upload = store.start(SCOPE)
        append(upload, BIG)
        upload.prepare(digest)
        assert store.size(digest) is None
        with store.publishing(digest):
            assert upload.commit(digest) == len(BIG)
        assert content(store, digest) == BIG

    def test_what_is_added_after_preparing_counts(self, store: BlobStore) -> None:
        upload = store.start(SCOPE)
        append(upload, b"hel")
        upload.prepare(Digest.of(b"hel"))
        append(upload, b"lo")
        with pytest.raises(DigestMismatch):
            upload.commit(Digest.of(b"hel"))
        assert list(store.digests()) == []

    def test_preparing_other_bytes_than_announced(self, store: BlobStore) -> None:
        upload = store.start(SCOPE)
        append(upload, b"hello")
        with pytest.raises(DigestMismatch):
            upload.prepare(Digest.of(b"other"))
        with pytest.raises(UploadNotFound):
            store.offset(SCOPE, upload.id)

    def test_pushes_at_once_of_the_same_blob(self, store: BlobStore) -> None:
        failures: list[BaseException] = []

        def run() -> None:
            try:
                push(store, BIG)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert content(store, Digest.of(BIG)) == BIG
