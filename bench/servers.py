"""The servers that are compared, each at its durable settings, and how they are started, measured and ended.

Every one of them writes its log of requests to ``/dev/null`` at level info, has deletion enabled, and collects no garbage meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.filesystem import BenchError
from bench.processes import ProcessTree
from bench.setups import PLAIN, Setup
from bench.wire import Connection, WireError

PORTSIDE = "portside"
DISTRIBUTION = "distribution"
ZOT = "zot"
ZOT_NO_SYNC = "zot-no-sync"

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test. ``kind`` is its on-disk format's owner: portside, distribution or zot."""

    name: str
    kind: str
    program: tuple[str, ...]

    def version(self) -> str:
        """What the program itself reports; for this checkout its commit, for a binary without a version its digest."""
        if self.kind == PORTSIDE:
            return "checkout " + (
                _output(["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]) or "without git"
            )
        said = _output([*self.program, "--version"])
        if self.kind == DISTRIBUTION:
            return said.split(" ", 2)[-1]
        commit = json.loads(said.splitlines()[-1]).get("commit", "")
        digest = hashlib.sha256(Path(self.program[0]).read_bytes()).hexdigest()
        return commit or f"binary with sha256 {digest[:12]}"

    def command(self, root: Path, port: int, setup: Setup) -> list[str]:
        """The command line; writes the configuration beside ``root`` where the server wants a file."""
        if self.kind == PORTSIDE:
            command = [*self.program, "serve", "--root", str(root), "--listen", f"127.0.0.1:{port}"]
            command += ["--gc-interval", "0", "--scrub", "0"]
            return command + setup.portside(root)
        if self.kind == DISTRIBUTION:
            document = _distribution_configuration(root, port)
            setup.distribution(document)
        else:
            document = _zot_configuration(root, port, self.name != ZOT_NO_SYNC)
            setup.zot(document)
        path = root.with_suffix(".json")
        path.write_text(json.dumps(document))  # which is YAML, too
        return [*self.program, "serve", str(path)]


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers on ``port``. ``start_seconds``: from exec until ``GET /v2/`` was answered as it should be."""

    server: Server
    root: Path
    port: int
    tree: ProcessTree
    start_seconds: float
    setup: Setup

    def connect(self, authorization: str = "") -> Connection:
        """A connection for what is done before the clock starts and for large transfers without TLS."""
        return Connection(self.port, self.setup.context(), authorization)


def portside() -> Server:
    return Server(PORTSIDE, PORTSIDE, (sys.executable, "-m", "cli.main"))


@contextlib.contextmanager
def running(server: Server, root: Path, setup: Setup = PLAIN) -> Iterator[Running]:
    """Start a server on a root, and end it in any case."""
    root.mkdir(parents=True, exist_ok=True)
    with setup.beside(root.with_name(f"{root.name}-beside")):
        yield from _running(server, root, setup)


def _running(server: Server, root: Path, setup: Setup) -> Iterator[Running]:
    port = free_port()
    command = server.command(root, port, setup)
    log = root.with_suffix(".err")
    began = time.monotonic()
    with log.open("wb") as errors:
        # Portside logs to standard error, the others to standard output or a file that is named in their configuration.
        stderr = subprocess.DEVNULL if server.kind == PORTSIDE else errors
        process = subprocess.Popen(
            command,
            env=os.environ | setup.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=CHECKOUT,
        )
    try:
        _wait_until_ready(server, process, port, log, setup)
        yield Running(server, root, port, ProcessTree(process.pid), time.monotonic() - began, setup)
    finally:
        end(process)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes], port: int, log: Path, setup: Setup) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = log.read_text(errors="replace")[-500:] or _first_words(process.args)
            raise BenchError(f"{server.name} ended at its start with status {process.returncode}: {said}")
        with contextlib.suppress(OSError, WireError), Connection(port, setup.context()) as connection:
            if connection.request("GET", "/v2/").status == setup.ready:
                return
        time.sleep(0.005)
    raise BenchError(f"{server.name} did not answer GET /v2/ with {setup.ready} within 60 s")


def _first_words(command: Any) -> str:
    """What a server that ended at once says on standard error when it is started again."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10, cwd=CHECKOUT)
    except subprocess.TimeoutExpired:
        return "when it was started again, it ran"
    return result.stderr[-500:]


def end(process: subprocess.Popen[bytes]) -> None:
    """By SIGTERM, and where that does not end it in 30 s by SIGKILL."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _distribution_configuration(root: Path, port: int) -> dict[str, Any]:
    return {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {
            "filesystem": {"rootdirectory": str(root)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": f"127.0.0.1:{port}"},
    }


def _zot_configuration(root: Path, port: int, is_durable: bool) -> dict[str, Any]:
    return {
        "distSpecVersion": "1.1.1",
        "storage": {"rootDirectory": str(root), "gc": False, "dedupe": True, "commit": is_durable},
        "http": {"address": "127.0.0.1", "port": str(port), "compat": ["docker2s2"]},
        "log": {"level": "info", "output": "/dev/null"},
    }


def _output(command: list[str]) -> str:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except OSError as error:
        raise BenchError(f"cannot run {command[0]}: {error}") from error
    return (result.stdout or result.stderr).strip()
