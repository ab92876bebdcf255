"""The transfers of the benchmark: HTTP/1.1 by hand, since a client on the same two cores must cost next to nothing.

Uploads go by sendfile from a tmpfs, downloads are thrown away inside the kernel (``MSG_TRUNC``, man 7 tcp): neither copies a byte in
this program. Digests are computed before the clock starts.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import ssl
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType

from bench.content import Blob

TIMEOUT = 120
"""Seconds without progress after which a server counts as hung."""

DOCKER_CHUNK = 32 << 10
"""The size of the chunks of Docker's chunked bodies (Go's io.Copy)."""

DISCARD = 1 << 20


class WireError(Exception):
    """An answer that the measurement cannot use: what was asked, what came."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    """Names in lower case; of a repeated header the last value."""
    body: bytes

    def expect(self, status: int, what: str) -> Response:
        if self.status != status:
            raise WireError(f"{what}: {self.status} instead of {status}: {self.body[:300].decode(errors='replace')}")
        return self


def parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer's head, without its blank line; WireError for anything that is not HTTP/1.x."""
    status_line, *lines = head.decode("latin-1").split("\r\n")
    parts = status_line.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise WireError(f"not an HTTP answer: {status_line[:100]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(parts[1]), headers


def message(method: str, target: str, host: str, fields: Mapping[str, str], body: bytes = b"") -> bytes:
    """A whole request."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def gets(targets: Iterable[str], accept: str = "", authorization: str = "") -> list[bytes]:
    """GETs for the load generator."""
    fields = {"Accept": accept, "Authorization": authorization}
    chosen = {name: value for name, value in fields.items() if value}
    return [message("GET", target, "127.0.0.1", chosen) for target in targets]


class Connection:
    """One keep-alive connection to the server on a port of 127.0.0.1; blocking.

    Over TLS, with a ``context``, it is for small requests only: large bodies take ways that pass the encryption by.
    ``authorization`` is sent with every request.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None, authorization: str = "") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self._socket.settimeout(None)
        limit = struct.pack("ll", TIMEOUT, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self._socket = context.wrap_socket(self._socket, server_hostname="127.0.0.1")
        self._port = port
        self._own = {"Authorization": authorization} if authorization else {}
        self._rest = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def request(self, method: str, target: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Response:
        """Send a request with its whole body and read the whole answer."""
        fields = dict(headers or {})
        if body or method in ("POST", "PUT", "PATCH"):
            fields["Content-Length"] = str(len(body))
        self._socket.sendall(self._head(method, target, fields) + body)
        return self._response(method)

    def discard(self, target: str) -> int:
        """GET a blob and throw its bytes away; how many there were. WireError unless it is a 200 of full length."""
        self._socket.sendall(self._head("GET", target, {}))
        status, headers = self._read_head()
        if status != 200 or "content-length" not in headers:
            raise WireError(f"GET {target}: {status} instead of 200 with a Content-Length")
        size = int(headers["content-length"])
        left = size - len(self._rest)
        self._rest = b""
        scratch = bytearray(DISCARD)
        while left > 0:
            got = self._socket.recv_into(scratch, min(left, DISCARD), socket.MSG_TRUNC)
            if got == 0:
                raise WireError(f"GET {target}: the answer ended {left} bytes early")
            left -= got
        return size

    def start_upload(self, repository: str) -> str:
        """POST; the target of the upload."""
        response = self.request("POST", f"/v2/{repository}/blobs/uploads/").expect(202, "POST of an upload")
        return self._target(response)

    def put_blob(self, repository: str, blob: Blob) -> None:
        """POST, then one PUT with the whole blob."""
        location = self.start_upload(repository)
        fields = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        self._send_blob("PUT", closing(location, blob.digest), fields, blob, 0, blob.size).expect(201, "PUT of a blob")

    def patch_blob(self, repository: str, blob: Blob, chunk: int) -> None:
        """POST, PATCH in pieces of ``chunk`` bytes with Content-Range, and a closing PUT."""
        location = self.start_upload(repository)
        for start in range(0, blob.size, chunk):
            end = min(start + chunk, blob.size)
            fields = {
                "Content-Length": str(end - start),
                "Content-Range": f"{start}-{end - 1}",
                "Content-Type": "application/octet-stream",
            }
            response = self._send_blob("PATCH", location, fields, blob, start, end).expect(202, "PATCH of a chunk")
            location = self._target(response)
        self.request("PUT", closing(location, blob.digest)).expect(201, "closing PUT")

    def stream_blob(self, repository: str, blob: Blob) -> None:
        """POST, one PATCH in chunked transfer coding (RFC 9112 section 7.1) as Docker sends it, and a closing PUT."""
        location = self.start_upload(repository)
        fields = {"Transfer-Encoding": "chunked", "Content-Type": "application/octet-stream"}
        self._socket.sendall(self._head("PATCH", location, fields))
        with (
            mmap.mmap(blob.file.fileno(), blob.size - len(blob.tail), access=mmap.ACCESS_READ) as body,
            memoryview(body) as view,
        ):
            for start in range(0, len(view), 8 * DOCKER_CHUNK):
                with view[start : start + 8 * DOCKER_CHUNK] as part:
                    self._send_chunks(part)
        self._socket.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(blob.tail), blob.tail))
        location = self._target(self._response("PATCH").expect(202, "streamed PATCH"))
        self.request("PUT", closing(location, blob.digest)).expect(201, "closing PUT")

    def begin_upload_of(self, repository: str, blob: Blob, count: int) -> None:
        """Announce a whole blob and send its first ``count`` bytes, at most those of its file, then leave it hanging."""
        location = self.start_upload(repository)
        fields = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        self._socket.sendall(self._head("PUT", closing(location, blob.digest), fields))
        self._send_file(blob.file.fileno(), 0, count)

    def _send_chunks(self, part: memoryview) -> None:
        """Send some chunks with one system call, as far as it takes them."""
        pieces: list[bytes | memoryview] = []
        try:
            for start in range(0, len(part), DOCKER_CHUNK):
                piece = part[start : start + DOCKER_CHUNK]
                pieces += (b"%x\r\n" % len(piece), piece, b"\r\n")
            sent = self._socket.sendmsg(pieces)
            for data in pieces:
                if sent < len(data):
                    self._socket.sendall(bytes(data[sent:]))
                sent = max(0, sent - len(data))
        finally:
            for data in pieces:
                if isinstance(data, memoryview):
                    data.release()

    def _send_blob(
        self, method: str, target: str, fields: dict[str, str], blob: Blob, start: int, end: int
    ) -> Response:
        """Send bytes [start, end) of a blob as the body of a request and read the answer, also when it comes early."""
        self._socket.sendall(self._head(method, target, fields))
        in_file = blob.size - len(blob.tail)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._send_file(blob.file.fileno(), start, min(end, in_file) - start)
            if end > in_file:
                self._socket.sendall(blob.tail[max(0, start - in_file) : end - in_file])
        return self._response(method)

    def _send_file(self, file: int, offset: int, count: int) -> None:
        while count > 0:
            sent = os.sendfile(self._socket.fileno(), file, offset, count)
            offset += sent
            count -= sent

    def _head(self, method: str, target: str, fields: dict[str, str]) -> bytes:
        return message(method, target, f"127.0.0.1:{self._port}", self._own | fields)

    def _target(self, response: Response) -> str:
        location = response.headers.get("location", "")
        if not location:
            raise WireError("an upload's answer has no Location")
        return location if location.startswith("/") else "/" + location.split("/", 3)[3]

    def _receive(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise WireError("the server closed the connection where an answer was due")
        return data

    def _read_head(self) -> tuple[int, dict[str, str]]:
        while True:
            head, blank, rest = self._rest.partition(b"\r\n\r\n")
            if blank:
                self._rest = rest
                status, headers = parse_head(head)
                if status != 100:
                    return status, headers
            else:
                self._rest += self._receive()

    def _take(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._rest += self._receive()
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def _response(self, method: str) -> Response:
        status, headers = self._read_head()
        if method == "HEAD" or status in (204, 304):
            return Response(status, headers, b"")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return Response(status, headers, self._chunked())
        return Response(status, headers, self._take(int(headers.get("content-length", "0"))))

    def _chunked(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self._rest:
                self._rest += self._receive()
            line, _, self._rest = self._rest.partition(b"\r\n")
            size = int(line.split(b";")[0], 16)
            body += self._take(size)
            self._take(2)
            if size == 0:
                return body


def closing(location: str, digest: str) -> str:
    """The target of the PUT that closes an upload."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest}"
