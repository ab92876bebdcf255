"""Reading an object: ranges of it, each resumed where a connection breaks.

An object never changes, so what comes after a break fits what came before. A push that heals a blob, and a collector, may take a blob's
object away while it is read: then the rest is read from the object that the blob has now, which has the same bytes.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

from storage.errors import StoreUnavailable
from storage.s3_bucket import READ_PATIENCE, Body, Bucket
from storage.s3_faults import FAULTS, Gone
from storage.s3_names import Pointer

STREAM_PATIENCE = 75.0
"""Seconds without a byte after which a stream is given up."""
BREAKS_MAX = 8
"""Connections in a row that may break before they bring a byte."""

Fetch = Callable[[int, int, float], Body]
"""Asks for so many bytes from an offset, with patience for so many seconds."""
Whereabouts = Callable[[Pointer | None], Pointer]
"""Where a blob is; given where it is not any more, it is looked up anew. BlobNotFound."""


class S3Stream:
    """A range of an object on its way. For one thread at a time."""

    def __init__(self, bucket: Bucket, fetch: Fetch, offset: int, length: int) -> None:
        """The first request is made here, so that what cannot be read is known before a byte of it is promised."""
        self._bucket = bucket
        self._fetch = fetch
        self._offset = offset
        self._left = length
        self._body = fetch(offset, length, READ_PATIENCE) if length else None

    def readinto(self, buffer: memoryview) -> int:
        """Read at least one byte; 0 at the end. StoreUnavailable, and what ``fetch`` raises, also where the object is too short."""
        if not self._left or not buffer:
            return 0
        reason = "every connection breaks"
        deadline = time.monotonic() + STREAM_PATIENCE
        for _ in range(BREAKS_MAX):
            try:
                if self._body is None:
                    self._body = self._fetch(self._offset, self._left, max(0.0, deadline - time.monotonic()))
                got = self._body.readinto(buffer[: self._left])
            except FAULTS as error:
                reason, got = f"{type(error).__name__}: {error}", 0
            if got:
                self._offset += got
                self._left -= got
                return got
            self.close()
            if time.monotonic() > deadline:
                break
        remedy = "See whether the service, and the network to it, are overloaded"
        raise StoreUnavailable("GetObject", self._bucket.location.bucket, reason, 0, "", remedy)

    def close(self) -> None:
        """Let go of the connection; may be called twice."""
        if self._body is not None:
            self._body.close()
            self._body = None


class S3Reader:
    """An open blob. ``size`` in bytes. Safe for threads."""

    def __init__(self, bucket: Bucket, whereabouts: Whereabouts) -> None:
        self._bucket = bucket
        self._whereabouts = whereabouts
        self.size = whereabouts(None).size

    def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset``; fewer only at the end. BlobNotFound, StoreUnavailable."""
        length = self._within(offset, length)
        return read_whole(S3Stream(self._bucket, self._fetch, offset, length), length)

    def stream(self, offset: int, length: int) -> S3Stream:
        """Begin to read at most ``length`` bytes. BlobNotFound, StoreUnavailable."""
        return S3Stream(self._bucket, self._fetch, offset, self._within(offset, length))

    def close(self) -> None:
        """Nothing is held; streams are closed by themselves."""

    def _within(self, offset: int, length: int) -> int:
        return max(0, min(length, self.size - offset))

    def _fetch(self, offset: int, length: int, patience: float) -> Body:
        pointer = self._whereabouts(None)
        while True:
            try:
                return self._bucket.get(pointer.data, offset, length, patience)
            except Gone:
                pointer = self._whereabouts(pointer)


def whole(bucket: Bucket, name: str, size: int) -> S3Stream:
    """An object from its first byte on; Gone, here or while it is read, where it is not there."""
    return S3Stream(bucket, functools.partial(bucket.get, name), 0, size)


def read_whole(stream: S3Stream, length: int) -> bytes:
    """All ``length`` bytes of a stream, which is closed."""
    try:
        data = bytearray(length)
        got = 0
        with memoryview(data) as view:
            while got < length:
                got += stream.readinto(view[got:])
        return bytes(data)
    finally:
        stream.close()
