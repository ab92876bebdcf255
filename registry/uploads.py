"""Pushing blobs: POST, PATCH, PUT, GET and DELETE of uploads, and mounts (distribution-spec end-4 to end-6, end-11, end-13, end-14).

`POST -> start -> PATCH … -> PUT ?digest -> commit -> link -> 201`. A 201 is sent only when the bytes, their directory entry and the
link in the metadata are on disk.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Protocol

from auth.identity import Identity
from auth.policy import PULL
from oci.digest import HEX_LENGTH, Digest
from oci.errors import ErrorCode
from oci.reference import is_repository_name
from registry.bodies import SMALL
from registry.errors import RequestError
from registry.messages import Headers, Request, Response, without_body
from registry.routes import Route, parse_digest
from registry.threads import Disk, Lookups
from storage.people import Actor
from storage.uploads import Upload, append

_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/(?:\*|[0-9]{1,18}))?\Z")

HOLDERS_BATCH = 500
"""Repositories that are looked at in one go for a blob to mount."""


class Store(Protocol):
    """The part of a blob store that pushing needs."""

    def start(self, scope: str) -> Upload: ...
    def resume(self, scope: str, upload_id: str) -> Upload: ...
    def offset(self, scope: str, upload_id: str) -> int: ...
    def size(self, digest: Digest) -> int | None: ...
    def publishing(self, digest: Digest) -> AbstractContextManager[None]: ...


class Links(Protocol):
    """The part of the metadata that pushing blobs needs."""

    def link_blob(self, repository: str, digest: Digest, size: int, by: Actor | None) -> None: ...
    def mount_blob(self, repository: str, digest: Digest, source: str, by: Actor | None) -> int | None: ...
    def blob_holders(self, digest: Digest, limit: int, after: str = "") -> list[str]: ...


class UploadHandlers:
    """The upload end-points."""

    def __init__(self, store: Store, links: Links, disk: Disk, lookups: Lookups) -> None:
        """``lookups``: where an upload is let go of, too, which takes long only where a look-up does."""
        self._store = store
        self._links = links
        self._disk = disk
        self._lookups = lookups

    async def start(self, request: Request, route: Route) -> Response:
        """POST: begin an upload, push a whole blob (``digest``), or mount one (``mount``, ``from``)."""
        repository = route.repository
        mount = request.parameter("mount")
        if mount is not None:
            source = request.parameter("from") or None
            if source is not None and not is_repository_name(source):
                raise RequestError(ErrorCode.NAME_INVALID, f"from={source[:255]!r} is not a repository name")
            digest = parse_digest(mount)
            if await self._disk.run(self._mount, request, repository, digest, source):
                return _created(repository, digest)
        announced = request.parameter("digest")
        if announced is not None and mount is None:
            return await self._push_whole(request, repository, parse_digest(announced))
        algorithm = request.parameter("digest-algorithm")
        if algorithm is not None and algorithm not in HEX_LENGTH:
            raise RequestError(
                ErrorCode.DIGEST_INVALID,
                f"{algorithm[:40]!r} is not a supported digest algorithm: use one of {', '.join(HEX_LENGTH)}",
            )
        upload = await self._disk.run(self._store.start, repository)
        await self._lookups.run(upload.close)
        return without_body(202, _progress(repository, upload.id, 0))

    async def patch(self, request: Request, route: Route) -> Response:
        """PATCH: add bytes at the end, a chunk or a stream."""
        repository, upload_id = route.repository, str(route.reference)
        body = request.body
        span = _content_range(request)
        data = await body.read(SMALL) if body is not None and body.is_small else b""
        upload = await self._disk.run(self._store.resume, repository, upload_id)
        try:
            self._expect(upload, repository, span, _length(request, data))
            if data:
                await self._disk.run(append, upload, data)
            elif body is not None:
                await body.pump_into(upload)
            offset = upload.offset
        finally:
            await self._lookups.run(upload.close)  # where it fails, the bytes are not kept, and not acknowledged
        if span is not None and offset != span[1] + 1:
            raise RequestError(
                ErrorCode.SIZE_INVALID,
                f"Content-Range {span[0]}-{span[1]} does not say what came: the upload now has {offset} bytes",
                headers=_progress(repository, upload_id, offset),
            )
        return without_body(202, _progress(repository, upload_id, offset))

    async def put(self, request: Request, route: Route) -> Response:
        """PUT: add the last bytes, if any, and make the upload the blob of the announced digest."""
        repository, upload_id = route.repository, str(route.reference)
        announced = request.parameter("digest")
        if announced is None:
            raise RequestError(ErrorCode.DIGEST_INVALID, "the closing PUT needs ?digest=, the digest of the whole blob")
        digest = parse_digest(announced)
        body = request.body
        span = _content_range(request)
        if body is None or body.is_small:
            data = await body.read(SMALL) if body is not None else b""
            await self._disk.run(self._finish_small, request.actor, repository, upload_id, digest, span, data)
            return _created(repository, digest)
        upload = await self._disk.run(self._store.resume, repository, upload_id)
        try:
            self._expect(upload, repository, span, body.length)
            await body.pump_into(upload)
            await self._disk.run(self._commit, request.actor, repository, upload, digest)
        finally:
            await self._lookups.run(upload.close)
        return _created(repository, digest)

    async def status(self, request: Request, route: Route) -> Response:
        """GET: where the upload stands, to resume it."""
        repository, upload_id = route.repository, str(route.reference)
        offset = await self._disk.run(self._store.offset, repository, upload_id)
        return without_body(204, _progress(repository, upload_id, offset))

    async def cancel(self, request: Request, route: Route) -> Response:
        """DELETE: drop the upload."""
        await self._disk.run(self._cancel, route.repository, str(route.reference))
        return without_body(204)

    async def _push_whole(self, request: Request, repository: str, digest: Digest) -> Response:
        body = request.body
        if body is None or body.is_small:
            data = await body.read(SMALL) if body is not None else b""
            await self._disk.run(self._push_small, request.actor, repository, digest, data)
            return _created(repository, digest)
        upload = await self._disk.run(self._store.start, repository)
        try:
            await body.pump_into(upload)
            await self._disk.run(self._commit, request.actor, repository, upload, digest)
        except BaseException:
            await self._lookups.run(upload.cancel)  # nobody was told its name
            raise
        return _created(repository, digest)

    # -- blocking parts, each one hop

    def _mount(self, request: Request, repository: str, digest: Digest, source: str | None) -> bool:
        """Link a blob of another repository that the caller may pull from, if its bytes are there.

        A lost or damaged one is to be pushed again, and so healed.
        """
        size = self._store.size(digest)
        if size is None:
            return False
        who = request.identity
        if source is None:
            source = self._visible_holder(who, digest)
        elif not who.may(PULL, source):
            return False
        return source is not None and self._links.mount_blob(repository, digest, source, request.actor) == size

    def _visible_holder(self, who: Identity, digest: Digest) -> str | None:
        """The first repository with the blob that an account may pull from."""
        after = ""
        while names := self._links.blob_holders(digest, HOLDERS_BATCH, after):
            for name in names:
                if who.may_see(name):
                    return name
            after = names[-1]
        return None

    def _push_small(self, by: Actor | None, repository: str, digest: Digest, data: bytes) -> None:
        upload = self._store.start(repository)
        try:
            append(upload, data)
            self._commit(by, repository, upload, digest)
        except BaseException:
            upload.cancel()
            raise

    def _finish_small(
        self,
        by: Actor | None,
        repository: str,
        upload_id: str,
        digest: Digest,
        span: tuple[int, int] | None,
        data: bytes,
    ) -> None:
        upload = self._store.resume(repository, upload_id)
        try:
            self._expect(upload, repository, span, len(data))
            if data:
                append(upload, data)
            self._commit(by, repository, upload, digest)
        finally:
            upload.close()

    def _commit(self, by: Actor | None, repository: str, upload: Upload, digest: Digest) -> None:
        upload.prepare(digest)
        with self._store.publishing(digest):
            size = upload.commit(digest)
            self._links.link_blob(repository, digest, size, by)

    def _cancel(self, repository: str, upload_id: str) -> None:
        self._store.resume(repository, upload_id).cancel()

    @staticmethod
    def _expect(upload: Upload, repository: str, span: tuple[int, int] | None, length: int | None) -> None:
        """Check a chunk's Content-Range against where the upload stands; RequestError RANGE_INVALID, SIZE_INVALID."""
        if span is None:
            return
        first, last = span
        if first != upload.offset:
            raise RequestError(
                ErrorCode.RANGE_INVALID,
                f"the chunk starts at byte {first} but the upload stands at {upload.offset}: send on from there",
                headers=_progress(repository, upload.id, upload.offset),
            )
        if length is not None and length != last - first + 1:
            raise RequestError(
                ErrorCode.SIZE_INVALID,
                f"Content-Range {first}-{last} is of {last - first + 1} bytes, the body of {length}",
            )


