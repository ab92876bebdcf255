"""Volumes: directories that outlive a container, or are its own (``ROOT/engine/volumes/NAME/_data``).

An empty one that is mounted over a directory of the image begins as a copy of it, as in Docker.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runtime import linux

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}\Z")
_OPTIONS = frozenset({"ro", "rw", "z", "Z"})
"""``z`` and ``Z`` are about SELinux labels; there are none here, and compose files are full of them."""


class VolumeError(Exception):
    """A volume that cannot be mounted as asked. The message says which and why."""


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """``source`` is an absolute path of the host, a volume's name, or empty for a new volume of the container's own."""

    source: str
    destination: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> VolumeMount:
        """Read ``[SOURCE:]DESTINATION[:OPTIONS]``; VolumeError."""
        parts = text.split(":")
        options: set[str] = set()
        if len(parts) > 1 and not parts[-1].startswith("/"):
            options = set(parts.pop().split(","))
        if len(parts) > 2 or not options <= _OPTIONS:
            raise VolumeError(f"-v {text!r} is not [SOURCE:]DESTINATION[:ro]")
        source, destination = parts if len(parts) == 2 else ("", parts[0])
        if not destination.startswith("/") or os.path.normpath(destination).strip("/") == "":
            raise VolumeError(f"-v {text!r}: the destination must be an absolute path, and not the root directory")
        if len(parts) == 2 and not source.startswith("/") and not _NAME.match(source):
            raise VolumeError(
                f"-v {text!r}: {source!r} is neither an absolute path nor a volume's name (letters, digits, '_', '.' and '-')"
            )
        return cls(source, "/" + os.path.normpath(destination).lstrip("/"), "ro" in options)


class VolumeStore:
    """The volumes of one root (ROOT/engine)."""

    def __init__(self, root: Path) -> None:
        self._volumes = root / "volumes"

    def provide(self, mount: VolumeMount, rootfs: int) -> tuple[Path, str | None]:
        """The host's path for a mount, and the name of the volume where it is a new one of the container's own; VolumeError.

        ``rootfs`` is the open root directory of the container, to fill an empty volume from.
        """
        if mount.source.startswith("/"):
            path = Path(mount.source)
            try:
                path.mkdir(parents=True, exist_ok=True)  # a missing directory is made, as Docker does for -v
            except FileExistsError:
                pass  # a file: it is mounted as one
            except OSError as error:
                raise VolumeError(f"-v {mount.source}: {error.strerror}") from error
            return path, None
        name = mount.source or secrets.token_hex(32)
        data = self._volumes / name / "_data"
        self._volumes.mkdir(mode=0o700, parents=True, exist_ok=True)
        data.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not any(data.iterdir()):
            self._fill(data, rootfs, mount.destination)
        return data, None if mount.source else name

    def remove(self, name: str) -> None:
        """Remove a volume and all that is in it."""
        shutil.rmtree(self._volumes / name, ignore_errors=False)

    def _fill(self, data: Path, rootfs: int, destination: str) -> None:
        try:
            source = linux.open_in_root(rootfs, destination, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return  # nothing there, or no directory: the volume stays empty
        try:
            # cp copies links as links, and takes owners, modes, times and attributes along, those of the directory itself too.
            done = subprocess.run(
                ["cp", "-a", f"/proc/self/fd/{source}/.", str(data)],
                pass_fds=(source,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
        finally:
            os.close(source)
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()[:500]
            raise VolumeError(f"the volume for {destination} could not be filled from the image: {said}")
