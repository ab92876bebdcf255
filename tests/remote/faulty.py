"""A server that lies, cuts and stalls: raw sockets, so that it can send what no HTTP library would."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Self

from oci.digest import Digest
from tests.remote.content import Content


@dataclass
class Request:
    """What arrived. ``body`` is None where it was not read."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass
class Answer:
    """What is sent back. ``cut`` closes the connection after so many bytes of the body; ``pieces`` may be endless."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    cut: int | None = None
    pieces: Iterable[bytes] | None = None
    length: int | None = None
    close: bool = False
    raw: bytes | None = None
    stall: bool = False


class NotHTTP(Exception):
    """Something else speaks, TLS perhaps."""


Answering = Callable[[Request], Answer]


class Faulty:
    """The server, in a thread of its own. ``served`` counts the bytes of bodies that went out."""

    def __init__(self, answering: Answering, context: ssl.SSLContext | None = None) -> None:
        self.answering = answering
        self.requests: list[Request] = []
        self.connections = 0
        self.served = 0
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._never = asyncio.Event()  # held here: a task that waits for what nobody holds is collected
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context, limit=1 << 20), self._loop
        ).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def seen(self, method: str, part: str = "") -> list[Request]:
        """The requests of a method whose target has a part."""
        return [one for one in self.requests if one.method == method and part in one.target]

    async def _end(self) -> None:
        self._server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                try:
                    await self._talk(reader, writer)
                except NotHTTP:
                    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (request := await _read(reader)) is not None:
            self.requests.append(request)
            if not await self._send(request, self.answering(request), writer):
                break

    async def _send(self, request: Request, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        if answer.raw is not None:
            writer.write(answer.raw)
            await writer.drain()
            return False
        lines = [f"HTTP/1.1 {answer.status} Said"]
        names = {name.lower() for name, _ in answer.headers}
        if answer.pieces is None and "content-length" not in names and "transfer-encoding" not in names:
            answer.headers.append(("Content-Length", str(len(answer.body) if answer.length is None else answer.length)))
        lines += [f"{name}: {value}" for name, value in answer.headers]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if request.method != "HEAD":
            if answer.pieces is not None:
                for piece in answer.pieces:
                    writer.write(piece)
                    self.served += len(piece)
                    await writer.drain()
                return False
            body = answer.body if answer.cut is None else answer.body[: answer.cut]
            writer.write(body)
            self.served += len(body)
        await writer.drain()
        if answer.stall:
            await self._never.wait()
        return answer.cut is None and not answer.close


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        start = await reader.readexactly(1)
        if not start.isalpha():
            raise NotHTTP
        head = (start + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    length = int(headers.get("content-length", "0"))
    return Request(method, target, headers, await reader.readexactly(length) if length else b"")


class Served:
    """Content as a registry serves it to pulls; ``faults`` may answer first."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.faults: list[Callable[[Request], Answer | None]] = []

    def __call__(self, request: Request) -> Answer:
        for fault in self.faults:
            if (answer := fault(request)) is not None:
                return answer
        return self.right(request)

    def right(self, request: Request) -> Answer:
        """The honest answer."""
        kind, _, name = request.path.removeprefix("/v2/").rpartition("/")
        if kind.endswith("/manifests"):
            digest = self.content.tags.get(name) or Digest.parse(name)
            manifest = self.content.manifests.get(digest)
            if manifest is None:
                return refusal(404, "MANIFEST_UNKNOWN", "no such manifest")
            headers = [("Content-Type", manifest.media_type), ("Docker-Content-Digest", str(digest))]
            return Answer(200, headers, manifest.raw)
        if kind.endswith("/blobs"):
            data = self.content.blobs.get(Digest.parse(name))
            if data is None:
                return refusal(404, "BLOB_UNKNOWN", "no such blob")
            start = (
                int(request.headers["range"].removeprefix("bytes=").rstrip("-")) if "range" in request.headers else None
            )
            if start is None:
                return Answer(200, [], data)
            return Answer(206, [("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")], data[start:])
        return Answer(200, [], b"{}")


def refusal(status: int, code: str, message: str, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    """An error as registries send it."""
    body = f'{{"errors":[{{"code":"{code}","message":"{message}"}}]}}'.encode()
    return Answer(status, [("Content-Type", "application/json"), *headers], body)


class CuttingProxy:
    """TCP to another server, counting; the n-th connection is cut once so many bytes went up (or down) through it."""

    def __init__(self, host: str, cuts_up: Iterable[int] = (), cuts_down: Iterable[int] = ()) -> None:
        name, _, port = host.rpartition(":")
        self._target = (name, int(port))
        self.cuts_up, self.cuts_down = list(cuts_up), list(cuts_down)
        self.up = self.down = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(10)
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            _break(sock)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            with self._lock:
                self._sockets += [client, server]
            for source, sink, is_up in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._pump, args=(source, sink, is_up), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_up: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    cuts = self.cuts_up if is_up else self.cuts_down
                    limit = cuts[0] if cuts else None
                    if limit is not None and passed + len(data) > limit:
                        data = data[: limit - passed]
                        cuts.pop(0)
                    else:
                        limit = None
                    passed += len(data)
                    if is_up:
                        self.up += len(data)
                    else:
                        self.down += len(data)
                sink.sendall(data)
                if limit is not None:
                    # Whoever receives gets all that passed: a reset would throw away what it has not read yet.
                    sink.shutdown(socket.SHUT_WR)
                    if is_up:
                        _break(source)
                    return
        _break(source)
        _break(sink)


def _break(sock: socket.socket) -> None:
    """Reset a connection: without it the peer could go on writing into the kernel's buffers."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RD)
    sock.close()


@contextlib.contextmanager
def serving(content: Content) -> Iterator[tuple[Faulty, Served]]:
    """Content behind a server, with a list for faults."""
    served = Served(content)
    with Faulty(served) as server:
        yield server, served
