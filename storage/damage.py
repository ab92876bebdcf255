"""Damaged bytes: found by their digest, and moved aside so that the next push heals the blob. For `portside check` and for the scrub."""

from __future__ import annotations

import os
from collections.abc import Callable

from oci.digest import Digest
from storage.blobs import BlobFile, BlobReader, BlobStore, StreamedBlob
from storage.errors import BlobNotFound
from storage.filesystem import FilesystemBlobStore, digest_file
from storage.hashing import digest_stream


def verify(store: BlobStore, digest: Digest, pace: Callable[[int], None] | None = None) -> tuple[int, bool]:
    """A blob's size, and whether its bytes have its digest; one that cannot be read is not good. BlobNotFound, StoreUnavailable."""
    reader = store.open(digest)
    try:
        return reader.size, _has_digest(reader, digest, pace)
    finally:
        reader.close()


def is_damaged(store: BlobStore, digest: Digest) -> bool:
    """Whether a blob is there and has other bytes than its own, or none."""
    try:
        return not verify(store, digest)[1]
    except BlobNotFound:
        return store.size(digest) is not None  # an object that the facts know, and the service has lost


def set_aside(store: BlobStore, digest: Digest) -> str:
    """Take a blob that is damaged still out of service; what its bytes are now (``at PATH`` or ``deleted``).

    "" where a push healed it, or a collector took it.
    """
    if isinstance(store, FilesystemBlobStore):
        return _quarantine(store, digest)
    try:
        reader = store.open(digest)
    except BlobNotFound:
        return ""
    try:
        if _has_digest(reader, digest, None):
            return ""
    except BlobNotFound:
        pass  # its object is gone: the blob is to lose it, too
    finally:
        reader.close()
    from storage.s3 import S3BlobStore

    assert isinstance(store, S3BlobStore)
    return "deleted" if store.delete(digest) else ""


def _quarantine(store: FilesystemBlobStore, digest: Digest) -> str:
    """Never the bytes of a push that heals it: what is moved is the file that was read."""
    try:
        reader = store.open(digest)
    except BlobNotFound:
        return ""
    try:
        inode = os.fstat(reader.fileno()).st_ino
        if _has_digest(reader, digest, None):
            return ""
    finally:
        reader.close()
    try:
        path = store.quarantine(digest, inode)
        return "" if path is None else f"at {path}"
    except BlobNotFound:
        return ""


def _has_digest(reader: BlobReader, digest: Digest, pace: Callable[[int], None] | None) -> bool:
    if isinstance(reader, BlobFile):
        try:
            return digest_file(reader.fileno(), digest.algorithm, pace) == digest
        except OSError:  # the disk cannot read it
            return False
    assert isinstance(reader, StreamedBlob)
    return digest_stream(reader.stream(0, reader.size), digest.algorithm) == digest
