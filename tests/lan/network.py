"""A local network of a test's own: machines (`tests.clients.machine`), each wired to one switch, and a hub on the first of them."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.clients.machine import ADDRESS, Machine, machine
from tests.servers import STOP_SECONDS
from tests.tools import SYSTEM_PATH, tool

ADDRESSES = (ADDRESS, "192.168.77.11", "192.168.77.12")
"""Of the machines. The first is known to all by `tests.clients.machine.NAME`."""


@contextlib.contextmanager
def network() -> Iterator[tuple[Machine, ...]]:
    """Three machines that reach each other and nobody else. It is all in namespaces: nothing is left when the tests are killed."""
    with contextlib.ExitStack() as stack:
        switch, *machines = all_of_them = [stack.enter_context(machine()) for _ in range(len(ADDRESSES) + 1)]
        for one in all_of_them:
            one("ip", "address", "del", f"{ADDRESS}/32", "dev", "lo")
        switch("ip", "link", "add", "switch", "up", "type", "bridge")
        for number, (one, address) in enumerate(zip(machines, ADDRESSES, strict=True)):
            port = f"port{number}"
            switch("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(one.holder))
            switch("ip", "link", "set", port, "master", "switch", "up")
            one("ip", "address", "add", f"{address}/24", "dev", "eth0")
            one("ip", "link", "set", "eth0", "up")
        yield tuple(machines)


@dataclass(slots=True)
class Terminal:
    """A program at a terminal, and all that it has printed there."""

    process: subprocess.Popen[bytes]
    _screen: bytearray
    _keyboard: int

    def text(self) -> str:
        return self._screen.decode(errors="replace").replace("\r\n", "\n")

    def type(self, line: str) -> None:
        os.write(self._keyboard, f"{line}\n".encode())


@contextlib.contextmanager
def at_a_terminal(*command: str | Path, environment: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """Run a program with a terminal. At the end it has to have ended with 0, or has to do so at SIGTERM, without a traceback."""
    ours, theirs = pty.openpty()
    pdeathsig = [str(tool("setpriv")), "--pdeathsig", "TERM"]
    process = subprocess.Popen(
        [*pdeathsig, *map(str, command)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PATH": SYSTEM_PATH, **(environment or {})},
    )
    os.close(theirs)
    screen = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has the other side open any more
            while part := os.read(ours, 65536):
                screen.extend(part)

    reading = threading.Thread(target=read)
    reading.start()
    terminal = Terminal(process, screen, ours)
    try:
        yield terminal
        process.terminate()  # nothing where it has ended
        assert process.wait(STOP_SECONDS) == 0, terminal.text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reading.join()
        os.close(ours)
    assert "Traceback" not in terminal.text(), terminal.text()
