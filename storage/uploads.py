"""An upload: bytes on their way to becoming a blob.

State machine::

    start -> OPEN --write+hash--> OPEN --(prepare) commit--> a blob (201)
                 \\--close---> RESUMABLE --resume--> OPEN
                 \\--cancel--> gone
    RESUMABLE --(expires)--> gone

An OPEN upload belongs to one request at a time. Every byte is given once to `write` and once to `hash`, each in order; they are
two calls so that one thread may receive and write while another hashes (`append` does both in one). Whatever was written stays,
also when the process is killed: the next `resume` finds it, and reads it once where no hash state was kept.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from typing import Protocol

from oci.digest import Digest


class Upload(Protocol):
    """One upload, taken up by one request."""

    id: str

    @property
    def offset(self) -> int:
        """How many bytes are written, that is the offset of the next one."""
        ...

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes at the end; StoreFull, with the bytes before kept for a resume."""
        ...

    def hash(self, data: bytes | bytearray | memoryview) -> None:
        """Add the same bytes to the digest."""
        ...

    def prepare(self, expected: Digest) -> None:
        """Do what takes long of a commit: compare, and sync the bytes, which nobody sees yet. DigestMismatch, StoreFull.

        So that the step between a blob's name and its link is short: a collector waits for it, and pushes for the collector.
        """
        ...

    def commit(self, expected: Digest) -> int:
        """Make the upload a blob: compare, sync, publish, sync the directory. The size in bytes; DigestMismatch and StoreFull.

        After a mismatch the upload is gone (its bytes are not what anyone announced). Committing a blob that is there already
        replaces it by these verified bytes: that is what heals a damaged one.
        """
        ...

    def cancel(self) -> None:
        """Drop the bytes."""
        ...

    def close(self) -> None:
        """Leave the upload for the next request to resume. Nothing after a commit or a cancel; may be called twice."""
        ...


def append(upload: Upload, data: bytes | bytearray | memoryview) -> None:
    """Write and hash in the calling thread."""
    upload.write(data)
    upload.hash(data)


UPLOAD_ID = re.compile(r"[0-9a-f]{32}-[0-9a-f]{16}\Z")


def new_upload_id(scope: str) -> str:
    """An id for an upload of a scope, which no other has."""
    return f"{uuid.uuid4().hex}-{_scope_tag(scope)}"


def is_upload_of(scope: str, upload_id: str) -> bool:
    """Whether a text has the form of an id that was given out to the scope."""
    return UPLOAD_ID.match(upload_id) is not None and upload_id.endswith(_scope_tag(scope))


def _scope_tag(scope: str) -> str:
    """What binds an upload's id to its repository, so that no other can go on with it, without any state."""
    return hashlib.sha256(scope.encode()).hexdigest()[:16]
