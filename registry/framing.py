"""Where a request body ends: Content-Length and chunked (RFC 9112 sections 6 and 7), decoded in place.

A framing is fed raw bytes that lie in a buffer and moves the payload together at its front::

    buffer   |payload........|gap..|raw..........|free..........|
             0               w     r             e

so that one buffer serves ``recv_into``, ``write`` and the hash without a copy of its own.
"""

from __future__ import annotations

import re
from typing import Protocol

from registry.messages import BadRequest

CHUNK_LINE_MAX = 1024
"""The longest chunk-size line with its extensions, and the longest trailer line, in bytes."""
TRAILER_LINES_MAX = 64

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\Z")


class Framing(Protocol):
    """How one body is delimited. ``complete`` once its last byte, and for chunked its trailer, was decoded."""

    complete: bool

    def decode(self, buffer: bytearray, w: int, r: int, e: int) -> tuple[int, int]:
        """Decode the raw bytes r..e; the payload then ends at the first number returned, the second is the first raw byte left.

        Raw bytes that are left are the beginning of a line that is not whole yet or, when complete, the next request. BadRequest.
        """
        ...

    def receivable(self, free: int) -> int:
        """How many of ``free`` bytes may be received without reading beyond the body's end, as far as that is known."""
        ...


class Counted:
    """A body of ``length`` bytes, from Content-Length."""

    __slots__ = ("complete", "remaining")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.complete = length == 0

    def decode(self, buffer: bytearray, w: int, r: int, e: int) -> tuple[int, int]:
        size = min(self.remaining, e - r)
        if w != r:
            raise ValueError("a counted body has nothing between its bytes")
        self.remaining -= size
        self.complete = self.remaining == 0
        return w + size, r + size

    def receivable(self, free: int) -> int:
        return min(free, self.remaining)


class Chunked:
    """A chunked body (RFC 9112 section 7.1). Extensions and trailers are read and dropped.

    States: SIZE line -> DATA -> the CRLF AFTER it -> SIZE …; a size of 0 -> TRAILER lines -> the empty line: complete.
    """

    __slots__ = ("_left", "_state", "_trailers", "complete")

    _SIZE, _DATA, _AFTER, _TRAILER = range(4)

    def __init__(self) -> None:
        self.complete = False
        self._state = self._SIZE
        self._left = 0
        self._trailers = 0

    def decode(self, buffer: bytearray, w: int, r: int, e: int) -> tuple[int, int]:
        while r < e and not self.complete:
            if self._state == self._DATA:
                size = min(self._left, e - r)
                if w != r:
                    view = memoryview(buffer)
                    view[w : w + size] = view[r : r + size]  # a memmove: a slice of the bytearray would be copied twice
                w, r = w + size, r + size
                self._left -= size
                if not self._left:
                    self._state = self._AFTER
            elif self._state == self._AFTER:
                if e - r < 2:
                    break
                if buffer[r : r + 2] != b"\r\n":
                    raise BadRequest("a chunk of the body does not end where its size says")
                r += 2
                self._state = self._SIZE
            else:
                end = buffer.find(b"\r\n", r, min(e, r + CHUNK_LINE_MAX))
                if end < 0:
                    if e - r >= CHUNK_LINE_MAX:
                        raise BadRequest(f"a line of the chunked body is longer than {CHUNK_LINE_MAX} bytes")
                    break
                self._line(bytes(buffer[r:end]))
                r = end + 2
        return w, r

    def _line(self, line: bytes) -> None:
        if self._state == self._TRAILER:
            self._trailers += 1
            if self._trailers > TRAILER_LINES_MAX:
                raise BadRequest("the chunked body has too many trailer lines")
            self.complete = not line
            return
        found = _CHUNK_LINE.match(line)
        if found is None:
            raise BadRequest("a chunk of the body has no valid size")
        self._left = int(found[1], 16)
        self._state = self._DATA if self._left else self._TRAILER

    def receivable(self, free: int) -> int:
        return free
