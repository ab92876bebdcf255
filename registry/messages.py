"""A request as it was parsed, and a response before it is written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

from auth.identity import OPEN, Identity
from oci.digest import Digest
from storage.blobs import BlobFile, Stream
from storage.people import Actor

if TYPE_CHECKING:
    from registry.bodies import Body

Headers = list[tuple[bytes, bytes]]

API_VERSION = (b"docker-distribution-api-version", b"registry/2.0")
"""Of the answer to /v2/ and of every challenge: `docker manifest` of Docker 20.10 takes who does not say it for no registry."""

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class BadRequest(Exception):
    """A request that HTTP itself does not allow; the message is for the person whose client sent it."""


class Request:
    """One request. ``target`` is the raw request target; names of ``headers`` are in lower case.

    ``is_conditional``: a header is there (If-None-Match, Range, …) that makes the answer depend on more than method, target and rights.
    ``client`` is the peer, ADDRESS:PORT; ``address`` the client's, also behind a proxy that is trusted; ``identity`` who it is.
    """

    __slots__ = (
        "_path",
        "_query",
        "address",
        "body",
        "client",
        "headers",
        "id",
        "identity",
        "is_conditional",
        "keep_alive",
        "method",
        "started",
        "target",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        headers: Headers,
        *,
        client: str,
        keep_alive: bool,
        started: float,
        request_id: str,
        is_conditional: bool = False,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.client = client
        self.keep_alive = keep_alive
        self.started = started
        self.id = request_id
        self.is_conditional = is_conditional
        self.address = client.rpartition(":")[0] or client
        self.identity: Identity = OPEN
        self.body: Body | None = None
        self._path: str | None = None
        self._query: dict[str, list[str]] | None = None

    @property
    def path(self) -> str:
        """The path, percent-decoded once; BadRequest where it is not UTF-8 after that."""
        if self._path is None:
            self._path = self._decode(self.raw_path.decode("latin-1"))
        return self._path

    @property
    def raw_path(self) -> bytes:
        """The path as sent. Of an absolute-form target (RFC 9112 section 3.2.2) the part after the authority."""
        path = self.target.partition(b"?")[0]
        if not path.startswith(b"/"):
            scheme, separator, rest = path.partition(b"://")
            if separator and scheme.lower() in (b"http", b"https"):
                return b"/" + rest.partition(b"/")[2]
        return path

    def query(self, name: str) -> list[str]:
        """Every value of a query parameter, decoded; empty where there is none."""
        if self._query is None:
            parsed: dict[str, list[str]] = {}
            for pair in self.target.partition(b"?")[2].decode("latin-1").split("&"):
                if pair:
                    key, _, value = pair.partition("=")
                    parsed.setdefault(self._decode(key, plus=True), []).append(self._decode(value, plus=True))
            self._query = parsed
        return self._query.get(name, [])

    def parameter(self, name: str) -> str | None:
        """The one value of a query parameter, None where there is none; BadRequest where it stands twice."""
        values = self.query(name)
        if len(values) > 1:
            raise BadRequest(f"the query parameter {name!r} is given {len(values)} times, once is allowed")
        return values[0] if values else None

    def header(self, name: bytes) -> str | None:
        """A header's value without outer white space, None where there is none; BadRequest where it stands twice."""
        found: bytes | None = None
        for key, value in self.headers:
            if key == name:
                if found is not None:
                    raise BadRequest(f"the header {name.decode('latin-1')} is given twice, once is allowed")
                found = value
        return None if found is None else found.decode("latin-1").strip(" \t")

    @property
    def actor(self) -> Actor | None:
        """Who the audit trail names for a change; None on a hub without accounts, which keeps none."""
        return None if self.identity.is_open else self.actor_or(self.identity.name)

    def actor_or(self, name: str) -> Actor:
        """The same under a name, for what happens before anybody is identified."""
        return Actor(name, self.address, self.id)

    def holds(self, digest: Digest) -> bool:
        """Whether If-None-Match says that the client has this digest's content already (RFC 9110 section 13.1.2)."""
        condition = self.header(b"if-none-match") if self.is_conditional else None
        if condition is None:
            return False
        return condition == "*" or any(tag.strip().removeprefix("W/") == f'"{digest}"' for tag in condition.split(","))

    @staticmethod
    def _decode(text: str, plus: bool = False) -> str:
        if "%" not in text and "+" not in text:
            if not text.isascii() or "\0" in text:
                raise BadRequest("the request target has bytes that no URL may have: percent-encode them")
            return text
        if _BAD_ESCAPE.search(text):
            raise BadRequest("the request target has a '%' that two hexadecimal digits do not follow")
        if plus:
            text = text.replace("+", " ")
        try:
            decoded = unquote(text, errors="strict")
        except UnicodeDecodeError as error:
            raise BadRequest("the request target is not UTF-8 after percent-decoding") from error
        if "\0" in decoded:
            raise BadRequest("the request target has a NUL in it")
        return decoded


