"""HTTP/1.1 on one connection: uvicorn's server runs it, httptools reads the heads, the bodies are ours.

Why not uvicorn's own protocol: it receives bodies byte string by byte string on the event loop, has no sendfile, and writes head and body
apart; that costs a download two thirds of its speed and an upload half of it.

A connection is IDLE (waiting for a head), then BUSY with one request at a time (pipelined ones wait in the buffer), and IDLE again or
closed. While a body is pumped by a thread the transport is paused, and the thread reads from a duplicate of the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, Protocol, cast

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from oci.errors import ErrorCode
from registry.bodies import Body, Pumps
from registry.channels import Channel, PlainChannel
from registry.errors import ClientGone, RequestError
from registry.framing import Chunked, Counted, Framing
from registry.log import AccessLog
from registry.messages import Headers, LargeBody, Request, Response
from registry.sending import Senders, SendFailed

HEAD_MAX = 32 * 1024
"""The longest request head, in bytes."""
TARGET_MAX = 8 * 1024
HEADERS_MAX = 100
HEAD_TIMEOUT = 15.0
"""Seconds from a head's first byte to its last."""
KEEP_ALIVE_TIMEOUT = 75.0
"""Seconds that a connection may stay idle."""
PIPELINE_MAX = 64 * 1024
"""Bytes of later requests that are held while one is answered."""
KEEP_MAX = 1024 * 1024
"""An unread body of at most so many bytes is read and dropped, and the connection kept."""
DISCARD_MAX = 64 * 1024 * 1024
DISCARD_TIMEOUT = 2.0
"""Of a longer one, bytes and seconds that are read and dropped before the connection is closed."""

_CONDITIONS = frozenset({b"if-match", b"if-none-match", b"if-range", b"range"})
_NOTED = frozenset({b"content-length", b"transfer-encoding", b"expect", b"host"}) | _CONDITIONS


class App(Protocol):
    """What answers requests. Never raises: an exception of a handler has become a response."""

    def respond(self, request: Request) -> Response | Awaitable[Response]: ...
    def refuse(self, error: RequestError, request_id: str) -> Response: ...


class Service:
    """What all connections of one process share. ``scheme``: http, or https where each begins with a handshake."""

    def __init__(self, app: App, log: AccessLog, grace: float, scheme: str = "http") -> None:
        self.app = app
        self.log = log
        self.grace = grace
        self.scheme = scheme
        self.pumps = Pumps()
        self.senders = Senders()


