"""The real programs that the tests run, found or named as missing: a test is never skipped for want of one."""

from __future__ import annotations

import os
import shutil
import sys
from functools import cache
from pathlib import Path

from scripts.gotools import TOOLS, path_of
from scripts.packages import PROGRAMS

PACKAGES = {Path(program).name: package for package, program in PROGRAMS.items() if program} | {"docker": "docker.io"}
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


class MissingToolError(Exception):
    """A program that a test needs is not there; says what to do about it."""


@cache
def tool(name: str) -> Path:
    """The path of a program.

    ``portside`` is this checkout's own; crane, regctl, helm, cosign, registry (distribution), versitygw, minio and docker-compose are the
    pinned ones that ``make test`` builds into the user's cache, or lie in the folder that PORTSIDE_TOOLS names; all others are the
    system's.

    Raises MissingToolError.
    """
    if name == "portside":
        return _portside()
    if name in TOOLS:
        places = [Path(folder) / name for folder in [os.environ.get("PORTSIDE_TOOLS", "")] if folder]
        for place in [*places, path_of(name)]:
            if os.access(place, os.X_OK):
                return place
        raise MissingToolError(f"{name} is not built: run  python3 scripts/gotools.py {name}  (make test does)")
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        package = PACKAGES.get(name)
        remedy = f"apt-get install {package}" if package else "install it"
        raise MissingToolError(f"{name} is not on this machine: {remedy}, or let  make test  do it as root")
    return Path(found)


def _portside() -> Path:
    """The console script of the environment that the tests run in."""
    script = Path(sys.executable).parent / "portside"
    if not script.exists():
        raise MissingToolError(f"{script} does not exist: run  make install")
    return script