@dataclass(slots=True)
class FileBody:
    """A part of a blob that is a file: ``length`` bytes from ``offset``. Whoever sends it closes it."""

    reader: BlobFile
    offset: int
    length: int

    def close(self) -> None:
        self.reader.close()


@dataclass(slots=True)
class StreamBody:
    """A part of a blob that is no file: the ``length`` bytes of a stream. Whoever sends it closes it."""

    stream: Stream
    length: int

    def close(self) -> None:
        self.stream.close()


LargeBody = FileBody | StreamBody
"""Bodies that are not in memory."""


@dataclass(slots=True)
class Response:
    """Status, headers in the order they are sent, and a body. ``content-length`` is a header like the others.

    ``body`` is dropped for HEAD and 304; what its length would be still stands in the headers. ``close`` ends the connection.
    ``is_reusable``: the same request gets the same answer until the metadata change. ``message`` is for the log.
    """

    status: int
    headers: Headers
    body: bytes | LargeBody = b""
    close: bool = False
    is_reusable: bool = False
    message: str = ""
    rendered: bytes = field(default=b"", repr=False)

    def render(self, date: bytes) -> bytes:
        """The head on the wire: status line, date, headers, empty line. Kept, but for the date, for responses that are sent again."""
        if not self.rendered:
            lines: list[bytes] = []
            for name, value in self.headers:
                lines += (name, b": ", value, b"\r\n")
            self.rendered = b"".join(lines)
        return STATUS_LINES[self.status] + date + self.rendered


STATUS_LINES = {
    code: f"HTTP/1.1 {code} {phrase}\r\n".encode("ascii")
    for code, phrase in {
        200: "OK",
        201: "Created",
        202: "Accepted",
        204: "No Content",
        206: "Partial Content",
        301: "Moved Permanently",
        302: "Found",
        303: "See Other",
        304: "Not Modified",
        307: "Temporary Redirect",
        308: "Permanent Redirect",
        400: "Bad Request",
        401: "Unauthorized",
        403: "Forbidden",
        404: "Not Found",
        405: "Method Not Allowed",
        408: "Request Timeout",
        409: "Conflict",
        411: "Length Required",
        413: "Content Too Large",
        414: "URI Too Long",
        415: "Unsupported Media Type",
        416: "Range Not Satisfiable",
        417: "Expectation Failed",
        422: "Unprocessable Content",
        429: "Too Many Requests",
        499: "Client Closed Request",
        431: "Request Header Fields Too Large",
        500: "Internal Server Error",
        501: "Not Implemented",
        502: "Bad Gateway",
        503: "Service Unavailable",
        504: "Gateway Timeout",
        505: "HTTP Version Not Supported",
        507: "Insufficient Storage",
    }.items()
}


def with_body(status: int, media_type: str, body: bytes, extra: Iterable[tuple[bytes, bytes]] = ()) -> Response:
    """A response with a body in memory, its type and its length."""
    headers = [(b"content-type", media_type.encode("latin-1")), (b"content-length", b"%d" % len(body)), *extra]
    return Response(status, headers, body)


def without_body(status: int, extra: Iterable[tuple[bytes, bytes]] = ()) -> Response:
    """A response that has no body, and says so (204 and 304 carry no length: RFC 9110 section 8.6)."""
    headers = [*extra] if status in (204, 304) else [(b"content-length", b"0"), *extra]
    return Response(status, headers)
