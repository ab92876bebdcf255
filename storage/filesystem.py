"""Blobs as files: the embedded default.

`start -> write … -> commit`: a file under ``uploads/`` grows, is synced, and is renamed to ``blobs/ALGORITHM/ab/abcdef…``, whose
directory is synced then. So a blob is there whole or not at all, also after a power cut, and a reader that has one open keeps its
bytes when the same blob is pushed again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from oci.digest import HEX_LENGTH, Digest, Hasher, InvalidDigest, hasher
from storage.errors import BlobNotFound, DigestMismatch, StoreFull, UploadBusy, UploadNotFound
from storage.hashing import HashStates
from storage.paths import BLOB_MODE, PRIVATE_MODE, make_directory, prepare, prepare_blobs, sync_directory
from storage.publishing import Guard
from storage.uploads import UPLOAD_ID, is_upload_of, new_upload_id
from storage.write_back import begin_write_back

WRITE_SIZE = 64 * 1024
"""Bytes of one write. From 128 KiB on ext4 takes page cache in blocks that a virtual machine's free page reporting may have given back to
its host: the first touch of each then costs ten times the write (3 s of CPU per GiB instead of 0.3)."""
WRITE_BACK = 8 * 1024 * 1024
"""Bytes after which the kernel is asked to begin writing them out, so that the sync at the end finds little left to do."""
SPACE_CHECK = 64 * 1024 * 1024
"""Bytes between two looks at the free space."""
FLOOR_MAX = 1024**3
FLOOR_SHARE = 0.05
"""The free space that is kept by default: the smaller of 1 GiB and a twentieth of the filesystem."""
READ_SIZE = 1024 * 1024


class FileReader:
    """An open blob. ``size`` in bytes."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size = os.fstat(fd).st_size

    def fileno(self) -> int:
        return self._fd

    def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset``; fewer only at the end."""
        data = os.pread(self._fd, length, offset)
        while len(data) < length and (more := os.pread(self._fd, length - len(data), offset + len(data))):
            data += more
        return data

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class FileUpload:
    """An upload that one request has taken up: its file is locked until `commit`, `cancel` or `close`."""

    def __init__(self, store: FilesystemBlobStore, upload_id: str, path: Path, fd: int) -> None:
        self.id = upload_id
        self._store = store
        self._path = path
        self._fd = fd
        self._offset = os.fstat(fd).st_size
        self._written_back = self._offset
        self._checked = self._offset
        self._hashed = self._offset
        self._hasher: Hasher | None = hasher() if self._offset == 0 else store.hash_states.take(upload_id, self._offset)
        self._prepared: tuple[Digest, int] | None = None

    @property
    def offset(self) -> int:
        """Bytes written."""
        return self._offset

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write at the end; StoreFull, where what fitted counts."""
        if self._offset - self._checked >= SPACE_CHECK:
            self._store.check_space()
            self._checked = self._offset
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view[:WRITE_SIZE], self._offset)
                self._offset += written
                view = view[written:]
        except OSError as error:
            raise self._store.translate(error) from error
        if self._offset - self._written_back >= WRITE_BACK:
            begin_write_back(self._fd, self._written_back, self._offset - self._written_back)
            self._written_back = self._offset

    def hash(self, data: bytes | bytearray | memoryview) -> None:
        """Hash the next bytes, where the hash of those before is known; else `commit` reads the file."""
        if self._hasher is not None:
            self._hasher.update(data)
            self._hashed += len(data)

    def prepare(self, expected: Digest) -> None:
        """Compare and sync; DigestMismatch; StoreFull; OSError.

        The bytes are gone after a mismatch, and after a sync that failed: the kernel may have dropped what it could not write and would
        call the next sync a success (man 2 fsync).
        """
        actual = self._digest(expected.algorithm)
        if actual != expected:
            self.cancel()
            raise DigestMismatch(expected, actual, self._offset)
        try:
            self._store.make_fan_out(self._store.paths.blob(expected).parent)
            self._sync()
        except OSError as error:
            raise self._store.translate(error) from error
        self._prepared = (expected, self._offset)

    def commit(self, expected: Digest) -> int:
        """`prepare`, where that was not done; rename, sync the directory; the size. DigestMismatch; StoreFull; OSError."""
        if self._prepared != (expected, self._offset):
            self.prepare(expected)
        target = self._store.paths.blob(expected)
        try:
            os.rename(self._path, target)
            os.fchmod(self._fd, BLOB_MODE)  # not before: an upload that stays has to be one that can be written
            sync_directory(target.parent)
        except OSError as error:
            raise self._store.translate(error) from error
        self._release()
        return self._offset

    def cancel(self) -> None:
        """Remove the file; nothing after a commit."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            self._release()

    def close(self) -> None:
        """Let go of the file, and remember the hash for the next request."""
        if self._fd >= 0:
            if self._hasher is not None and self._hashed == self._offset:
                self._store.hash_states.keep(self.id, self._hasher, self._hashed)
            self._release()

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)  # with the size and the extents; its times are nobody's concern
        except OSError:
            self.cancel()
            raise

    def _release(self) -> None:
        os.close(self._fd)  # the lock goes with it
        self._fd = -1

    def _digest(self, algorithm: str) -> Digest:
        if self._hasher is not None and self._hashed == self._offset and algorithm == "sha256":
            return Digest.from_hasher(algorithm, self._hasher)
        return digest_file(self._fd, algorithm)


class FilesystemBlobStore:
    """A `storage.blobs.BlobStore` below a root. ``floor``: bytes of free space below which uploads are refused; None for the default."""

    def __init__(self, root: Path, *, floor: int | None = None) -> None:
        self.paths = prepare(root)
        prepare_blobs(self.paths)
        self.hash_states = HashStates()
        self.guard = Guard(self.paths)
        self._blobs = str(self.paths.blobs)
        self._floor = floor
        self._synced: set[Path] = set()

    def size(self, digest: Digest) -> int | None:
        """One stat."""
        try:
            return os.stat(self._path(digest)).st_size
        except FileNotFoundError:
            return None

    def open(self, digest: Digest) -> FileReader:
        """Open the file; BlobNotFound."""
        try:
            return FileReader(os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            raise BlobNotFound(digest) from None

    def start(self, scope: str) -> FileUpload:
        """Make an empty file under a new id; StoreFull."""
        self.check_space()
        upload_id = new_upload_id(scope)
        path = self.paths.uploads / upload_id
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
        except OSError as error:
            raise self.translate(error) from error
        fcntl.flock(fd, fcntl.LOCK_EX)
        return FileUpload(self, upload_id, path, fd)

    def resume(self, scope: str, upload_id: str) -> FileUpload:
        """Lock the file and go on at its end; UploadNotFound, UploadBusy, StoreFull."""
        path = self._upload_path(scope, upload_id)
        self.check_space()
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise UploadNotFound(upload_id) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(fd).st_nlink or not path.exists():  # committed or cancelled between open and lock
                raise UploadNotFound(upload_id)
        except BlockingIOError:
            os.close(fd)
            raise UploadBusy(upload_id) from None
        except BaseException:
            os.close(fd)
            raise
        return FileUpload(self, upload_id, path, fd)

    def offset(self, scope: str, upload_id: str) -> int:
        """The file's size; UploadNotFound."""
        try:
            return self._upload_path(scope, upload_id).stat().st_size
        except FileNotFoundError:
            raise UploadNotFound(upload_id) from None

    @contextlib.contextmanager
    def publishing(self, digest: Digest) -> Iterator[None]:
        """Around `commit` and the recording of its blob: no collector takes bytes that have a name and no link yet. StoreFull."""
        try:
            with self.guard.publishing(digest):
                yield
        except OSError as error:
            raise self.translate(error) from error

    def digests(self, after: str = "") -> Iterator[Digest]:
        """Walk the fan-out directories, in order, above the digest ``after``. Files whose names are no digests are passed over."""
        for algorithm in sorted(HEX_LENGTH):
            for directory in sorted((self.paths.blobs / algorithm).iterdir()):
                if f"{algorithm}:{directory.name}~" < after or not directory.is_dir():
                    continue
                for name in sorted(os.listdir(directory)):
                    if (text := f"{algorithm}:{name}") > after:
                        with contextlib.suppress(InvalidDigest):
                            yield Digest.parse(text)

    def adopt(self, digest: Digest, source: Path, record: Callable[[int], None] | None = None) -> bool:
        """Hard-link a file of another store, once its bytes are verified; False where it is missing, damaged or on another filesystem.

        ``record`` is told the size while no collector may look (`publishing`). Nobody may write to the file any more: both have it.
        """
        target = self.paths.blob(digest)
        try:
            fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            if digest_file(fd, digest.algorithm) != digest:
                return False
            self.make_fan_out(target.parent)
            with self.publishing(digest) if record is not None else contextlib.nullcontext():
                _link(fd, target)
                if record is not None:
                    record(os.fstat(fd).st_size)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES):
                return False
            raise self.translate(error) from error
        finally:
            os.close(fd)
        return True

    def expire_uploads(self, older_than: float) -> int:
        """Remove uploads that nobody wrote to for ``older_than`` seconds; how many. One that is being written stays."""
        removed = 0
        limit = time.time() - older_than
        with os.scandir(self.paths.uploads) as entries:
            for entry in entries:
                if not UPLOAD_ID.match(entry.name):
                    continue
                try:
                    if entry.stat(follow_symlinks=False).st_mtime > limit:
                        continue
                    fd = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                except FileNotFoundError:
                    continue
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(fd).st_mtime > limit:  # a request went on with it just now
                        continue
                    os.unlink(entry.path)
                    removed += 1
                except (BlockingIOError, FileNotFoundError):
                    continue
                finally:
                    os.close(fd)
        return removed

    def quarantine(self, digest: Digest, inode: int) -> Path | None:
        """Move a damaged blob's file aside, so that the next push of it heals; where it is now. BlobNotFound.

        ``inode`` is the file that was found damaged. None where another has taken its place: a push healed the blob meanwhile, it stays.
        """
        source = self.paths.blob(digest)
        for number in range(1, 10_000):
            target = self.paths.quarantine / f"{digest.algorithm}-{digest.hex}.{number}"
            if target.exists():
                continue
            try:
                os.rename(source, target)
            except FileNotFoundError:
                raise BlobNotFound(digest) from None
            if target.stat().st_ino != inode:
                with contextlib.suppress(FileExistsError):  # and yet another push came
                    os.link(target, source)
                target.unlink()
                return None
            sync_directory(target.parent)
            sync_directory(source.parent)
            return target
        raise FileExistsError(errno.EEXIST, "the quarantine is full of this blob: empty it", str(self.paths.quarantine))

    def make_fan_out(self, directory: Path) -> None:
        """Make the directory of a blob, and be sure that it stays: another process may have made it and died before it synced."""
        make_directory(directory)
        if directory not in self._synced:
            sync_directory(directory.parent)
            self._synced.add(directory)

    @property
    def floor(self) -> int:
        """Bytes of free space below which no upload is taken."""
        if self._floor is not None:
            return self._floor
        status = os.statvfs(self._blobs)
        return min(FLOOR_MAX, int(status.f_blocks * status.f_frsize * FLOOR_SHARE))

    def check_space(self) -> None:
        """StoreFull where less than the floor is free."""
        status = os.statvfs(self._blobs)
        free = status.f_bavail * status.f_frsize
        if free < (floor := self.floor):
            raise StoreFull(free, floor)

    def translate(self, error: OSError) -> Exception:
        """A full disk as StoreFull; any other failure as it is."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            status = os.statvfs(self._blobs)
            return StoreFull(status.f_bavail * status.f_frsize, self.floor)
        return error

    def _path(self, digest: Digest) -> str:
        return f"{self._blobs}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"

    def _upload_path(self, scope: str, upload_id: str) -> Path:
        if not is_upload_of(scope, upload_id):
            raise UploadNotFound(upload_id[:100])
        return self.paths.uploads / upload_id


def digest_file(fd: int, algorithm: str, pace: Callable[[int], None] | None = None) -> Digest:
    """The digest of a whole file, read from its beginning; the descriptor's position is not used. ``pace`` is told of each read."""
    state = hasher(algorithm)
    buffer = bytearray(READ_SIZE)
    view = memoryview(buffer)
    offset = 0
    while size := os.preadv(fd, [buffer], offset):
        state.update(view[:size])
        offset += size
        if pace is not None:
            pace(size)
    return Digest.from_hasher(algorithm, state)


def _link(fd: int, target: Path) -> None:
    """Give an open file another name, durably, in place of what has it, and take from it the right to be written to."""
    link = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    # The directory is ignored beside a whole path, but without it Python calls link(2), which does not follow.
    os.link(f"/proc/self/fd/{fd}", link, src_dir_fd=fd, follow_symlinks=True)
    os.rename(link, target)
    link.unlink(missing_ok=True)  # a rename onto another link of the same file does nothing (man 2 rename)
    with contextlib.suppress(PermissionError):  # of another owner
        os.fchmod(fd, os.fstat(fd).st_mode & ~0o222)
    sync_directory(target.parent)
