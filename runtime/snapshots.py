"""Unpacked layers, and the overlay mounts that containers see.

::

    ROOT/engine/layers/CHAIN/diff        one layer's own content, under its chain id; there or not: a rename put it there, whole
    ROOT/engine/layers/.new-CHAIN/       one being unpacked; whoever does so holds a flock on it; unlocked, a crash left it behind

Layers are unpacked in parallel, each into a directory of its own, and become a file tree only when overlayfs stacks them. A chain id
stands for a layer *on those below it*, and needs to: a directory that a layer uses without describing it looks as it does below.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oci.config import chain_ids
from oci.descriptor import Descriptor
from oci.digest import Digest
from runtime import linux
from runtime.limits import OPAQUE, Limits
from storage.blobs import BlobStore

if TYPE_CHECKING:
    from runtime.layers import Applied

LAYERS_MAX = 128
"""Lower directories of one overlay mount. Their options fit a page (man 2 mount), since each is named ``/proc/self/fd/N``."""
PARALLEL = 4
"""Layers unpacked at once, each with a thread that decompresses."""
_NEW = ".new-"


class SnapshotError(Exception):
    """An image cannot be unpacked or mounted. The message says what to do."""


@dataclass(frozen=True, slots=True)
class _Unpacking:
    """A layer under its temporary name, which ``lock``, a descriptor of that directory, keeps others away from."""

    layer: Descriptor
    diff_id: Digest
    path: Path
    final: Path
    lock: int


class SnapshotStore:
    """The unpacked layers of one root. Any number of processes and threads may use it at once; ``root`` is ROOT/engine."""

    def __init__(self, root: Path, limits: Limits | None = None) -> None:
        self._layers = root / "layers"
        self._limits = limits or Limits()
        # 0700: what images hold is not for the machine's users, least of all with set-uid bits and device nodes.
        self._layers.mkdir(mode=0o700, parents=True, exist_ok=True)

    def unpack(self, layers: Sequence[Descriptor], diff_ids: Sequence[Digest], blobs: BlobStore) -> tuple[Path, ...]:
        """The directories of an image's layers, bottom first; those that are missing are unpacked.

        LayerRefused, BlobNotFound, or SnapshotError; nothing of what this call unpacked is left then.
        """
        if len(layers) != len(diff_ids):
            raise SnapshotError(
                f"the manifest lists {len(layers)} layers, but the image config {len(diff_ids)} diff ids: "
                "the image is broken; build or push it again"
            )
        if len(layers) > LAYERS_MAX:
            raise SnapshotError(
                f"the image has {len(layers)} layers; overlayfs takes at most {LAYERS_MAX}: squash some when it is built"
            )
        finals = [self._layers / chain.hex for chain in chain_ids(diff_ids)]
        if not all(final.is_dir() for final in finals):
            try:
                self._unpack_missing(list(zip(layers, diff_ids, finals, strict=True)), blobs)
            except OSError as error:
                raise SnapshotError(
                    f"a layer could not be unpacked below {self._layers}: {error.strerror or error}; "
                    "look at the disk's space (df), its inodes (df -i) and its health"
                ) from error
        return tuple(final / "diff" for final in finals)

    def clean(self) -> int:
        """Remove what crashed processes left half unpacked; how many layers."""
        count = 0
        for path in self._layers.glob(f"{_NEW}*"):
            lock = _lock(path, wait=False)
            if lock is not None:
                try:
                    shutil.rmtree(path)
                    count += 1
                finally:
                    os.close(lock)
        return count

    def _unpack_missing(self, wanted: Sequence[tuple[Descriptor, Digest, Path]], blobs: BlobStore) -> None:
        held: list[_Unpacking] = []
        try:
            # Bottom first, in every process: a chain id names all that is below it, so this order is one for all, and nobody
            # waits in a circle.
            for layer, diff_id, final in wanted:
                if (mine := self._begin(layer, diff_id, final)) is not None:
                    held.append(mine)
            for one, applied in zip(held, self._apply(held, blobs), strict=True):
                position = next(index for index, (_, _, final) in enumerate(wanted) if final == one.final)
                below = [self._content(final, held) for _, _, final in wanted[:position]]
                _inherit(one.path / "diff", applied.implicit, below[::-1])
            if held:
                folder = os.open(self._layers, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    linux.syncfs(folder)
                    for one in held:
                        one.path.rename(one.final)
                    os.fsync(folder)
                finally:
                    os.close(folder)
        finally:
            for one in held:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(one.path)
                os.close(one.lock)

    def _begin(self, layer: Descriptor, diff_id: Digest, final: Path) -> _Unpacking | None:
        """Lock a layer's temporary directory, and empty it; None where it is unpacked, perhaps by another while we waited."""
        path = final.with_name(_NEW + final.name)
        while not final.is_dir():
            path.mkdir(mode=0o700, exist_ok=True)
            lock = _lock(path, wait=True)
            if lock is None:
                continue
            if final.is_dir():  # committed, and the directory made anew by us, between two looks
                with contextlib.suppress(OSError):
                    path.rmdir()
                os.close(lock)
                return None
            try:
                with contextlib.suppress(FileNotFoundError):
                    shutil.rmtree(path / "diff")
                (path / "diff").mkdir(mode=0o755)
            except BaseException:
                os.close(lock)
                raise
            return _Unpacking(layer, diff_id, path, final, lock)
        return None

    def _apply(self, held: Sequence[_Unpacking], blobs: BlobStore) -> Iterator[Applied]:
        # Imported here: decompressors and threads, which only the first run of an image needs.
        from concurrent.futures import ThreadPoolExecutor

        from runtime.layers import apply_layer

        def run(one: _Unpacking) -> Applied:
            blob = blobs.open(one.layer.digest)
            try:
                return apply_layer(blob, one.layer, one.diff_id, str(one.path / "diff"), self._limits)
            finally:
                blob.close()

        if len(held) == 1:
            return iter([run(held[0])])
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="unpack") as pool:
            futures = [pool.submit(run, one) for one in held]
            try:
                return iter([future.result() for future in futures])
            except BaseException:
                for future in futures:
                    future.cancel()
                raise

    def _content(self, final: Path, held: Sequence[_Unpacking]) -> Path:
        """Where a layer's content is now."""
        for one in held:
            if one.final == final:
                return one.path / "diff"
        return final / "diff"


