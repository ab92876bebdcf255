"""One prefix of one bucket: the dozen requests that a store makes, each tried again for a while where that can help.

The client is botocore's, which boto3 has inside as well. It takes 50 MB and a quarter of a second to import, so only a store in S3 does.
Payloads are not signed, and carry a checksum that the service compares: SHA-256 for whole objects, CRC-32 for parts, which isal computes
at a tenth of the price. Without one some services keep, as if it were whole, what a broken connection cut.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError
from isal.isal_zlib import crc32

from storage.errors import StorageError, StoreUnusable
from storage.s3_faults import FAULTS, Gone, is_passing, translate
from storage.s3_names import S3Location
from storage.sql_uploads import Part

WRITE_PATIENCE = 60.0
READ_PATIENCE = 15.0
COPY_PATIENCE = 120.0
"""Seconds for which a request that fails in passing is tried again."""
READ_TIMEOUT = 30.0
"""Seconds that a service may say nothing: short enough for another try."""
PAUSE = 0.05
PAUSE_MAX = 5.0
CONNECTIONS = 64
DELETE_BATCH = 500

Result = TypeVar("Result")
Bytes = bytes | bytearray


class Body(Protocol):
    """What comes of an object."""

    def readinto(self, buffer: memoryview, /) -> int: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Found:
    """An object of a listing. ``modified``: by the service's clock, perhaps in whole seconds."""

    name: str
    size: int
    modified: datetime


