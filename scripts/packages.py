"""Looks for the system's programs that a make target needs and, on Debian and as root, installs those that are missing.

    python3 scripts/packages.py install|demo|test|bench

Otherwise it prints the exact line to run and fails. What counts is the program, not the package: where Docker's or podman's own
packages are installed, Debian's are not asked for. Standard library only.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAMS = {
    "python3-venv": "",
    "conmon": "conmon",
    "crun": "crun",
    "runc": "runc",
    "busybox-static": "busybox",
    "docker.io": "dockerd",
    "podman": "podman",
    "skopeo": "skopeo",
    "buildah": "buildah",
    "iptables": "iptables",
    "strace": "strace",
    "wrk": "wrk",
    "e2fsprogs": "mkfs.ext4",
    "mount": "losetup",
    "golang-github-containers-common": "/usr/share/containers/seccomp.json",
    "gcc": "gcc",
    "libc6-dev": "/usr/include/stdio.h",
    "libssl-dev": "/usr/include/openssl/ssl.h",
    "curl": "curl",
    "debootstrap": "debootstrap",
    "openssl": "openssl",
    "iproute2": "ip",
    "containerd": "ctr",
    "ca-certificates": "update-ca-certificates",
    "nginx": "nginx",
    "postgresql": "/usr/lib/postgresql",
}
"""Debian package -> the program or file that it is installed for."""

INSTALL = ["python3-venv"]
ENGINE = ["conmon", "crun", "runc"]
DEMO = [*INSTALL, *ENGINE, "busybox-static"]
CLIENTS = ["docker.io", "podman", "skopeo", "buildah", "iptables", "containerd", "ca-certificates", "curl", "openssl"]
DEPLOY = ["debootstrap"]
LAN = ["iproute2", "nginx"]
COMPILER = ["gcc", "libc6-dev", "libssl-dev"]
DISKS = ["e2fsprogs", "mount"]
TEST = [
    *DEMO,
    *CLIENTS,
    *LAN,
    *DEPLOY,
    *COMPILER,
    *DISKS,
    "strace",
    "wrk",
    "golang-github-containers-common",
    "postgresql",
]
BENCH = [*INSTALL, "docker.io", "iptables", *COMPILER, *DISKS]
SETS = {"install": INSTALL, "demo": DEMO, "test": TEST, "bench": BENCH}


def is_present(package: str) -> bool:
    """Whether what the package is installed for is there already."""
    if package == "python3-venv":  # Debian's python3 has venv, but not the pip that a new environment gets
        return all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    program = PROGRAMS[package]
    if program.startswith("/"):
        return Path(program).exists()
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    return shutil.which(program, path=path) is not None


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in SETS:
        raise SystemExit(f"usage: packages.py {'|'.join(SETS)}")
    missing = [package for package in SETS[sys.argv[1]] if not is_present(package)]
    if not missing:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if not shutil.which("apt-get"):
        raise SystemExit(
            f"portside: make {sys.argv[1]} needs what these Debian packages hold: {' '.join(missing)}\n"
            f"Install your system's packages of {', '.join(PROGRAMS[name] or name for name in missing)} and try again."
        )
    if os.geteuid() != 0:
        raise SystemExit(
            f"portside: make {sys.argv[1]} needs Debian packages that are missing here. Run this, then try again:\n"
            f"  sudo apt-get update && sudo {' '.join(install)}"
        )
    print(f"portside: installing the Debian packages {' '.join(missing)}", file=sys.stderr, flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "-q", "update"], [*install[:1], "-q", *install[1:]]):
        if (code := subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode) != 0:
            raise SystemExit(f"portside: {' '.join(command)} ended with {code}; its messages are above")
    if still := [package for package in missing if not is_present(package)]:
        raise SystemExit(
            f"portside: {' '.join(still)}: installed, but {', '.join(PROGRAMS[n] for n in still)} is not found"
        )


if __name__ == "__main__":
    main()
