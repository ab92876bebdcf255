"""GET, HEAD and DELETE of blobs (distribution-spec end-2 and end-10)."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from time import time
from typing import Protocol

from auth.policy import PUSH
from oci.digest import Digest
from oci.errors import ErrorCode
from registry.errors import RequestError
from registry.messages import FileBody, Headers, LargeBody, Request, Response, StreamBody, without_body
from registry.routes import Route
from registry.threads import Disk
from storage.blobs import BlobFile, BlobReader, StreamedBlob
from storage.errors import BlobNotFound
from storage.metadata import HeldBlob
from storage.people import Actor

logger = logging.getLogger("portside.registry")

INLINE_MAX = 64 * 1024
"""A blob of at most so many bytes is read into memory and sent with its head in one write."""

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]{0,18})[ \t]*-[ \t]*([0-9]{0,18})[ \t]*\Z", re.IGNORECASE)


Elsewhere = Callable[[Digest], str]
"""A URL that large blobs are sent to clients from, instead of through this server; BlobNotFound."""


class Blobs(Protocol):
    """The part of a blob store that serving needs."""

    def size(self, digest: Digest) -> int | None: ...
    def open(self, digest: Digest) -> BlobReader: ...


class Links(Protocol):
    """The part of the metadata that serving blobs needs."""

    def find_blob(self, repository: str, digest: Digest) -> int | None: ...
    def find_link(self, repository: str, digest: Digest) -> HeldBlob | None: ...
    def touch(self, repository: str, digest: Digest) -> bool: ...
    def unlink_blob(self, repository: str, digest: Digest, by: Actor | None) -> bool: ...


class BlobHandlers:
    """The blob end-points."""

    def __init__(
        self, blobs: Blobs, links: Links, disk: Disk, push_window: float, elsewhere: Elsewhere | None = None
    ) -> None:
        self._blobs = blobs
        self._links = links
        self._disk = disk
        self._push_window = push_window
        self._elsewhere = elsewhere

    def head(self, request: Request, route: Route) -> Response | Awaitable[Response]:
        """The size from one stat; the blob is never opened.

        Who may push here may be about to push a manifest that counts on the blob: then its link is to be there for at least half a
        window more, and the answer waits until that is written.
        """
        digest = route.reference
        assert isinstance(digest, Digest)
        held = self._links.find_link(route.repository, digest)
        if held is None:
            raise _unknown(digest, route.repository)
        if self._blobs.size(digest) != held.size:
            raise self._lost(digest, route.repository)
        if held.linked_at < time() - self._push_window / 2 and request.identity.may(PUSH, route.repository):
            return self._touched(request, route.repository, digest, held.size)
        return self._there(request, digest, held.size)

    async def _touched(self, request: Request, repository: str, digest: Digest, size: int) -> Response:
        if not await self._disk.run(self._links.touch, repository, digest):
            raise _unknown(digest, repository)
        return self._there(request, digest, size)

    @staticmethod
    def _there(request: Request, digest: Digest, size: int) -> Response:
        headers = _headers(digest)
        if request.holds(digest):
            return Response(304, headers)
        return Response(200, [(b"content-length", b"%d" % size), *headers])

    def get(self, request: Request, route: Route) -> Response:
        """The blob, or the part of it that Range asks for (RFC 9110 section 14; of several ranges none is obeyed)."""
        digest, size = self._linked(route)
        headers = _headers(digest)
        if request.holds(digest):
            return Response(304, headers)
        if self._elsewhere is not None and size > INLINE_MAX:
            return self._sent_elsewhere(digest, route.repository)
        try:
            reader = self._blobs.open(digest)
        except BlobNotFound:
            raise self._lost(digest, route.repository) from None
        try:
            if reader.size != size:
                raise self._lost(digest, route.repository)
            span = self._span(request, digest, reader.size)
            offset, length, status = (0, reader.size, 200) if span is None else (*span, 206)
            headers.append((b"content-length", b"%d" % length))
            if status == 206:
                headers.append((b"content-range", b"bytes %d-%d/%d" % (offset, offset + length - 1, reader.size)))
            if length <= INLINE_MAX:
                body = _read_whole(reader, offset, length)
                reader.close()
                return Response(status, headers, body)
            return Response(status, headers, _large(reader, offset, length))
        except BlobNotFound:
            reader.close()
            raise self._lost(digest, route.repository) from None
        except BaseException:
            reader.close()
            raise

    def _sent_elsewhere(self, digest: Digest, repository: str) -> Response:
        """307 to where the bytes are: the client asks there, by the same method and range (distribution-spec, pulling blobs)."""
        assert self._elsewhere is not None
        try:
            url = self._elsewhere(digest)
        except BlobNotFound:
            raise self._lost(digest, repository) from None
        return without_body(
            307, [(b"location", url.encode("ascii")), (b"docker-content-digest", str(digest).encode("ascii"))]
        )

    async def delete(self, request: Request, route: Route) -> Response:
        """Take the blob out of the repository. Its bytes stay for others, and for the collector."""
        if not await self._disk.run(self._links.unlink_blob, route.repository, route.reference, request.actor):
            raise _unknown(route.reference, route.repository)
        return without_body(202)

    def _linked(self, route: Route) -> tuple[Digest, int]:
        """The digest, and the size that the blob had when it was pushed."""
        digest = route.reference
        assert isinstance(digest, Digest)
        size = self._links.find_blob(route.repository, digest)
        if size is None:
            raise _unknown(digest, route.repository)
        return digest, size

    def _lost(self, digest: Digest, repository: str) -> RequestError:
        """A blob that was acknowledged and whose file is gone or of another size. It is answered as unknown: then clients push it again.

        One whose link is gone by now, too, was deleted and collected between two look-ups, and maybe pushed again since: no damage.
        """
        held = self._links.find_blob(repository, digest)
        if held is not None and self._blobs.size(digest) != held:
            logger.error(
                "blob %s of %s is missing or damaged on disk: the next push of it heals it; run `portside check`",
                digest,
                repository,
            )
        return _unknown(digest, repository)

    @staticmethod
    def _span(request: Request, digest: Digest, size: int) -> tuple[int, int] | None:
        """Offset and length of the one range that is asked for, None for the whole; RequestError RANGE_INVALID."""
        if not request.is_conditional:
            return None
        text = request.header(b"range")
        if text is None or not text.lower().startswith("bytes") or "," in text:
            return None
        condition = request.header(b"if-range")
        if condition is not None and condition != f'"{digest}"':
            return None
        found = _RANGE.match(text)
        if found is not None and (found[1] or found[2]):
            first, last = found[1], found[2]
            start = int(first) if first else max(size - int(last), 0)
            end = min(int(last), size - 1) if first and last else size - 1
            if start <= end and (first or int(last)):
                return start, end - start + 1
        raise RequestError(
            ErrorCode.RANGE_INVALID,
            f"the range {text[:100]!r} is not within the {size} bytes of blob {digest}",
            headers=[(b"content-range", b"bytes */%d" % size)],
        )


def _large(reader: BlobReader, offset: int, length: int) -> LargeBody:
    """A part of a blob to be sent; BlobNotFound, StoreUnavailable."""
    if isinstance(reader, BlobFile):
        return FileBody(reader, offset, length)
    if isinstance(reader, StreamedBlob):
        return StreamBody(reader.stream(offset, length), length)
    raise TypeError(f"{reader!r} is neither a file nor a stream")


def _read_whole(reader: BlobReader, offset: int, length: int) -> bytes:
    data = reader.read(offset, length)
    if len(data) != length:
        raise OSError("the blob's file is shorter than its size: run `portside check`")
    return data


def _headers(digest: Digest) -> Headers:
    text = str(digest).encode("ascii")
    return [
        (b"content-type", b"application/octet-stream"),
        (b"docker-content-digest", text),
        (b"etag", b'"' + text + b'"'),
        (b"accept-ranges", b"bytes"),
        (b"cache-control", b"max-age=31536000"),
    ]


def _unknown(digest: Digest | str, repository: str) -> RequestError:
    return RequestError(ErrorCode.BLOB_UNKNOWN, f"blob {digest} is not in the repository {repository}")
