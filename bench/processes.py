"""What a tree of processes used: CPU time and peak memory, from ``/proc`` (man 5 proc)."""

from __future__ import annotations

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_ticks(stat: str) -> tuple[int, int]:
    """From the text of ``/proc/PID/stat``: (its own ticks, the ticks of children that it has waited for), user plus system.

    The name in parentheses may hold anything, so fields are counted from the last parenthesis.
    """
    fields = stat.rpartition(")")[2].split()
    utime, stime, cutime, cstime = (int(field) for field in fields[11:15])
    return utime + stime, cutime + cstime


def kilobytes(status: str, key: str) -> int:
    """The value of a line such as ``VmHWM:  1234 kB`` of ``/proc/PID/status``, in KiB; 0 where it is absent (a zombie)."""
    for line in status.splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0


class ProcessTree:
    """A process that this program started, and everything below it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def pids(self) -> list[int]:
        found, pending = [], [self._pid]
        while pending:
            pid = pending.pop()
            found.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    pending += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def cpu_seconds(self) -> float:
        """User and system time since the start, with that of children that have ended and were waited for."""
        total = 0
        for pid in self.pids():
            total += sum(cpu_ticks(_read(pid, "stat") or "0 () S" + " 0" * 14))
        return total / TICKS

    def peak_bytes(self) -> int:
        """The sum of the processes' peaks of resident memory since :meth:`reset_peak`: never below the true peak of the sum."""
        return sum(kilobytes(_read(pid, "status"), "VmHWM") for pid in self.pids()) * 1024

    def resident_bytes(self) -> int:
        return sum(kilobytes(_read(pid, "status"), "VmRSS") for pid in self.pids()) * 1024

    def reset_peak(self) -> None:
        """Let the peak start again at what is resident now (``clear_refs``, value 5)."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
