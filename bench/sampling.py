"""One measurement: what was done, how long it took, what the server spent on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.content import Source, Sources
from bench.docker import Docker
from bench.filesystem import BenchError, LoopFilesystem
from bench.servers import Running
from bench.setups import Material
from bench.wire import Connection


@dataclass(slots=True)
class Sample:
    """``value`` is in the row's unit; None when the row failed on this server, and ``failure`` says how.

    ``work`` counts the units over which ``cpu_seconds`` were spent: GiB, requests, images. ``client_seconds`` is the CPU time of this
    program and its clients (a Docker daemon's is not in it). ``peak_bytes`` is the sum of the peaks of the server's processes.
    """

    row: str
    server: str
    round: int
    value: float | None = None
    work: float = 0.0
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    client_seconds: float = 0.0
    peak_bytes: int = 0
    failure: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tools:
    """What the rows need besides a server. A path that is None was not given, and its rows are left out."""

    disk: LoopFilesystem
    sources: Sources
    load: Path
    bulk: Path
    material: Material
    seconds: float
    crane: str | None
    zb: str | None
    progress: Callable[[str], None]
    docker: Docker | None = None


class Session:
    """One turn of one server: the rows of a group on a running server."""

    def __init__(self, tools: Tools, running: Running, row: str, round_number: int) -> None:
        self.tools = tools
        self.running = running
        self.port = running.port
        self.sample = Sample(row, running.server.name, round_number)

    @contextlib.contextmanager
    def meter(self, work: float = 0.0) -> Iterator[Sample]:
        """Measure the block. Unless the block sets ``value``, it becomes ``work`` per second of wall time."""
        sample, tree = self.sample, self.running.tree
        self.tools.disk.settle()
        tree.reset_peak()
        sample.work = work
        client, cpu, began = _client_seconds(), tree.cpu_seconds(), time.monotonic()
        yield sample
        sample.wall_seconds = time.monotonic() - began
        sample.cpu_seconds = tree.cpu_seconds() - cpu
        sample.client_seconds = _client_seconds() - client
        sample.peak_bytes = tree.peak_bytes()
        if sample.value is None:
            sample.value = sample.work / sample.wall_seconds

    def source(self, size: int) -> Source:
        """Material for blobs of one size, in memory."""
        return self.tools.sources.of(size)

    def connect(self, authorization: str = "") -> Connection:
        """As `bench.servers.Running.connect`."""
        return self.running.connect(authorization)

    @contextlib.contextmanager
    def loading(
        self,
        requests: Sequence[bytes],
        connections: int,
        seconds: float,
        rate: float = 0.0,
        flags: Sequence[str] = (),
        nice: int = 0,
    ) -> Iterator[Callable[[], dict[str, Any]]]:
        """Run the load generator beside the block, with ``flags`` beside those that the server's setup asks for (see ``load.c``).

        Yields what waits for its report; BenchError.
        """
        command = [
            "nice",
            "-n",
            str(nice),
            str(self.tools.load),
            *flags,
            *(["-t"] if self.running.setup.context() else []),
        ]
        command += [str(self.port), str(connections), f"{seconds:.3f}", f"{rate:.3f}"]
        with tempfile.TemporaryFile() as file:
            file.write(b"".join(request + b"\0" for request in requests))
            file.seek(0)
            with subprocess.Popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                try:
                    yield lambda: report_of(process)
                finally:
                    process.kill()

    def load(
        self, requests: Sequence[bytes], connections: int, seconds: float, rate: float = 0.0, flags: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Run the load generator; its report. Probes at a rate are an instrument, and so go before the clients that make the load."""
        with self.loading(requests, connections, seconds, rate, flags, nice=-20 if rate else 0) as report:
            return report()

    def requests_per_second(self, requests: Sequence[bytes], flags: Sequence[str] = ()) -> None:
        """The common row of small requests: 16 connections in a closed loop, after a warm-up."""
        self.load(requests, 16, min(1.0, self.tools.seconds), flags=flags)
        with self.meter() as sample:
            report = self.load(requests, 16, self.tools.seconds, flags=flags)
            sample.value = report["requests"] / report["seconds"]
            sample.work = report["requests"]
            sample.detail = report


def _client_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def report_of(process: subprocess.Popen[bytes], input: bytes | None = None) -> dict[str, Any]:
    """What a client in C prints when it is done."""
    output, errors = process.communicate(input)
    if process.returncode != 0:
        raise BenchError(errors.decode(errors="replace").strip() or f"the client ended with {process.returncode}")
    report: dict[str, Any] = json.loads(output)
    return report


def compile_client(name: str) -> Path:
    """``load`` or ``bulk``, compiled into the user's cache folder once per version of its source."""
    source = Path(__file__).with_name(f"{name}.c")
    state = hashlib.sha256(source.read_bytes() + source.with_name("dial.h").read_bytes())
    name = f"{name}-{state.hexdigest()[:16]}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "portside" / "bench"
    program = cache / name
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = cache / f"{name}.{os.getpid()}"
        try:
            command = ["gcc", "-O2", "-Wall", "-o", str(fresh), str(source), "-lssl", "-lcrypto"]
            subprocess.run(command, check=True, capture_output=True)
        except FileNotFoundError as error:
            raise BenchError("gcc is missing: apt-get install gcc libc6-dev libssl-dev") from error
        except subprocess.CalledProcessError as error:
            raise BenchError(
                f"{source.name} does not compile: {error.stderr.decode(errors='replace')[-500:]}"
            ) from error
        fresh.rename(program)
    return program
