"""10,000 generated hostile requests over several connections: a clear 4xx for each, and a server that is none the worse for it."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import threading
import time
from collections import Counter
from pathlib import Path

from tests.hostile.generator import Generator, Hostile, Known
from tests.servers import Server, portside, run
from tests.tools import tool
from tests.wire.client import Answer, Connection
from tests.wire.content import blob, digest_of, push_blob, push_image, query, start_upload

COUNT = int(os.environ.get("PORTSIDE_HOSTILE", "10000"))
SEED = int(os.environ.get("PORTSIDE_SEED", "20260711"))
THREADS = 4
SECRET = b"nobody may read this 6d1f9a"
MIB = 1024 * 1024
BOUND_SECONDS = 240.0
"""For a machine with much else to do; a free one needs a tenth."""
GROWTH_MAX = 48 * MIB
"""Resident bytes that the server may have gained: what its caches of answers and connections take, not what requests leave behind."""

_PLACES = re.compile(
    r"(metadata\.db(-wal|-shm|-journal)?|lock|(people-)?generation|engine|quarantine|trash|publishing(/(lock|turnstile|[0-9a-f]{32}))?|blobs(/sha(256|512)(/[0-9a-f]{2}(/[0-9a-f]{64,128})?)?)?"
    r"|uploads(/[0-9a-f-]+(\.[a-z0-9]+)?)?)\Z"
)


class Attacker(threading.Thread):
    """Sends its share of the requests, and keeps what was wrong with the answers."""

    def __init__(self, address: str, requests: list[Hostile]) -> None:
        super().__init__(daemon=True)
        self._address, self._requests = address, requests
        self._connection: Connection | None = None
        self.wrong: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.sent = 0

    def run(self) -> None:
        for request in self._requests:
            try:
                self._send(request)
            except Exception as error:
                self.wrong.append(f"{request.shape}: {error!r} at {request.raw[:300]!r}")
                self._drop()
            self.sent += 1
            if len(self.wrong) > 20:
                break
        self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(self, request: Hostile) -> None:
        if self._connection is None or not request.is_whole:
            self._drop()
            self._connection = Connection(self._address, 60)
        with contextlib.suppress(ConnectionError):  # refused before it was all sent: the answer is there to read
            self._connection.send(request.raw)
        if request.is_whole:
            answer = self._connection.read(request.method)
            while answer.status == 100:
                answer = self._connection.read(request.method)
            self._judge(request, answer)
            if answer.header("connection") == "close":
                rest = self._read_all(self._connection)
                assert rest == [], f"it said close and went on: {rest}"
                self._drop()
            return
        with contextlib.suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_WR)
        answers = self._read_all(self._connection)
        for answer in answers:
            self._judge(request, answer)
        if request.is_trick:
            assert len(answers) <= 1, f"{len(answers)} answers: a smuggled request was answered"
            assert all(400 <= answer.status < 500 for answer in answers), answers
        self._drop()

    def _read_all(self, connection: Connection) -> list[Answer]:
        """Every answer until the server closes, which it has to."""
        raw = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := connection.sock.recv(1 << 16):
                raw += data
        assert SECRET not in raw
        heads = [int(found[1]) for found in re.finditer(rb"HTTP/1\.1 (\d{3}) ", raw)]
        return [Answer(status, "HTTP/1.1", (), b"") for status in heads if status != 100]

    def _judge(self, request: Hostile, answer: Answer) -> None:
        self.statuses[answer.status] += 1
        assert answer.status < 500 or answer.status == 507, f"status {answer.status}: {answer.body!r}"
        assert SECRET not in answer.body, "a file outside the root was served"
        if answer.status >= 400 and answer.body and answer.header("content-type") == "application/json":
            assert answer.error


def _attack(address: str, known: Known) -> list[Attacker]:
    requests = list(itertools.islice(Generator(SEED, known), COUNT))
    attackers = [Attacker(address, requests[number::THREADS]) for number in range(THREADS)]
    for attacker in attackers:
        attacker.start()
    deadline = time.monotonic() + BOUND_SECONDS
    for attacker in attackers:
        attacker.join(max(deadline - time.monotonic(), 0.1))
    return attackers


def _resident(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def _outside(directory: Path, root: Path) -> dict[str, int]:
    """Every file and directory below one, but for what is in the root, with its size."""
    return {str(p): p.lstat().st_size for p in directory.rglob("*") if p.is_file() and root not in p.parents}


def test_hostile_requests(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "er" / "root"
    secret, log = tmp_path / "secret", tmp_path.parent / f"{tmp_path.name}.log"
    secret.write_bytes(SECRET)
    root.parent.mkdir(parents=True)
    with portside(root, "--floor", "0", log=log) as server:
        with Connection(server.address) as connection:
            raw = push_image(connection, "victim/app", "v1")
            data = blob("victim")
            digests = [push_blob(connection, "victim/app", data, kind) for kind in ("sha256", "sha512")]
            uploads = [start_upload(connection, "open/u") for _ in range(10)]
            for _ in range(200):  # what the first requests import and cache is no growth
                connection.request("GET", "/v2/victim/app/manifests/none")
            connection.request("GET", "/healthz")
        before, files = _resident(server), _outside(tmp_path, root)
        known = Known("victim/x", "victim/app", [*digests, digest_of(raw)], uploads, str(secret))
        began = time.monotonic()
        attackers = _attack(server.address, known)
        wrong = [text for attacker in attackers for text in attacker.wrong]
        assert not wrong, "\n".join(wrong[:10])
        assert sum(attacker.sent for attacker in attackers) == COUNT, f"not within {BOUND_SECONDS} s"
        statuses = sum((attacker.statuses for attacker in attackers), Counter[int]())
        grown = _resident(server) - before
        print(
            f"{COUNT} requests in {time.monotonic() - began:.0f} s: {sorted(statuses.items())}, grown {grown / MIB:.1f} MiB"
        )
        assert {400, 404, 405, 416, 431} <= set(statuses), "the requests reach every kind of refusal"
        assert {200, 201, 202} & set(statuses), "some get as far as a success"
        assert grown < GROWTH_MAX
        with Connection(server.address) as connection:
            assert connection.request("GET", "/v2/").status == 200
            assert connection.request("GET", "/v2/victim/app/manifests/v1").body == raw
            for digest in digests:
                assert connection.request("GET", f"/v2/victim/app/blobs/{digest}").body == data
            fresh = push_image(connection, "after", "v1")
            assert connection.request("GET", "/v2/after/manifests/v1").body == fresh
            mount = query(mount=digests[0])
            assert connection.request("POST", f"/v2/after/blobs/uploads/?{mount}", body=b"").status == 201
        assert _outside(tmp_path, root) == files, "nothing was written outside the root"
    text = log.read_text(errors="replace")
    assert "Traceback" not in text
    assert '"exception"' not in text
    strange = [p for p in (str(path.relative_to(root)) for path in root.rglob("*")) if not _PLACES.match(p)]
    assert strange == []
    run([str(tool("portside")), "check", "--root", str(root)])
