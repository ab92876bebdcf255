"""Applying a layer: a hostile tar stream becomes a directory that overlayfs can use as a lower one (image-spec layer.md).

Where everything ends up is decided by walking directory file descriptors with O_NOFOLLOW; a symbolic link in the way is read and followed
by us, inside the layer only. Nothing else writes to the directory meanwhile (it is under a temporary name and locked), so what was looked
at stays what it was. As Docker does it: absolute names are relative, ``a/../b`` is ``b``, the last of two entries wins, a directory
meets an existing one, anything else replaces it whole. ``docs/run.md`` lists where we refuse what Docker takes.

Whiteouts become what overlayfs has instead (Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories").
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from dataclasses import dataclass

from oci.descriptor import Descriptor
from oci.digest import Digest
from runtime import tar
from runtime.decompress import InvalidContent, VerifiedLayer
from runtime.limits import OPAQUE, LayerRefused, Limits
from storage.blobs import BlobReader

PATH_MAX = 4095
DEPTH_MAX = 255
LINKS_MAX = 40
"""Symbolic links in one path, as in the kernel (man 7 path_resolution)."""
WHITEOUT_PREFIX = b".wh."
OPAQUE_MARKER = b".wh..wh..opq"
_AUFS_PREFIX = b".wh..wh."
_DESCRIPTORS_MAX = 128
"""Directories that are kept open between entries; a walk may open DEPTH_MAX more."""

_DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_ENTRY_FAULTS = frozenset(
    {
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.EOVERFLOW,
        errno.EPERM,
        errno.ERANGE,
        errno.E2BIG,
        errno.EBUSY,
    }
)
"""What a kernel says to an entry that is at fault; anything else (no space, I/O error) is the machine's fault and no refusal."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a layer: the bytes of its tar stream, its entries, and the directories that it uses without describing them.

    Those ``implicit`` ones (names relative to the layer, ``b""`` for the root) must look as they do in the layers below.
    """

    size: int
    entries: int
    implicit: tuple[bytes, ...]


class _Refusal(Exception):
    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


def apply_layer(
    blob: BlobReader, layer: Descriptor, diff_id: Digest, directory: str, limits: Limits | None = None
) -> Applied:
    """Unpack a layer into an empty directory, which nobody else may touch meanwhile, and verify its digest and diff id.

    LayerRefused where the content is at fault, OSError where the machine is. Either way what is in the directory then is of no use: the
    caller removes it.
    """
    limits = limits or Limits()
    stream = VerifiedLayer(blob, layer, diff_id, limits)
    applier: _Applier | None = None
    try:
        reader = tar.TarReader(iter(stream))
        applier = _Applier(directory, reader, limits)
        try:
            applier.run()
        except InvalidContent:
            raise
        except (tar.InvalidTar, _Refusal) as error:
            raise LayerRefused(layer.digest, getattr(error, "name", b"") or applier.name, str(error)) from error
        except OSError as error:
            if error.errno not in _ENTRY_FAULTS:
                raise
            raise LayerRefused(layer.digest, applier.name, os.strerror(error.errno)) from error
        return Applied(stream.size, applier.count, tuple(sorted(applier.implicit)))
    except InvalidContent as error:
        raise LayerRefused(layer.digest, b"", str(error)) from error
    finally:
        stream.close()
        if applier is not None:
            applier.close()


def clean_name(name: bytes, *, may_escape: bool = False) -> bytes:
    """A name relative to the root, without ``.``, ``..`` and doubled slashes, empty for the root itself.

    ``..`` counts by its text, as in Docker. Raises where it leads above the root.
    """
    if len(name) > PATH_MAX:
        raise _Refusal(f"its name is longer than {PATH_MAX} bytes")
    if b"./" not in name and b"//" not in name and not name.startswith(b"/") and not name.endswith((b"/", b".")):
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
            elif not name.startswith(b"/") or may_escape:
                raise _Refusal("it leads out of the root directory")
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


class _Applier:
    """One layer being written. ``name`` is the entry that is worked on."""

    def __init__(self, directory: str, reader: tar.TarReader, limits: Limits) -> None:
        self.name = b""
        self.count = 0
        self.implicit: set[bytes] = {b""}
        self._reader, self._limits = reader, limits
        self._root = os.open(directory, _DIRECTORY_FLAGS)
        self._open: dict[bytes, int] = {b"": self._root}
        """Directories by name; a name in here passes through no symbolic link."""
        self._times: dict[bytes, int] = {}

    def close(self) -> None:
        """Let go of every directory."""
        self._forget()
        os.close(self._root)

    def run(self) -> None:
        """Every entry, then the directories' times, which the entries below them have changed."""
        writers = {
            tar.REGULAR: self._regular,
            tar.DIRECTORY: self._directory,
            tar.SYMLINK: self._symlink,
            tar.LINK: self._link,
        }
        entries_max = self._limits.entries_max
        for entry in self._reader.entries():
            self.name = entry.name
            self.count += 1
            if self.count > entries_max:
                raise _Refusal(f"it has more than {entries_max} entries")
            path = clean_name(entry.name)
            folder, _, base = path.rpartition(b"/")
            if len(self._open) > _DESCRIPTORS_MAX:
                self._forget()
            if base.startswith(WHITEOUT_PREFIX):
                self._whiteout(folder, base)
                continue
            if path.startswith(_AUFS_PREFIX):
                continue  # below a directory of AUFS itself: Docker passes over these too
            if not path and entry.kind != tar.DIRECTORY:
                raise _Refusal("it would replace the root directory")
            if path.count(b"/") >= DEPTH_MAX:
                raise _Refusal(f"it lies more than {DEPTH_MAX} directories deep")
            writers.get(entry.kind, self._node)(entry, folder, base)
        self.name = b""
        self._reader.drain()
        for path, mtime in sorted(self._times.items()):
            if len(self._open) > _DESCRIPTORS_MAX:
                self._forget()
            self._touch(path, mtime)

    # Where things are

    def _folder(self, path: bytes, *, create: bool = True) -> int:
        """A directory by name, open. With ``create`` missing ones are made, root's and 0755, and noted as implicit."""
        fd = self._open.get(path)
        return fd if fd is not None else self._walk(path, create)[0]

    def _walk(self, path: bytes, create: bool) -> tuple[int, bytes]:
        """A directory, and its name without symbolic links."""
        todo = path.split(b"/")[::-1]
        fd, at, links = self._root, b"", 0
        # What is left to do when the last part that came from a link was taken: those parts must exist.
        linked = len(todo)
        while todo:
            must_exist = len(todo) > linked
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                if not at:
                    raise _Refusal("a symbolic link in its path leads out of the root directory")
                at = at.rpartition(b"/")[0]
                fd = self._folder(at, create=False)
                continue
            step = at + b"/" + part if at else part
            found = self._open.get(step)
            if found is None:
                found = self._step(fd, part, step, create and not must_exist)
            if found is not None:
                fd, at = found, step
                continue
            links += 1
            if links > LINKS_MAX:
                raise _Refusal("its path has too many symbolic links")
            target = os.readlink(part, dir_fd=fd)
            linked = min(linked, len(todo))
            todo.extend(reversed(target.split(b"/")))
            if len(todo) > PATH_MAX:
                raise _Refusal("its path has too many symbolic links")
            if target.startswith(b"/"):
                fd, at = self._root, b""
        return fd, at

    def _step(self, parent: int, part: bytes, path: bytes, create: bool) -> int | None:
        """One directory below an open one; None where it is a symbolic link."""
        try:
            fd = os.open(part, _DIRECTORY_FLAGS, dir_fd=parent)
        except FileNotFoundError:
            if not create:
                raise _Refusal(
                    "a symbolic link or hard link in it leads to something that is not in the layer"
                ) from None
            self._make(parent, part, path)
            fd = os.open(part, _DIRECTORY_FLAGS, dir_fd=parent)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            info = os.lstat(part, dir_fd=parent)
            if stat.S_ISLNK(info.st_mode):
                return None
            if not (create and _is_whiteout(info)):
                raise _Refusal(f"{path[:200].decode('utf-8', 'backslashreplace')!r} is no directory") from None
            os.unlink(part, dir_fd=parent)
            self._make(parent, part, path)
            fd = os.open(part, _DIRECTORY_FLAGS, dir_fd=parent)
            os.setxattr(fd, OPAQUE, b"y")
        self._open[path] = fd
        return fd

    def _make(self, parent: int, part: bytes, path: bytes) -> None:
        os.mkdir(part, 0o755, dir_fd=parent)
        os.chmod(part, 0o755, dir_fd=parent)  # nosec B103: whatever the umask
        self.implicit.add(path)

    def _forget(self) -> None:
        """Close every directory but the root."""
        for fd in self._open.values():
            if fd != self._root:
                os.close(fd)
        self._open = {b"": self._root}

    def _remove(self, parent: int, base: bytes) -> bool:
        """Make room for an entry of the same name; whether a whiteout was there."""
        info = os.lstat(base, dir_fd=parent)
        if not stat.S_ISDIR(info.st_mode):
            os.unlink(base, dir_fd=parent)
            return _is_whiteout(info)
        kept = os.dup(parent)
        try:
            self._forget()
            shutil.rmtree(base, dir_fd=kept)
        finally:
            os.close(kept)
        return False

    def _replaced(self, folder: bytes, base: bytes) -> int:
        """The folder, open, with nothing of that name in it any more."""
        self._remove(self._folder(folder), base)
        return self._folder(folder)

    # What is written

    def _regular(self, entry: tar.Entry, folder: bytes, base: bytes) -> None:
        parent = self._open.get(folder)
        if parent is None:
            parent = self._folder(folder)
        try:
            fd = os.open(base, _FILE_FLAGS, 0o600, dir_fd=parent)
        except FileExistsError:
            fd = os.open(base, _FILE_FLAGS, 0o600, dir_fd=self._replaced(folder, base))
        try:
            if entry.size:
                for piece in self._reader.data():
                    written = os.write(fd, piece)
                    while written < len(piece):
                        written += os.write(fd, piece[written:])
            os.fchown(fd, entry.uid, entry.gid)
            for name, value in entry.xattrs.items():
                _set_xattr(fd, name, value)
            os.fchmod(fd, entry.mode)  # after chown, which takes set-uid away
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _directory(self, entry: tar.Entry, folder: bytes, base: bytes) -> None:
        path = folder + b"/" + base if folder else base
        fd = self._root
        if path:
            parent = self._folder(folder)
            is_opaque = False
            try:
                os.mkdir(base, 0o700, dir_fd=parent)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(base, dir_fd=parent).st_mode):
                    is_opaque = self._remove(parent, base)
                    os.mkdir(base, 0o700, dir_fd=parent)
            fd, real = self._walk(path, False)
            if is_opaque:
                os.setxattr(fd, OPAQUE, b"y")
            path = real
        self.implicit.discard(path)
        os.fchown(fd, entry.uid, entry.gid)
        for name, value in entry.xattrs.items():
            _set_xattr(fd, name, value)
        os.fchmod(fd, entry.mode)
        self._times[path] = entry.mtime

    def _symlink(self, entry: tar.Entry, folder: bytes, base: bytes) -> None:
        # Where it points is the container's business, inside which it is resolved. To write through one is another matter: _walk.
        parent = self._folder(folder)
        try:
            os.symlink(entry.target, base, dir_fd=parent)
        except FileExistsError:
            parent = self._replaced(folder, base)
            os.symlink(entry.target, base, dir_fd=parent)
        self._describe(entry, parent, base)

    def _link(self, entry: tar.Entry, folder: bytes, base: bytes) -> None:
        if not entry.target:
            raise _Refusal("it is a hard link to nothing")
        try:
            target = clean_name(entry.target, may_escape=True)
        except _Refusal as error:
            raise _Refusal("it is a hard link out of the root directory") from error
        target_folder, _, target_base = target.rpartition(b"/")
        if not target_base or target_base.startswith(WHITEOUT_PREFIX):
            raise _Refusal("it is a hard link to something that cannot have one")
        source = os.dup(self._folder(target_folder, create=False))
        try:
            info = os.lstat(target_base, dir_fd=source)
            if stat.S_ISDIR(info.st_mode):
                raise _Refusal("it is a hard link to a directory")
            if _is_whiteout(info):
                raise _Refusal("it is a hard link to something that the layer removes")
            parent = self._folder(folder)
            try:
                os.link(target_base, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
            except FileExistsError:
                there = os.lstat(base, dir_fd=parent)
                if (there.st_dev, there.st_ino) == (info.st_dev, info.st_ino):
                    return
                parent = self._replaced(folder, base)
                os.link(target_base, base, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise _Refusal("it is a hard link to something that is not in the layer") from None
        finally:
            os.close(source)

    def _node(self, entry: tar.Entry, folder: bytes, base: bytes) -> None:
        major, minor = entry.device
        if not (0 <= major < 2**12 and 0 <= minor < 2**20):
            raise _Refusal(f"it is a device {major}:{minor}, which Linux does not have")
        kind = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}[entry.kind]
        parent = self._folder(folder)
        device = os.makedev(major, minor) if kind != stat.S_IFIFO else 0
        try:
            os.mknod(base, kind | 0o600, device, dir_fd=parent)
        except FileExistsError:
            parent = self._replaced(folder, base)
            os.mknod(base, kind | 0o600, device, dir_fd=parent)
        self._describe(entry, parent, base)

    def _describe(self, entry: tar.Entry, parent: int, base: bytes) -> None:
        """Owner, mode, xattrs and time of something that must not be opened."""
        os.chown(base, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind != tar.SYMLINK:
            os.chmod(base, entry.mode, dir_fd=parent)  # just made, by us, and no link
        for name, value in entry.xattrs.items():
            _set_xattr(b"/proc/self/fd/%d/%s" % (parent, base), name, value)
        os.utime(base, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _whiteout(self, folder: bytes, base: bytes) -> None:
        """``.wh.NAME``: what the layers below have of that name is gone; the layer's own stays (layer.md, "Whiteouts")."""
        if base == OPAQUE_MARKER:
            os.setxattr(self._folder(folder), OPAQUE, b"y")
            return
        if base.startswith(_AUFS_PREFIX):
            if folder:
                raise _Refusal("its name is kept for whiteouts, and is none that image-spec knows")
            return  # AUFS's own at the root, as Docker
        hidden = base[len(WHITEOUT_PREFIX) :]
        if hidden in (b"", b".", b".."):
            raise _Refusal("it is a whiteout of no name that a directory could have")
        parent = self._folder(folder)
        try:
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:
            info = os.lstat(hidden, dir_fd=parent)
            if stat.S_ISDIR(info.st_mode):
                fd = os.open(hidden, _DIRECTORY_FLAGS, dir_fd=parent)
                try:
                    os.setxattr(fd, OPAQUE, b"y")
                finally:
                    os.close(fd)

    def _touch(self, path: bytes, mtime: int) -> None:
        """A directory's time, unless a later entry replaced the directory."""
        folder, _, base = path.rpartition(b"/")
        if not path:
            os.utime(self._root, ns=(mtime, mtime))
            return
        try:
            parent = self._folder(folder, create=False)
            if stat.S_ISDIR(os.lstat(base, dir_fd=parent).st_mode):
                os.utime(base, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)
        except (_Refusal, FileNotFoundError):
            return


def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _set_xattr(where: int | bytes, name: bytes, value: bytes) -> None:
    if name.startswith(b"trusted.overlay."):
        raise _Refusal("it sets an attribute that overlayfs keeps for itself")
    try:
        if isinstance(where, int):
            os.setxattr(where, name, value)
        else:
            os.setxattr(where, name, value, follow_symlinks=False)
    except OSError as error:
        # A filesystem without such attributes, and user.* on what is neither file nor directory (man 7 xattr): left out, as in Docker.
        if error.errno != errno.ENOTSUP and not (error.errno == errno.EPERM and name.startswith(b"user.")):
            raise
