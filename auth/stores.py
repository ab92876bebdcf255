"""Where the programs of a machine keep the authorities that they trust: for one registry each, or for everything."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from auth.hosts import HostPort
from storage.paths import sync_directory

PUBLIC_DIRECTORY = 0o755
PUBLIC_FILE = 0o644
"""Programs of all users read these."""
COMMAND_SECONDS = 120
SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])

_OURS = "# Written by portside trust; portside trust --remove takes it away.\n"


class StoreError(Exception):
    """A place that could not be written; what was written before stays, and doing it again does no harm."""


class Change(Enum):
    """What became of a file."""

    WRITTEN = "wrote"
    REPLACED = "replaced"
    KEPT = "kept, as it was right already:"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Step:
    """One file, and what became of it."""

    change: Change
    path: Path


class Store(Protocol):
    """A place where trusted authorities are kept."""

    def put(self, server: HostPort, pem: bytes) -> Iterator[Step]:
        """Have an authority trusted for a server, a step at a time; StoreError. Doing it twice changes nothing."""
        ...

    def remove(self, server: HostPort) -> Iterator[Step]:
        """Take away what `put` wrote, and nothing else; StoreError."""
        ...


@dataclass(frozen=True, slots=True)
class CertsDirectory:
    """A ``certs.d`` as Docker, the containers tools (podman, skopeo, buildah) and Portside read it: ``HOST:PORT/ca.crt``."""

    path: Path

    def put(self, server: HostPort, pem: bytes) -> Iterator[Step]:
        """Write the authority for a server; StoreError."""
        yield _write(self.path / str(server) / "ca.crt", pem)

    def remove(self, server: HostPort) -> Iterator[Step]:
        """Remove it, and the directory if nothing else is in it; StoreError."""
        yield from _remove(self.path / str(server) / "ca.crt")
        with contextlib.suppress(OSError):  # it is not there, or somebody keeps other files in it
            (self.path / str(server)).rmdir()


@dataclass(frozen=True, slots=True)
class ContainerdDirectory:
    """containerd's ``certs.d`` (docs/hosts.md of containerd): ``HOST:PORT/hosts.toml`` that names the authority beside it."""

    path: Path

    def put(self, server: HostPort, pem: bytes) -> Iterator[Step]:
        """Write both files for a server; StoreError, also where somebody else wrote a ``hosts.toml``."""
        folder = self.path / str(server)
        hosts, authority = folder / "hosts.toml", folder / "ca.crt"
        if hosts.exists() and not self._is_ours(hosts):
            raise StoreError(
                f'{hosts} is not portside\'s: add the line  ca = "{authority}"  for {server} to it yourself'
            )
        yield _write(authority, pem)
        content = f'{_OURS}server = "https://{server}"\n\n[host."https://{server}"]\n  ca = "{authority}"\n'
        yield _write(hosts, content.encode())

    def remove(self, server: HostPort) -> Iterator[Step]:
        """Remove what `put` wrote, and the directory if nothing else is in it; StoreError."""
        hosts = self.path / str(server) / "hosts.toml"
        if hosts.exists() and not self._is_ours(hosts):
            return
        yield from _remove(hosts)
        yield from CertsDirectory(self.path).remove(server)

    def _is_ours(self, hosts: Path) -> bool:
        with _failures(hosts):
            return hosts.read_bytes().startswith(_OURS.encode())


@dataclass(frozen=True, slots=True)
class SystemStore:
    """The authorities that every program trusts. ``update``, ``refresh``: the commands after a file came, or went."""

    path: Path
    update: tuple[str, ...]
    refresh: tuple[str, ...]

    @staticmethod
    def is_here() -> bool:
        """Whether `find` finds it."""
        return any(shutil.which(name, path=SYSTEM_PATH) for name in ("update-ca-certificates", "update-ca-trust"))

    @classmethod
    def find(cls) -> SystemStore:
        """This machine's; StoreError where it is not kept as Debian, Alpine or Fedora keep it."""
        if found := shutil.which("update-ca-certificates", path=SYSTEM_PATH):
            return cls(Path("/usr/local/share/ca-certificates"), (found,), (found, "--fresh"))
        if found := shutil.which("update-ca-trust", path=SYSTEM_PATH):
            return cls(Path("/etc/pki/ca-trust/source/anchors"), (found,), (found,))
        raise StoreError(
            "neither update-ca-certificates nor update-ca-trust is here: install the package ca-certificates"
        )

    def put(self, server: HostPort, pem: bytes) -> Iterator[Step]:
        """Write the authority and have the store made anew; StoreError."""
        yield _write(self._file(server), pem)
        _run(self.update)

    def remove(self, server: HostPort) -> Iterator[Step]:
        """Remove it and have the store made anew; StoreError."""
        steps = list(_remove(self._file(server)))
        yield from steps
        if steps:
            _run(self.refresh)

    def _file(self, server: HostPort) -> Path:
        return self.path / f"portside-{re.sub('[^a-z0-9.]', '-', str(server))}.crt"


def _write(path: Path, data: bytes) -> Step:
    """Write a file that all may read, so that it is there whole or as it was, after a crash too."""
    with _failures(path):
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == data:
                return Step(Change.KEPT, path)
        _make_directories(path.parent)
        is_new = not path.exists()
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                os.fchmod(fd, PUBLIC_FILE)
                file.flush()
                os.fsync(fd)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        sync_directory(path.parent)
        return Step(Change.WRITTEN if is_new else Change.REPLACED, path)


def _make_directories(path: Path) -> None:
    """Make a directory and those above it that are missing, for all to enter, durably."""
    if path.is_dir():
        return
    _make_directories(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        path.chmod(PUBLIC_DIRECTORY)
    sync_directory(path.parent)


def _remove(path: Path) -> Iterator[Step]:
    with _failures(path):
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        sync_directory(path.parent)
    yield Step(Change.REMOVED, path)


def _run(command: tuple[str, ...]) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StoreError(f"{' '.join(command)} could not be run: {error}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise StoreError(f"{' '.join(command)} ended with {done.returncode}: {said}")


@contextlib.contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise StoreError(f"no permission to write {path}: run this as root (sudo)") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror})") from error
