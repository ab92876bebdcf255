"""A connection that is swept when its time is over, on a real socket. (What it answers: tests/wire.)"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from registry.log import AccessLog
from registry.messages import Request, Response, with_body
from registry.serving import KEEP_ALIVE_TIMEOUT, HTTPConnection, Service

SIZE = 16 << 20
"""Bytes of an answer: more than the kernel takes for a client that reads none."""


class App:
    def respond(self, request: Request) -> Response:
        return with_body(200, "text/plain", bytes(SIZE))


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_a_client_that_never_reads_its_answer_is_cut_in_the_end(connection: str, tmp_path: Path) -> None:
    held: list[HTTPConnection] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        state = ServerState()
        service = Service(cast(Any, App()), AccessLog(log, False), 1.0, "http")

        def connected() -> HTTPConnection:
            held.append(HTTPConnection(service, cast(Config, None), state, {}, loop))
            return held[-1]

        server = await loop.create_server(connected, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname(), 30) as client:
            head = f"GET / HTTP/1.1\r\nHost: hub\r\nConnection: {connection}\r\n\r\n"
            client.sendall(head.encode())
            while not held or held[0]._writable:  # noqa: ASYNC110 - nothing tells that it was answered
                await asyncio.sleep(0)
            held[0].expire()
            if connection == "keep-alive":
                assert state.connections, "what is left may still be read for a while"
                assert held[0].deadline > loop.time() + KEEP_ALIVE_TIMEOUT - 1
                held[0].expire()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not state.connections
        server.close()
        await server.wait_closed()

    with (tmp_path / "log").open("w") as log:
        asyncio.run(asyncio.wait_for(run(), 30))
