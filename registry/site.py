"""What a registry answers outside ``/v2/`` and ``/auth/``: a word of welcome, its health, the administration.

A starlette application, made when it is first asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

import anyio.to_thread

from registry.asgi import Application, Message

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

logger = logging.getLogger("portside.registry")

WELCOME = "Portside, an OCI registry. Images are pushed to and pulled from this address; the API is below /v2/.\n"


class Health(Protocol):
    """What health is asked of: a look-up that fails when the metadata cannot be read."""

    def list_repositories(self, limit: int, after: str) -> object: ...


class Site:
    """The application. starlette is imported with the first request for it: a registry that only pushes and pulls starts without."""

    def __init__(self, health: Health, api: Callable[[], Application]) -> None:
        self._health = health
        self._api = api
        self._application: Application | None = None

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if self._application is None:
            self._application = await anyio.to_thread.run_sync(self._build)
        await self._application(scope, receive, send)

    def _build(self) -> Application:
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse, PlainTextResponse
        from starlette.routing import Mount, Route

        async def welcome(request: Request) -> Response:
            return PlainTextResponse(WELCOME)

        async def health(request: Request) -> Response:
            try:
                await anyio.to_thread.run_sync(self._health.list_repositories, 1, "")
            except Exception as error:
                logger.warning("not healthy: %s", error)
                return JSONResponse({"status": "the metadata cannot be read"}, 503)
            return JSONResponse({"status": "ok"})

        made = Starlette(routes=[Route("/", welcome), Route("/healthz", health), Mount("/api/v1", self._api())])
        made.router.redirect_slashes = False  # a redirect would lead to whatever host the request names
        return made
