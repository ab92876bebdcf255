"""HTTP/1.1 connections to hosts, kept for reuse, and the answers that come over them.

This is the standard library's ``http.client`` and not httpx, by measurement: 1 GiB from distribution over loopback costs the
client 0.25 CPU seconds here (``recv_into`` a kept buffer) against 0.7 through httpx and h11, and importing it takes 36 ms
against 190.
"""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from remote.errors import Cancelled, Interrupted, RemoteError, Unreachable
from remote.proxies import proxy_for

PIECE = 1024 * 1024
"""Bytes in one piece of a body on its way."""

Buffer = bytes | bytearray | memoryview
FAILURES = (OSError, http.client.HTTPException)
"""What a broken connection raises. ``ssl.SSLError`` and time-outs are OSErrors."""

_CERTIFICATES = Path("/etc/docker/certs.d")
_LEFTOVER_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a connection goes (RFC 9110 section 4.3.1)."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """``host[:port]`` as the Host field and messages have it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class URL:
    """An absolute URL, taken apart. ``target`` is the path with its query."""

    origin: Origin
    target: str

    @classmethod
    def parse(cls, text: str, base: URL | None = None) -> URL:
        """Read an absolute URL, or one relative to ``base``; RemoteError where it is none that may be followed."""
        try:
            parts = urlsplit(urljoin(str(base), text) if base is not None else text)
            port = parts.port
        except ValueError as error:
            raise RemoteError(f"{text[:300]!r} is not a URL: {error}") from error
        if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
            raise RemoteError(f"{text[:300]!r} is not an http or https URL that may be followed")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not target.isascii() or any(
            character <= " " or character == "\x7f" for character in target + parts.hostname
        ):
            raise RemoteError(f"{text[:300]!r} has characters that no URL may have")
        return cls(Origin(parts.scheme, parts.hostname, port or _PORTS[parts.scheme]), target)

    def with_query(self, query: str) -> URL:
        """The same with ``query`` (already encoded) added to what it has."""
        return URL(self.origin, f"{self.target}{'&' if '?' in self.target else '?'}{query}")

    def __str__(self) -> str:
        return f"{self.origin}{self.target}"


@dataclass(frozen=True, slots=True)
class Body:
    """A request body of ``length`` bytes. ``pieces`` starts it anew at every call."""

    length: int
    pieces: Callable[[], Iterator[Buffer]]


class Response:
    """An answer whose body is still on the connection. Close it: what was read to its end leaves the connection for the next request."""

    def __init__(
        self, raw: http.client.HTTPResponse, connection: http.client.HTTPConnection, url: URL, pool: Connections
    ) -> None:
        self._raw, self._connection, self._pool = raw, connection, pool
        self.url, self.status, self.reason = url, raw.status, raw.reason[:100]
        self.headers = raw.headers

    @property
    def length(self) -> int | None:
        """Bytes of the body that are still to come, where the head says it."""
        return self._raw.length

    def readinto(self, view: memoryview) -> int:
        """Fill ``view`` with what one receive gives; 0 at the end; Interrupted where the connection breaks before it."""
        raw = self._raw
        try:
            if raw.isclosed() or not len(view):
                return 0
            if raw.chunked or raw.length is None:
                return raw.readinto(view)
            # One receive, not a filled buffer: http.client's own readinto would wait for all of it, and lose it all at a cut.
            count = raw.fp.readinto1(view[: raw.length]) if raw.length else 0
            raw.length -= count
            if raw.length == 0:
                raw.close()
            elif count == 0:
                raise Interrupted(f"{self.url.origin.authority} closed the connection with {raw.length} bytes to come")
        except FAILURES as error:
            raise Interrupted(f"the connection to {self.url.origin.authority} broke: {describe(error)}") from error
        return count

    def read(self, limit: int, what: str) -> bytes:
        """The whole body, RemoteError where it is longer than ``limit`` bytes."""
        out = bytearray()
        buffer = memoryview(bytearray(min(PIECE, limit + 1)))
        while len(out) <= limit and (count := self.readinto(buffer)):
            out += buffer[:count]
        if len(out) > limit:
            raise RemoteError(
                f"{what} from {self.url.origin.authority} is longer than the {limit} bytes that are allowed"
            )
        return bytes(out)

    def close(self) -> None:
        """Give the connection back, or drop it where bytes of the body are left."""
        try:
            buffer = memoryview(bytearray(_LEFTOVER_MAX))
            left = self._raw.length
            if not self._raw.isclosed() and not self._raw.chunked and left is not None and left <= _LEFTOVER_MAX:
                while self.readinto(buffer):
                    pass
            is_whole = self._raw.isclosed() or self._raw.length == 0
            will_close = self._raw.will_close
        except (*FAILURES, RemoteError):
            is_whole, will_close = False, True
        with contextlib.suppress(*FAILURES):
            self._raw.close()  # it holds the socket by itself where the server ends the connection with this answer
        self._pool.give(self.url.origin, self._connection, is_usable=is_whole and not will_close)


