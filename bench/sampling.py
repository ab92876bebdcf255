"""One measurement: what was done, how long it took, what the server spent on it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.content import Source, Sources
from bench.docker import Docker
from bench.filesystem import BenchError, LoopFilesystem
from bench.servers import Running


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

    def load(
        self, paths: Sequence[str], connections: int, seconds: float, rate: float = 0.0, accept: str = ""
    ) -> dict[str, Any]:
        """Run the load generator; its report. See ``load.c``.

        Probes at a rate are an instrument, and so go before the clients that make the load.
        """
        command = ["nice", "-n", "-20"] if rate else []
        command += [str(self.tools.load), str(self.port), str(connections), f"{seconds:.3f}", f"{rate:.3f}"]
        if accept:
            command.append(f"Accept: {accept}")
        text = "".join(f"{path}\n" for path in paths)
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise BenchError(result.stderr.strip() or f"load ended with {result.returncode}")
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    def requests_per_second(self, paths: Sequence[str], accept: str = "") -> None:
        """The common row of small requests: 16 connections in a closed loop, after a warm-up."""
        self.load(paths, 16, min(1.0, self.tools.seconds), accept=accept)
        with self.meter() as sample:
            report = self.load(paths, 16, self.tools.seconds, accept=accept)
            sample.value = report["requests"] / report["seconds"]
            sample.work = report["requests"]
            sample.detail = report


def _client_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def compile_load() -> Path:
    """The load generator, compiled into the user's cache folder once per version of its source."""
    source = Path(__file__).with_name("load.c")
    name = "load-" + hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "portside" / "bench"
    program = cache / name
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = cache / f"{name}.{os.getpid()}"
        try:
            subprocess.run(["gcc", "-O2", "-Wall", "-o", str(fresh), str(source)], check=True, capture_output=True)
        except FileNotFoundError as error:
            raise BenchError("gcc is missing: apt-get install gcc libc6-dev") from error
        except subprocess.CalledProcessError as error:
            raise BenchError(
                f"{source.name} does not compile: {error.stderr.decode(errors='replace')[-500:]}"
            ) from error
        fresh.rename(program)
    return program
