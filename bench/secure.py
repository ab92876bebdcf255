"""Rows of large bodies and of handshakes over TLS. The client is ``bulk.c``, since Python reads a record of 16 KiB at a time."""

from __future__ import annotations

import subprocess
from typing import Any

from bench.content import Blob
from bench.filesystem import GIB
from bench.sampling import Session, report_of
from bench.transfers import REPOSITORY, WARM
from bench.wire import closing, message

TIMES = 3
"""Downloads in one measurement."""


def get(session: Session) -> None:
    blob = session.source(GIB).blob()
    put_blob(session, blob)
    get_blob(session, blob, 1)
    with session.meter(TIMES) as sample:
        sample.detail = get_blob(session, blob, TIMES)
        sample.value = TIMES / sample.detail["seconds"]


def put(session: Session) -> None:
    """Warm with a small blob, then one of 1 GiB; from the first byte of the PUT to the 201, without the POST."""
    put_blob(session, session.source(WARM).blob())
    blob = session.source(GIB).blob()
    with session.meter(1.0) as sample:
        sample.detail = put_blob(session, blob)
        sample.value = 1.0 / sample.detail["seconds"]


def handshakes(session: Session) -> None:
    """Full ones, from 16 connections at a time; nothing is asked."""
    session.requests_per_second([], ["-h"])


def put_blob(session: Session, blob: Blob) -> dict[str, Any]:
    """POST, then one PUT with the whole blob; the report of ``bulk.c`` about the latter."""
    with session.connect() as connection:
        location = connection.start_upload(REPOSITORY)
    fields = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
    head = message("PUT", closing(location, blob.digest), "127.0.0.1", fields)
    return _bulk(session, "put", [str(blob.file.name), str(blob.size - len(blob.tail)), blob.tail.hex()], head)


def get_blob(session: Session, blob: Blob, times: int) -> dict[str, Any]:
    """GET a blob again and again on one connection; the report of ``bulk.c``."""
    return _bulk(session, "get", [str(times)], message("GET", f"/v2/{REPOSITORY}/blobs/{blob.digest}", "127.0.0.1", {}))


def _bulk(session: Session, verb: str, arguments: list[str], request: bytes) -> dict[str, Any]:
    command = [str(session.tools.bulk), verb, str(session.port), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        return report_of(process, request)
