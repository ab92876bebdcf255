"""The registry, wired: a request comes in, a response goes out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from auth.identity import Identity
from auth.policy import PULL
from oci.digest import Digest
from oci.manifest import Manifest
from registry.access import Access
from registry.asgi import Application, call
from registry.blobs import BlobHandlers, Elsewhere
from registry.errors import ClientGone, RequestError, error_response, is_expected
from registry.listings import ListHandlers
from registry.manifests import ManifestHandlers
from registry.messages import API_VERSION, Request, Response, with_body, without_body
from registry.routes import Endpoint, Route, match
from registry.site import Site
from registry.threads import Disk, Lookups
from registry.tokens import TokenHandlers
from registry.uploads import UploadHandlers
from storage.blobs import BlobStore
from storage.metadata import Changes, Facts, Page, ReferrersPage
from storage.people import Actor

Handler = Callable[[Request, Route], Response | Awaitable[Response]]

logger = logging.getLogger("portside.registry")

REUSED_BODY_MAX = 64 * 1024
REUSED_BYTES_MAX = 8 * 1024 * 1024
"""Bounds of the answers that are kept: bytes of one body, and bytes of all."""

Api = Callable[[], Application]
"""What makes the application of `/api/v1`, when it is first asked for."""


class Metadata(Facts, Changes, Protocol):
    """Everything that the registry asks of the metadata; the handlers each name the small part they need."""

    def blob_holders(self, digest: Digest, limit: int, after: str = "") -> list[str]: ...


class ReusedAnswers:
    """Answers to GET and HEAD that stay true until any process writes metadata: the generation tells.

    Each is kept with the repository that it is about, "" for none: only who may pull there, or anybody on an open hub, gets it.
    """

    def __init__(self, generation: Callable[[], int]) -> None:
        self._generation = generation
        self._answers: dict[tuple[bytes, bytes], tuple[int, str, Response]] = {}
        self._size = 0

    def get(self, request: Request) -> Response | None:
        """The kept answer, None where there is none, where a write has come since, or where it is not for who asks."""
        kept = self._answers.get((request.method, request.target))
        if kept is None or kept[0] != self._generation():
            return None
        identity = request.identity
        if identity.is_open or (kept[1] and identity.may(PULL, kept[1])):
            return kept[2]
        return None

    def keep(self, request: Request, repository: str, response: Response, generation: int) -> None:
        """Keep an answer that was made from what was read since ``generation``: not while a write was under way (odd)."""
        body = response.body
        if generation & 1 or not isinstance(body, bytes) or len(body) > REUSED_BODY_MAX:
            return
        self._size += len(body) + len(request.target) + 1024
        if self._size > REUSED_BYTES_MAX:
            self._answers.clear()
            self._size = len(body) + len(request.target) + 1024
        self._answers[request.method, request.target] = (generation, repository, response)

    def generation(self) -> int:
        return self._generation()


class Unseen:
    """The metadata of an empty hub: what repositories look like to who may not see them."""

    def find_manifest(self, repository: str, reference: Digest | str) -> None:
        return None

    def find_blob(self, repository: str, digest: Digest) -> None:
        return None

    def find_link(self, repository: str, digest: Digest) -> None:
        return None

    def touch(self, repository: str, digest: Digest, *, is_manifest: bool = False) -> bool:
        return False

    def list_tags(self, repository: str, limit: int, after: str) -> None:
        return None

    def list_repositories(self, limit: int, after: str) -> Page:
        return Page([], False)

    def list_referrers(
        self, repository: str, subject: Digest, artifact_type: str | None, limit: int, after: str
    ) -> ReferrersPage:
        return ReferrersPage([], False)

    def put_manifest(self, repository: str, manifest: Manifest, tags: Sequence[str], by: Actor | None) -> None:
        raise AssertionError("who may not push is denied before, see registry.access")

    def delete_manifest(self, repository: str, digest: Digest, by: Actor | None) -> bool:
        return False

    def delete_tag(self, repository: str, tag: str, by: Actor | None) -> bool:
        return False

    def unlink_blob(self, repository: str, digest: Digest, by: Actor | None) -> bool:
        return False


class Registry:
    """distribution-spec on a blob store and metadata, behind the accounts of a hub."""

    def __init__(
        self,
        store: BlobStore,
        metadata: Metadata,
        access: Access,
        tokens: TokenHandlers,
        api: Api,
        disk: Disk,
        lookups: Lookups,
        push_window: float,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """``push_window``: seconds that a blob may wait for its manifest (`storage.collector.Policy`).

        ``elsewhere``: where clients are sent to for large blobs.
        """
        self._lookups = lookups
        self._site = Site(metadata, api)
        self._access = access
        self._tokens = tokens
        blobs = BlobHandlers(store, metadata, disk, push_window, elsewhere)
        uploads = UploadHandlers(store, metadata, disk, lookups)
        manifests = ManifestHandlers(metadata, disk, push_window)
        lists = ListHandlers(metadata)
        self._reused = ReusedAnswers(metadata.generation)
        unseen = Unseen()
        self._handlers = _handlers(blobs, uploads, manifests, lists)
        self._unseen = _handlers(
            BlobHandlers(store, unseen, disk, push_window),
            uploads,
            ManifestHandlers(unseen, disk, push_window),
            ListHandlers(unseen),
        )

    def respond(self, request: Request) -> Response | Awaitable[Response]:
        """Answer at once where that takes look-ups only, and those are fast; else hand out the coroutine that will."""
        return self._answer(request) if self._lookups.is_inline else self._answer_in_thread(request)

    async def _answer_in_thread(self, request: Request) -> Response:
        answer = await self._lookups.run(self._answer, request)
        return answer if isinstance(answer, Response) else await answer

    def _answer(self, request: Request) -> Response | Awaitable[Response]:
        try:
            self._access.locate(request)
            if request.target.startswith(b"/auth/"):
                answer = self._tokens.respond(request)
                return answer if isinstance(answer, Response) else self._awaited(answer, request)
            who = self._access.identify(request)
        except Exception as error:
            return self._failed(error, request)
        if not isinstance(who, Identity):
            return self._awaited(self._respond_later(who, request), request)
        request.identity = who
        return self._respond(request)

    def refuse(self, error: RequestError, request_id: str) -> Response:
        """The answer to what could not be read as a request."""
        return error_response(error, request_id)

    async def _respond_later(self, who: Awaitable[Identity], request: Request) -> Response:
        request.identity = await who
        answer = await self._lookups.run(self._respond, request)
        return answer if isinstance(answer, Response) else await answer

    def _respond(self, request: Request) -> Response | Awaitable[Response]:
        can_reuse = not request.is_conditional and request.body is None
        if can_reuse and (kept := self._reused.get(request)) is not None:
            return kept
        generation = self._reused.generation()
        try:
            repository, answer = self._dispatch(request)
        except Exception as error:
            return self._failed(error, request)
        if not isinstance(answer, Response):
            return self._awaited(answer, request)
        if can_reuse and answer.is_reusable:
            self._reused.keep(request, repository, answer, generation)
        return answer

    def _dispatch(self, request: Request) -> tuple[str, Response | Awaitable[Response]]:
        """The repository that a request is about, "" for none, and its answer."""
        method = request.method.decode("latin-1")
        path = request.path
        if not path.startswith("/v2"):
            return "", call(self._site, request)
        route = match(method, path)
        handlers = self._handlers if self._access.check(request.identity, request, route) else self._unseen
        handler = handlers.get((route.endpoint, method))
        if handler is None:  # HEAD without a path of its own: the body is dropped when the answer is written
            handler = handlers[route.endpoint, "GET"]
        return route.repository, handler(request, route)

    async def _awaited(self, answer: Awaitable[Response], request: Request) -> Response:
        try:
            return await answer
        except ClientGone:
            response = without_body(499)
            response.close, response.message = True, "the client closed the connection; what it had sent is kept"
            return response
        except Exception as error:
            return self._failed(error, request)

    def _failed(self, error: Exception, request: Request) -> Response:
        response = error_response(error, request.id)
        if not is_expected(error):
            logger.error("request %s failed: %s", request.id, error, exc_info=error)
        return response


def _handlers(
    blobs: BlobHandlers, uploads: UploadHandlers, manifests: ManifestHandlers, lists: ListHandlers
) -> dict[tuple[Endpoint, str], Handler]:
    return {
        (Endpoint.PING, "GET"): _ping,
        (Endpoint.CATALOG, "GET"): lists.catalog,
        (Endpoint.MANIFEST, "GET"): manifests.get,
        (Endpoint.MANIFEST, "HEAD"): manifests.head,
        (Endpoint.MANIFEST, "PUT"): manifests.put,
        (Endpoint.MANIFEST, "DELETE"): manifests.delete,
        (Endpoint.BLOB, "GET"): blobs.get,
        (Endpoint.BLOB, "HEAD"): blobs.head,
        (Endpoint.BLOB, "DELETE"): blobs.delete,
        (Endpoint.UPLOADS, "POST"): uploads.start,
        (Endpoint.UPLOAD, "GET"): uploads.status,
        (Endpoint.UPLOAD, "PATCH"): uploads.patch,
        (Endpoint.UPLOAD, "PUT"): uploads.put,
        (Endpoint.UPLOAD, "DELETE"): uploads.cancel,
        (Endpoint.TAGS, "GET"): lists.tags,
        (Endpoint.REFERRERS, "GET"): lists.referrers,
    }


def _ping(request: Request, route: Route) -> Response:
    """GET /v2/: this is a registry (end-1)."""
    response = with_body(200, "application/json", b"{}", [API_VERSION])
    response.is_reusable = True
    return response
