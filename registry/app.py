"""The registry, wired: a request comes in, a response goes out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from registry.asgi import call
from registry.blobs import BlobHandlers
from registry.errors import ClientGone, RequestError, error_response, is_expected
from registry.listings import ListHandlers
from registry.manifests import ManifestHandlers
from registry.messages import Request, Response, with_body, without_body
from registry.routes import Endpoint, Route, match
from registry.site import Site
from registry.threads import Disk
from registry.uploads import UploadHandlers
from storage.blobs import BlobStore
from storage.metadata import Changes, Facts

Handler = Callable[[Request, Route], Response | Awaitable[Response]]

logger = logging.getLogger("portside.registry")

REUSED_BODY_MAX = 64 * 1024
REUSED_BYTES_MAX = 8 * 1024 * 1024
"""Bounds of the answers that are kept: bytes of one body, and bytes of all."""

API_VERSION = (b"docker-distribution-api-version", b"registry/2.0")


class Metadata(Facts, Changes, Protocol):
    """Everything that the registry asks of the metadata; the handlers each name the small part they need."""


class ReusedAnswers:
    """Answers to GET and HEAD that stay true until any process writes metadata: the generation tells."""

    def __init__(self, generation: Callable[[], int]) -> None:
        self._generation = generation
        self._answers: dict[tuple[bytes, bytes], tuple[int, Response]] = {}
        self._size = 0

    def get(self, request: Request) -> Response | None:
        """The kept answer, None where there is none or a write has come since."""
        kept = self._answers.get((request.method, request.target))
        if kept is None or kept[0] != self._generation():
            return None
        return kept[1]

    def keep(self, request: Request, response: Response, generation: int) -> None:
        """Keep an answer that was made from what was read since ``generation``: not while a write was under way (odd)."""
        body = response.body
        if generation & 1 or not isinstance(body, bytes) or len(body) > REUSED_BODY_MAX:
            return
        self._size += len(body) + len(request.target) + 1024
        if self._size > REUSED_BYTES_MAX:
            self._answers.clear()
            self._size = len(body) + len(request.target) + 1024
        self._answers[request.method, request.target] = (generation, response)

    def generation(self) -> int:
        return self._generation()


class Registry:
    """distribution-spec on a blob store and metadata."""

    def __init__(self, store: BlobStore, metadata: Metadata) -> None:
        disk = Disk()
        self._site = Site(metadata)
        blobs = BlobHandlers(store, metadata, disk)
        uploads = UploadHandlers(store, metadata, disk)
        manifests = ManifestHandlers(metadata, disk)
        lists = ListHandlers(metadata)
        self._reused = ReusedAnswers(metadata.generation)
        self._handlers: dict[tuple[Endpoint, str], Handler] = {
            (Endpoint.PING, "GET"): _ping,
            (Endpoint.CATALOG, "GET"): lists.catalog,
            (Endpoint.MANIFEST, "GET"): manifests.get,
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

    def respond(self, request: Request) -> Response | Awaitable[Response]:
        """Answer at once where that takes look-ups only, else hand out the coroutine that will."""
        can_reuse = not request.is_conditional and request.body is None
        if can_reuse and (kept := self._reused.get(request)) is not None:
            return kept
        generation = self._reused.generation()
        try:
            answer = self._dispatch(request)
        except Exception as error:
            return self._failed(error, request)
        if not isinstance(answer, Response):
            return self._awaited(answer, request)
        if can_reuse and answer.is_reusable:
            self._reused.keep(request, answer, generation)
        return answer

    def refuse(self, error: RequestError, request_id: str) -> Response:
        """The answer to what could not be read as a request."""
        return error_response(error, request_id)

    def _dispatch(self, request: Request) -> Response | Awaitable[Response]:
        method = request.method.decode("latin-1")
        path = request.path
        if not path.startswith("/v2"):
            return call(self._site, request)
        route = match(method, path)
        handler = self._handlers.get((route.endpoint, method))
        if (
            handler is None
        ):  # HEAD of what has no path of its own for it: the body is dropped when the answer is written
            handler = self._handlers[route.endpoint, "GET"]
        return handler(request, route)

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


def _ping(request: Request, route: Route) -> Response:
    """GET /v2/: this is a registry (end-1)."""
    response = with_body(200, "application/json", b"{}", [API_VERSION])
    response.is_reusable = True
    return response
