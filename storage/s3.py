"""Blobs in S3: the bytes in a bucket, the facts of them in the hub's database.

The database says which object is whose; the bucket only ever gets new objects and loses old ones (`storage.s3_names`), so that nothing
rests on what services do differently: conditional writes, listings that lag, locks. What the database no longer leads to is trash, kept
for those who are reading it, and deleted later. From the bucket alone `S3BlobStore.rebuild` finds the blobs again.

Import this only where a store is in S3: it takes botocore with it.
"""

from __future__ import annotations

import contextlib
import itertools
import string
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

from oci.digest import Digest
from storage.database import Database
from storage.errors import BlobNotFound, UploadBusy, UploadNotFound
from storage.s3_bucket import Bucket
from storage.s3_copying import copy_in
from storage.s3_leases import Leases
from storage.s3_names import DATA, INDEX, Pointer, S3Location, parse_pointer
from storage.s3_parts import PartThreads
from storage.s3_reader import S3Reader
from storage.s3_remains import Means, destroy
from storage.s3_uploads import S3Upload
from storage.sql_uploads import SQLUploads
from storage.uploads import is_upload_of, new_upload_id

PLACES_KEPT = 4096
PLACES_SECONDS = 5.0
"""Blobs whose places are remembered, and for how long: another server may heal or collect one."""
POINTER_THREADS = 8
RESTORED_AT_ONCE = 500
_PLAIN = set(string.ascii_letters + string.digits + "._-")


class Places:
    """Where blobs are, as looked up a moment ago. Bounded: the oldest go first."""

    def __init__(self, look_up: Callable[[Digest], Pointer | None]) -> None:
        self._look_up = look_up
        self._kept: OrderedDict[Digest, tuple[Pointer, float]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, digest: Digest) -> Pointer | None:
        """Where a blob is, None where there is none."""
        now = time.monotonic()
        kept = self._kept.get(digest)
        if kept is not None and now < kept[1]:
            return kept[0]
        pointer = self._look_up(digest)
        with self._lock:
            self._kept.pop(digest, None)
            if pointer is not None:
                self._kept[digest] = (pointer, now + PLACES_SECONDS)
                while len(self._kept) > PLACES_KEPT:
                    self._kept.popitem(last=False)
        return pointer

    def forget(self, digest: Digest) -> None:
        """Look it up anew the next time."""
        with self._lock:
            self._kept.pop(digest, None)


