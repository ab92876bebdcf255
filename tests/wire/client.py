"""A raw HTTP/1.1 client on a socket: what is sent is exactly what the test wrote, what is returned exactly what came.

Not a general client: it never retries, follows, decompresses or hides anything, and a message that breaks HTTP's framing is an
AssertionError.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

Headers = Mapping[str, str] | Sequence[tuple[str, str]]

SECONDS = 30.0
"""How long one receive may take before the test fails."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One response: names of ``headers`` are in lower case, in the order they came."""

    status: int
    version: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that may stand once, None where it does not stand."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} stands {len(values)} times: {values}"
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The code of an error in the form of distribution-spec, "Error Codes"; asserts that form and the request id in it."""
        assert self.header("content-type") == "application/json", self
        parsed = self.json
        assert list(parsed) == ["errors"], parsed
        (first,) = parsed["errors"]
        assert set(first) == {"code", "message", "detail"}, first
        assert first["message"], first
        assert first["detail"]["request_id"], first
        code = first["code"]
        assert isinstance(code, str)
        return code

    @property
    def message(self) -> str:
        """The error's words for a person."""
        return str(self.json["errors"][0]["message"])


class Connection:
    """One TCP connection. ``request`` sends and reads; ``send`` and ``read`` do one half each."""

    def __init__(self, address: str, seconds: float = SECONDS) -> None:
        host, _, port = address.rpartition(":")
        self.address = address
        self.sock = socket.create_connection((host, int(port)), seconds)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def request(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes | None = None,
        chunks: Iterable[bytes] | None = None,
    ) -> Answer:
        """Send one request and read its answer. ``body`` goes with a Content-Length, ``chunks`` go chunked, one by one."""
        self.send(head(method, target, self.address, headers, None if body is None else len(body), chunks is not None))
        if body:
            self.send(body)
        if chunks is not None:
            for part in chunks:
                self.send(chunk(part))
            self.send(b"0\r\n\r\n")
        return self.read(method)

    def read(self, method: str = "GET") -> Answer:
        """The next response, an interim one too. ``method`` is the request's: HEAD has no body."""
        raw = self._until(b"\r\n\r\n")
        lines = raw[:-4].decode("latin-1").split("\r\n")
        version, status_text, _ = lines[0].split(" ", 2)
        status = int(status_text)
        headers: list[tuple[str, str]] = []
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            assert colon, f"a header line without a colon: {line!r}"
            assert name == name.strip(), f"white space around a header's name: {line!r}"
            headers.append((name.lower(), value.strip(" \t")))
        answer = Answer(status, version, tuple(headers), b"")
        return Answer(status, version, tuple(headers), self._body(method, answer))

    def _body(self, method: str, answer: Answer) -> bytes:
        if method == "HEAD" or answer.status < 200 or answer.status in (204, 304):
            return b""
        length = answer.header("content-length")
        if answer.header("transfer-encoding") is not None:
            assert length is None, "a response with Content-Length and Transfer-Encoding"
            parts = []
            while size := int(self._until(b"\r\n")[:-2].partition(b";")[0], 16):
                parts.append(self._exactly(size))
                assert self._exactly(2) == b"\r\n"
            assert self._until(b"\r\n") == b"\r\n"
            return b"".join(parts)
        if length is not None:
            return self._exactly(int(length))
        return self._rest()

    def is_closed(self, seconds: float = 5.0) -> bool:
        """Whether the server ends the connection within so many seconds, without another byte."""
        if self._held:
            return False
        self.sock.settimeout(seconds)
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True
        except TimeoutError:
            return False

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._held:
            self._more(f"{mark!r} of a response")
        found, separator, self._held = self._held.partition(mark)
        return found + separator

    def _exactly(self, size: int) -> bytes:
        parts = [self._held]
        have = len(self._held)
        while have < size:
            part = self.sock.recv(min(size - have + 1, 1 << 20))
            if not part:
                raise ConnectionResetError(f"the body ended after {have} of {size} bytes")
            parts.append(part)
            have += len(part)
        data = b"".join(parts)
        self._held = data[size:]
        return data[:size]

    def _rest(self) -> bytes:
        parts = [self._held]
        while part := self.sock.recv(1 << 20):
            parts.append(part)
        self._held = b""
        return b"".join(parts)

    def _more(self, wanted: str) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise ConnectionResetError(f"the server closed before {wanted}; held: {self._held[:200]!r}")
        self._held += data


def head(
    method: str, target: str, host: str, headers: Headers = (), length: int | None = None, chunked: bool = False
) -> bytes:
    """A request's head. A Host is added unless the headers have one."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    lines = [f"{method} {target} HTTP/1.1"]
    if not any(name.lower() == "host" for name, _ in pairs):
        lines.append(f"Host: {host}")
    lines += [f"{name}: {value}" for name, value in pairs]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if chunked:
        lines.append("Transfer-Encoding: chunked")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; not for the last, empty one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def ask(
    address: str, method: str, target: str, headers: Headers = (), body: bytes | None = None, seconds: float = SECONDS
) -> Answer:
    """One request on a connection of its own."""
    with Connection(address, seconds) as connection:
        return connection.request(method, target, headers, body)


def ask_when_up(address: str, method: str, target: str, seconds: float = SECONDS) -> Answer:
    """As `ask`, again and again until somebody listens."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask(address, method, target)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
