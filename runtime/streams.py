"""Between a container's streams and ours, until its monitor ends; signals go on to the container meanwhile."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

_PACKET = 8192
_STDOUT, _STDERR = 2, 3


@dataclass(frozen=True, slots=True)
class Streams:
    """Descriptors of ours: ``stdin`` is None where the container gets no input."""

    stdin: int | None
    stdout: int
    stderr: int


class Conversation:
    """One attached container.

    ``on_signal`` is called with each signal number that arrives on the descriptor ``signals`` (see `signal.set_wakeup_fd`), and may set
    :attr:`deadline`, the monotonic time at which ``on_deadline`` is called, once. ``on_broken`` is called when nobody reads our output any
    more; what still comes is thrown away, so that the container is not held up.
    """

    def __init__(
        self,
        attached: socket.socket,
        monitor: int,
        streams: Streams,
        signals: int,
        on_signal: Callable[[int], None],
        on_deadline: Callable[[], None],
        on_broken: Callable[[], None],
    ) -> None:
        self.deadline: float | None = None
        self._attached, self._monitor, self._streams, self._signals = attached, monitor, streams, signals
        self._on_signal, self._on_deadline, self._on_broken = on_signal, on_deadline, on_broken
        self._broken: set[int] = set()
        self._input = b""
        self._has_input = streams.stdin is not None
        self._is_open = True

    def run(self) -> None:
        """Carry on until the monitor (a pidfd) has ended and its last output is through."""
        self._attached.setblocking(False)
        if not self._has_input:
            self._end_input()
        while True:
            ready = self._wait()
            if self._signals in ready:
                for number in os.read(self._signals, 64):
                    self._on_signal(number)
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.deadline = None
                self._on_deadline()
            if self._attached.fileno() in ready:
                self._receive(ready[self._attached.fileno()])
            if self._streams.stdin is not None and self._streams.stdin in ready:
                self._read_input()
            if self._monitor in ready:
                while self._is_open and self._receive(select.POLLIN):
                    pass
                return

    def _wait(self) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._monitor, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        if self._is_open:
            poll.register(self._attached, select.POLLIN | (select.POLLOUT if self._input else 0))
        if self._has_input and not self._input and self._streams.stdin is not None:
            poll.register(self._streams.stdin, select.POLLIN)
        timeout = None if self.deadline is None else max(0.0, self.deadline - time.monotonic()) * 1000 + 1
        return dict(poll.poll(timeout))

    def _receive(self, events: int) -> bool:
        """Move one packet of output, and input that waited; whether there was output."""
        if events & select.POLLOUT:
            self._send()
        if not events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            return False
        try:
            packet = self._attached.recv(_PACKET + 1)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            packet = b""
        if not packet:
            self._is_open = self._has_input = False
            return False
        self._write(self._streams.stderr if packet[0] == _STDERR else self._streams.stdout, packet[1:])
        return True

    def _write(self, fd: int, data: bytes) -> None:
        if fd in self._broken:
            return
        try:
            while data:
                data = data[os.write(fd, data) :]
        except BlockingIOError:
            # Somebody made our output non-blocking: wait for room.
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
            self._write(fd, data)
        except OSError:
            self._broken.add(fd)
            self._on_broken()

    def _read_input(self) -> None:
        assert self._streams.stdin is not None
        try:
            self._input = os.read(self._streams.stdin, _PACKET)
        except BlockingIOError:
            return
        except OSError:  # a terminal that went away
            self._input = b""
        if self._input:
            self._send()
        else:
            self._end_input()

    def _send(self) -> None:
        try:
            self._attached.send(self._input, socket.MSG_NOSIGNAL)
            self._input = b""
        except BlockingIOError:
            return
        except OSError:
            self._input, self._has_input = b"", False

    def _end_input(self) -> None:
        self._has_input = False
        with contextlib.suppress(OSError):
            self._attached.shutdown(socket.SHUT_WR)


def signal_pipe(numbers: tuple[signal.Signals, ...]) -> int:
    """Have signals arrive as bytes on a descriptor, which is returned, instead of ending the process. Only in the main thread."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    return read