class S3BlobStore:
    """A `storage.blobs.BlobStore` in a bucket. Any number of processes may use one, with one database."""

    def __init__(self, location: S3Location, database: Database) -> None:
        """StoreUnusable where the bucket is not there or does not let us in."""
        self._bucket = Bucket(location)
        self.check()
        self._facts = SQLUploads(database)
        self._pointers = ThreadPoolExecutor(POINTER_THREADS, thread_name_prefix="s3-pointer")
        self._places = Places(self._look_up)
        self._means = Means(
            self._bucket, self._facts, Leases(self._facts), PartThreads(), self._pointers, self._places.forget
        )

    def check(self) -> None:
        """See whether the bucket is there and lets us in; StoreUnusable."""
        self._bucket.check()

    def close(self) -> None:
        """End the threads and the connections. Uploads are to be closed before."""
        self._means.leases.close()
        self._bucket.close()
        self._means.parts.close()
        self._pointers.shutdown()

    # -- blobs

    def size(self, digest: Digest) -> int | None:
        """One look-up in the database, or none: that the object is there too shows when it is read."""
        pointer = self._places.find(digest)
        return None if pointer is None else pointer.size

    def open(self, digest: Digest) -> S3Reader:
        """Nothing is asked of the service yet; BlobNotFound."""

        def whereabouts(missing: Pointer | None) -> Pointer:
            if missing is not None:
                self._places.forget(digest)
            pointer = self._places.find(digest)
            if pointer is None or pointer == missing:
                raise BlobNotFound(digest)
            return pointer

        return S3Reader(self._bucket, whereabouts)

    def url(self, digest: Digest, seconds: int, content_type: str, filename: str = "") -> str:
        """A URL by which anybody may read a blob for so many seconds, answered with this type and, for a browser, name; BlobNotFound."""
        pointer = self._places.find(digest)
        if pointer is None:
            raise BlobNotFound(digest)
        plain = "".join(character if character in _PLAIN else "_" for character in filename)
        disposition = f'attachment; filename="{plain}"' if plain else ""
        return self._bucket.url(pointer.data, seconds, content_type, disposition)

    def delete(self, digest: Digest) -> bool:
        """Take the blob's object from it, then delete that; if only the first is done, `empty_trash` does the second."""
        name = self._facts.remove(digest)
        self._places.forget(digest)
        if name is None:
            return False
        self._remove([name])
        return True

    def digests(self) -> Iterator[Digest]:
        """Every blob that would be served, by the database. What else there is in the bucket is trash, or on its way."""
        return self._facts.digests()

    def publishing(self, digest: Digest) -> AbstractContextManager[None]:
        """Nothing is locked: a blob is recorded with its object, and collectors leave alone for a while what is not linked yet."""
        return contextlib.nullcontext()

    def copy_in(self, scope: str, digest: Digest, size: int, bucket: str, key: str) -> None:
        """Have the service copy an object of so many bytes, and make that a blob once it is verified; DigestMismatch."""
        copy_in(self._means, scope, digest, size, bucket, key)

    # -- uploads

    def start(self, scope: str) -> S3Upload:
        """Record a new upload. The bucket learns of it when there is something to keep."""
        since = time.monotonic()
        return S3Upload(self._means, self._facts.add(new_upload_id(scope), scope), since)

    def resume(self, scope: str, upload_id: str) -> S3Upload:
        """Take an upload up; UploadNotFound, UploadBusy."""
        if not is_upload_of(scope, upload_id):
            raise UploadNotFound(upload_id[:100])
        since = time.monotonic()
        return S3Upload(self._means, self._facts.take(upload_id), since)

    def offset(self, scope: str, upload_id: str) -> int:
        """The bytes that are kept, by its row; UploadNotFound."""
        if not is_upload_of(scope, upload_id):
            raise UploadNotFound(upload_id[:100])
        return self._facts.size(upload_id)

    # -- what is done now and then

    def expire_uploads(self, older_than: float) -> int:
        """Drop uploads that nobody touched for ``older_than`` seconds, with all their objects; how many. One that is held stays."""
        dropped = 0
        while upload_ids := self._facts.untouched(older_than):
            before = dropped
            for upload_id in upload_ids:
                try:
                    taken = self._facts.take(upload_id, older_than)
                except (UploadBusy, UploadNotFound):
                    continue
                destroy(self._means, taken, taken.progress.place, taken.progress.multipart)
                dropped += 1
            if dropped == before:
                break
        return dropped

    def empty_trash(self, older_than: float) -> int:
        """Delete objects that are trash for ``older_than`` seconds, but none that a blob has; how many. It may be killed at any point."""
        emptied = 0
        while names := self._facts.trash(older_than):
            self._remove([name for name in names if not self._is_used(name)])
            self._facts.forget_trash(names)
            emptied += len(names)
        return emptied

    def rebuild(self) -> int:
        """Find blobs again that the database does not know, or knows in objects that are gone; how many. For a hub that is stopped.

        By two listings: of the data, for what is there whole, and of the pointers, for whose it is. Of several the newest counts.
        """
        sizes = {found.name: found.size for found in self._bucket.list(DATA)}
        restored = 0
        found = ((pointer, item.modified) for item in self._bucket.list(INDEX) if (pointer := parse_pointer(item.name)))
        waiting: list[Pointer] = []
        for digest, group in itertools.groupby(found, key=lambda pair: pair[0].digest):
            whole = [pair for pair in group if sizes.get(pair[0].data) == pair[0].size]
            if not whole or self._look_up(digest) in [pointer for pointer, _ in whole]:
                continue
            waiting.append(max(whole, key=lambda pair: (pair[1], pair[0].nonce))[0])
            if len(waiting) == RESTORED_AT_ONCE:
                restored += self._restore(waiting)
                waiting = []
        return restored + self._restore(waiting)

    def _restore(self, pointers: list[Pointer]) -> int:
        rows = [(pointer.digest, pointer.size, pointer.name, pointer.upload_id) for pointer in pointers]
        for pointer in pointers:
            self._places.forget(pointer.digest)
        return self._facts.restore(rows)

    def _remove(self, names: list[str]) -> None:
        """Delete trash: a pointer with its data, or another object by itself."""
        pointers = [pointer for name in names if (pointer := parse_pointer(name))]
        self._bucket.delete([pointer.data for pointer in pointers])  # first: a pointer alone means nothing
        self._bucket.delete(names)
        self._facts.forget_trash(names)

    def _is_used(self, name: str) -> bool:
        pointer = parse_pointer(name)
        return pointer is not None and self._look_up(pointer.digest) == pointer

    def _look_up(self, digest: Digest) -> Pointer | None:
        found = self._facts.find(digest)
        return None if found is None else parse_pointer(found)
