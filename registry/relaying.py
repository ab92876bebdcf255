"""Large response bodies that pass through this process: from a file that has to be encrypted, or from another service.

A thread reads, seals and sends, piece by piece, as long as its client keeps up. One that has to wait for its client gives the wait to the
event loop, so that slow clients hold no threads.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Protocol

import anyio
import anyio.to_thread

from registry.messages import FileBody, LargeBody
from registry.sending import Senders, SendFailed, writable
from registry.slices import run_in_usual_slices
from storage.errors import StorageError

PIECE = 512 * 1024
SHARED_PIECE = 128 * 1024
"""What is read, sealed and sent at a time, in bytes: by a lone download, and by each of several, which a stalled client makes us hold."""
TURN = 64 * 1024 * 1024
"""Bytes that one download sends before its thread is offered to another."""
PARK_AFTER_MS = 20
"""Milliseconds that a download's thread waits for its client before it gives the wait to the event loop."""


class Seal(Protocol):
    """What becomes of bytes before the socket gets them: nothing, or TLS records."""

    def begin(self, head: bytes, is_all: bool) -> bytes:
        """A response's head, alone or to be sent with what follows it."""
        ...

    def seal(self, data: memoryview) -> bytes | memoryview: ...


class Unsealed:
    """Plain HTTP."""

    def begin(self, head: bytes, is_all: bool) -> bytes:
        return head

    def seal(self, data: memoryview) -> memoryview:
        return data


async def relay(sock: socket.socket, seal: Seal, head: bytes, body: LargeBody, senders: Senders) -> None:
    """Send a head and a body to a non-blocking socket, called on the event loop; SendFailed. The body stays open."""
    sending = _Sending(sock, seal, head, body, senders)
    senders.active += 1
    try:
        while not await anyio.to_thread.run_sync(sending.run, limiter=senders.relaying):
            await writable(sock)
    except OSError as error:
        raise SendFailed(f"the client closed the connection: {error.strerror}") from error
    finally:
        senders.active -= 1


class _Sending:
    """One body on its way: what has to be read of it, and what the socket did not take yet."""

    def __init__(self, sock: socket.socket, seal: Seal, head: bytes, body: LargeBody, senders: Senders) -> None:
        self._sock = sock
        self._seal = seal
        self._head = head
        self._body = body
        self._sent = 0
        self._left = body.length
        self._senders = senders
        self._unsent = memoryview(b"")

    def run(self) -> bool:
        """Send, in a thread: whether all is sent. If not, the client is behind, or it is another's turn. OSError, SendFailed."""
        run_in_usual_slices()
        piece = PIECE if self._senders.active == 1 else SHARED_PIECE
        view = memoryview(bytearray(piece))
        until = self._left - TURN
        if self._head:
            self._unsent = memoryview(self._seal.begin(self._head, not self._left))
            self._head = b""
        while self._flush():
            if not self._left:
                return True
            if self._left <= until:
                break
            size = self._read(view[: min(self._left, piece)])
            self._sent += size
            self._left -= size
            self._unsent = memoryview(self._seal.seal(view[:size]))
        if self._unsent.obj is view.obj:  # the next turn has another buffer
            self._unsent = memoryview(bytes(self._unsent))
        return False

    def _read(self, view: memoryview) -> int:
        body = self._body
        try:
            if isinstance(body, FileBody):
                size = os.preadv(body.reader.fileno(), [view], body.offset + self._sent)
            else:
                size = body.stream.readinto(view)
        except OSError as error:
            raise SendFailed(f"the blob cannot be read: {error.strerror}") from error
        except StorageError as error:
            raise SendFailed(f"the blob cannot be read on: {error}") from error
        if not size:
            raise SendFailed("the blob is shorter than its metadata says: run `portside check`")
        return size

    def _flush(self) -> bool:
        """Send what is sealed; whether the client took all of it."""
        while self._unsent:
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._sock, select.POLLOUT)
                if not poll.poll(PARK_AFTER_MS):
                    return False
        return True
