"""Large response bodies: ``sendfile`` in slices, from the event loop, without the loop ever waiting for a disk or a client.

uvloop has no sendfile, and its transport owns the socket: so a duplicate of the descriptor is written to directly, and the loop is asked
when that can take more. A slice is short enough that small requests beside many downloads wait a millisecond or two at most.

A lone client on this machine that cannot keep up is sent copies instead: it is bound by its own core, and takes fresh buffers faster
than lent pages. For everybody else sendfile is the cheapest there is.
"""

from __future__ import annotations

import asyncio
import os
import socket

import anyio
import anyio.to_thread

from registry.messages import FileBody

SLICE = 512 * 1024
"""Bytes sent before other connections get their turn."""
STALL_TIMEOUT = 120.0
"""Seconds that a client may take nothing before its download is given up."""
READ_AHEAD = 4 * 1024 * 1024
UNSENT_MAX = 64 * 1024
"""Bytes that wait in a socket for a client on this machine (TCP_NOTSENT_LOWAT, man 7 tcp): beyond them it counts as behind."""
COPY = 32 * 1024
"""What is copied at a time for a client that is behind: of 16, 32 and 64 KiB the best, though they hardly differ."""

_buffer = bytearray(COPY)
_copied = memoryview(_buffer)

_MSG_MORE = getattr(socket, "MSG_MORE", 0)


class SendFailed(Exception):
    """The client went away or stalled, or the file ended early: the connection is of no more use."""


class Senders:
    """What all downloads of a process share. ``active``: how many are under way."""

    def __init__(self) -> None:
        self.cold_reads = anyio.CapacityLimiter(16)
        self.relaying = anyio.CapacityLimiter(64)
        self.active = 0


async def send_file(sock: socket.socket, head: bytes, body: FileBody, senders: Senders) -> None:
    """Write a head and a part of a file to a non-blocking socket; SendFailed. The reader stays open."""
    senders.active += 1
    try:
        await _send(sock, head, body, senders)
    except OSError as error:
        raise SendFailed(f"the client closed the connection: {error.strerror}") from error
    finally:
        senders.active -= 1


async def _send(sock: socket.socket, head: bytes, body: FileBody, senders: Senders) -> None:
    offset, left, fd = body.offset, body.length, body.reader.fileno()
    while head:
        try:
            head = head[sock.send(head, _MSG_MORE if left else 0) :]
        except BlockingIOError:
            await writable(sock)
    is_local = left > SLICE and _is_local(sock)
    if is_local:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_MAX)
    is_behind = False
    cached_until = offset
    while left:
        size = min(left, SLICE)
        if offset + size > cached_until and not _is_cached(fd, offset + size - 1):
            ahead = min(left, READ_AHEAD)
            await anyio.to_thread.run_sync(_read_through, fd, offset, ahead, limiter=senders.cold_reads)
            cached_until = offset + ahead
        try:
            sent = _copy(sock, fd, offset, size) if is_behind else os.sendfile(sock.fileno(), fd, offset, size)
        except BlockingIOError:
            is_behind = is_local and senders.active == 1
            await writable(sock)
            continue
        if not sent:
            raise SendFailed("the blob's file is shorter than its metadata says: run `portside check`")
        offset += sent
        left -= sent
        is_behind = is_behind and sent < size
        await asyncio.sleep(0)


def _is_local(sock: socket.socket) -> bool:
    """Whether the client is on this machine."""
    return sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getpeername()[0] == sock.getsockname()[0]


def _copy(sock: socket.socket, fd: int, offset: int, size: int) -> int:
    """Send a part of a file through a buffer: as much as the socket takes, BlockingIOError where that is nothing."""
    sent = 0
    while sent < size:
        part = _copied[: min(os.preadv(fd, [_buffer], offset + sent), size - sent)]
        try:
            taken = sock.send(part)
        except BlockingIOError:
            if sent:
                break
            raise
        sent += taken
        if taken < len(part) or not part:
            break
    return sent


def _is_cached(fd: int, offset: int) -> bool:
    """Whether the page at an offset is in memory, so that a sendfile there will not wait for the disk."""
    try:
        os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError:  # this filesystem cannot tell: tmpfs, which is memory, or a network's
        return True
    return True


def _read_through(fd: int, offset: int, size: int) -> None:
    """Bring a range into the page cache, in a thread."""
    os.posix_fadvise(fd, offset, size, os.POSIX_FADV_WILLNEED)
    buffer = bytearray(128 * 1024)
    end = offset + size
    while offset < end:
        got = os.preadv(fd, [buffer], offset)
        if not got:
            return
        offset += got


async def writable(sock: socket.socket) -> None:
    """Wait on the event loop until a socket takes something; SendFailed."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock.fileno(), lambda: None if ready.done() else ready.set_result(None))
    try:
        async with asyncio.timeout(STALL_TIMEOUT):
            await ready
    except TimeoutError:
        raise SendFailed(f"the client took nothing for {STALL_TIMEOUT:.0f} s") from None
    finally:
        loop.remove_writer(sock.fileno())
