"""What a download costs when nobody does anything but sendfile: the floor under the row GET of 1 GiB.

A loop without HTTP, event loop or Python between its calls worth naming sends a file to the client of that row. What it costs is the
kernel's: no server on this machine can be below it. Three ways: as it is; with little waiting unsent in the socket, as Portside does;
and with both ends on one core, which shows what waking the client on the other one costs.

    python -m bench.floor DIRECTORY     # on the file system to measure, with 1 GiB of room
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.filesystem import GIB
from bench.rounds import rotated
from bench.wire import DISCARD
from registry.sending import SLICE, UNSENT_MAX

ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Way:
    name: str
    unsent_max: int = 0
    is_one_core: bool = False


WAYS = (
    Way("sendfile"),
    Way(f"sendfile, at most {UNSENT_MAX >> 10} KiB unsent", UNSENT_MAX),
    Way("sendfile, both ends on one core", is_one_core=True),
)


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.NamedTemporaryFile(dir=sys.argv[1]) as file:
        block = os.urandom(DISCARD)
        for _ in range(GIB // DISCARD):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        results: dict[str, list[tuple[float, float]]] = {way.name: [] for way in WAYS}
        for round_number in range(ROUNDS):
            for way in rotated(WAYS, round_number):
                results[way.name].append(_measure(Path(file.name), way))
    print(f"| 1 GiB, medians of {ROUNDS} rotated rounds | GiB/s | sender's CPU s/GiB |\n|---|---:|---:|")
    for name, found in results.items():
        speed, cpu = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"| {name} | {speed:.2f} ({_spread(found, 0)}) | {cpu:.2f} ({_spread(found, 1)}) |")
    return 0


def _spread(found: list[tuple[float, float]], index: int) -> str:
    values = [one[index] for one in found]
    return f"{min(values):.2f} to {max(values):.2f}"


def _measure(path: Path, way: Way) -> tuple[float, float]:
    """GiB/s, and CPU seconds of the sender."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _pin(0, way)
                with listener.accept()[0] as sock:
                    _send(sock, path, way)
                code = 0
            finally:
                os._exit(code)
        cores = os.sched_getaffinity(0)
        _pin(-1, way)
        try:
            began = time.perf_counter()
            with socket.create_connection(listener.getsockname()) as client:
                scratch = bytearray(DISCARD)
                received = sum(iter(lambda: client.recv_into(scratch, DISCARD, socket.MSG_TRUNC), 0))
            seconds = time.perf_counter() - began
        finally:
            os.sched_setaffinity(0, cores)
        _, status, usage = os.wait4(child, 0)
    if status != 0 or received != GIB:
        raise SystemExit(f"the sender ended with {status} after {received} bytes")
    return 1 / seconds, usage.ru_utime + usage.ru_stime


def _pin(index: int, way: Way) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0 if way.is_one_core else index]})


def _send(sock: socket.socket, path: Path, way: Way) -> None:
    sock.setblocking(False)
    if way.unsent_max:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, way.unsent_max)
    writable = select.epoll()
    writable.register(sock, select.EPOLLOUT | select.EPOLLET)
    with path.open("rb") as file:
        for _ in _slices(sock.fileno(), file.fileno()):
            writable.poll()


def _slices(sock: int, file: int) -> Iterator[None]:
    """Send the file; yields each time that the socket takes no more."""
    offset = 0
    while offset < GIB:
        try:
            offset += os.sendfile(sock, file, offset, min(SLICE, GIB - offset))
        except BlockingIOError:
            yield


if __name__ == "__main__":
    sys.exit(main())