def mount_overlay(layers: Sequence[Path], upper: Path, work: Path, merged: Path, *, is_volatile: bool) -> None:
    """Mount layers, bottom first, under a writable directory. SnapshotError.

    ``is_volatile`` spares the sync at unmount: for content that is thrown away with its container.
    """
    with contextlib.ExitStack() as opened:

        def name(path: Path) -> str:
            # Short whatever the root's path is, and free of the characters that overlayfs's options give a meaning to.
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            return f"/proc/self/fd/{fd}"

        lower = ":".join(name(path) for path in reversed(layers))
        options = f"lowerdir={lower},upperdir={name(upper)},workdir={name(work)}"
        try:
            linux.mount("overlay", str(merged), "overlay", 0, options + (",volatile" if is_volatile else ""))
        except OSError as error:
            raise SnapshotError(
                f"the overlay of {len(layers)} layers cannot be mounted on {merged}: {error.strerror}; this needs root, a kernel with "
                "overlayfs (modprobe overlay) and a filesystem below it that overlayfs can write to: ext4, xfs or btrfs, "
                "not another overlay"
            ) from error


def prepare_upper(layers: Sequence[Path], upper: Path) -> None:
    """Make a container's writable directory look as the image's root directory does: overlayfs takes the root's owner and mode from it."""
    upper.mkdir(mode=0o755)
    with contextlib.ExitStack() as opened:

        def directory(path: Path) -> int:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            return fd

        target = directory(upper)
        os.fchmod(target, 0o755)  # nosec B103
        if layers:
            _copy_description(directory(layers[-1]), target)


def _lock(path: Path, *, wait: bool) -> int | None:
    """A flock on a directory, provided that it is still there under its name; None otherwise."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        ours, there = os.fstat(fd), os.stat(path)
        if (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _inherit(content: Path, implicit: Sequence[bytes], below: Sequence[Path]) -> None:
    """Make directories that a layer did not describe look as they do in the layers ``below``, topmost first."""
    for name in implicit:
        target = _descend(content, name)
        if target.fd is None:
            continue  # replaced by a later entry of its own layer
        try:
            for layer in below:
                found = _descend(layer, name)
                if found.fd is not None:
                    try:
                        _copy_description(found.fd, target.fd)
                    finally:
                        os.close(found.fd)
                if found.hides_below:
                    break
        finally:
            os.close(target.fd)


@dataclass(frozen=True, slots=True)
class _Descent:
    """Where a name led inside one layer: an open directory or None, and whether what lower layers have of that name is not to be seen."""

    fd: int | None
    hides_below: bool


def _descend(layer: Path, name: bytes) -> _Descent:
    """Walk into a layer without following any link: a name in it that leads through one is none of its directories."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(layer, flags)
    try:
        is_opaque = _is_opaque(fd)
        for part in filter(None, name.split(b"/")):
            try:
                following = os.open(part, flags, dir_fd=fd)
            except FileNotFoundError:
                os.close(fd)
                return _Descent(None, is_opaque)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                os.close(fd)
                return _Descent(None, True)  # a file, a link or a whiteout hides all that is below
            os.close(fd)
            fd = following
            is_opaque = is_opaque or _is_opaque(fd)
    except BaseException:
        os.close(fd)
        raise
    return _Descent(fd, True)


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def _copy_description(source: int, target: int) -> None:
    """Owner, mode, attributes and time of one open directory for another."""
    info = os.fstat(source)
    os.fchown(target, info.st_uid, info.st_gid)
    for attribute in os.listxattr(source):
        if not attribute.startswith("trusted.overlay."):
            os.setxattr(target, attribute, os.getxattr(source, attribute))
    os.fchmod(target, stat.S_IMODE(info.st_mode))
    os.utime(target, ns=(info.st_mtime_ns, info.st_mtime_ns))
