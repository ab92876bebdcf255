"""Hashes: of uploads between two requests, and of bytes that are streamed."""

from __future__ import annotations

import threading
from collections import OrderedDict

from oci.digest import Digest, Hasher, hasher
from storage.blobs import Stream

HASH_STATES_MAX = 1024
"""Uploads between two requests whose hash is remembered; another one's file is read again, once."""
STREAM_SIZE = 1024 * 1024


class HashStates:
    """The hashes of uploads that wait for their next request, in this process. Bounded: the oldest go first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Hasher, int]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, upload_id: str, state: Hasher, length: int) -> None:
        """Remember a hash of an upload's first ``length`` bytes."""
        with self._lock:
            self._kept[upload_id] = (state, length)
            while len(self._kept) > HASH_STATES_MAX:
                self._kept.popitem(last=False)

    def take(self, upload_id: str, length: int) -> Hasher | None:
        """The hash, if it is of exactly ``length`` bytes: another process may have gone on with the upload meanwhile."""
        with self._lock:
            state, hashed = self._kept.pop(upload_id, (None, -1))
        return state if hashed == length else None


def digest_stream(stream: Stream, algorithm: str) -> Digest:
    """The digest of all that a stream has, which is closed. What it raises."""
    state = hasher(algorithm)
    try:
        with memoryview(bytearray(STREAM_SIZE)) as view:
            while got := stream.readinto(view):
                state.update(view[:got])
    finally:
        stream.close()
    return Digest.from_hasher(algorithm, state)
