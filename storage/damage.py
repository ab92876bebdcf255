"""Damaged bytes: found by their digest, and moved aside so that the next push heals the blob. For `portside check` and for the scrub."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from oci.digest import Digest
from storage.errors import BlobNotFound
from storage.filesystem import FilesystemBlobStore, digest_file


def verify(store: FilesystemBlobStore, digest: Digest, pace: Callable[[int], None] | None = None) -> tuple[int, bool]:
    """A blob's size, and whether its bytes have its digest; one that cannot be read is not good. BlobNotFound."""
    reader = store.open(digest)
    try:
        return reader.size, _has_digest(reader.fileno(), digest, pace)
    finally:
        reader.close()


def is_damaged(store: FilesystemBlobStore, digest: Digest) -> bool:
    """Whether a blob is there and has other bytes than its own."""
    try:
        return not verify(store, digest)[1]
    except BlobNotFound:
        return False


def set_aside(store: FilesystemBlobStore, digest: Digest) -> Path | None:
    """Move a blob that is damaged still into the quarantine; where it is now, None where a push healed it or a collector took it.

    Never the bytes of such a push: what is moved is the file that was read.
    """
    try:
        reader = store.open(digest)
    except BlobNotFound:
        return None
    try:
        inode = os.fstat(reader.fileno()).st_ino
        if _has_digest(reader.fileno(), digest, None):
            return None
    finally:
        reader.close()
    try:
        return store.quarantine(digest, inode)
    except BlobNotFound:
        return None


def _has_digest(fd: int, digest: Digest, pace: Callable[[int], None] | None) -> bool:
    try:
        return digest_file(fd, digest.algorithm, pace) == digest
    except OSError:  # the disk cannot read it
        return False
