"""Objects of other owners made blobs of a store by the service itself: their bytes come here only once, to be verified.

A copy is an upload of which nobody sends the bytes (`storage.s3_uploads`): its row is written first, so that what a crash leaves is found
and dropped with it; and the copy, not what it was made of, is read and compared before one transaction makes it the blob.
"""

from __future__ import annotations

from oci.digest import Digest
from storage.errors import DigestMismatch, StorageError
from storage.hashing import digest_stream
from storage.s3_bucket import Bucket
from storage.s3_names import Pointer, new_data
from storage.s3_reader import whole
from storage.s3_remains import Means, destroy, write_pointer
from storage.sql_uploads import Part, Progress, Taken
from storage.uploads import new_upload_id

COPY_MAX = 5 * 1024**3
"""Bytes that a service copies by one request; of more, parts are copied."""
PART_SIZE = 1024**3


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
        actual = digest_stream(whole(means.bucket, name, size), digest.algorithm)
        if actual != digest:
            raise DigestMismatch(digest, actual, size)
        pointer = Pointer(digest, size, name)
        write_pointer(means, pointer)
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


def _drop(means: Means, taken: Taken, name: str, multipart: str) -> None:
    """What cannot be dropped now is when the upload expires."""
    try:
        destroy(means, taken, name, multipart)
    except StorageError:
        return
