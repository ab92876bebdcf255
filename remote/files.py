"""Blobs in files: reading a stretch of one, and writing one down verified."""

from __future__ import annotations

import os
from collections.abc import Iterator

from oci.descriptor import Descriptor
from oci.digest import Digest
from remote.connections import PIECE
from remote.endpoints import Advance, Source
from remote.errors import InvalidContent


def read_stretch(fd: int, start: int, length: int, what: str) -> Iterator[memoryview]:
    """``length`` bytes of a file from ``start``, in pieces that are good until the next but one; InvalidContent where it ends before."""
    buffers = [memoryview(bytearray(min(PIECE, max(length, 1)))) for _ in range(2)]
    while length:
        buffer = buffers[0]
        buffers.reverse()
        try:
            count = os.preadv(fd, [buffer[: min(len(buffer), length)]], start)
        except OSError as error:
            raise InvalidContent(f"{what} cannot be read: {error.strerror}") from error
        if not count:
            raise InvalidContent(f"{what} ends {length} bytes early")
        yield buffer[:count]
        start += count
        length -= count


def read_whole(fd: int, start: int, length: int, what: str) -> bytes:
    """A stretch in memory. The caller bounds ``length``."""
    return b"".join(bytes(piece) for piece in read_stretch(fd, start, length, what))


def write_at(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write everything at an offset."""
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view = view[count:]
        offset += count


def receive(fd: int, offset: int, blob: Descriptor, source: Source, advance: Advance) -> None:
    """Write a blob into a file from ``offset`` on; InvalidContent where its bytes are not those of its digest."""
    state = blob.digest.hasher()
    for piece in source.open(blob, 0):
        write_at(fd, piece, offset)
        state.update(piece)
        offset += len(piece)
        advance(len(piece))
    actual = Digest.from_hasher(blob.digest.algorithm, state)
    if actual != blob.digest:
        raise InvalidContent(f"the blob {blob.digest} arrived with the digest {actual}: not kept")


def sync_folder(path: os.PathLike[str] | str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
