"""Where a store in S3 is, and what its objects are called below its prefix.

::

    data/ab/<upload id>.<nonce>                          the bytes of an upload, from its first request on; of a blob when published
    index/sha256/ab/<hex>.<size>.<upload id>.<nonce>     empty, a pointer: this digest's bytes, so many, are in that object of data/
    tails/<upload id>.<nonce>                            bytes after an upload's last part, too few for a part

The names of the pointers alone say what the database knows of blobs; a pointer without its data means nothing. A row of ``blobs`` has the
pointer's name as its place: from that follows all that there is of the blob. A nonce, time and chance, is drawn for each object that is
begun, so no name is ever used again: whoever was paused and goes on writes where nobody looks. No name is a directory of another.
"""

from __future__ import annotations

import re
import time
import uuid
from dataclasses import dataclass, field

from oci.digest import Digest, InvalidDigest

DATA = "data/"
INDEX = "index/"
TAILS = "tails/"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,100}(?:/[A-Za-z0-9_.-]{1,100}){0,7}")


@dataclass(frozen=True, slots=True)
class S3Location:
    """A bucket and a prefix in it, and how to get there.

    ``endpoint``: the service's URL, None for AWS itself. Without a key those of AWS's usual places are taken: environment, profile, role.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str = "us-east-1"
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str, endpoint: str = "", region: str = "") -> S3Location:
        """From ``s3://BUCKET/PREFIX`` and, where it is not AWS, the service's URL; ValueError with what is wrong."""
        scheme, mark, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not mark or not _BUCKET.fullmatch(bucket):
            raise ValueError(f"{url!r} is not like s3://BUCKET or s3://BUCKET/PREFIX")
        prefix = prefix.strip("/")
        if prefix and not _PREFIX.fullmatch(prefix):
            raise ValueError(f"the prefix {prefix!r} may have letters, digits, - _ . and / between them")
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise ValueError(f"the endpoint {endpoint!r} is not an http or https URL")
        return cls(bucket, prefix, endpoint or None, region or "us-east-1")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix} at {self.endpoint or 'AWS'}"


@dataclass(frozen=True, slots=True)
class Pointer:
    """That the bytes of a digest are in an object. ``data``: its name."""

    digest: Digest
    size: int
    data: str

    @property
    def name(self) -> str:
        algorithm, encoded = self.digest.algorithm, self.digest.hex
        return f"{INDEX}{algorithm}/{encoded[:2]}/{encoded}.{self.size}.{self.data.rpartition('/')[2]}"

    @property
    def nonce(self) -> str:
        """When its data was begun, for the order of two: text that compares as time does."""
        return self.data.rpartition(".")[2]

    @property
    def upload_id(self) -> str:
        """Of the upload that brought the bytes."""
        return self.data.rpartition("/")[2].partition(".")[0]


def parse_pointer(name: str) -> Pointer | None:
    """Read a pointer's name; None for any other."""
    _, slash, rest = name.partition("/")
    algorithm, _, last = rest.partition("/")
    encoded, _, tail = last.rpartition("/")[2].partition(".")
    size, _, data = tail.partition(".")
    try:
        found = Pointer(Digest.parse(f"{algorithm}:{encoded}"), int(size), f"{DATA}{data[:2]}/{data}")
    except (InvalidDigest, ValueError):
        return None
    return found if slash and data and found.name == name else None


def new_data(upload_id: str) -> str:
    """A name for the bytes of an upload that no object had or will have."""
    return f"{data_prefix(upload_id)}{_nonce()}"


def new_tail(upload_id: str) -> str:
    """The same for bytes that are too few for a part."""
    return f"{tail_prefix(upload_id)}{_nonce()}"


def data_prefix(upload_id: str) -> str:
    """What the names of all data of an upload begin with."""
    return f"{DATA}{upload_id[:2]}/{upload_id}."


def tail_prefix(upload_id: str) -> str:
    """What the names of all tails of an upload begin with."""
    return f"{TAILS}{upload_id}."


def _nonce() -> str:
    return f"{time.time_ns():016x}{uuid.uuid4().hex[:8]}"