class Connections:
    """The connections of one client, for use by several threads: each connection carries one exchange at a time."""

    def __init__(self, connect_timeout: float, read_timeout: float) -> None:
        self._connect_timeout, self._read_timeout = connect_timeout, read_timeout
        self._lock = threading.Lock()
        self._idle: dict[Origin, list[http.client.HTTPConnection]] = {}
        self._reached: set[Origin] = set()
        self._busy: set[http.client.HTTPConnection] = set()
        self._context: ssl.SSLContext | None = None
        self._is_stopped = False

    def exchange(self, method: str, url: URL, headers: Mapping[str, str], body: bytes | Body | None) -> Response:
        """Send one request and read the answer's head; Unreachable where there is none.

        A kept connection that the server has closed meanwhile is replaced, silently and once, unless a streamed body went out on it.
        """
        while True:
            connection, is_fresh = self._take(url.origin)
            try:
                if is_fresh:
                    connection.connect()
                    if connection.sock is not None:
                        connection.sock.settimeout(self._read_timeout)
                _send(connection, method, url, headers, body)
                raw = connection.getresponse()
                self._reached.add(url.origin)
                return Response(raw, connection, url, self)
            except FAILURES as error:
                self.give(url.origin, connection, is_usable=False)
                if self._is_stopped:
                    raise Cancelled from error
                if is_fresh or isinstance(body, Body) or isinstance(error, TimeoutError):
                    raise _unreachable(url.origin, error, is_known=url.origin in self._reached) from error
            except BaseException:
                self.give(url.origin, connection, is_usable=False)
                raise

    def give(self, origin: Origin, connection: http.client.HTTPConnection, *, is_usable: bool) -> None:
        """Take a connection back from an exchange."""
        with self._lock:
            self._busy.discard(connection)
            if is_usable and not self._is_stopped:
                self._idle.setdefault(origin, []).append(connection)
                return
        connection.close()

    def stop(self) -> None:
        """Break every exchange that is under way, from any thread: a receive that waits ends at once."""
        with self._lock:
            self._is_stopped = True
            busy = list(self._busy)
        for connection in busy:
            sock = connection.sock
            if sock is not None:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # it is closed already, which is what we want
        self.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            idle = [connection for kept in self._idle.values() for connection in kept]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _take(self, origin: Origin) -> tuple[http.client.HTTPConnection, bool]:
        """A connection, and whether it is new and not connected yet."""
        with self._lock:
            if self._is_stopped:
                raise Cancelled
            kept = self._idle.get(origin, [])
            while kept:
                connection = kept.pop()
                if _is_quiet(connection):
                    self._busy.add(connection)
                    return connection, False
                connection.close()
        connection = self._open(origin)
        with self._lock:
            self._busy.add(connection)
        return connection, True

    def _open(self, origin: Origin) -> http.client.HTTPConnection:
        proxy = proxy_for(origin.scheme, origin.host)
        host, port = (proxy.host, proxy.port) if proxy is not None else (origin.host, origin.port)
        if origin.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._connect_timeout, blocksize=PIECE)
        context = self._tls(origin)
        connection = http.client.HTTPSConnection(host, port, timeout=self._connect_timeout, context=context)
        if proxy is not None:
            connection.set_tunnel(origin.host, origin.port, proxy.headers)
        return connection

    def _tls(self, origin: Origin) -> ssl.SSLContext:
        """The system's authorities, and those that Docker would trust for this registry (/etc/docker/certs.d/HOST/*.crt)."""
        context = ssl.create_default_context()
        folder = _CERTIFICATES / origin.authority
        for path in sorted(folder.glob("*.crt")) if folder.is_dir() else ():
            try:
                context.load_verify_locations(path)
            except (OSError, ssl.SSLError) as error:
                raise Unreachable(
                    origin.authority, f"the certificate {path} cannot be read", transient=False
                ) from error
        return context


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    url: URL,
    headers: Mapping[str, str],
    body: bytes | Body | None,
) -> None:
    proxy = proxy_for("http", url.origin.host) if url.origin.scheme == "http" else None  # a tunnel has none in the way
    target = url.target if proxy is None else str(url)  # a proxy needs the whole URL (RFC 9112 section 3.2.2)
    connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", url.origin.authority)
    if proxy is not None:
        headers = {**headers, **proxy.headers}
    for name, value in headers.items():
        connection.putheader(name, value)
    if body is not None or method in ("POST", "PUT", "PATCH"):
        length = body.length if isinstance(body, Body) else len(body or b"")
        connection.putheader("Content-Length", str(length))
    if not isinstance(body, Body):
        connection.endheaders(body or None)
        return
    connection.endheaders()
    try:
        for piece in body.pieces():
            connection.send(piece)
    except (BrokenPipeError, ConnectionResetError):
        # The server may have said no and closed before it read everything: its answer, where one came, is the better message.
        if connection.sock is None or not select.select([connection.sock], [], [], 0)[0]:
            raise


