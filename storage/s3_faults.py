"""What it means when S3 does not answer as it should: whether to try again, and what to tell the person who runs the hub."""

from __future__ import annotations

import http.client
from dataclasses import dataclass

import urllib3.exceptions
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ResponseStreamingError,
    SSLError,
)

from storage.errors import StorageError, StoreFull, StoreUnavailable

FAULTS = (BotoCoreError, ClientError, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
"""Whatever a call, or the reading of its answer, may raise."""

_ON_THE_WAY = (
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
    urllib3.exceptions.HTTPError,
)
_DAMAGED = {"BadDigest", "XAmzContentChecksumMismatch", "InvalidDigest", "IncompleteBody", "RequestTimeout"}
"""What arrived was not what was sent."""
_BUSY = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "Busy"}
_BROKEN = {"InternalError", "ServiceUnavailable"}
_FULL = {"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "XMinioAdminBucketQuotaExceeded"}
_GONE = {"NoSuchKey", "NoSuchUpload", "404", "NotFound", "InvalidRange"}

_NO_KEY = "Correct the access key and the secret key that the hub is given"
_REMEDIES = {
    "NoSuchBucket": "There is no such bucket, or it is in another region: create it, or correct its name",
    "AccessDenied": "The hub's key may not do this: allow it to list the bucket, and to get, put and delete objects in it",
    "403": "The hub's key may not do this: allow it to list the bucket, and to get, put and delete objects in it",
    "AllAccessDisabled": "The service has closed this bucket: ask whoever runs it",
    "InvalidAccessKeyId": f"The service does not know the access key. {_NO_KEY}",
    "XAdminUserNotFound": f"The service does not know the access key. {_NO_KEY}",
    "SignatureDoesNotMatch": f"The secret key is wrong, or something on the way rewrites requests. {_NO_KEY}",
    "ExpiredToken": "The temporary credentials have expired: give the hub new ones",
    "InvalidToken": "The session token is not valid: give the hub new credentials",
    "RequestTimeTooSkewed": "This machine's clock is not that of the service: set it, for instance by NTP",
    "RequestExpired": "This machine's clock is not that of the service: set it, for instance by NTP",
    "PermanentRedirect": "The bucket is in another region: correct the region or the endpoint",
    "AuthorizationHeaderMalformed": "The bucket is in another region: correct the region",
}
_BUSY_WORDS = "The service asks for fewer requests: it is overloaded or has a limit that is too low for this hub"
_BROKEN_WORDS = "The service failed: look at its log"
_UNREACHABLE_WORDS = "The service cannot be reached: see whether it runs, and correct the endpoint"


class Gone(StorageError):
    """There is no such object, or no such byte of it, or no such multipart upload."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What an exception says. ``status``: 0 where no answer came."""

    code: str
    status: int = 0
    request_id: str = ""

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed in a moment."""
        if self.code in _FULL or self.status == 507:
            return False
        return self.status in (0, 408, 429) or self.status >= 500 or self.code in _DAMAGED | _BUSY | _BROKEN

    @property
    def remedy(self) -> str:
        """What to do, in words for a person."""
        if self.code in _REMEDIES:
            return _REMEDIES[self.code]
        if self.code in _BUSY or self.status in (429, 503):
            return _BUSY_WORDS
        if self.code in _DAMAGED:
            return "Bytes were damaged on the way: look for a faulty network device or proxy"
        return _BROKEN_WORDS if self.status else _UNREACHABLE_WORDS


def fault_of(error: BaseException) -> Fault:
    """Read an exception of FAULTS."""
    if isinstance(error, ClientError):
        about = error.response.get("ResponseMetadata", {})
        status = int(about.get("HTTPStatusCode") or 0)
        code = str(error.response.get("Error", {}).get("Code") or status)
        return Fault(code, status, str(about.get("RequestId") or ""))
    return Fault(f"{type(error).__name__}: {error}")


def translate(error: BaseException, operation: str, bucket: str) -> StorageError:
    """What to raise for an exception of FAULTS."""
    fault = fault_of(error)
    if fault.code in _GONE:
        return Gone(f"{operation}: {fault.code}")
    if fault.code in _FULL or fault.status == 507:
        return StoreFull(0, 0)
    remedy = fault.remedy
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        remedy = "The hub was given no credentials: give it an access key and a secret key"
    elif isinstance(error, ParamValidationError):
        remedy = "This is no name that a bucket can have: correct it"
    elif isinstance(error, SSLError):
        remedy = "The service's certificate is not trusted here: correct the endpoint, or trust its authority (AWS_CA_BUNDLE)"
    return StoreUnavailable(operation, bucket, fault.code, fault.status, fault.request_id, remedy)


def is_passing(error: BaseException) -> bool:
    """Whether to try again: the service's trouble or the network's, not ours."""
    if isinstance(error, ClientError):
        return fault_of(error).is_passing
    return isinstance(error, (_ON_THE_WAY, OSError, http.client.HTTPException)) and not isinstance(error, SSLError)
