"""conmon and the OCI runtime: a container is created, watched, started, signalled, and deleted.

conmon is the parent of the container's first process. It outlives us: it keeps the log and writes the exit code to a file, whoever is
there to read it. States, as the runtime has them (runtime-spec runtime.md, "Lifecycle")::

    create()  → created: namespaces, mounts and limits stand, the first process waits
    start()   → running: the image's program
    its end   → stopped: conmon has written exits/ID and ended
    delete()  → nothing left of it
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.runtimes import OCIRuntime

_ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TZ": "UTC"}
"""conmon writes local times to the log unless told otherwise."""
_LOGGED = re.compile(r'level=(?:error|fatal) msg="((?:[^"\\\x00-\x1f]|\\["\\nt])*)"')
_MESSAGE_MAX = 64 * 1024
_PATIENCE = 60.0
"""Seconds that any one call of the runtime gets."""


class RuntimeFailed(Exception):
    """The OCI runtime or conmon could not do what it was told. ``reason`` is what it said itself."""

    def __init__(self, what: str, reason: str) -> None:
        self.reason = reason
        super().__init__(f"{what}: {reason}")


@dataclass(frozen=True, slots=True)
class Console:
    """How a container's standard streams are set up: a ``terminal`` of its own, standard input kept open, and a log file or none."""

    terminal: bool = False
    stdin: bool = False
    log: Path | None = None


@dataclass(frozen=True, slots=True)
class Watched:
    """A created container's processes: ids in our pid namespace."""

    pid: int
    monitor_pid: int


class Monitor:
    """One OCI runtime with its state directory, and conmon."""

    def __init__(self, runtime: OCIRuntime, conmon: str, state: Path) -> None:
        self._runtime, self._conmon = runtime, conmon
        self._argv = (*runtime.argv, "--root", str(state))
        state.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self, container: str, bundle: Path, console: Console) -> Watched:
        """Create a container from ``bundle/config.json``; RuntimeFailed, after which conmon is gone and :meth:`delete` cleans up."""
        exits, conmon_pid = bundle / "exits", bundle / "conmon.pid"
        exits.mkdir(mode=0o700, exist_ok=True)
        with contextlib.ExitStack() as opened:
            sync_read, sync_write = _pipe(opened)
            start_read, start_write = _pipe(opened)
            errors = opened.enter_context(open(bundle / "conmon.log", "w+b"))
            argv = [self._conmon, "--api-version", "1", "-c", container, "-u", container, "-n", container[:12]]
            argv += ["-r", self._argv[0], "-b", str(bundle), "-p", str(bundle / "pid"), "-P", str(conmon_pid)]
            argv += ["--exit-dir", str(exits), "--persist-dir", str(bundle), "--full-attach", "--log-level", "error"]
            argv += ["-l", f"k8s-file:{console.log}" if console.log else "none"]
            argv += ["-t"] if console.terminal else []
            argv += ["-i"] if console.stdin else []
            for argument in self._argv[1:]:
                argv += ["--runtime-arg", argument]
            process = subprocess.Popen(
                argv,
                cwd=bundle,  # where conmon leaves a file when memory ran out
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=(sync_write.fileno(), start_read.fileno()),
                env={
                    **_ENVIRONMENT,
                    "_OCI_SYNCPIPE": str(sync_write.fileno()),
                    "_OCI_STARTPIPE": str(start_read.fileno()),
                },
            )
            sync_write.close()
            start_read.close()
            with contextlib.suppress(BrokenPipeError):
                start_write.write(b"0")
            start_write.close()
            code = process.wait()
            answer = sync_read.read(_MESSAGE_MAX)
            errors.seek(0)
            said = errors.read(_MESSAGE_MAX).decode("utf-8", "replace").strip()
        pid, message = _parse(answer)
        if code or pid <= 0:
            reason = _readable(message or said) or f"conmon ended with {code}"
            raise RuntimeFailed(f"{self._runtime.name} could not create the container", reason)
        return Watched(pid, int(conmon_pid.read_text("ascii")))

    def start(self, container: str) -> None:
        """Let a created container's program run; RuntimeFailed."""
        self._call("start", container)

    def delete(self, container: str) -> None:
        """Kill what is left of a container and forget it; nothing happens where the runtime does not know it. RuntimeFailed."""
        try:
            self._call("delete", "--force", container)
        except RuntimeFailed as error:
            if "does not exist" not in error.reason:
                raise

    def _call(self, verb: str, *arguments: str) -> None:
        # Output to a file's worth of pipe: a runtime says one line. Its own children never hold it open after start.
        try:
            done = subprocess.run(
                [*self._argv, verb, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_ENVIRONMENT,
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeFailed(f"{self._runtime.name} {verb}", f"no answer in {_PATIENCE:.0f} seconds") from error
        if done.returncode:
            said = _readable(done.stderr.decode("utf-8", "replace"))
            raise RuntimeFailed(f"{self._runtime.name} {verb} failed", said or f"exit code {done.returncode}")


def attach(bundle: Path) -> socket.socket:
    """Connect to a container's streams: packets of 1 byte (2 standard output, 3 standard error) and up to 8192 bytes of data.

    What is sent goes to its standard input; shutting down that side is the end of input.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        # Through a descriptor, since a socket's address holds only 107 bytes.
        folder = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{folder}/attach")
        finally:
            os.close(folder)
    except BaseException:
        sock.close()
        raise
    return sock


def resize(bundle: Path, rows: int, columns: int) -> None:
    """Tell a container's terminal its size, in characters. One that has ended does not mind."""
    try:
        fd = os.open(bundle / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(fd, f"1 {rows} {columns}\n".encode("ascii"))
    finally:
        os.close(fd)


def exit_code(bundle: Path, container: str) -> int | None:
    """How a container's program ended, 128 more than the signal where one killed it; None where that is not known."""
    try:
        text = (bundle / "exits" / container).read_text("ascii").strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() else None


def is_same_process(pid: int, start_time: int) -> bool:
    """Whether a process of that id is the one that started then: ids are used again."""
    return start_time_of(pid) == start_time


def start_time_of(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (man 5 proc, field 22 of stat); None where there is none, or only its zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def send_signal(pidfd: int, number: int) -> None:
    """Signal a process by its pidfd; one that has ended does not mind."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


class _End:
    """One end of a pipe, closed once."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    def fileno(self) -> int:
        if self._fd is None:
            raise ValueError("closed")
        return self._fd

    def read(self, limit: int) -> bytes:
        out = b""
        while len(out) < limit and b"\n" not in out and (piece := os.read(self.fileno(), limit)):
            out += piece
        return out

    def write(self, data: bytes) -> None:
        os.write(self.fileno(), data)

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _pipe(opened: contextlib.ExitStack) -> tuple[_End, _End]:
    read, write = map(_End, os.pipe2(os.O_CLOEXEC))
    opened.callback(read.close)
    opened.callback(write.close)
    return read, write


def _readable(text: str) -> str:
    """What a runtime said, without the frame that runc's log puts around it: ``time="…" level=error msg="…"``."""
    messages = [json.loads(f'"{found}"') for found in _LOGGED.findall(text)]
    return "; ".join(messages) if messages else text.strip()


def _parse(answer: bytes) -> tuple[int, str]:
    """What conmon says on its sync pipe: the container's pid, or -1 and why."""
    try:
        value = json.loads(answer)
        return int(value.get("data", -1)), str(value.get("message", "")).strip()
    except (ValueError, AttributeError):
        return -1, ""