def _is_quiet(connection: http.client.HTTPConnection) -> bool:
    """Whether a kept connection is open with nothing to read: readable means closed, or an answer that nobody asked for."""
    return connection.sock is not None and not select.select([connection.sock], [], [], 0)[0]


def _unreachable(origin: Origin, error: BaseException, *, is_known: bool) -> Unreachable:
    """A failure in words. Who has answered before may be restarting; who never has is more likely a wrong name or port."""
    text = describe(error)
    proxy = proxy_for(origin.scheme, origin.host)
    if proxy is not None and not isinstance(error, ssl.SSLError):
        return Unreachable(origin.authority, f"{text} (through the proxy {proxy.host}:{proxy.port} of the environment)")
    if isinstance(error, ssl.SSLCertVerificationError):
        text = (
            f"its certificate is not trusted ({error.verify_message}); put its authority into "
            f"{_CERTIFICATES}/{origin.authority}/ca.crt or into the system's store"
        )
        return Unreachable(origin.authority, text, transient=False)
    if isinstance(error, ssl.SSLError) and "WRONG_VERSION_NUMBER" in str(error):
        text = "it speaks plain HTTP, not TLS; allow that with --plain-http if the network can be trusted"
        return Unreachable(origin.authority, text, transient=False)
    if isinstance(error, socket.gaierror):
        is_passing = is_known or error.errno == socket.EAI_AGAIN
        return Unreachable(origin.authority, f"its name cannot be resolved ({error.strerror})", transient=is_passing)
    if isinstance(error, ConnectionRefusedError):
        return Unreachable(origin.authority, "connection refused: nobody listens there", transient=is_known)
    return Unreachable(origin.authority, text)


def describe(error: BaseException) -> str:
    """An error of the network in words."""
    if isinstance(error, TimeoutError):
        return "no byte came in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