class HTTPConnection(asyncio.Protocol):
    """One client's connection. Constructed by uvicorn's server, with the service bound before.

    With TLS it stands behind a `registry.handshakes.TLSConnection`, which is its transport and opens its channels.
    """

    def __init__(
        self,
        service: Service,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        open_channel: Callable[[socket.socket], Channel] = PlainChannel,
    ) -> None:
        self._service = service
        self._open_channel = open_channel
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._buffer = b""
        self._target = b""
        self._headers: Headers = []
        self._noted: Headers = []
        self._body: Body | None = None
        self._busy = False
        self._closing = False
        self._head_is_partial = False
        self._lost = False
        self._reading = True
        self._writable = True
        self._drained: asyncio.Future[None] | None = None
        self._continue = False
        self._keep_alive = True
        self._is_conditional = False
        self._transport: asyncio.Transport
        self._client = ""
        self.deadline = 0.0

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._client = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "local"
        self._state.connections.add(self)  # type: ignore[arg-type]
        self.deadline = self._loop.time() + KEEP_ALIVE_TIMEOUT

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self._lost = True
        self._end_drain()
        if self._body is not None:
            self._body.end()

    def data_received(self, data: bytes) -> None:
        if self._body is not None and not self._body.is_complete:
            self._body.feed(data)
            if self._body.backlog > PIPELINE_MAX:
                self._pause()
            return
        self._buffer = self._buffer + data if self._buffer else data
        if not self._busy:
            self._advance()
        elif len(self._buffer) > PIPELINE_MAX:
            self._pause()

    def eof_received(self) -> bool:
        """A client that shut down its sending half still gets the answer to what it sent."""
        self._closing = True
        if self._body is not None and not self._body.is_complete:
            self._body.end()
        return self._busy

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._end_drain()
        if not self._busy:
            self._advance()

    def _end_drain(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def shutdown(self) -> None:
        """The server ends: finish what is in flight, within the grace, and close."""
        self._closing = True
        if not self._busy:
            self._transport.close()
        elif self._body is not None:
            self._loop.call_later(max(self._service.grace - 1.0, 0.0), self._body.stop)

    def expire(self) -> None:
        """The deadline has passed (the server's sweep calls this)."""
        if self._lost:
            self._transport.abort()  # closed since, with a last answer that nobody reads
        elif self._busy:
            return
        elif self._buffer:
            self.refuse(ErrorCode.REQUEST_TIMEOUT, f"the request's head was not whole after {HEAD_TIMEOUT:.0f} s")
        else:
            self._close()

    # -- the part of a connection that bodies use

    def request_body(self) -> None:
        if self._continue:
            self._continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._resume()

    def detach(self) -> Channel:
        self._pause()
        return self._channel()

    def is_lost(self) -> bool:
        return self._lost

    # -- heads

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self._headers.append((name, value))
        if name in _NOTED:
            self._noted.append((name, value))

    def on_headers_complete(self) -> None:
        # Asked here, because the parser forgets it with the end of a message that has no body.
        self._keep_alive = self._parser.should_keep_alive()

    def _advance(self) -> None:
        """Answer the requests that lie in the buffer, until one has to be waited for."""
        while not self._busy and self._writable and not self._lost:
            buffer = self._buffer
            if not buffer:
                self.deadline = self._loop.time() + KEEP_ALIVE_TIMEOUT
                break
            if buffer[0] == 13 and buffer.startswith(b"\r\n"):
                self._buffer = buffer[2:]  # RFC 9112 section 2.2: an empty line before a request is ignored
                continue
            end = buffer.find(b"\r\n\r\n")
            if 0 <= end <= HEAD_MAX:
                self._buffer = buffer[end + 4 :]
                self._head_is_partial = False
                self._begin(buffer[: end + 4])
            elif not buffer[:1].isalpha() and buffer != b"\r":
                # Clients try TLS first, where they may fall back, and wait for our answer as long as we would for the head's end.
                self.refuse(
                    ErrorCode.REQUEST_INVALID,
                    "this is not an HTTP/1.1 request (was it TLS? this port speaks plain HTTP)",
                )
            elif len(buffer) > HEAD_MAX:
                self.refuse(ErrorCode.REQUEST_INVALID, f"the request's head is longer than {HEAD_MAX} bytes", 431)
            else:
                if not self._head_is_partial:
                    self._head_is_partial = True
                    self.deadline = self._loop.time() + HEAD_TIMEOUT
                break
        if not self._busy:
            self._resume()

    def _begin(self, head: bytes) -> None:
        """Parse a head and start to answer it."""
        self._target, self._headers, self._noted = b"", [], []
        parser = self._parser
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            self._parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserError as error:
            self.refuse(ErrorCode.REQUEST_INVALID, f"this is not an HTTP/1.1 request: {error}")
            return
        method = parser.get_method()
        try:
            framing = self._framing(parser.get_http_version())
        except RequestError as error:
            self.refuse(error.code, error.message, error.code.status, method)
            return
        if len(self._target) > TARGET_MAX:
            self.refuse(ErrorCode.REQUEST_INVALID, f"the request target is longer than {TARGET_MAX} bytes", 414, method)
            return
        if len(self._headers) > HEADERS_MAX:
            self.refuse(ErrorCode.REQUEST_INVALID, f"the request has more than {HEADERS_MAX} headers", 431, method)
            return
        request = Request(
            method,
            self._target,
            self._headers,
            client=self._client,
            keep_alive=self._keep_alive,
            started=perf_counter(),
            request_id=self._service.log.next_id(),
            is_conditional=self._is_conditional,
        )
        self._busy = True
        if framing is not None:
            self._parser = httptools.HttpRequestParser(self)
            request.body = self._body = Body(self, framing, self._service.pumps)
            if self._buffer:
                self._body.feed(self._buffer)
                self._buffer = b""
        answer = self._service.app.respond(request)
        if isinstance(answer, Response) and self._body is None and isinstance(answer.body, bytes):
            self._write(request, answer)
            self._finish(request, answer)
            return
        task = self._loop.create_task(self._run(request, answer))
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _framing(self, version: str) -> Framing | None:
        """How the request's body ends, None where there is none (RFC 9112 section 6.3); RequestError."""
        lengths: list[bytes] = []
        encodings: list[bytes] = []
        hosts = 0
        if version not in ("1.1", "1.0"):
            raise RequestError(ErrorCode.REQUEST_INVALID, f"HTTP/{version} is not spoken here, HTTP/1.1 is")
        self._continue = self._is_conditional = False
        for name, value in self._noted:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                lengths.append(value.strip())
            elif name == b"transfer-encoding":
                encodings.append(value.strip().lower())
            elif name in _CONDITIONS:
                self._is_conditional = True
            elif value.strip().lower() == b"100-continue":
                self._continue = version == "1.1"
            else:
                raise RequestError(ErrorCode.REQUEST_INVALID, "the only expectation that is met is 100-continue")
        if hosts != 1 and (version == "1.1" or hosts > 1):
            raise RequestError(ErrorCode.REQUEST_INVALID, f"the request has {hosts} Host headers, one is needed")
        if encodings:
            if lengths or encodings != [b"chunked"]:
                raise RequestError(
                    ErrorCode.REQUEST_INVALID,
                    "a body is either of a Content-Length or chunked, and no other transfer encoding is taken",
                )
            return Chunked()
        if not lengths:
            return None
        if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 18:
            raise RequestError(ErrorCode.REQUEST_INVALID, "the Content-Length is not one whole number")
        length = int(lengths[0])
        return Counted(length) if length else None

    # -- answers

    async def _run(self, request: Request, answer: Response | Awaitable[Response]) -> None:
        response = answer if isinstance(answer, Response) else await answer
        body = self._body
        if body is not None and not body.is_complete:
            response.close = response.close or self._continue or body.length is None or body.length > KEEP_MAX
        if not isinstance(response.body, bytes):
            await self._send_large(request, response, response.body)
        elif not self._lost:
            self._write(request, response)
        if body is not None:
            await self._drop_rest(body, response)
            self._buffer = body.leftover + self._buffer
            self._body = None
        self._finish(request, response)
        self._advance()

    async def _drop_rest(self, body: Body, response: Response) -> None:
        """Read on, for a while, what the client still sends of a body that was refused: so it gets to read the answer."""
        if body.is_complete or self._lost or self._continue:
            return
        try:
            async with asyncio.timeout(DISCARD_TIMEOUT):
                await body.discard(DISCARD_MAX)
        except TimeoutError:
            pass
        response.close = response.close or not body.is_complete

    def _write(self, request: Request, response: Response) -> None:
        head = self._head(request, response)
        body = response.body
        if isinstance(body, bytes) and body and request.method != b"HEAD" and response.status != 304:
            self._transport.write(head + body)
        else:
            self._transport.write(head)

    def _head(self, request: Request, response: Response) -> bytes:
        rendered = response.render(self._service.log.date)
        if response.close or self._closing or not request.keep_alive:
            return rendered + b"connection: close\r\n\r\n"
        return rendered + b"\r\n"

    async def _send_large(self, request: Request, response: Response, body: LargeBody) -> None:
        try:
            if self._lost:
                return
            head = self._head(request, response)
            if request.method == b"HEAD" or response.status == 304:
                self._transport.write(head)
                return
            await self._drain()
            with contextlib.closing(self._channel()) as channel:
                await channel.send(head, body, self._service.senders)
        except ClientGone:
            response.message = "the client closed the connection"
        except SendFailed as error:
            response.message = str(error)
            self._transport.abort()
        finally:
            body.close()

    async def _drain(self) -> None:
        """Wait until the transport holds nothing: only then may the socket be written to beside it."""
        self._transport.set_write_buffer_limits(high=0)
        if not self._writable and not self._lost:
            self._drained = self._loop.create_future()
            await self._drained
        self._transport.set_write_buffer_limits()

    def _finish(self, request: Request, response: Response) -> None:
        """One request is answered: log it, and go on with the next one or close."""
        self._service.log.record(request, response, perf_counter())
        self._busy = False
        if not self._lost and (response.close or self._closing or not request.keep_alive):
            self._close()

    def refuse(self, code: ErrorCode, message: str, status: int = 0, method: bytes = b"-") -> None:
        """Answer a request that could not be read, and close: where the next one begins is not known."""
        request_id = self._service.log.next_id()
        response = self._service.app.refuse(RequestError(code, message), request_id)
        response.status = status or response.status
        request = Request(
            method,
            self._target[:200] or b"-",
            [],
            client=self._client,
            keep_alive=False,
            started=perf_counter(),
            request_id=request_id,
        )
        self._buffer = b""
        self._write(request, response)
        self._service.log.record(request, response, perf_counter())
        self._close()

    def _close(self) -> None:
        """Answer nothing more, and close when what was answered is sent: within `KEEP_ALIVE_TIMEOUT`, or not at all."""
        self._lost = True
        self.deadline = self._loop.time() + KEEP_ALIVE_TIMEOUT
        self._transport.close()

    def _pause(self) -> None:
        if self._reading and not self._lost:
            self._reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._reading and not self._lost:
            self._reading = True
            self._transport.resume_reading()

    def _channel(self) -> Channel:
        """A second descriptor of the connection, to be used beside the transport; ClientGone."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or self._lost:
            raise ClientGone
        duplicate = socket.socket(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))
        duplicate.setblocking(False)
        return self._open_channel(duplicate)
