"""Slow clients: heads and bodies that do not come on are answered 408 or cut, and nobody else notices."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from registry.bodies import IDLE_TIMEOUT
from registry.serving import HEAD_TIMEOUT
from tests.servers import Server, portside
from tests.wire.client import Connection, ask, chunk, head
from tests.wire.content import blob, digest_of, push_image, query, start_upload

HEADS = 150
BODIES = 30
SLACK = 15.0
"""Seconds beyond a limit that a busy machine may take to say so."""
PATIENCE = 10.0
"""Seconds that an ordinary request may take on a busy machine while the slow ones are there."""


def test_slow_clients_are_given_up_and_block_nobody(tmp_path: Path) -> None:
    with portside(tmp_path / "root", "--floor", "0") as server:
        slow_heads = [Connection(server.address, 1.0) for _ in range(HEADS)]
        slow_bodies = [_stalled_body(server, number) for number in range(BODIES)]
        began = time.monotonic()
        stop = threading.Event()
        dripping = threading.Thread(target=_drip, args=(slow_heads, stop))
        dripping.start()
        try:
            served = _work(server, until=began + HEAD_TIMEOUT + SLACK, done=lambda: _all_answered(slow_heads))
            heads_done = time.monotonic() - began
        finally:
            stop.set()
            dripping.join()
        assert heads_done >= HEAD_TIMEOUT - 2, "nobody was cut too early"
        for connection in slow_heads:
            answer = connection.read()
            assert (answer.status, answer.error, answer.header("connection")) == (408, "REQUEST_TIMEOUT", "close")
            connection.close()
        served += _work(
            server,
            until=began + IDLE_TIMEOUT + 2 * SLACK,
            done=lambda: _all_answered([connection for connection, _, _ in slow_bodies]),
        )
        assert served > 20
        for connection, location, sent in slow_bodies:
            answer = connection.read()
            assert (answer.status, answer.error) == (408, "REQUEST_TIMEOUT")
            connection.close()
            if location:
                _resume(server, location, sent)


def _drip(connections: list[Connection], stop: threading.Event) -> None:
    """A byte of a head now and then: a limit for each byte would never end."""
    text = iter(head("GET", "/v2/", "h", {"X-Slow": "y" * 200}))
    while not stop.is_set():
        byte = bytes([next(text)])
        for connection in connections:
            try:
                connection.send(byte)
            except OSError:  # cut: what was wanted
                continue
        stop.wait(0.3)


def _stalled_body(server: Server, number: int) -> tuple[Connection, str, bytes]:
    """A body that stops in the middle: small, large and chunked ones of uploads, and manifests."""
    connection = Connection(server.address, 1.0)
    kind = number % 4
    data = blob(f"stalled {number}", 100_000)
    if kind == 3:
        connection.send(head("PUT", "/v2/slow/manifests/v1", "h", length=1000) + b'{"schemaVersion"')
        return connection, "", b""
    location = start_upload(connection, "slow")
    if kind == 0:
        connection.send(head("PATCH", location, "h", length=200_000) + data)
    elif kind == 1:
        connection.send(head("PATCH", location, "h", length=10_000_000) + data)
    else:
        connection.send(head("PATCH", location, "h", chunked=True) + chunk(data))
    return connection, location, data


def _all_answered(connections: list[Connection]) -> bool:
    """Whether there is something to read on each."""
    for connection in connections:
        connection.sock.setblocking(False)
        try:
            connection.sock.recv(1, _PEEK)
        except BlockingIOError:
            return False
        finally:
            connection.sock.settimeout(30)
    return True


_PEEK = 2


def _work(server: Server, until: float, done: object) -> int:
    """Ordinary pushes and pulls until the slow ones are answered; how many. Each within `PATIENCE`."""
    assert callable(done)
    count = 0
    while not done():
        assert time.monotonic() < until, "slow clients were not given up in time"
        began = time.monotonic()
        with Connection(server.address, PATIENCE) as connection:
            raw = push_image(connection, "ordinary", "v1", str(count))
            assert connection.request("GET", "/v2/ordinary/manifests/v1").body == raw
        assert time.monotonic() - began < PATIENCE
        count += 1
        threading.Event().wait(0.2)  # others use this machine
    return count


def _resume(server: Server, location: str, sent: bytes) -> None:
    """What had come is kept: nothing of a small body that was never whole, all of a stream."""
    span = (ask(server.address, "GET", location).header("range") or "").partition("-")[2]
    offset = int(span) + 1 if int(span) else 0
    assert offset in (0, len(sent))
    with Connection(server.address) as connection:
        rest = sent[offset:]
        answer = connection.request("PUT", f"{location}?{query(digest=digest_of(sent))}", body=rest)
        assert answer.status == 201, answer
