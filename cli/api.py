"""A hub's administration from another machine: ``/api/v1``, asked by the same table that the server answers by."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import quote

from auth.hosts import HostPort, InvalidHost
from cli.administration import TOKEN_VARIABLE
from cli.options import Failure
from oci.strictjson import InvalidJSON, parse_object
from registry.openapi import path_names
from registry.operations import BASE, NONE, Operation
from registry.values import InvalidValue, read, write
from remote.proxies import is_loopback

if TYPE_CHECKING:
    import httpx

Question = TypeVar("Question")
Answer = TypeVar("Answer")

ANSWER_MAX = 64 * 1024 * 1024
SAID_MAX = 1000
"""Characters of a server's message that are shown."""
TIMEOUT = 60.0
"""Seconds without a byte."""
CERTIFICATES = (Path("/etc/docker/certs.d"), Path("/etc/containers/certs.d"))
"""Where `portside trust` keeps the authorities of single hubs, as HOST:PORT/ca.crt."""


class RemoteTarget:
    """A server."""

    is_local = False

    def __init__(self, client: httpx.Client, address: str) -> None:
        self._client = client
        self._address = address

    @classmethod
    @contextlib.contextmanager
    def connect(cls, server: str, token: str, ca: Path | None) -> Iterator[RemoteTarget]:
        """A client of a server, ``https://HOST[:PORT]``, that shows a token; Failure."""
        import httpx

        scheme, host = _parse_server(server)
        address = str(host)
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise Failure("that is no token: a personal token is one word, as `portside token new` printed it", 2)
        client = httpx.Client(
            base_url=f"{scheme}://{address}{BASE}",
            headers={"Authorization": f"Bearer {token}", "User-Agent": "portside"},
            verify=_context(address, ca) if scheme == "https" else True,
            timeout=TIMEOUT,
            trust_env=not is_loopback(host.name.text),  # no proxy between this machine and itself
        )
        with client:
            yield cls(client, address)

    def ask(self, operation: Operation[Question, Answer], question: Question) -> Answer:
        """Have the server do it; Failure."""
        fields = write(question)
        in_path = path_names(operation.path)
        path = operation.path.format_map({name: quote(fields.pop(name), safe="") for name in in_path})
        if operation.has_body:
            status, raw = self._exchange(operation.method, path, content=json.dumps(fields).encode("ascii"))
        else:
            query = {name: str(value) for name, value in fields.items() if value is not None}
            status, raw = self._exchange(operation.method, path, params=query)
        if status != operation.status:
            raise Failure(_refusal(self._address, status, raw))
        if operation.answer is NONE:
            return cast(Answer, None)
        try:
            return read(operation.answer, parse_object(raw, ANSWER_MAX), is_strict=False)
        except (InvalidJSON, InvalidValue) as error:
            raise Failure(
                f"{self._address} answers what cannot be understood: {error}; is it another version?"
            ) from error

    def _exchange(self, method: str, path: str, **sent: Any) -> tuple[int, bytes]:
        import httpx

        headers = {"Content-Type": "application/json"} if "content" in sent else {}
        parts: list[bytes] = []
        size = 0
        try:
            with self._client.stream(method, path, headers=headers, **sent) as response:
                for part in response.iter_bytes():
                    parts.append(part)
                    size += len(part)
                    if size > ANSWER_MAX:
                        raise Failure(f"{self._address} answers with more than {ANSWER_MAX} bytes")
                return response.status_code, b"".join(parts)
        except httpx.HTTPError as error:
            raise Failure(_unreachable(self._address, error)) from error


def _parse_server(text: str) -> tuple[str, HostPort]:
    """Scheme and server of ``https://HOST[:PORT]``, or of these alone; Failure."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    if "@" in text:  # not repeated: it may hold a password
        raise Failure(f"--server takes no name or password; the token goes into {TOKEN_VARIABLE}", 2)
    try:
        server = HostPort.parse(rest.removesuffix("/"))
    except InvalidHost as error:
        raise Failure(f"--server takes the URL of a server, as https://hub.lan:5000: {error}", 2) from error
    scheme = scheme or ("http" if is_loopback(server.name.text) else "https")
    if scheme == "http" and not is_loopback(server.name.text):
        raise Failure(f"--server {text}: a token goes to another machine by https:// only", 2)
    if scheme not in ("http", "https"):
        raise Failure(f"--server takes the URL of a server, as https://hub.lan:5000: {scheme[:40]!r} is not spoken", 2)
    return scheme, server


def _context(address: str, ca: Path | None) -> ssl.SSLContext:
    """Trust the one authority that is named, or the system's and those that are kept for this server; Failure."""
    found = [path for folder in CERTIFICATES if (path := folder / address / "ca.crt").is_file()]
    wanted = found if ca is None else [ca]
    context = ssl.create_default_context() if ca is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for path in wanted:
        try:
            context.load_verify_locations(path)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or "it holds no certificate in PEM form"
            raise Failure(f"the certificate authority {path} cannot be read: {reason}") from error
    return context


def _refusal(address: str, status: int, raw: bytes) -> str:
    """What a server said when it did not do what was asked, in one line."""
    try:
        (first, *_) = parse_object(raw, ANSWER_MAX)["errors"]
        said = str(first["message"])[:SAID_MAX]
    except (InvalidJSON, KeyError, TypeError, ValueError):
        said = f"status {status}; is that a Portside server?"
    said = "".join(letter if letter.isprintable() else "?" for letter in said)
    return f"{address} does not accept the token ({TOKEN_VARIABLE} or --token-stdin): {said}" if status == 401 else said


def _unreachable(address: str, error: Exception) -> str:
    reason = str(error) or type(error).__name__
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return (
            f"the certificate of {address} is not trusted ({reason.partition('] ')[2] or reason}): name its authority "
            f"with --ca FILE, or run  portside trust {address} --fingerprint SHA256:…"
        )
    return f"{address} does not answer: {reason}"
