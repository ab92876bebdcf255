"""A connection as a thread uses it: beside the event loop's transport, which does not read meanwhile.

A body is received and a large one is sent through a channel, so that what pumps bodies does not know whether there is TLS underneath:
`PlainChannel` here, `registry.tls.TLSChannel` there.
"""

from __future__ import annotations

import select
import socket
from enum import Enum, auto
from typing import Protocol

from registry.messages import FileBody, LargeBody
from registry.relaying import Unsealed, relay
from registry.sending import Senders, send_file

LOW_WATER = 128 * 1024
"""Bytes that a pump's thread waits for, where it waits at all (SO_RCVLOWAT, man 7 socket): fewer wake-ups for the same bytes."""
PARK_AFTER_MS = 500
"""Milliseconds that a pump's thread waits for its client before it gives the wait to the event loop."""


class Outcome(Enum):
    """Why a pump's thread came back."""

    COMPLETE = auto()
    STARVED = auto()
    GONE = auto()
    STOPPED = auto()


class Channel(Protocol):
    """One end of a connection. Opened and closed on the event loop; between that one thread at a time receives."""

    def fileno(self) -> int:
        """The socket's descriptor, for the loop to wait on."""
        ...

    def receive_into(self, view: memoryview, certain: int) -> tuple[int, Outcome | None]:
        """Receive what is there, waiting a little: until a good part of the ``certain`` bytes has come, that are known to follow.

        How many bytes there are in ``view`` now; where that is none, STARVED or GONE.
        """
        ...

    def rest(self) -> None:
        """The thread that received goes, whether another comes or not: leave the socket as it was, and hold little."""
        ...

    async def send(self, head: bytes, body: LargeBody, senders: Senders) -> None:
        """Send a head and a large body, called on the loop; SendFailed. The body stays open."""
        ...

    def close(self) -> None: ...


class PlainChannel:
    """A duplicate of a TCP connection's socket, which is closed with it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive_into(self, view: memoryview, certain: int) -> tuple[int, Outcome | None]:
        return receive(self._sock, view, certain)

    def rest(self) -> None:
        set_low_water(self._sock, 1)

    async def send(self, head: bytes, body: LargeBody, senders: Senders) -> None:
        if isinstance(body, FileBody):
            await send_file(self._sock, head, body, senders)
        else:
            await relay(self._sock, Unsealed(), head, body, senders)

    def close(self) -> None:
        self._sock.close()


def receive(sock: socket.socket, view: memoryview, certain: int) -> tuple[int, Outcome | None]:
    """`Channel.receive_into` of a non-blocking socket; with nothing ``certain`` it does not wait."""
    may_wait = certain > 0
    while True:
        try:
            received = sock.recv_into(view)
        except BlockingIOError:
            if not may_wait:
                return 0, Outcome.STARVED
            set_low_water(sock, min(certain, LOW_WATER))
            poll = select.poll()
            poll.register(sock, select.POLLIN)
            may_wait = bool(poll.poll(PARK_AFTER_MS))
            if not may_wait:
                set_low_water(sock, 1)  # what has come, little as it is, is taken before the thread goes
        except OSError:
            return 0, Outcome.GONE
        else:
            return received, None if received else Outcome.GONE


def set_low_water(sock: socket.socket, size: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
