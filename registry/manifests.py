"""GET, HEAD, PUT and DELETE of manifests (distribution-spec end-3, end-7 and end-9)."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import partial
from time import time
from typing import Protocol

from auth.policy import PUSH
from oci.digest import Digest
from oci.errors import ErrorCode
from oci.manifest import SIZE_MAX, Manifest
from oci.reference import is_tag
from registry.errors import RequestError
from registry.messages import Headers, Request, Response, without_body
from registry.routes import Route
from registry.threads import Disk
from storage.metadata import StoredManifest
from storage.people import Actor


class Manifests(Protocol):
    """The part of the metadata that manifests need."""

    def find_manifest(self, repository: str, reference: Digest | str) -> StoredManifest | None: ...
    def touch(self, repository: str, digest: Digest, *, is_manifest: bool) -> bool: ...
    def put_manifest(self, repository: str, manifest: Manifest, tags: Sequence[str], by: Actor | None) -> None: ...
    def delete_manifest(self, repository: str, digest: Digest, by: Actor | None) -> bool: ...
    def delete_tag(self, repository: str, tag: str, by: Actor | None) -> bool: ...


class ManifestHandlers:
    """The manifest end-points."""

    def __init__(self, manifests: Manifests, disk: Disk, push_window: float) -> None:
        self._manifests = manifests
        self._disk = disk
        self._push_window = push_window

    def head(self, request: Request, route: Route) -> Response | Awaitable[Response]:
        """As `get`. Who asks for a digest and may push here may be about to push an index or a tag that counts on it.

        Then the manifest is to stay for at least half a window more, as a blob does (`BlobHandlers.head`): no such answer is kept.
        """
        reference = route.reference
        if isinstance(reference, str):
            return self.get(request, route)
        found = self._find(route)
        answer = self._answer(request, found)
        answer.is_reusable = False
        if found.pushed_at < time() - self._push_window / 2 and request.identity.may(PUSH, route.repository):
            return self._touched(route, reference, answer)
        return answer

    async def _touched(self, route: Route, digest: Digest, answer: Response) -> Response:
        if not await self._disk.run(partial(self._manifests.touch, route.repository, digest, is_manifest=True)):
            raise _unknown(route)
        return answer

    def get(self, request: Request, route: Route) -> Response:
        """The exact bytes that were pushed, whatever Accept says: clients decide by the Content-Type (see content-negotiation.md)."""
        return self._answer(request, self._find(route))

    def _find(self, route: Route) -> StoredManifest:
        found = self._manifests.find_manifest(route.repository, route.reference)
        if found is None:
            raise _unknown(route)
        return found

    @staticmethod
    def _answer(request: Request, found: StoredManifest) -> Response:
        digest = str(found.digest).encode("ascii")
        headers: Headers = [
            (b"content-type", found.media_type.encode("latin-1")),
            (b"content-length", b"%d" % len(found.body)),
            (b"docker-content-digest", digest),
            (b"etag", b'"' + digest + b'"'),
        ]
        if request.holds(found.digest):
            return Response(304, [header for header in headers if header[0] != b"content-length"])
        return Response(200, headers, found.body, is_reusable=True)

    async def put(self, request: Request, route: Route) -> Response:
        """Keep a manifest under a tag, or under its digest and any number of ``tag`` parameters."""
        raw = await request.body.read(SIZE_MAX) if request.body is not None else b""
        content_type = (request.header(b"content-type") or "").partition(";")[0].strip() or None
        tags = request.query("tag")
        for tag in tags:
            if not is_tag(tag):
                raise RequestError(ErrorCode.TAG_INVALID, f"tag={tag[:140]!r} is not a tag")
        accepted = list(dict.fromkeys(tags))
        reference = route.reference
        wanted = [reference, *accepted] if isinstance(reference, str) else accepted
        manifest = await self._disk.run(self._put, request.actor, route, raw, content_type, list(dict.fromkeys(wanted)))
        digest = str(manifest.digest)
        headers: Headers = [
            (b"location", f"/v2/{route.repository}/manifests/{digest}".encode("ascii")),
            (b"docker-content-digest", digest.encode("ascii")),
        ]
        if manifest.subject is not None:
            headers.append((b"oci-subject", str(manifest.subject.digest).encode("ascii")))
        if accepted:
            headers.append((b"oci-tag", ", ".join(accepted).encode("ascii")))
        return without_body(201, headers)

    async def delete(self, request: Request, route: Route) -> Response:
        """Drop a manifest with its tags (by digest), or one tag."""
        reference = route.reference
        delete = self._manifests.delete_tag if isinstance(reference, str) else self._manifests.delete_manifest
        if not await self._disk.run(delete, route.repository, reference, request.actor):
            raise _unknown(route)
        return without_body(202)

    def _put(self, by: Actor | None, route: Route, raw: bytes, content_type: str | None, tags: list[str]) -> Manifest:
        reference = route.reference
        algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
        manifest = Manifest.parse(raw, content_type, algorithm)
        if isinstance(reference, Digest) and manifest.digest != reference:
            raise RequestError(
                ErrorCode.DIGEST_INVALID,
                f"the {len(raw)} bytes that arrived have the digest {manifest.digest}, not {reference}",
            )
        self._manifests.put_manifest(route.repository, manifest, tags, by)
        return manifest


def _unknown(route: Route) -> RequestError:
    kind = "manifest" if isinstance(route.reference, Digest) else "tag"
    return RequestError(
        ErrorCode.MANIFEST_UNKNOWN, f"{kind} {route.reference} is not in the repository {route.repository}"
    )
