"""A layer's bytes: read, verified, and decompressed in a thread beside the one that unpacks them.

What came in is hashed for the descriptor's digest and what goes out for the diff id, in the same pass. The format is told by magic, since
media types lie (image-spec layer.md allows tar, tar+gzip and tar+zstd). isal, zstd and hashlib let go of the interpreter's lock, so that
two cores are used.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Protocol, cast

from isal import isal_zlib

from oci.descriptor import Descriptor
from oci.digest import Digest
from runtime.limits import Limits
from storage.blobs import BlobReader

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

READ_SIZE = 256 * 1024
BLOCK_SIZE = 512 * 1024
"""The largest block that is handed on, in bytes: a bomb fills this and no more at a time."""
AHEAD = 8
"""Blocks that may wait for the unpacker."""
_DECODER_ERRORS: tuple[type[Exception], ...] = (cast(type[Exception], isal_zlib.IsalError), zstd.ZstdError, EOFError)
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_WINDOW_LOG_MAX = 27
"""128 MiB, what RFC 8878 section 3.1.1.1.2 and zstd's own tool take without being asked; bounds the memory of a decoder."""


class InvalidContent(Exception):
    """Bytes that are not what was announced, or no stream of their kind, or more than allowed."""


class VerifiedLayer:
    """The uncompressed stream of one layer as an iterator of blocks.

    It must be read to its end, which verifies, and closed (:meth:`close`) in any case. Raises
    InvalidContent from the iterator, and OSError where the blob cannot be read.
    """

    def __init__(self, blob: BlobReader, layer: Descriptor, diff_id: Digest, limits: Limits) -> None:
        self.size = 0
        self._blob, self._layer, self._diff_id, self._limits = blob, layer, diff_id, limits
        self._ready: SimpleQueue[bytes | BaseException | None] = SimpleQueue()
        self._slots = threading.Semaphore(AHEAD)
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="decompress", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[bytes]:
        while (block := self._ready.get()) is not None:
            if isinstance(block, BaseException):
                raise block
            self._slots.release()
            yield block

    def close(self) -> None:
        """End the thread."""
        self._is_stopped = True
        self._slots.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            for block in self._verified():
                self._slots.acquire()
                if self._is_stopped:
                    return
                self._ready.put(block)
            self._ready.put(None)
        except BaseException as error:
            self._ready.put(error)

    def _verified(self) -> Iterator[bytes]:
        layer, allowed = self._layer, self._limits.allowed(self._layer.size)
        outside, inside = layer.digest.hasher(), self._diff_id.hasher()
        pieces = _compressed(self._blob, layer, outside)
        for block in _decompressed(pieces):
            self.size += len(block)
            if self.size > allowed:
                raise InvalidContent(_too_large(layer.size, allowed, self._limits))
            inside.update(block)
            yield block
        for _ in pieces:  # nothing, unless the decoder stopped before the end
            pass
        actual = Digest.from_hasher(layer.digest.algorithm, outside)
        if actual != layer.digest:
            raise InvalidContent(f"its bytes have the digest {actual}: the blob is damaged; pull the image again")
        diff_id = Digest.from_hasher(self._diff_id.algorithm, inside)
        if diff_id != self._diff_id:
            raise InvalidContent(f"it unpacks to the diff id {diff_id}, but the image config says {self._diff_id}")


class _Hasher(Protocol):
    def update(self, data: bytes, /) -> None: ...


def _compressed(blob: BlobReader, layer: Descriptor, state: _Hasher) -> Iterator[bytes]:
    if blob.size != layer.size:
        raise InvalidContent(f"the blob has {blob.size} bytes, but the manifest says {layer.size}")
    at = 0
    while at < layer.size:
        piece = blob.read(at, min(READ_SIZE, layer.size - at))
        if not piece:
            raise InvalidContent(f"the blob ends after {at} of {layer.size} bytes; pull the image again")
        state.update(piece)
        at += len(piece)
        yield piece


def _decompressed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Blocks of at most BLOCK_SIZE bytes."""
    first = next(pieces, b"")
    try:
        if first.startswith(_GZIP_MAGIC):
            yield from _gunzip(first, pieces)
        elif first.startswith(_ZSTD_MAGIC) or _is_skippable(first):
            yield from _unzstd(first, pieces)
        else:
            if first:
                yield first
            yield from pieces
    except _DECODER_ERRORS as error:
        raise InvalidContent(f"it cannot be decompressed: {error}") from error


def _gunzip(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """RFC 1952: any number of members, one after the other. Zeros after the last one are padding, as gzip takes them."""
    data = first
    while True:
        decoder = isal_zlib.decompressobj(wbits=31)
        while not decoder.eof:
            if block := decoder.decompress(data, BLOCK_SIZE):
                yield block
            data = decoder.unconsumed_tail
            if not data and not decoder.eof and not block:
                following = next(pieces, None)
                if following is None:
                    raise InvalidContent("its gzip stream is cut short")
                data = following
        data = decoder.unused_data
        while not data or not data.strip(b"\0"):
            following = next(pieces, None)
            if following is None:
                return
            data = following
        if not data.startswith(_GZIP_MAGIC[: len(data)]):
            raise InvalidContent("something that is no gzip member follows its gzip stream")


def _unzstd(first: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """RFC 8878: any number of frames; skippable ones hold nothing (zstd:chunked keeps its table of contents there)."""
    data = first
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG_MAX}
    while True:
        decoder = zstd.ZstdDecompressor(options=options)
        while not decoder.eof:
            if decoder.needs_input and not data:
                following = next(pieces, None)
                if following is None:
                    raise InvalidContent("its zstd stream is cut short")
                data = following
            if block := decoder.decompress(data, BLOCK_SIZE):
                yield block
            data = b""
        data = decoder.unused_data
        if not data:
            following = next(pieces, None)
            if following is None:
                return
            data = following


def _is_skippable(data: bytes) -> bool:
    return len(data) >= 4 and data[1:4] == b"\x2a\x4d\x18" and data[0] & 0xF0 == 0x50


def _too_large(compressed: int, allowed: int, limits: Limits) -> str:
    if allowed == limits.unpacked_max:
        return f"it unpacks to more than {allowed} bytes, the most that a layer may; --layer-max raises that"
    return f"its {compressed} bytes unpack to more than {allowed}: above that {limits.ratio_max} to one is taken for a bomb"
