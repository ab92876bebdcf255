"""What uploads to S3 work with, and what becomes of what they leave behind. All here may be killed at any point, and done again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from oci.digest import Digest
from storage.errors import StorageError
from storage.s3_bucket import Bucket
from storage.s3_leases import Leases
from storage.s3_names import Pointer, data_prefix, tail_prefix
from storage.s3_parts import PartThreads
from storage.sql_uploads import SQLUploads, Taken

logger = logging.getLogger("portside.storage")


@dataclass(frozen=True, slots=True)
class Means:
    """What all uploads of a store work with. ``published`` is told of each new blob."""

    bucket: Bucket
    facts: SQLUploads
    leases: Leases
    parts: PartThreads
    pointers: ThreadPoolExecutor
    published: Callable[[Digest], None]


def write_pointer(means: Means, pointer: Pointer) -> None:
    """Its name, which no listing of an upload's objects finds, is in the database first: one that is left by a kill is found there."""
    means.facts.announce(pointer.name)
    means.bucket.put(pointer.name, b"")


def destroy(means: Means, taken: Taken, place: str, multipart: str) -> None:
    """Drop an upload with all that there is of it.

    Nothing where it is another's by now, or has become a blob: while there is a row, no object of the upload is a blob's.
    """
    if not means.facts.renew([(taken.id, taken.holder)])[0]:
        return
    if multipart:
        means.bucket.abort(place, multipart)
    means.bucket.delete(_objects_of(means, taken.id))
    means.facts.drop(taken)


def sweep(means: Means, taken: Taken) -> bool:
    """Delete what somebody who was killed left of an upload, and its row does not lead to; whether that could be done."""
    known = {taken.progress.place, taken.progress.tail}
    try:
        means.bucket.delete([name for name in _objects_of(means, taken.id) if name not in known])
    except StorageError as error:
        logger.info("what an ended server may have left of upload %s stays for now: %s", taken.id, error)
        return False
    return True


def discard(means: Means, names: list[str]) -> None:
    """Delete objects that are trash already. What cannot be deleted now stays trash."""
    if not names:
        return
    try:
        means.bucket.delete(names)
        means.facts.forget_trash(names)
    except StorageError as error:
        logger.info("%d objects stay in the trash for now: %s", len(names), error)


def _objects_of(means: Means, upload_id: str) -> list[str]:
    prefixes = (data_prefix(upload_id), tail_prefix(upload_id))
    return [found.name for prefix in prefixes for found in means.bucket.list(prefix)]
