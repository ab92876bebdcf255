"""Which OCI runtime makes the containers here: crun where there is one, else runc."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from runtime.cgroups import Cgroups, Layout

INSTALL = "on Debian and Ubuntu: apt-get install conmon crun"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FIXED_RUNC = ((1, 2, 8), (1, 3, 3))
"""The first releases of each line without CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881."""

_HIDE_UNIFIED = 'mount -t tmpfs -o mode=0755 tmpfs "$0" && exec "$@"'


class RuntimeMissing(Exception):
    """A program that containers need is not installed. The message says how to get it."""


@dataclass(frozen=True, slots=True)
class OCIRuntime:
    """How to call a runtime: ``argv`` before its own arguments. ``warning`` is for the person, where there is something to know."""

    name: str
    argv: tuple[str, ...]
    warning: str | None = None


def choose(cgroups: Cgroups, wanted: str | None = None) -> OCIRuntime:
    """The runtime to use; ``wanted`` insists on ``crun`` or ``runc``. RuntimeMissing."""
    for name in (wanted,) if wanted else ("crun", "runc"):
        path = shutil.which(name, path=_PATH)
        if path is None:
            continue
        if name == "crun":
            return OCIRuntime(name, _crun(path, cgroups))
        return OCIRuntime(name, (path,), _runc_warning(path))
    raise RuntimeMissing(f"no OCI runtime is installed: {wanted or 'neither crun nor runc'} was found. {INSTALL}")


def find_conmon() -> str:
    """The path of conmon, which watches over each container; RuntimeMissing."""
    path = shutil.which("conmon", path=_PATH)
    if path is None:
        raise RuntimeMissing(f"conmon, which watches over containers, is not installed. {INSTALL}")
    return path


def _crun(path: str, cgroups: Cgroups) -> tuple[str, ...]:
    if cgroups.layout is not Layout.HYBRID:
        return (path,)
    # crun refuses a machine with controllers in both versions ("drop all controllers from cgroupv2"). In a mount namespace where a
    # tmpfs hides the version 2 tree it sees version 1 alone. A program of its own does that, since a process with threads must not
    # unshare; the namespace gets later mounts of the host (slave), and goes with the call.
    unshare, shell = shutil.which("unshare", path=_PATH), shutil.which("sh", path=_PATH)
    if unshare is None or shell is None:
        raise RuntimeMissing(
            "unshare, which crun needs on a machine with both cgroup versions, is missing: install util-linux"
        )
    return (unshare, "--mount", "--propagation", "slave", shell, "-c", _HIDE_UNIFIED, str(cgroups.unified), path)


def _runc_warning(path: str) -> str | None:
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{path} does not tell its version: {error}"
    match = re.search(r"runc version (\d+)\.(\d+)\.(\d+)", text)
    version = tuple(int(part) for part in match.groups()) if match else (0, 0, 0)
    if any(version >= fixed and version[:2] == fixed[:2] for fixed in _FIXED_RUNC) or version >= (1, 4, 0):
        return None
    shown = ".".join(map(str, version)) if match else "of unknown version"
    return (
        f"runc {shown} lets a hostile image out of its container (CVE-2025-31133, CVE-2025-52565, CVE-2025-52881): "
        "run only images that you trust, or install crun"
    )
