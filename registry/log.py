"""One line per request: for eyes on a terminal, JSON otherwise. Written in batches, so that a slow terminal never stalls a request."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import time
from email.utils import formatdate
from typing import Any, TextIO

from auth.names import hide_secrets
from registry.messages import Request, Response

BUFFER_MAX = 4 * 1024 * 1024
"""Bytes of lines that wait for the log to take them; what comes then is counted and dropped."""


_LOGGED = re.compile(
    "(?:n|last|digest|digest-algorithm|mount|from|tag|artifactType"
    "|service|scope|account|client_id|offline_token|since|who|kind|after|limit)(?:=[^?;#]*)?"
)
"""The parameters of a query that are kept. Others are none of ours, and people put passwords there (RFC 6750 section 5.3)."""
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")


class AccessLog:
    """Makes request ids, holds the current Date header, and keeps lines until `flush`."""

    def __init__(self, stream: TextIO, human: bool) -> None:
        self._fd = stream.fileno()
        self._human = human
        self._lines: list[str] = []
        self._size = 0
        self._dropped = 0
        self._prefix = secrets.token_hex(4)
        self._count = 0
        self._clock = ""
        self.date = b""
        self.tick()

    def next_id(self) -> str:
        """An id that no other request of any server process has."""
        self._count += 1
        return f"{self._prefix}{self._count:x}"

    def tick(self) -> None:
        """Once a second: the time that lines and Date headers bear."""
        now = time.time()
        self.date = b"date: " + formatdate(now, usegmt=True).encode("ascii") + b"\r\n"
        if self._human:
            self._clock = time.strftime("%H:%M:%S", time.localtime(now))
        else:
            self._clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))

    def record(self, request: Request, response: Response, finished: float) -> None:
        """Keep one line; ``finished`` by the clock of ``request.started``, perf_counter."""
        body = response.body
        size = len(body) if isinstance(body, bytes) else body.length
        took = (finished - request.started) * 1000
        target, message = _printable(request.target), hide_secrets(response.message)
        if self._human:
            tail = f"  {message}" if message else ""
            line = (
                f"{self._clock} {request.method.decode('latin-1'):6} {response.status} {target} "
                f"{_human_size(size)} {took:.1f} ms {request.client} {request.id}{tail}\n"
            )
        else:
            more = f', "message": {json.dumps(message)}' if message else ""
            line = (
                f'{{"time": "{self._clock}", "method": "{request.method.decode("latin-1")}", "target": "{target}", '
                f'"status": {response.status}, "bytes": {size}, "ms": {took:.2f}, "client": "{request.client}", '
                f'"request_id": "{request.id}"{more}}}\n'
            )
        if self._size > BUFFER_MAX:
            self._dropped += 1
            return
        self._lines.append(line)
        self._size += len(line)

    def take(self) -> bytes:
        """The lines that were kept since the last call, for `write`."""
        if not self._lines:
            return b""
        lines, self._lines, self._size = self._lines, [], 0
        if self._dropped:
            lines.append(f'{{"time": "{self._clock}", "message": "{self._dropped} log lines were dropped"}}\n')
            self._dropped = 0
        return "".join(lines).encode("utf-8", "backslashreplace")

    def write(self, data: bytes) -> None:
        """Write lines out; blocking."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            return  # nobody reads the log any more; requests go on


def configure(stream: TextIO, human: bool) -> None:
    """Send the log of everything that is no request (warnings, failures) to the same stream and in the same form."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_HumanFormatter() if human else _JSONFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("uvicorn.error", "alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)


class _HumanFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")


class _JSONFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        out: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            out["exception"] = self.formatException(record.exc_info)
        return json.dumps(out)


def _printable(target: bytes) -> str:
    """A request target as one JSON- and terminal-safe word."""
    text = hide_secrets(target[:2048].decode("latin-1"))
    if "?" in text or not text.startswith("/"):
        text = _without_secrets(text)
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return json.dumps(text)[1:-1]


def _without_secrets(target: str) -> str:
    """A request target without what may be a secret there by mistake: of the query all that is no parameter of ours, and the
    name and password of an absolute URL."""
    path, mark, query = _USERINFO.sub(r"\1***@", target).partition("?")
    known = (pair if _LOGGED.fullmatch(pair) else "***" for pair in query.split("&"))
    return f"{path}{mark}{'&'.join(known) if query else ''}"


def _human_size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
