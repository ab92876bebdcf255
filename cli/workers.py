"""Several server processes on one listening socket."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from types import FrameType

from cli.options import Failure


def keep_workers(sock: socket.socket, workers: int) -> None:
    """Run this same command ``workers`` times on the socket until SIGTERM; one that dies is started again, at most once a second."""
    os.set_inheritable(sock.fileno(), True)
    command = [sys.executable, "-m", "cli.main", *sys.argv[1:], "--inherited", str(sock.fileno())]
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


def end_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent is gone (man 2 prctl), so that no worker keeps the port of a server that was killed."""
    parent = os.getppid()
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)
    if os.getppid() != parent or parent == 1:
        raise Failure("the server that started this worker is gone")
