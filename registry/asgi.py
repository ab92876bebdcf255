"""A bridge to ASGI applications, for what is not on the registry's hot paths (ASGI 3.0, HTTP connection scope)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from registry.messages import Request, Response

BODY_MAX = 1024 * 1024
"""The largest body that such an application gets, in bytes."""

Message = MutableMapping[str, Any]
Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]


async def call(application: Application, request: Request) -> Response:
    """Run an application for one request, its whole response in memory."""
    body = await request.body.read(BODY_MAX) if request.body is not None else b""
    response = Response(500, [])
    parts: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            response.status = message["status"]
            response.headers = [(bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ())]
        elif message["type"] == "http.response.body":
            parts.append(bytes(message.get("body", b"")))

    host, _, port = request.client.rpartition(":")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method.decode("latin-1"),
        "scheme": "http",
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.target.partition(b"?")[2],
        "root_path": "",
        "headers": request.headers,
        "client": (host, int(port)) if port.isdigit() else None,
        "server": None,
        "state": {},
        "portside.request": request,
    }
    await application(scope, receive, send)
    response.body = b"".join(parts)
    return response
