"""Which cgroups this machine has: version 1, version 2, or both at once. The one place that knows (man 7 cgroups)."""

from __future__ import annotations

import enum
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PARENT = "portside"
"""The cgroup above all containers, at the top of each hierarchy."""
_EMPTYING = 5.0
"""Seconds that killed processes get to leave a cgroup."""


class CgroupError(Exception):
    """The machine's cgroups cannot be used. The message says what to do."""


class Layout(enum.Enum):
    """``HYBRID``: version 1 controllers, and a version 2 tree beside them, with few or none."""

    V1 = "cgroup v1"
    HYBRID = "cgroup v1 and v2 (hybrid)"
    V2 = "cgroup v2"


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The mounted hierarchies. ``unified`` is where version 2 is mounted."""

    layout: Layout
    hierarchies: tuple[Path, ...]
    unified: Path | None

    @classmethod
    def detect(cls, mounts: str | None = None) -> Cgroups:
        """Read them from the text of /proc/self/mounts; CgroupError where none are mounted."""
        if mounts is None:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
        first: list[Path] = []
        unified: Path | None = None
        for line in mounts.splitlines():
            _, where, kind, *_ = line.split(" ")
            if not where.startswith("/sys/fs/cgroup"):
                continue
            if kind == "cgroup":
                first.append(Path(where))
            elif kind == "cgroup2":
                unified = Path(where)
        if not first and unified is None:
            raise CgroupError(
                "no cgroups are mounted below /sys/fs/cgroup, so containers cannot be limited or stopped; "
                "try: mount -t cgroup2 none /sys/fs/cgroup"
            )
        if not first:
            return cls(Layout.V2, (), unified)
        return cls(Layout.HYBRID if unified else Layout.V1, tuple(first), unified)

    @property
    def can_limit_swap(self) -> bool:
        """Whether the kernel counts swap: else a limit for it would be refused."""
        if self.layout is Layout.V2:
            return self.unified is not None and any(self.unified.glob("*/memory.swap.max"))
        return any((path / "memory.memsw.limit_in_bytes").exists() for path in self.hierarchies)

    def path_of(self, container: str) -> str:
        """The ``cgroupsPath`` of a container's runtime spec."""
        return f"/{PARENT}/{container}"

    def directories(self, container: str) -> Iterator[Path]:
        """The container's cgroup in each hierarchy where it exists."""
        for hierarchy in (*self.hierarchies, *([self.unified] if self.unified else [])):
            path = hierarchy / PARENT / container
            if path.is_dir():
                yield path

    def kill(self, container: str) -> None:
        """SIGKILL whatever is left in a container's cgroup, and remove it; CgroupError where processes do not go."""
        deadline = time.monotonic() + _EMPTYING
        while True:
            left = [path for path in self.directories(container) if not _remove(path)]
            if not left:
                return
            if time.monotonic() > deadline:
                raise CgroupError(f"the cgroup {left[0]} cannot be removed: processes in it do not end")
            time.sleep(0.01)


def _remove(top: Path) -> bool:
    """Kill and remove a tree of cgroups; whether it is gone."""
    for folder, _, _ in os.walk(top, topdown=False):
        try:
            pids = (Path(folder) / "cgroup.procs").read_text("ascii").split()
        except OSError:
            pids = []
        for pid in pids:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
