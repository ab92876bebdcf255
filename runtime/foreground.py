"""A container at somebody's terminal: its streams and signals are ours until it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.containers import Containers, Held
from runtime.monitor import Console, RuntimeFailed, attach, resize, send_signal
from runtime.streams import Conversation, Streams, signal_pipe

GRACE = 10.0
"""Seconds between the stop signal and SIGKILL, as in Docker."""
FORWARDED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
NOT_FOUND, NOT_EXECUTABLE, ENGINE_FAILED = 127, 126, 125
"""Exit codes of `docker run` for a program that is not there, for one that cannot be run, and for everything of ours."""


_NOT_EXECUTABLE = (
    "permission denied",
    "operation not permitted",
    "is a directory",
    "not a directory",
    "exec format error",
)


class UnknownSignal(ValueError):
    """A stop signal that Linux does not have."""


def parse_signal(text: str) -> int:
    """``SIGQUIT``, ``QUIT``, ``3`` or ``RTMIN+2`` as a number; empty is SIGTERM; UnknownSignal."""
    name = text.upper().removeprefix("SIG")
    if not name:
        return signal.SIGTERM
    if name.isascii() and name.isdigit() and 0 < int(name[:3]) <= signal.SIGRTMAX:
        return int(name[:3])
    base, _, offset = name.partition("+")
    if (
        base == "RTMIN"
        and offset.isascii()
        and offset.isdigit()
        and int(offset[:3]) <= signal.SIGRTMAX - signal.SIGRTMIN
    ):
        return signal.SIGRTMIN + int(offset[:3])
    try:
        return signal.Signals[f"SIG{name}"]
    except KeyError:
        raise UnknownSignal(f"{text[:50]!r} is no signal") from None


def failure_code(reason: str) -> int:
    """The exit code for what a runtime said when it could not start a program."""
    said = reason.lower()
    if "exec" not in said:
        return ENGINE_FAILED
    if "not found" in said or "no such file or directory" in said:
        return NOT_FOUND
    if any(part in said for part in _NOT_EXECUTABLE):
        return NOT_EXECUTABLE
    return ENGINE_FAILED


@dataclass(slots=True)
class _Stopping:
    """How a container is brought to its end: politely, then not."""

    pidfd: int
    stop_signal: int
    interrupts: int = 0
    conversation: Conversation | None = None

    def on_signal(self, number: int) -> None:
        """Pass a signal on. A second ctrl-c stops the container, a third one kills it."""
        if number == signal.SIGTERM or number == signal.SIGHUP:
            self.stop()
        elif number == signal.SIGINT and self.interrupts:
            self.interrupts += 1
            if self.interrupts > 2:
                self.kill()
            else:
                self.stop()
        else:
            self.interrupts += number == signal.SIGINT
            send_signal(self.pidfd, number)

    def stop(self) -> None:
        send_signal(self.pidfd, self.stop_signal)
        if self.conversation is not None and self.conversation.deadline is None:
            self.conversation.deadline = time.monotonic() + GRACE

    def kill(self) -> None:
        send_signal(self.pidfd, signal.SIGKILL)


def run(containers: Containers, held: Held, console: Console, streams: Streams) -> int:
    """Launch a created container, carry its streams and signals, and settle it: its exit code. Only in the main thread.

    RuntimeFailed where it could not be started; it is removed then.
    """
    is_finished = False
    signals = signal_pipe(FORWARDED)
    try:
        with contextlib.ExitStack() as opened:
            containers.launch(held, console)
            monitor, pid = (_pidfd(opened, number) for number in (held.container.monitor_pid, held.container.pid))
            attached = opened.enter_context(attach(held.path))
            stopping = _Stopping(pid, parse_signal(held.container.stop_signal))

            def on_signal(number: int) -> None:
                if number == signal.SIGWINCH:
                    _copy_size(held.path, console, streams)
                else:
                    stopping.on_signal(number)

            stopping.conversation = conversation = Conversation(
                attached, monitor, streams, signals, on_signal, stopping.kill, stopping.stop
            )
            if console.terminal:
                opened.enter_context(_raw(streams))
            _copy_size(held.path, console, streams)
            containers.start(held)
            conversation.run()
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, monitor, os.WEXITED)
        is_finished = True
        code = containers.finish(held)
        if code is None:
            raise RuntimeFailed("the container ended, but its exit code is not known", "conmon was killed")
        return code
    finally:
        os.close(signals)
        if not is_finished:
            containers.discard(held)


def _pidfd(opened: contextlib.ExitStack, pid: int) -> int:
    fd = os.pidfd_open(pid)
    opened.callback(os.close, fd)
    return fd


def _copy_size(bundle: Path, console: Console, streams: Streams) -> None:
    """Give the container's terminal the size of ours."""
    if not console.terminal:
        return
    for fd in (streams.stdout, streams.stdin):
        if fd is not None and os.isatty(fd):
            rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
            if rows and columns:
                resize(bundle, rows, columns)
            return


@contextlib.contextmanager
def _raw(streams: Streams) -> Iterator[None]:
    """Our terminal hands every key on while this lasts; the container's own does the echo and the line editing."""
    if streams.stdin is None or not os.isatty(streams.stdin):
        yield
        return
    before = termios.tcgetattr(streams.stdin)
    tty.setraw(streams.stdin, termios.TCSADRAIN)  # what was typed ahead stays
    try:
        yield
    finally:
        termios.tcsetattr(streams.stdin, termios.TCSADRAIN, before)