class Bucket:
    """Names are below the prefix. Safe for threads. Every method raises StoreUnavailable, StoreFull and `storage.s3_faults.Gone`."""

    def __init__(self, location: S3Location) -> None:
        self.location = location
        self._prefix = f"{location.prefix.strip('/')}/" if location.prefix.strip("/") else ""
        self._closing = threading.Event()
        try:
            self._client = _client(location)
        except (*FAULTS, ValueError) as error:
            raise StoreUnusable(f"the store in {location} cannot be used: {error}") from error

    def check(self) -> None:
        """See whether the bucket is there and lets us in; StoreUnusable."""
        try:
            self._call("ListObjectsV2", READ_PATIENCE, "list_objects_v2", Prefix=self._prefix, MaxKeys=1)
        except StorageError as error:
            raise StoreUnusable(f"the store in {self.location} cannot be used: {error}") from error

    def close(self) -> None:
        """Nobody waits for another try any more."""
        self._closing.set()
        self._client.close()

    # -- objects

    def put(self, name: str, body: Bytes, sha256: bytes | None = None) -> None:
        """Write a whole object; ``sha256``: of the body, where it is known."""
        checksum = _base64(sha256 or hashlib.sha256(body).digest())
        self._call("PutObject", WRITE_PATIENCE, "put_object", Key=self._key(name), Body=body, ChecksumSHA256=checksum)

    def size(self, name: str) -> int:
        """An object's size in bytes."""
        return int(self._call("HeadObject", READ_PATIENCE, "head_object", Key=self._key(name))["ContentLength"])

    def get(self, name: str, offset: int, length: int, patience: float = READ_PATIENCE) -> Body:
        """Begin to read a range, of at least one byte, of which there may come less."""
        span = f"bytes={offset}-{offset + length - 1}"
        body: Body = self._call("GetObject", patience, "get_object", Key=self._key(name), Range=span)["Body"]
        return body

    def list(self, prefix: str) -> Iterator[Found]:
        """The objects whose names begin so, in the order of their names."""
        more: dict[str, str] = {}
        while True:
            page = self._call(
                "ListObjectsV2", READ_PATIENCE, "list_objects_v2", Prefix=self._key(prefix), MaxKeys=1000, **more
            )
            for item in page.get("Contents", ()):
                yield Found(item["Key"][len(self._prefix) :], int(item["Size"]), item["LastModified"])
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects, whether they are there or not."""
        for start in range(0, len(names), DELETE_BATCH):
            keys = [{"Key": self._key(name)} for name in names[start : start + DELETE_BATCH]]
            self.patiently("DeleteObjects", READ_PATIENCE, functools.partial(self._delete, keys))

    def _delete(self, keys: Sequence[dict[str, str]]) -> None:
        """One batch. What is refused of it comes within an answer of status 200."""
        answer = self._client.delete_objects(Bucket=self.location.bucket, Delete={"Objects": keys, "Quiet": True})
        for refused in answer.get("Errors", ()):
            raise ClientError({"Error": refused, "ResponseMetadata": answer["ResponseMetadata"]}, "DeleteObjects")

    def url(self, name: str, seconds: int, content_type: str, disposition: str) -> str:
        """A URL by which anybody may get an object for so many seconds. Nothing is asked of the service."""
        parameters = {"Bucket": self.location.bucket, "Key": self._key(name), "ResponseContentType": content_type}
        if disposition:
            parameters["ResponseContentDisposition"] = disposition
        try:
            return str(self._client.generate_presigned_url("get_object", Params=parameters, ExpiresIn=seconds))
        except FAULTS as error:
            raise translate(error, "GetObject", self.location.bucket) from error

    def copy(self, name: str, bucket: str, key: str) -> None:
        """Have the service copy an object of any bucket, of at most 5 GiB."""
        source = {"Bucket": bucket, "Key": key}
        self._call("CopyObject", COPY_PATIENCE, "copy_object", Key=self._key(name), CopySource=source)

    # -- uploads in parts

    def begin(self, name: str, *, has_checksums: bool = True) -> str:
        """Begin an upload in parts, with checksums unless the service itself copies them; its id."""
        checksums = {"ChecksumAlgorithm": "CRC32"} if has_checksums else {}
        answer = self._call(
            "CreateMultipartUpload", WRITE_PATIENCE, "create_multipart_upload", Key=self._key(name), **checksums
        )
        return str(answer["UploadId"])

    def copy_part(self, name: str, multipart: str, number: int, bucket: str, key: str, start: int, end: int) -> Part:
        """Have the service copy the bytes from ``start`` to before ``end`` of an object of any bucket, as a part."""
        answer = self._call(
            "UploadPartCopy",
            COPY_PATIENCE,
            "upload_part_copy",
            Key=self._key(name),
            UploadId=multipart,
            PartNumber=number,
            CopySource={"Bucket": bucket, "Key": key},
            CopySourceRange=f"bytes={start}-{end - 1}",
        )
        return Part(number, end - start, str(answer["CopyPartResult"]["ETag"]), "")

    def part(self, name: str, multipart: str, number: int, body: Bytes) -> Part:
        """Upload a part. One of the same number that was there is replaced."""
        checksum = _base64(crc32(body).to_bytes(4, "big"))
        answer = self._call(
            "UploadPart",
            WRITE_PATIENCE,
            "upload_part",
            Key=self._key(name),
            UploadId=multipart,
            PartNumber=number,
            Body=body,
            ChecksumCRC32=checksum,
        )
        return Part(number, len(body), str(answer["ETag"]), checksum)

    def complete(self, name: str, multipart: str, parts: Sequence[Part]) -> None:
        """Make the parts an object. Gone also where that has been done already, on some services."""
        listed = [{"PartNumber": part.number, "ETag": part.etag} for part in parts]
        for entry, part in zip(listed, parts, strict=True):
            if part.checksum:
                entry["ChecksumCRC32"] = part.checksum
        self._call(
            "CompleteMultipartUpload",
            WRITE_PATIENCE,
            "complete_multipart_upload",
            Key=self._key(name),
            UploadId=multipart,
            MultipartUpload={"Parts": listed},
        )

    def abort(self, name: str, multipart: str) -> None:
        """Drop an upload in parts, whether it is there or not."""
        with contextlib.suppress(Gone):
            self._call(
                "AbortMultipartUpload",
                READ_PATIENCE,
                "abort_multipart_upload",
                Key=self._key(name),
                UploadId=multipart,
            )

    # -- one request

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _call(self, operation: str, patience: float, method: str, **parameters: object) -> Any:
        """One request of the client, again after a pause where the trouble may pass."""
        call = getattr(self._client, method)
        return self.patiently(operation, patience, lambda: call(Bucket=self.location.bucket, **parameters))

    def patiently(self, operation: str, patience: float, call: Callable[[], Result]) -> Result:
        """Do something that raises FAULTS until it succeeds, cannot, or ``patience`` seconds are over."""
        deadline = time.monotonic() + patience
        pause = PAUSE
        while True:
            try:
                return call()
            except FAULTS as error:
                wait = pause * random.uniform(0.5, 1.0)  # nosec B311: it spreads servers, it keeps no secret
                if not is_passing(error) or time.monotonic() + wait > deadline or self._closing.wait(wait):
                    raise translate(error, operation, self.location.bucket) from error
                pause = min(2 * pause, PAUSE_MAX)


@functools.cache
def _session() -> botocore.session.Session:
    """It keeps what it has read of S3's description: a tenth of a second for the first client."""
    return botocore.session.Session()


def _client(location: S3Location) -> Any:
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if location.endpoint else "auto", "payload_signing_enabled": False},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        max_pool_connections=CONNECTIONS,
        connect_timeout=3,
        read_timeout=READ_TIMEOUT,
        retries={"total_max_attempts": 1},
    )
    return _session().create_client(
        "s3",
        endpoint_url=location.endpoint,
        region_name=location.region,
        aws_access_key_id=location.access_key,
        aws_secret_access_key=location.secret_key,
        config=config,
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
