"""``python -m bench``: measure side by side and write the results as JSON. See README.md."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import fnmatch
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

from bench.content import Sources
from bench.filesystem import GIB, BenchError, LoopFilesystem
from bench.goals import BY_ID
from bench.groups import GROUPS, Group
from bench.rounds import run_group
from bench.sampling import Sample, Tools, compile_client
from bench.servers import DISTRIBUTION, PORTSIDE, ZOT, ZOT_NO_SYNC, Server, portside
from bench.setups import make_material

NAMESPACE = "PORTSIDE_BENCH_NAMESPACE"
"""Set in the environment once the mount namespace is our own."""


def main() -> int:
    arguments = _arguments()
    if not arguments.list and NAMESPACE not in os.environ:
        _enter_namespace()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _bench(arguments)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; everything that was started was ended and unmounted", file=sys.stderr)
        return 130


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Portside side by side with its peers.",
        epilog="Example: python -m bench --registry /opt/registry --zot /opt/zot --rows get,put,'zb-*' --json out.json",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds per row (5)")
    parser.add_argument("--registry", metavar="PATH", help="distribution's server")
    parser.add_argument("--zot", metavar="PATH", help="zot's server")
    parser.add_argument("--zb", metavar="PATH", help="zot's load tester; without it no zb rows")
    parser.add_argument("--versitygw", metavar="PATH", type=Path, help="an S3 service; without it no s3 rows")
    parser.add_argument("--crane", metavar="PATH", help="crane; without it no crane rows")
    parser.add_argument("--rows", default="*", help="rows or groups by name, commas between, * and ? allowed (all)")
    parser.add_argument("--servers", default="*", help="servers by name, likewise (all that were given)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one measurement of small requests (4)")
    parser.add_argument("--json", metavar="OUT", type=Path, help="where the results go; complete after every round")
    parser.add_argument("--work", metavar="DIR", type=Path, help="where the disk image goes (the temporary directory)")
    parser.add_argument("--disk", metavar="GIB", type=int, default=24, help="size of the file system (24)")
    parser.add_argument("--list", action="store_true", help="print the groups and rows, and end")
    return parser.parse_args()


def _bench(arguments: argparse.Namespace) -> int:
    if arguments.list:
        for group in GROUPS:
            for row in group.rows:
                print(f"{group.name:15} {row:55} {BY_ID[row].title}")
        return 0
    chosen = choose(arguments.rows)
    if arguments.json is not None and not arguments.json.absolute().parent.is_dir():
        raise BenchError(f"--json {arguments.json}: there is no such directory")
    servers = _servers(arguments)
    results = Results(arguments.json, arguments, servers)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="portside-bench-", dir=arguments.work)))
        work.chmod(0o711)  # PostgreSQL, who is another user, goes through it
        progress = Progress()
        disk = LoopFilesystem(work, arguments.disk * GIB, progress)
        stack.callback(disk.close)
        sources = Sources(disk.memory)
        stack.callback(sources.close)
        material = make_material(disk.memory / "material", arguments.versitygw)
        load, bulk = compile_client("load"), compile_client("bulk")
        tools = Tools(disk, sources, load, bulk, material, arguments.seconds, arguments.crane, arguments.zb, progress)
        for group, rows in chosen:
            missing = _missing(group, tools)
            if missing:
                progress(f"{group.name}: left out, {missing}")
                continue
            run_group(group, rows, servers, arguments.rounds, tools, results.add)
    return 1 if any(sample.failure for sample in results.samples if sample.server == PORTSIDE) else 0


class Progress:
    """One line per step on standard error, with the time since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        seconds = int(time.monotonic() - self._began)
        print(f"[{seconds // 60:3}:{seconds % 60:02}] {text}", file=sys.stderr, flush=True)


class Results:
    """The samples, written after each one: a run that is interrupted keeps what it measured."""

    def __init__(self, path: Path | None, arguments: argparse.Namespace, servers: list[Server]) -> None:
        self.samples: list[Sample] = []
        self._path = path
        self._head: dict[str, Any] = {
            "began": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": {server.name: server.version() for server in servers},
            "settings": {"rounds": arguments.rounds, "seconds": arguments.seconds, "disk_gib": arguments.disk},
        }

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)
        row = BY_ID[sample.row]
        figure = f"FAILED: {sample.failure}" if sample.value is None else f"{sample.value:.4g} {row.unit}"
        cpu = f"cpu {sample.cpu_seconds:.2f} s, client {sample.client_seconds:.2f} s, of {sample.wall_seconds:.2f} s"
        cpu += f", peak {sample.peak_bytes / 1e6:.0f} MB"
        print(f"        {sample.row:24} {sample.server:14} {figure}   ({cpu})", file=sys.stderr, flush=True)
        if self._path is not None:
            document = self._head | {
                "load_average": os.getloadavg(),
                "samples": [dataclasses.asdict(one) for one in self.samples],
            }
            fresh = self._path.with_name(self._path.name + ".part")
            fresh.write_text(json.dumps(document, indent=1))
            fresh.replace(self._path)


def choose(patterns: str) -> list[tuple[Group, set[str]]]:
    """The groups with the rows of each that any pattern names, by its own name or its group's. BenchError when one names nothing."""
    chosen: dict[str, set[str]] = {}
    for pattern in patterns.split(","):
        found = [
            (group, row)
            for group in GROUPS
            for row in group.rows
            if fnmatch.fnmatch(row, pattern) or fnmatch.fnmatch(group.name, pattern)
        ]
        if not found:
            raise BenchError(f"no row or group is called {pattern!r}; --list prints them")
        for group, row in found:
            chosen.setdefault(group.name, set()).add(row)
    return [(group, chosen[group.name]) for group in GROUPS if group.name in chosen]


def machine() -> dict[str, Any]:
    """The machine's line: cores, processor, memory, kernel, Python."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")), platform.machine()
    )
    kilobytes = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(kilobytes / (1 << 20), 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "filesystem": "ext4 with its defaults, on a loop device with direct I/O",
    }


def _servers(arguments: argparse.Namespace) -> list[Server]:
    servers = [portside()]
    if arguments.registry:
        servers.append(Server(DISTRIBUTION, DISTRIBUTION, (arguments.registry,)))
    if arguments.zot:
        servers += [Server(ZOT, ZOT, (arguments.zot,)), Server(ZOT_NO_SYNC, ZOT, (arguments.zot,))]
    patterns = arguments.servers.split(",")
    return [server for server in servers if any(fnmatch.fnmatch(server.name, pattern) for pattern in patterns)]


def _missing(group: Group, tools: Tools) -> str:
    if group.needs == "crane" and tools.crane is None:
        return "--crane was not given"
    if group.needs == "zb" and tools.zb is None:
        return "--zb was not given"
    if group.needs == "versitygw" and tools.material.versitygw is None:
        return "--versitygw was not given"
    if group.needs == "docker" and shutil.which("dockerd") is None:
        return "dockerd is not installed"
    return ""


def _enter_namespace() -> None:
    """Run on in a mount namespace of our own (man 1 unshare); never returns.

    Nobody else's containers can then hold a copy of our mounts, and they go with the last of our processes, however it ends.
    """
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "bench", *sys.argv[1:]]
    try:
        os.execvpe(command[0], command, os.environ | {NAMESPACE: "1"})
    except FileNotFoundError as error:
        raise SystemExit("bench: unshare is missing: apt-get install util-linux") from error


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
