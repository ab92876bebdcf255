"""The storage of distribution's S3 driver, as a `storage.distribution.Volume`. It takes botocore with it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from storage.distribution import CHUNK, REPOSITORIES, NoVolume, Pieces
from storage.s3_bucket import Bucket
from storage.s3_faults import Gone
from storage.s3_names import S3Location
from storage.s3_reader import S3Stream


class S3Volume:
    """Below a prefix, which is what distribution's configuration has as rootdirectory."""

    def __init__(self, location: S3Location) -> None:
        """NoVolume, StoreUnusable."""
        self.location = location
        self._bucket = Bucket(location)
        try:
            self._bucket.check()
            if next(self._bucket.list(f"{REPOSITORIES}/"), None) is None:
                raise NoVolume(location)
        except BaseException:
            self._bucket.close()
            raise

    def links(self) -> Iterator[tuple[str, int]]:
        """By one listing of all."""
        return ((found.name[len(REPOSITORIES) + 1 :], found.size) for found in self._bucket.list(f"{REPOSITORIES}/"))

    def size(self, name: str) -> int | None:
        """One HEAD."""
        with contextlib.suppress(Gone):
            return self._bucket.size(name)
        return None

    def read(self, name: str) -> Pieces:
        """A range at a time where connections break."""
        size = self.size(name)
        if not size:
            return
        stream, buffer = S3Stream(self._bucket, functools.partial(self._bucket.get, name), 0, size), bytearray(CHUNK)
        try:
            with memoryview(buffer) as view:
                while got := stream.readinto(view):
                    yield bytes(view[:got])
        finally:
            stream.close()

    def key(self, name: str) -> str:
        """The whole key of a file."""
        return f"{self.location.prefix}/{name}" if self.location.prefix else name

    def close(self) -> None:
        """End the connections."""
        self._bucket.close()
