"""Where things are under a root, and how directories and files are made there so that they stay.

::

    ROOT/                        0700
        metadata.db              SQLite, with its -wal and -shm beside it (storage.sql_metadata)
        lock                     locked with flock(2) by whoever writes metadata, checkpoints or closes it
        generation               8 bytes that change with every write of metadata, mapped by every process
        people-generation        the same for accounts, groups, rules, credentials and settings
        blobs/
            sha256/
                ab/              the first two digits
                    abcdef…      0444: the bytes, and nothing else
            sha512/…
        uploads/
            <32 hex>-<16 hex>    0600: bytes on their way; its size is the upload's offset, flock(2) says that it is being written
        publishing/              what guards a push from its blob's name to its link (storage.publishing)
            lock, turnstile      flock(2): shared by pushes, alone for the collector
            <32 hex>             0600: what one process is about to publish, locked with flock(2) while it lives
        trash/
            sha256-abcdef…       bytes that nobody refers to, about to be unlinked (storage.file_collecting)
        quarantine/
            sha256-abcdef….1     damaged bytes that `portside check --repair` or the scrub moved aside
        auth/keys/               the keys that sign tokens (auth.keys)
        tls/                     the hub's own certificate authority and its server certificate (auth.authority)
        engine/                  the engine's; nothing here looks into it

Modes are set, not left to the umask. A directory is synced into its parent before anything in it counts as stored.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from oci.digest import HEX_LENGTH, Digest
from storage.errors import StoreUnusable

DIRECTORY_MODE = 0o700
BLOB_MODE = 0o444
PRIVATE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Paths:
    """The places of one root. Making one touches nothing."""

    root: Path

    @property
    def metadata(self) -> Path:
        return self.root / "metadata.db"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def generation(self) -> Path:
        return self.root / "generation"

    @property
    def people_generation(self) -> Path:
        return self.root / "people-generation"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def uploads(self) -> Path:
        return self.root / "uploads"

    @property
    def publishing(self) -> Path:
        return self.root / "publishing"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    def blob(self, digest: Digest) -> Path:
        return self.blobs / digest.algorithm / digest.hex[:2] / digest.hex


def prepare(root: Path) -> Paths:
    """Make a root where there is none; StoreUnusable where it cannot be one. Any number of processes may do it at once."""
    paths = Paths(Path(os.path.abspath(root)))
    try:
        missing = [paths.root]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        for directory in reversed(missing):
            make_directory(directory)
    except OSError as error:
        raise _unusable(root, error) from error
    return paths


def prepare_blobs(paths: Paths) -> None:
    """Make the directories that blobs need; StoreUnusable."""
    try:
        for directory in (paths.blobs, paths.uploads, paths.publishing, paths.trash, paths.quarantine):
            make_directory(directory)
        for algorithm in HEX_LENGTH:
            make_directory(paths.blobs / algorithm)
        for directory in (paths.blobs, paths.root):
            sync_directory(directory)  # whoever made what is in them may have died before it did this
        if not os.access(paths.uploads, os.W_OK | os.X_OK):
            raise PermissionError(13, "no permission to write", str(paths.uploads))
    except OSError as error:
        raise _unusable(paths.root, error) from error


def make_directory(path: Path) -> None:
    """Make one directory if it is missing, and sync it into its parent if it was; OSError."""
    try:
        os.mkdir(path, DIRECTORY_MODE)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(20, "there is a file in the place of a directory", str(path)) from None
        return
    os.chmod(path, DIRECTORY_MODE)
    sync_directory(path.parent)


def sync_directory(path: str | Path) -> None:
    """Make the entries of a directory durable: what was renamed or linked into it survives a power cut (man 2 fsync)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unusable(root: Path, error: OSError) -> StoreUnusable:
    reason = error.strerror or str(error)
    where = f" ({error.filename})" if error.filename else ""
    return StoreUnusable(
        f"the store at {root} cannot be used: {reason}{where}. "
        "It must be a directory that this user may write to, on a file system that is not mounted read-only."
    )