def _length(request: Request, data: bytes) -> int | None:
    if request.body is None or request.body.is_complete:
        return len(data)
    return request.body.length


def _content_range(request: Request) -> tuple[int, int] | None:
    """First and last byte of the chunk, ``a-b`` (distribution-spec) or ``bytes a-b/*`` (RFC 9110); RequestError RANGE_INVALID."""
    text = request.header(b"content-range")
    if text is None:
        return None
    found = _CONTENT_RANGE.match(text)
    if found is None or int(found[2]) < int(found[1]):
        raise RequestError(ErrorCode.RANGE_INVALID, f"Content-Range {text[:100]!r} is not of the form FIRST-LAST")
    return int(found[1]), int(found[2])


def _progress(repository: str, upload_id: str, offset: int) -> Headers:
    """What tells a client where its upload is and how far (an empty one reads ``0-0``, as it always did in Docker's registry)."""
    return [
        (b"location", f"/v2/{repository}/blobs/uploads/{upload_id}".encode("ascii")),
        (b"range", b"0-%d" % max(offset - 1, 0)),
        (b"docker-upload-uuid", upload_id.encode("ascii")),
    ]


def _created(repository: str, digest: Digest) -> Response:
    text = str(digest)
    return without_body(
        201,
        [
            (b"location", f"/v2/{repository}/blobs/{text}".encode("ascii")),
            (b"docker-content-digest", text.encode("ascii")),
        ],
    )
