"""The system calls of a running server, by strace, as a list in the order in which they began."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers import wait_until
from tests.tools import tool

CALLS = (
    "openat,write,writev,pwrite64,pwritev,fsync,fdatasync,rename,renameat,renameat2,link,linkat,mkdir,mkdirat,"
    "sendto,sendmsg,getdents64,exit_group"
)
_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>)?(.*)")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call: ``begin`` and ``end`` are the lines at which it was entered and left."""

    name: str
    text: str
    begin: int
    end: int


def parse(trace: str) -> list[Call]:
    """strace -f's lines; a call that another thread's line divides in two is put together."""
    calls: list[Call] = []
    open_calls: dict[tuple[str, str], tuple[int, str]] = {}
    for number, line in enumerate(trace.splitlines()):
        found = _LINE.match(line)
        if found is None:
            continue
        pid, name, rest = found[1], found[2], found[3]
        if rest.endswith("<unfinished ...>"):
            open_calls[pid, name] = (number, rest.removesuffix("<unfinished ...>"))
        elif " resumed>" in line:
            begin, first = open_calls.pop((pid, name), (number, ""))
            calls.append(Call(name, first + rest, begin, number))
        else:
            calls.append(Call(name, rest, number, number))
    return sorted(calls, key=lambda call: call.begin)


@contextlib.contextmanager
def traced(pid: int, output: Path) -> Iterator[Callable[[], list[Call]]]:
    """Record the calls of a process and all its threads; the function returned gives them, and has to be called after the ``with``."""
    command = [str(tool("strace")), "-f", "-y", "-s", "200", "-e", f"trace={CALLS}", "-o", str(output), "-p", str(pid)]
    said = output.with_suffix(".stderr")
    with said.open("wb") as err:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=err)
    try:
        wait_until(lambda: b"attached" in said.read_bytes() or process.poll() is not None, "strace is attached")
        assert process.poll() is None, said.read_text()
        yield lambda: parse(output.read_text(errors="replace"))
    finally:
        process.terminate()
        process.wait(30)
