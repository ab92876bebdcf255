"""Rows of large blobs: one stream and four, alone; small requests beside them; a hundred at once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from bench.content import ACCEPT, MIB, Blob, Source, small_image
from bench.filesystem import GIB, BenchError, forget
from bench.prepare import push_small
from bench.sampling import Session
from bench.wire import Connection, gets

REPOSITORY = "bench/large"
SMALL = f"/v2/{REPOSITORY}/manifests/small"
WARM = 64 * MIB
PIECE = 16 * MIB

PROBES_PER_SECOND = 200
PROBE_CONNECTIONS = 4
STREAMS = 4

HUNDRED = 50
CUT_AFTER = 256 * MIB
"""Fifty uploads of 1 GiB would fill the disk: each announces 1 GiB and is cut after this much."""


def get(session: Session) -> None:
    with session.connect() as connection:
        target = _push(connection, session.source(GIB))
        connection.discard(target)
        with session.meter(3.0):
            for _ in range(3):
                connection.discard(target)


def put(session: Session) -> None:
    _upload(session, lambda connection, blob: connection.put_blob(REPOSITORY, blob))


def patch(session: Session) -> None:
    _upload(session, lambda connection, blob: connection.patch_blob(REPOSITORY, blob, PIECE))


def stream(session: Session) -> None:
    _upload(session, lambda connection, blob: connection.stream_blob(REPOSITORY, blob))


def four(session: Session) -> None:
    """Four different blobs, each on a connection and in a repository of its own."""
    source = session.source(256 * MIB)

    def push(index: int, blob: Blob) -> None:
        with session.connect() as connection:
            connection.put_blob(f"bench/large{index}", blob)

    push(0, source.blob())
    blobs = [source.blob() for _ in range(STREAMS)]
    with ThreadPoolExecutor(STREAMS) as pool, session.meter(1.0):
        list(pool.map(push, range(STREAMS), blobs))


def fair_down(session: Session) -> None:
    with session.connect() as connection:
        target = _push(connection, session.source(GIB))
        connection.discard(target)

    def download() -> None:
        with session.connect() as connection:
            connection.discard(target)

    _beside(session, download)


def fair_up(session: Session) -> None:
    source = session.source(GIB)

    def upload() -> None:
        with session.connect() as connection:
            connection.put_blob(REPOSITORY, source.blob())
        forget(session.running.root)

    _beside(session, upload)


def hundred(session: Session) -> None:
    """Fifty downloads of 1 GiB beside fifty uploads that announce 1 GiB; the value is the peak of memory."""
    source = session.source(GIB)
    with session.connect() as connection:
        target = _push(connection, source)
    ready = threading.Barrier(2 * HUNDRED)

    def download() -> None:
        with session.connect() as connection:
            ready.wait()
            connection.discard(target)

    def upload(blob: Blob) -> None:
        with session.connect() as connection:
            ready.wait()
            connection.begin_upload_of(REPOSITORY, blob, CUT_AFTER)

    work: list[Callable[[], None]] = [download] * HUNDRED
    work += [partial(upload, source.blob()) for _ in range(HUNDRED)]
    moved = HUNDRED * (1.0 + CUT_AFTER / GIB)
    with ThreadPoolExecutor(len(work)) as pool, session.meter(moved) as sample:
        for done in [pool.submit(item) for item in work]:
            done.result()
        sample.value = session.running.tree.peak_bytes() / 1e6
    sample.detail = {"gib": moved, "seconds": round(sample.wall_seconds, 2)}


def _push(connection: Connection, source: Source) -> str:
    """Push a new blob; the target of its GET."""
    blob = source.blob()
    connection.put_blob(REPOSITORY, blob)
    return f"/v2/{REPOSITORY}/blobs/{blob.digest}"


def _upload(session: Session, push: Callable[[Connection, Blob], None]) -> None:
    """Warm with a small blob, then time one of 1 GiB, from the POST to the 201."""
    with session.connect() as connection:
        push(connection, session.source(WARM).blob())
        blob = session.source(GIB).blob()
        with session.meter(1.0):
            push(connection, blob)


def _beside(session: Session, work: Callable[[], None]) -> None:
    """Manifest GETs at a fixed rate while four threads repeat ``work``; the value is their p99 in ms."""
    with session.connect() as connection:
        push_small(connection, REPOSITORY, "small", small_image())
    probes = gets([SMALL], ACCEPT)
    session.load(probes, PROBE_CONNECTIONS, 1.0, PROBES_PER_SECOND)
    with session.meter() as sample:
        with _repeating(work) as finished:
            time.sleep(1.0)  # until all four are in full flight; the clock of the probes starts after it
            report = session.load(probes, PROBE_CONNECTIONS, max(8.0, session.tools.seconds), PROBES_PER_SECOND)
        sample.value = report["p99_us"] / 1000
        sample.work = report["requests"]
        sample.detail = report | {"transfers": len(finished)}


@contextlib.contextmanager
def _repeating(work: Callable[[], None]) -> Iterator[list[float]]:
    """Four threads that repeat ``work`` during the block and finish what they began; yields the times at which one was done."""
    stop = threading.Event()
    finished: list[float] = []

    def repeat() -> None:
        while not stop.is_set():
            work()
            finished.append(time.monotonic())

    with ThreadPoolExecutor(STREAMS) as pool:
        running = [pool.submit(repeat) for _ in range(STREAMS)]
        try:
            yield finished
        finally:
            stop.set()
    for thread in running:
        thread.result()
    if not finished:
        raise BenchError("no transfer ended beside the probes")
