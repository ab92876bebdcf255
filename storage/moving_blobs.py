"""The bytes of one hub's blobs brought to another's store: several at a time, each verified by its digest on the way.

A blob that the destination has is there whole, since none gets its name before: so a copy that was cut goes on with those that are not.
Where both are files of one filesystem the destination gets another name of the same file, once that has been read and verified.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import Enum, auto

from oci.digest import Digest
from storage.blobs import BlobFile, BlobReader, BlobStore, StreamedBlob
from storage.errors import BlobNotFound, DigestMismatch
from storage.filesystem import FilesystemBlobStore
from storage.uploads import append

THREADS = 4
"""Blobs that are on their way at once."""
CHUNK = 1024 * 1024
SCOPE = "moving"
"""What the uploads belong to: no repository's, so that no client goes on with one."""

Progress = Callable[[int, int], None]
"""Told (blobs so far, bytes so far)."""


class Outcome(Enum):
    """What became of a blob."""

    COPIED = auto()
    PRESENT = auto()
    MISSING = auto()
    DAMAGED = auto()


@dataclass(slots=True)
class Brought:
    """What a copy of blobs did. ``bytes`` are those of the ``copied``; the others are lists of digests at the source."""

    copied: int = 0
    bytes: int = 0
    present: int = 0
    missing: list[Digest] = field(default_factory=list)
    damaged: list[Digest] = field(default_factory=list)


def bring(
    wanted: Iterator[tuple[Digest, int]], source: BlobStore, destination: BlobStore, progress: Progress
) -> Brought:
    """Copy blobs, given by digest and size in bytes, that the destination does not have. StorageError, OSError of either side."""
    done = Brought()
    waiting: set[Future[tuple[Digest, int, Outcome]]] = set()
    with ThreadPoolExecutor(THREADS, thread_name_prefix="moving") as pool:
        try:
            for digest, size in wanted:
                if len(waiting) >= 2 * THREADS:
                    waiting = _collect(waiting, done, progress)
                waiting.add(pool.submit(_bring_one, digest, size, source, destination))
            while waiting:
                waiting = _collect(waiting, done, progress)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return done


def chunks(reader: BlobReader) -> Iterator[bytes | memoryview]:
    """All bytes of an open blob, in pieces that are used before the next is asked for. BlobNotFound, StoreUnavailable, OSError."""
    if isinstance(reader, BlobFile):
        offset = 0
        while piece := reader.read(offset, CHUNK):
            offset += len(piece)
            yield piece
        return
    assert isinstance(reader, StreamedBlob)
    stream, buffer = reader.stream(0, reader.size), memoryview(bytearray(CHUNK))
    try:
        while size := stream.readinto(buffer):
            yield buffer[:size]
    finally:
        stream.close()


def upload(
    destination: BlobStore,
    digest: Digest,
    pieces: Iterator[bytes | memoryview],
    record: Callable[[int], None] = lambda size: None,
) -> None:
    """Have a destination take bytes as a blob's; ``record`` is told the size before a collector may look. DigestMismatch, StoreFull."""
    taken = destination.start(SCOPE)
    try:
        for piece in pieces:
            append(taken, bytes(piece))
        taken.prepare(digest)
        with destination.publishing(digest):
            record(taken.commit(digest))
    except BaseException:
        taken.cancel()
        raise


def _collect(
    waiting: set[Future[tuple[Digest, int, Outcome]]], done: Brought, progress: Progress
) -> set[Future[tuple[Digest, int, Outcome]]]:
    """Take note of those that have ended, at least one; the others."""
    ended, others = wait(waiting, return_when=FIRST_COMPLETED)
    for future in ended:
        digest, size, outcome = future.result()
        if outcome is Outcome.COPIED:
            done.copied += 1
            done.bytes += size
        elif outcome is Outcome.PRESENT:
            done.present += 1
        else:
            (done.missing if outcome is Outcome.MISSING else done.damaged).append(digest)
        progress(done.copied + done.present, done.bytes)
    return others


def _bring_one(digest: Digest, size: int, source: BlobStore, destination: BlobStore) -> tuple[Digest, int, Outcome]:
    if destination.size(digest) == size:
        return digest, size, Outcome.PRESENT
    try:
        reader = source.open(digest)
    except BlobNotFound:
        return digest, size, Outcome.MISSING
    try:
        if not _is_linked(digest, source, destination):
            upload(destination, digest, chunks(reader))
    except BlobNotFound:
        return digest, size, Outcome.MISSING
    except DigestMismatch:
        return digest, size, Outcome.DAMAGED
    finally:
        reader.close()
    return digest, size, Outcome.COPIED


def _is_linked(digest: Digest, source: BlobStore, destination: BlobStore) -> bool:
    """Whether a hard link did it."""
    if not (isinstance(source, FilesystemBlobStore) and isinstance(destination, FilesystemBlobStore)):
        return False
    return destination.adopt(digest, source.paths.blob(digest), lambda size: None)
