"""Where blobs are kept: the protocol that a filesystem and any S3 service satisfy.

`tests/storage/blob_conformance.py` is the suite that every implementation passes unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from oci.digest import Digest
from storage.uploads import Upload


class BlobReader(Protocol):
    """An open blob. ``size`` in bytes."""

    size: int

    def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset``; empty at the end. Never moves a shared position."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class BlobFile(BlobReader, Protocol):
    """An open blob that is a file: ``sendfile`` and ``pread`` may use its descriptor."""

    def fileno(self) -> int: ...


class Stream(Protocol):
    """A part of a blob on its way, for one thread at a time."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Read at least one byte; 0 at the end. StoreUnavailable, BlobNotFound."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class StreamedBlob(BlobReader, Protocol):
    """An open blob that another service sends."""

    def stream(self, offset: int, length: int) -> Stream:
        """Begin to read at most ``length`` bytes; BlobNotFound, StoreUnavailable."""
        ...


class BlobStore(Protocol):
    """Content-addressed bytes. Every method may be called from any thread and any process at once."""

    def size(self, digest: Digest) -> int | None:
        """The blob's size in bytes, None where it is not there. A look-up: cheap enough to run on an event loop."""
        ...

    def open(self, digest: Digest) -> BlobReader:
        """Open a blob to read; BlobNotFound."""
        ...

    def start(self, scope: str) -> Upload:
        """Begin an upload that only the same ``scope`` (a repository's name) may resume; StoreFull below the floor."""
        ...

    def resume(self, scope: str, upload_id: str) -> Upload:
        """Take up an upload where it stands; UploadNotFound, UploadBusy, StoreFull."""
        ...

    def offset(self, scope: str, upload_id: str) -> int:
        """How many bytes of an upload are kept, without taking it up; UploadNotFound."""
        ...

    def publishing(self, digest: Digest) -> AbstractContextManager[None]:
        """Held around an upload's `commit` and the recording of its blob, where a lock keeps collectors out; else nothing."""
        ...

    def digests(self) -> Iterator[Digest]:
        """Every blob, in the order of the walk. For checks and collectors: it reads the whole store's directories."""
        ...
