"""An upload to S3: bytes on their way to the object that they will be for good.

What is kept of one, as `storage.sql_uploads.Progress` says it::

    nothing ──close──> a tail: one small object with all bytes ──┐
       │                    │ (resumed, it grows)                │commit: PUT, if it is not there yet
       │ more than 13 MiB   v                                    v
       └──────────────> parts of a multipart upload [+ a tail] ──commit: complete──> the blob's data

A row is written before anything that only it can lead to, and what it leads to is never changed, only replaced by another object. So
whoever takes the upload up finds what the row says, wherever the one before it was killed; and one that was only paused, and lost its
lease, finds nothing to spoil: its objects have names of their own, its numbers of parts are passed over, and its rows do not match.

`commit` has the bytes in place first, with a pointer that names them beside it. Then one transaction makes them the blob and the upload
history. Before that nobody sees them, and after it nothing is left to be done.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from concurrent.futures import Future
from dataclasses import replace

from oci.digest import Digest, Hasher, hasher
from storage import resumable
from storage.errors import DigestMismatch, StorageError, UploadBusy, UploadNotFound
from storage.hashing import digest_stream
from storage.s3_faults import Gone
from storage.s3_leases import Lease
from storage.s3_names import Pointer, new_data, new_tail
from storage.s3_parts import PART_MIN, Gathering, Sending
from storage.s3_reader import read_whole, whole
from storage.s3_remains import Means, destroy, discard, sweep, write_pointer
from storage.sql_uploads import Part, Progress, Taken

logger = logging.getLogger("portside.storage")

SAVED_EVERY = 64 * 1024 * 1024
"""Bytes of parts after which the row is written again: what another server goes on from when this one is killed."""
PASSED_OVER = 32
"""Numbers of parts that are left to one who may be sending still: it stops within its lease, with a few parts on their way."""
READ_SIZE = 1024 * 1024


class S3Upload:
    """An upload that one request has taken up, until `commit`, `cancel` or `close`."""

    def __init__(self, means: Means, taken: Taken, since: float) -> None:
        """``since``: a time of `time.monotonic` before it was taken."""
        self.id = taken.id
        self._means = means
        self._taken = taken
        self._lease: Lease = means.leases.hold(taken, since)
        self._saved, self._saved_in_parts = taken.progress, taken.progress.in_parts
        self._offset = taken.progress.size
        self._place, self._multipart = taken.progress.place, taken.progress.multipart
        self._sending = Sending(means.parts, taken.progress.parts, PASSED_OVER if taken.is_bereft else 0)
        self._base = self._sending.acknowledged
        self._gathering = Gathering()
        self._is_changed = False
        self._is_clean = not taken.is_bereft or sweep(means, taken)
        self._is_ended = False
        self._failure: Exception | None = None
        self._hasher = _take_up(taken.progress)
        self._hashed = self._offset
        self._marks: deque[int] = deque()
        self._states: dict[int, bytes] = {}

    @property
    def offset(self) -> int:
        """Bytes written."""
        return self._offset

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Gather, and send what is enough for a part. UploadBusy, UploadNotFound, StoreUnavailable, StoreFull.

        Where it fails, nothing of this request counts but what was saved in between.
        """
        self._see_that_it_goes_on()
        if not data:
            return
        try:
            self._load()
            self._gather(memoryview(data))
            self._offset += len(data)
            self._is_changed = True
            if self._sending.acknowledged - self._saved_in_parts >= SAVED_EVERY:
                self._save(self._in_parts())
        except Exception as error:
            self._failure = error
            self._sending.abandon()
            raise

    def hash(self, data: bytes | bytearray | memoryview) -> None:
        """Hash the next bytes, where the hash of those before is known; at the ends of parts its state is kept."""
        if self._hasher is None:
            return
        at = 0
        while at < len(data):
            mark = self._marks[0] if self._marks else None
            end = len(data) if mark is None else min(len(data), at + mark - self._hashed)
            self._hasher.update(data if end - at == len(data) else memoryview(data)[at:end])
            self._hashed += end - at
            at = end
            if self._hashed == mark:
                self._marks.popleft()
                if (state := self._state()) is not None:
                    self._states[self._hashed] = state

    def prepare(self, expected: Digest) -> None:
        """Compare, where the hash is known: more need not be done before, since nobody waits for a commit. DigestMismatch, UploadBusy."""
        self._see_that_it_goes_on()
        actual = self._digest(expected.algorithm)
        if actual is not None and actual != expected:
            self._refuse(expected, actual)

    def commit(self, expected: Digest) -> int:
        """Have the bytes in their place, compare, publish; the size. DigestMismatch, UploadBusy, StoreUnavailable, StoreFull.

        Where the hash is not known, of another server's bytes or by another algorithm, the bytes are read back first.
        """
        self._see_that_it_goes_on()
        actual = self._digest(expected.algorithm)
        if actual is not None and actual != expected:
            self._refuse(expected, actual)
        try:
            pointer = self._complete(expected, is_known=actual is not None)
            stale = [self._saved.tail] if self._saved.tail not in ("", pointer.data) else []
            self._means.facts.publish(self._taken, expected, pointer.size, pointer.name, stale)
        except Exception as error:
            self._failure = error
            self._sending.abandon()
            raise
        self._end()
        self._means.published(expected)
        discard(self._means, stale)
        return pointer.size

    def cancel(self) -> None:
        """Drop the bytes; nothing after a commit. What cannot be dropped now is when the upload expires."""
        if self._is_ended:
            return
        self._sending.abandon()
        try:
            destroy(self._means, self._taken, self._place, self._multipart)
        except StorageError as error:
            logger.warning("upload %s could not be dropped, it is left to expire: %s", self.id, error)
        finally:
            self._end()

    def close(self) -> None:
        """Write down what is not yet, and leave the upload to the next request. UploadBusy, StoreUnavailable, StoreFull.

        Only after it the bytes may be acknowledged. Where it fails, what was saved before stays.
        """
        if self._is_ended:
            return
        failure: Exception | None = None
        try:
            progress = self._saved
            if self._failure is None and self._is_changed:
                try:
                    self._see_that_it_goes_on()
                    progress = self._settle()
                except Exception as error:
                    self._failure = failure = error
            if self._failure is not None:
                self._sending.abandon()
                progress = self._in_parts() if self._sending.acknowledged > self._saved.size else self._saved
            self._save(progress, release=True)
        finally:
            self._end()
        if failure is not None:
            raise failure

    # -- parts

    def _gather(self, data: memoryview) -> None:
        for body in self._gathering.add(data, lambda: self._sending.number, self._mark):
            self._send(body)

    def _mark(self) -> None:
        """A part is full: the state of the hash at its end is one to keep. Bytes that were loaded are hashed already."""
        end = self._base + self._gathering.total
        if end > self._taken.progress.size:
            self._marks.append(end)

    def _send(self, body: bytearray) -> None:
        self._see_that_it_goes_on()
        if not self._multipart:
            self._place = new_data(self.id)
            self._multipart = self._means.bucket.begin(self._place)
            try:
                self._save(replace(self._saved, place=self._place, multipart=self._multipart))
            except BaseException:
                with contextlib.suppress(StorageError):
                    self._means.bucket.abort(self._place, self._multipart)
                raise
        self._sending.send(len(body), lambda number: self._part(number, body))

    def _part(self, number: int, body: bytearray) -> Part:
        """In a thread of the parts. A service may drop uploads that are old: then this one is unknown, as if it had expired."""
        try:
            return self._means.bucket.part(self._place, self._multipart, number, body)
        except Gone:
            raise UploadNotFound(self.id) from None

    def _load(self) -> None:
        """Read the tail, once, when it is to grow or to become a part."""
        if self._saved.tail and not self._is_changed and not self._gathering.total:
            size = self._saved.size - self._saved_in_parts
            try:
                tail = read_whole(whole(self._means.bucket, self._saved.tail, size), size)
            except Gone:
                raise UploadNotFound(self.id) from None
            self._gather(memoryview(tail))

    # -- the row

    def _in_parts(self) -> Progress:
        """How far the parts are that are acknowledged by now."""
        with contextlib.suppress(Exception):  # what failed is raised where it is waited for
            self._sending.collect()
        size = self._sending.acknowledged
        state = self._states.get(size)
        return Progress(self._place, self._multipart, tuple(self._sending.parts), "", size, state)

    def _settle(self) -> Progress:
        """Have all bytes in the bucket; how far that is. Small remainders become a tail."""
        tail, body = "", self._gathering.take()
        if self._multipart and len(body) >= PART_MIN:
            self._send(body)
        elif body:
            tail = new_tail(self.id) if self._multipart else new_data(self.id)
            self._means.bucket.put(tail, body)
        self._sending.finish()
        parts = tuple(self._sending.parts)
        state = self._state() if self._hashed == self._offset else None
        return Progress(self._place, self._multipart, parts, tail, self._offset, state)

    def _save(self, progress: Progress, *, release: bool = False) -> None:
        """Write the row. What it no longer leads to is deleted; so is what was written for it, where another has the upload."""
        before = self._saved
        stale = [before.tail] if before.tail not in ("", progress.tail) else []
        is_clean = self._is_clean and self._failure is None
        try:
            self._means.facts.save(self._taken, progress, release=release, is_clean=is_clean, stale=stale)
        except UploadBusy:
            if progress.tail not in ("", before.tail):
                self._means.facts.disown(self.id, progress.tail)
            raise
        self._saved, self._saved_in_parts = progress, progress.in_parts
        for at in [at for at in list(self._states) if at <= progress.size]:
            del self._states[at]
        discard(self._means, stale)

    def _see_that_it_goes_on(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._is_ended or not self._lease.is_held:
            raise UploadBusy(self.id)

    def _end(self) -> None:
        self._is_ended = True
        self._lease.end()

    # -- the digest

    def _state(self) -> bytes | None:
        return self._hasher.save() if isinstance(self._hasher, resumable.SHA256) else None

    def _digest(self, algorithm: str) -> Digest | None:
        """The digest of all bytes; None where it is not known."""
        if self._hasher is None or self._hashed != self._offset or algorithm != "sha256":
            return None
        return Digest.from_hasher(algorithm, self._hasher)

    def _refuse(self, expected: Digest, actual: Digest) -> None:
        self.cancel()
        raise DigestMismatch(expected, actual, self._offset)

    # -- the object

    def _complete(self, expected: Digest, *, is_known: bool) -> Pointer:
        """Have the bytes in the object that they are to be, and a pointer to it; what is not known to be right is compared."""
        if not self._multipart and (self._is_changed or not self._saved.tail):
            return self._put(expected, is_known=is_known)
        if not self._multipart:
            pointer = Pointer(expected, self._offset, self._saved.tail)
            if not is_known:
                self._compare(pointer)
            write_pointer(self._means, pointer)
            return pointer
        return self._complete_parts(expected, is_known=is_known)

    def _put(self, expected: Digest, *, is_known: bool) -> Pointer:
        """All bytes are in memory: one object."""
        body = self._gathering.take()
        if not is_known and (actual := Digest.of(body, expected.algorithm)) != expected:
            self._refuse(expected, actual)
        pointer = Pointer(expected, self._offset, new_data(self.id))
        pointing = self._point(pointer)
        sha256 = bytes.fromhex(expected.hex) if expected.algorithm == "sha256" else None
        try:
            self._means.bucket.put(pointer.data, body, sha256)
        finally:
            pointing.result()
        return pointer

    def _complete_parts(self, expected: Digest, *, is_known: bool) -> Pointer:
        self._load()
        body = self._gathering.take()
        if body or not self._offset:
            self._send(body)
        self._sending.finish()
        parts = tuple(self._sending.parts)
        state = self._state() if self._hashed == self._offset else None
        self._save(Progress(self._place, self._multipart, parts, "", self._offset, state))
        pointer = Pointer(expected, self._offset, self._place)
        pointing = self._point(pointer) if is_known else None
        try:
            self._means.bucket.complete(self._place, self._multipart, parts)
        except Gone:  # completed by an earlier commit, whose end was not seen; or dropped
            self._compare(pointer)
        else:
            if not is_known:
                self._compare(pointer)
        (pointing or self._point(pointer)).result()
        return pointer

    def _point(self, pointer: Pointer) -> Future[None]:
        """Begin to write a pointer, beside what takes longer."""
        return self._means.pointers.submit(write_pointer, self._means, pointer)

    def _compare(self, pointer: Pointer) -> None:
        """Read the object back; DigestMismatch where it has other bytes, UploadNotFound where there is none of this size."""
        try:
            if self._means.bucket.size(pointer.data) != pointer.size:
                raise UploadNotFound(self.id)
            stream = whole(self._means.bucket, pointer.data, pointer.size)
        except Gone:
            raise UploadNotFound(self.id) from None
        actual = digest_stream(stream, pointer.digest.algorithm)
        if actual != pointer.digest:
            self._refuse(pointer.digest, actual)


def _take_up(progress: Progress) -> Hasher | None:
    """A hash of exactly the bytes that are kept; None where there is none, so that they are read back in the end."""
    if not progress.size:
        return resumable.SHA256() if resumable.is_available() else hasher()
    if progress.hash_state is None or not resumable.is_available():
        return None
    state = resumable.SHA256.load(progress.hash_state)
    return state if state is not None and state.length == progress.size else None
