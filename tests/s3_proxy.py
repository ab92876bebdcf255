"""A proxy between a store and its S3 service that fails as networks and services do, when a test tells it to."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto


class Kind(Enum):
    """How a request fails."""

    ANSWER = auto()  # the service answers with an error
    RESET = auto()  # the connection is reset in the middle of the request's body
    TRUNCATE = auto()  # the service gets half of the body, then its connection is closed, and the client's
    CORRUPT = auto()  # the service gets a body with one other byte
    LOST = auto()  # the service did it, its answer never comes
    CUT = auto()  # half of the answer's body comes
    STALL = auto()  # half of the answer's body comes, or nothing where it has none, until the client gives up


@dataclass(slots=True)
class Fault:
    """What to do with the next ``times`` requests of a method whose target has ``words`` in it."""

    kind: Kind
    method: str
    words: str = ""
    times: int = 1
    status: int = 500
    code: str = "InternalError"


@dataclass(slots=True)
class _Request:
    method: str
    target: str
    head: bytes
    body: bytearray


@dataclass(slots=True)
class Proxy:
    """``faults`` may be changed at any time. ``seen``: the requests, as (method, target)."""

    url: str
    upstream: tuple[str, int]
    faults: list[Fault] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def serve(self, sock: socket.socket) -> None:
        """One client's connection, to its end."""
        with contextlib.suppress(OSError, http.client.HTTPException), sock, sock.makefile("rb") as file:
            while (request := self._read(sock, file)) is not None and self._relay(sock, request):
                pass

    def _read(self, sock: socket.socket, file: object) -> _Request | None:
        assert hasattr(file, "readline")
        assert hasattr(file, "read")
        lines = [file.readline()]
        if not lines[0]:
            return None
        while lines[-1].strip():
            lines.append(file.readline())
        method, target, _ = lines[0].decode().split(" ", 2)
        headers = dict(line.decode().lower().split(":", 1) for line in lines[1:-1])
        length = int(headers.get("content-length", "0"))
        if "100-continue" in headers.get("expect", ""):
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            lines = [line for line in lines if not line.lower().startswith(b"expect:")]
        fault = self._fault(method, target, Kind.RESET)
        body = bytearray(file.read(length // 2 if fault else length))
        if fault:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return None
        return _Request(method, target, b"".join(lines), body)

    def _fault(self, method: str, target: str, *kinds: Kind) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.kind in kinds and fault.times and fault.method == method and fault.words in target:
                    fault.times -= 1
                    return fault
        return None

    def _relay(self, sock: socket.socket, request: _Request) -> bool:
        """Pass a request on, and its answer back; whether the connection goes on."""
        self.seen.append((request.method, request.target))
        fault = self._fault(request.method, request.target, *(set(Kind) - {Kind.RESET}))
        kind = fault.kind if fault else None
        if fault and kind is Kind.ANSWER:
            error = f"<Error><Code>{fault.code}</Code><Message>told to</Message></Error>".encode()
            told = b"HTTP/1.1 %d Told\r\nx-amz-request-id: R1\r\ncontent-length: %d\r\n\r\n"
            sock.sendall(told % (fault.status, len(error)) + error)
            return True
        if kind is Kind.CORRUPT:
            request.body[len(request.body) // 2] ^= 1
        with socket.create_connection(self.upstream) as service:
            service.sendall(request.head)
            if kind is Kind.TRUNCATE:
                service.sendall(request.body[: len(request.body) // 2])
                return False
            service.sendall(request.body)
            answer = http.client.HTTPResponse(service, method=request.method)
            answer.begin()
            body = answer.read()
        if kind is Kind.LOST:
            return False
        if kind is Kind.STALL and not body:
            sock.recv(1)
            return False
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")]
        if "content-length" not in {k.lower() for k, _ in headers}:
            headers.append(("content-length", str(len(body))))
        head = f"HTTP/1.1 {answer.status} {answer.reason}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers)
        sock.sendall(f"{head}\r\n".encode("latin-1"))
        sock.sendall(body[: len(body) // 2] if kind in (Kind.CUT, Kind.STALL) else body)
        if kind is Kind.STALL:
            sock.recv(1)
        return kind is None or kind is Kind.CORRUPT


@contextlib.contextmanager
def s3_proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy in front of a service at ``host:port``."""
    host, _, port = upstream.rpartition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(f"http://127.0.0.1:{listener.getsockname()[1]}", (host, int(port)))

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    threading.Thread(target=proxy.serve, args=(sock,), daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
