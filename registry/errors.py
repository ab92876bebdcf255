"""Exceptions -> error codes -> responses: the only such table (distribution-spec, "Error Codes")."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from auth.passwords import CannotVerify, TooManyLogins
from auth.throttle import SlowDown
from oci.errors import ErrorCode
from oci.manifest import InvalidManifest
from registry.messages import BadRequest, Response, with_body
from storage.errors import (
    BlobNotFound,
    DatabaseUnavailable,
    DigestMismatch,
    StoreFull,
    StoreUnavailable,
    UploadBusy,
    UploadNotFound,
)


class RequestError(Exception):
    """What a handler raises where it knows the code. ``headers`` go into the response, ``detail`` into the body's detail."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        detail: dict[str, object] | None = None,
    ) -> None:
        self.code, self.message, self.headers, self.detail = code, message, headers, detail
        super().__init__(message)


class BodyTooLarge(Exception):
    """A body that is longer than what the end-point takes. ``limit`` in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(f"the body is longer than the {limit} bytes that are allowed here")


class BodyTimeout(Exception):
    """The client stopped sending in the middle of a body. ``seconds`` it was waited for."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"no byte of the body came for {seconds:.0f} s; what came before is kept and can be resumed")


class ServerEnding(Exception):
    """The server was told to end and the grace is over."""

    def __init__(self) -> None:
        super().__init__("the registry is being stopped; what came of the body is kept: resume the upload in a moment")


class ClientGone(Exception):
    """The client closed the connection in the middle of its request: there is nobody to answer."""


CODES: dict[type[Exception], ErrorCode] = {
    BadRequest: ErrorCode.REQUEST_INVALID,
    BodyTimeout: ErrorCode.REQUEST_TIMEOUT,
    ServerEnding: ErrorCode.UNAVAILABLE,
    BodyTooLarge: ErrorCode.MANIFEST_TOO_LARGE,
    InvalidManifest: ErrorCode.MANIFEST_INVALID,
    BlobNotFound: ErrorCode.BLOB_UNKNOWN,
    UploadNotFound: ErrorCode.BLOB_UPLOAD_UNKNOWN,
    UploadBusy: ErrorCode.TOOMANYREQUESTS,
    DigestMismatch: ErrorCode.DIGEST_INVALID,
    StoreFull: ErrorCode.STORAGE_FULL,
    DatabaseUnavailable: ErrorCode.UNAVAILABLE,
    StoreUnavailable: ErrorCode.UNAVAILABLE,
}
"""Exceptions whose text is fit for the client, and their codes. Any other is an UNKNOWN, whose text stays in the log."""

_HEADERS: dict[ErrorCode, list[tuple[bytes, bytes]]] = {
    ErrorCode.TOOMANYREQUESTS: [(b"retry-after", b"1")],
    ErrorCode.UNAVAILABLE: [(b"retry-after", b"1")],
    ErrorCode.STORAGE_FULL: [(b"retry-after", b"60")],
}


def is_expected(error: BaseException) -> bool:
    """Whether an exception is an answer to the client rather than a fault of ours."""
    return isinstance(error, RequestError) or type(error) in CODES


def too_busy(error: Exception) -> RequestError | None:
    """The answer to a log-in that is not looked at now; None for every other error."""
    if isinstance(error, (SlowDown, TooManyLogins)):
        seconds = b"%d" % max(1, round(error.retry_after))
        return RequestError(ErrorCode.TOOMANYREQUESTS, str(error), headers=[(b"retry-after", seconds)])
    if isinstance(error, CannotVerify):
        return RequestError(ErrorCode.UNAVAILABLE, f"nobody can log in by a password now: {error}")
    return None


def error_response(error: Exception, request_id: str) -> Response:
    """The response for an exception of a handler, with the request's id in its detail."""
    detail: dict[str, object] = {"request_id": request_id}
    headers: Sequence[tuple[bytes, bytes]] = ()
    if isinstance(error, RequestError):
        code, message, headers = error.code, error.message, error.headers
        detail.update(error.detail or {})
    elif type(error) in CODES:
        code, message = CODES[type(error)], str(error)
    else:
        code = ErrorCode.UNKNOWN
        message = f"the registry failed in a way it did not expect; its log says why, under the request id {request_id}"
    given = {name for name, _ in headers}
    usual = [header for header in _HEADERS.get(code, []) if header[0] not in given]
    return error_body(code.status, code.name, message, detail, [*usual, *headers])


def error_body(
    status: int,
    code: str,
    message: str,
    detail: Mapping[str, object],
    headers: Sequence[tuple[bytes, bytes]] = (),
    more: Mapping[str, object] = MappingProxyType({}),
) -> Response:
    """A response in the form that clients show: ``{"errors": [{code, message, detail}]}``. ``more`` stands beside the errors."""
    errors = [{"code": code, "message": message, "detail": detail}]
    body = json.dumps({**more, "errors": errors}, ensure_ascii=False)
    response = with_body(status, "application/json", body.encode("utf-8", "backslashreplace"), headers)
    response.message = message
    return response
