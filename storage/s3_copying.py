"""Objects of other owners made blobs of a store by the service itself: their bytes come here only once, to be verified.

A copy is an upload of which nobody sends the bytes (`storage.s3_uploads`): its row is written first, so that what a crash leaves is found
and dropped with it; and the copy, not what it was made of, is read and compared before one transaction makes it the blob.
"""

from __future__ import annotations

import functools

from oci.digest import Digest, hasher
from storage.errors import DigestMismatch, StorageError
from storage.s3_bucket import Bucket
from storage.s3_names import Pointer, new_data
from storage.s3_reader import S3Stream
from storage.s3_remains import Means, destroy
from storage.sql_uploads import Part, Progress, Taken
from storage.uploads import new_upload_id

COPY_MAX = 5 * 1024**3
"""Bytes that a service copies by one request; of more, parts are copied."""
PART_SIZE = 1024**3
READ_SIZE = 1024 * 1024


def copy_in(means: Means, scope: str, digest: Digest, size: int, bucket: str, key: str) -> None:
    """Copy an object of any bucket of the service, of so many bytes, and publish it as a blob. DigestMismatch, `storage.s3_faults.Gone`."""
    taken = means.facts.add(new_upload_id(scope), scope)
    name, multipart = new_data(taken.id), ""
    try:
        if size > COPY_MAX:
            multipart = means.bucket.begin(name, has_checksums=False)
            means.facts.save(taken, Progress(name, multipart))
            means.bucket.complete(name, multipart, _copy_parts(means.bucket, name, multipart, size, bucket, key))
        else:
            means.bucket.copy(name, bucket, key)
        actual = _read(means.bucket, name, digest.algorithm, size)
        if actual != digest:
            raise DigestMismatch(digest, actual, size)
        pointer = Pointer(digest, size, name)
        means.bucket.put(pointer.name, b"")
        means.facts.publish(taken, digest, size, pointer.name)
    except BaseException:
        _drop(means, taken, name, multipart)
        raise
    means.published(digest)


def _copy_parts(bucket: Bucket, name: str, multipart: str, size: int, source: str, key: str) -> list[Part]:
    spans = [(start, min(start + PART_SIZE, size)) for start in range(0, size, PART_SIZE)]
    return [
        bucket.copy_part(name, multipart, number, source, key, start, end)
        for number, (start, end) in enumerate(spans, 1)
    ]


def _read(bucket: Bucket, name: str, algorithm: str, size: int) -> Digest:
    """The digest of an object's bytes."""
    stream = S3Stream(bucket, functools.partial(bucket.get, name), 0, size)
    state = hasher(algorithm)
    try:
        with memoryview(bytearray(READ_SIZE)) as view:
            while got := stream.readinto(view):
                state.update(view[:got])
    finally:
        stream.close()
    return Digest.from_hasher(algorithm, state)


def _drop(means: Means, taken: Taken, name: str, multipart: str) -> None:
    """What cannot be dropped now is when the upload expires."""
    try:
        destroy(means, taken, name, multipart)
    except StorageError:
        return
