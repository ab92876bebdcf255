"""Signing keys as files of one root, shared by all its server processes.

::

    ROOT/auth/keys/              0700
        lock                     flock(2): held by whoever makes a key
        generation               8 bytes that change with each new key, mapped by every process (storage.generation)
        000001-1760000000.pem    0600: a private key (PKCS #8); its number, and when it was made (Unix seconds)
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from auth.keys import KeysUnusable, StoredKey, parse_private_key
from storage.generation import Generation
from storage.paths import PRIVATE_MODE, make_directory, sync_directory

FILE_MAX = 16 * 1024

_NAME = re.compile(r"(?P<number>[0-9]{6,9})-(?P<created>[0-9]{1,12})\.pem\Z")
_UNFINISHED = ".new"


class KeyFiles:
    """`auth.keys.KeySource` of one directory."""

    seconds_to_spread = 0.0

    def __init__(self, directory: Path) -> None:
        """Make the directory where it is not there; KeysUnusable."""
        self.place = directory
        try:
            _make_directories(directory)
            self._generation = Generation(directory / "generation")
        except OSError as error:
            raise KeysUnusable(directory, error.strerror or str(error)) from error

    def generation(self) -> int:
        """One read of memory."""
        return self._generation.read()

    def stamp(self) -> tuple[int, int] | None:
        """The directory itself and its time."""
        try:
            found = os.stat(self.place)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def list(self) -> Sequence[StoredKey]:
        """By their names; none is opened."""
        return [StoredKey(number, created, functools.partial(_load, path)) for number, created, path in self._paths()]

    def add(self, pem: bytes, created_at: float, *, is_first: bool) -> None:
        """File, synced, renamed, directory synced."""
        with self._locked():
            numbers = [number for number, _, _ in self._paths()]
            if is_first and numbers:
                return
            self._write(self.place / f"{max(numbers, default=0) + 1:06}-{int(created_at)}.pem", pem)
            self._generation.begin()
            self._generation.end()

    def remove(self, key: StoredKey) -> None:
        """Unlink its file."""
        for number, _, path in self._paths():
            if number == key.number:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the counter."""
        self._generation.close()

    def _paths(self) -> Iterator[tuple[int, int, Path]]:
        """(number, made at, path) of each key file."""
        for name in os.listdir(self.place):
            if (match := _NAME.match(name)) is not None:
                yield int(match["number"]), int(match["created"]), self.place / name

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only process that makes a key. What one that died left unfinished is removed."""
        fd = os.open(self.place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            for name in os.listdir(self.place):
                if name.endswith(_UNFINISHED):
                    os.unlink(self.place / name)
            yield
        finally:
            os.close(fd)  # the lock goes with it

    def _write(self, path: Path, pem: bytes) -> None:
        unfinished = path.with_suffix(_UNFINISHED)
        fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            with open(fd, "wb") as file:
                os.fchmod(fd, PRIVATE_MODE)
                file.write(pem)
                file.flush()
                os.fsync(fd)
            os.rename(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        sync_directory(self.place)


def _make_directories(directory: Path) -> None:
    """Make what is missing of the path; KeysUnusable where others than its owner may write to the directory. OSError."""
    missing = [directory]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        make_directory(path)
    if directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeysUnusable(directory, f"others could put a key of theirs there. Run:  chmod 700 {directory}")


def _load(path: Path) -> ec.EllipticCurvePrivateKey | None:
    """Read a private key, None where the file has gone; KeysUnusable, also where others than its owner can read it. OSError."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeysUnusable(
                path,
                f"others can read this private key. Run:  chmod 600 {path}  (and rotate the keys if they did read it)",
            )
        key = parse_private_key(file.read(FILE_MAX))
    if key is None:
        raise KeysUnusable(path, "this is no unencrypted P-256 private key in PEM form; move the file away")
    return key
