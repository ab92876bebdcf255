"""The engine's services, wired for one root."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from runtime import linux
from runtime.cgroups import Cgroups
from runtime.containers import Containers
from runtime.limits import Limits
from runtime.monitor import Monitor
from runtime.runtimes import choose, find_conmon
from runtime.snapshots import SnapshotStore


class NotPermitted(Exception):
    """Containers need root."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What runs containers. ``warning`` is for the person, where there is something to know about this machine."""

    containers: Containers
    snapshots: SnapshotStore
    warning: str | None


def open_engine(root: Path, architecture: str, runtime: str | None = None, limits: Limits | None = None) -> Engine:
    """The engine of ROOT/engine, with what killed processes left there settled; ``architecture`` is this machine's, as in image configs.

    NotPermitted, RuntimeMissing, CgroupError, and OSError where the root cannot be written.
    """
    if os.geteuid() != 0:
        raise NotPermitted("containers need root: namespaces, cgroups and mounts are made; try with sudo")
    cgroups = Cgroups.detect()
    conmon, chosen = find_conmon(), choose(cgroups, runtime)
    # Without an init that reaps, conmon's end would go unseen and its zombie would stay.
    linux.become_subreaper()
    # Absolute, since conmon and the runtime work elsewhere.
    root = root.absolute()
    containers = Containers(root, Monitor(chosen, conmon, root / "run" / chosen.name), cgroups, architecture)
    snapshots = SnapshotStore(root, limits)
    containers.sweep()
    snapshots.clean()
    return Engine(containers, snapshots, chosen.warning)
