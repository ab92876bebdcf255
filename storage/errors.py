"""What a store raises. The data that a message needs is on the error; nothing here knows a status code."""

from __future__ import annotations

from oci.digest import Digest


class StorageError(Exception):
    """Whatever a store could not do."""


class BlobNotFound(StorageError):
    """No readable blob of this digest is in the store."""

    def __init__(self, digest: Digest) -> None:
        self.digest = digest
        super().__init__(f"blob {digest} is not in the store")


class UploadNotFound(StorageError):
    """No upload of this id belongs to the repository: it was finished, cancelled, has expired, or never was."""

    def __init__(self, upload_id: str) -> None:
        self.upload_id = upload_id
        super().__init__(f"upload {upload_id!r} is unknown: it was finished, cancelled or has expired")


class UploadBusy(StorageError):
    """Another request, of this process or another one, is writing to the upload now."""

    def __init__(self, upload_id: str) -> None:
        self.upload_id = upload_id
        super().__init__(f"upload {upload_id} is being written by another request")


class DigestMismatch(StorageError):
    """The bytes that arrived are not those that were announced."""

    def __init__(self, expected: Digest, actual: Digest, size: int) -> None:
        self.expected, self.actual, self.size = expected, actual, size
        super().__init__(f"the {size} bytes that arrived have the digest {actual}, not {expected}")


class StoreFull(StorageError):
    """There is no room: the disk is full, or its free space is below the floor that is kept for pulls and repairs."""

    def __init__(self, free: int, floor: int) -> None:
        self.free, self.floor = free, floor
        below = f"; it takes no uploads below {floor}" if floor else ""
        super().__init__(f"the store's disk is full: {free} bytes are free{below}. What is stored can still be pulled")


class StoreTooNew(StorageError):
    """The metadata was written by a newer Portside."""


class StoreUnusable(StorageError):
    """The root cannot be used: not a directory, no permission, another layout. The message says what to do."""


class DatabaseUnavailable(StorageError):
    """The database that the facts are in did not answer, or not in time.

    ``cause`` in the words of whoever failed, for a log; ``seconds`` that it was tried for; ``is_undone``: nothing was changed, for certain.
    """

    def __init__(self, cause: str, seconds: float, is_undone: bool = True) -> None:
        self.cause, self.seconds, self.is_undone = cause, seconds, is_undone
        done = "nothing was changed" if is_undone else "whether the change was made is not known"
        super().__init__(
            f"the registry's database did not answer, tried for {seconds:.1f} s; {done}. Try again in a moment; "
            "if it stays so, the registry's log says what is wrong with the database"
        )


class StoreUnavailable(StorageError):
    """A service that bytes are kept in did not do what it was asked for. ``remedy``: what a person can do about it.

    ``code`` is the service's own word, or what happened on the way to it. Where none answered ``status`` is 0 and ``request_id`` empty.
    """

    def __init__(self, operation: str, bucket: str, code: str, status: int, request_id: str, remedy: str) -> None:
        self.operation, self.bucket, self.code, self.status = operation, bucket, code, status
        self.request_id, self.remedy = request_id, remedy
        answered = f" (HTTP {status}, request {request_id or 'unknown'})" if status else ""
        super().__init__(f"{operation} in the bucket {bucket} failed: {code}{answered}. {remedy}")
