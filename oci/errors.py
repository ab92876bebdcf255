"""The registry's error codes, declared once (distribution-spec, "Error Codes")."""

from __future__ import annotations

from enum import Enum


class ErrorCode(Enum):
    """A code of the error table and the HTTP status that goes with it."""

    status: int

    def __new__(cls, status: int) -> ErrorCode:
        member = object.__new__(cls)
        member._value_ = len(cls.__members__)
        member.status = status
        return member

    BLOB_UNKNOWN = 404
    BLOB_UPLOAD_INVALID = 400
    BLOB_UPLOAD_UNKNOWN = 404
    DIGEST_INVALID = 400
    MANIFEST_BLOB_UNKNOWN = 404
    MANIFEST_INVALID = 400
    MANIFEST_UNKNOWN = 404
    NAME_INVALID = 400
    NAME_UNKNOWN = 404
    SIZE_INVALID = 400
    UNAUTHORIZED = 401
    DENIED = 403
    UNSUPPORTED = 405
    TOOMANYREQUESTS = 429

    # Not in the specification's table: Docker's own, and ours where no code of the table says what happened.
    TAG_INVALID = 400
    PAGINATION_NUMBER_INVALID = 400
    RANGE_INVALID = 416
    MANIFEST_TOO_LARGE = 413
    REQUEST_INVALID = 400
    REQUEST_TIMEOUT = 408
    NOT_FOUND = 404
    STORAGE_FULL = 507
    UNAVAILABLE = 503
    UNKNOWN = 500
