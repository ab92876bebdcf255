"""``portside serve``: the registry."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Failure, RootOption

if TYPE_CHECKING:
    from storage.sqlite import SQLiteMetadata


def serve(
    root: RootOption,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:5000",
    workers: Annotated[int, typer.Option(min=1, max=64, help="Server processes.")] = 1,
    grace: Annotated[float, typer.Option(min=1, help="Seconds that requests in flight get after SIGTERM.")] = 10.0,
    floor: Annotated[
        int | None,
        typer.Option(min=0, metavar="MIB", help="Free space kept: below it no upload. Default: 1 GiB or 5 %."),
    ] = None,
    inherited: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve the registry of a root.

    Example: portside serve --root /srv/hub --listen 0.0.0.0:5000
    """
    if inherited is not None:
        _end_with_parent()
        _serve_one(root, _open(root), socket.socket(fileno=inherited), grace, floor)
        return
    sock = _bind(listen)
    metadata = _open(root)
    host, port = sock.getsockname()[:2]
    _announce(root, host, port, workers)
    if workers == 1:
        _serve_one(root, metadata, sock, grace, floor)
    else:
        metadata.close()
        _serve_many(root, sock, workers, grace, floor)


def _bind(listen: str) -> socket.socket:
    host, colon, port_text = listen.rpartition(":")
    host = host.strip("[]")
    if not colon or not port_text.isdigit() or int(port_text) > 65535:
        raise Failure(f"--listen {listen!r} is not HOST:PORT, for example 127.0.0.1:5000", 2)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host or "0.0.0.0", int(port_text)))
        sock.listen(4096)
    except (OSError, UnicodeError) as error:
        raise Failure(
            f"cannot listen on {listen}: {error}. Is another server running there? Try another --listen."
        ) from error
    return sock


def _open(root: Path) -> SQLiteMetadata:
    """Make the root where it is not there, and migrate it; its errors are for the person at the terminal."""
    from registry.log import configure
    from storage.errors import StorageError
    from storage.sqlite import SQLiteMetadata

    configure(sys.stderr, sys.stderr.isatty())  # opening may have something to say already
    try:
        return SQLiteMetadata(root)
    except (StorageError, OSError) as error:
        raise Failure(f"the root {root} cannot be used: {error}") from error


def _serve_one(root: Path, metadata: SQLiteMetadata, sock: socket.socket, grace: float, floor: int | None) -> None:
    from registry.app import Registry
    from registry.log import AccessLog
    from registry.server import serve as run
    from storage.filesystem import FilesystemBlobStore

    store = FilesystemBlobStore(root, floor=None if floor is None else floor * 1024 * 1024)
    try:
        run(Registry(store, metadata), store, [sock], AccessLog(sys.stderr, sys.stderr.isatty()), grace)
    finally:
        metadata.close()


def _serve_many(root: Path, sock: socket.socket, workers: int, grace: float, floor: int | None) -> None:
    """Keep ``workers`` processes on one listening socket; one that dies is started again, at most once a second."""
    os.set_inheritable(sock.fileno(), True)
    command = [sys.executable, "-m", "cli.main", "serve", "--root", str(root), "--grace", str(grace)]
    command += ["--inherited", str(sock.fileno())] + ([] if floor is None else ["--floor", str(floor)])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [*sys.path]))}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, pass_fds=[sock.fileno()], env=environment)

    ending = False

    def end(signum: int, frame: FrameType | None) -> None:
        nonlocal ending
        ending = True
        for process in running:
            process.terminate()

    running: list[subprocess.Popen[bytes]] = []
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    running.extend(start() for _ in range(workers))
    while not ending:
        time.sleep(1.0)
        for index, process in enumerate(running):
            if not ending and process.poll() is not None:
                print(f"portside: a worker ended with {process.returncode}; another is started", file=sys.stderr)
                running[index] = start()
    for process in running:
        process.terminate()  # once more: one may have been started while the signal came
        process.wait()


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent is gone (man 2 prctl), so that no worker keeps the port of a server that was killed."""
    parent = os.getppid()
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)
    if os.getppid() != parent or parent == 1:
        raise Failure("the server that started this worker is gone")


def _announce(root: Path, host: str, port: int, workers: int) -> None:
    """Say where the registry is, and on a terminal what to type next. On standard error, as the log is."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    many = f" with {workers} workers" if workers > 1 else ""
    first = f"Portside serves {root} on http://{address}{many}"
    if not sys.stderr.isatty():
        logging.getLogger("portside").info(first)
        return
    near = f"localhost:{port}" if host in ("0.0.0.0", "::", "127.0.0.1", "::1") else address
    print(
        f"{first}. Stop it with ctrl-c. Try:\n"
        f"  docker tag busybox {near}/demo/busybox:1 && docker push {near}/demo/busybox:1\n"
        f"  portside copy oci:DIRECTORY {near}/demo/app:1\n"
        f"  portside run {near}/demo/busybox:1 echo hello",
        file=sys.stderr,
    )
