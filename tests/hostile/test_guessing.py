"""Guessed passwords, over real connections: how long a refusal takes tells nothing, and a flood of them costs others nothing."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlencode

import pytest

from storage.sql_people import SQLPeople
from tests import images, servers
from tests.accounts import BY, make, people_of, rule
from tests.hostile.asking import FORM, PULL, basic, bearer, push
from tests.wire.client import Connection, head

USERS = [f"user-{number}" for number in range(4)]
DISABLED = [f"gone-{number}" for number in range(4)]
TRIES = 20
WRONG = "not the password"


class Stranger(Connection):
    """A connection from an address of its own: all of 127.0.0.0/8 is this machine's."""

    def __init__(self, server: servers.Server, source: str) -> None:
        self.address = server.address
        self.sock = socket.create_connection(("127.0.0.1", server.port), 60, source_address=(source, 0))
        self._held = b""


@dataclass(frozen=True)
class Hub:
    server: servers.Server
    people: SQLPeople
    sources: Iterator[str] = field(default_factory=lambda: (f"127.{n >> 8 & 255}.{n & 255}.7" for n in count(257)))

    def stranger(self) -> Stranger:
        return Stranger(self.server, next(self.sources))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("guessing")
    with people_of(root) as people:
        make(people, "bob", *USERS, *DISABLED)
        for name in DISABLED:
            people.set_account(name, BY, is_disabled=True)
        rule(people, "bob", "team/*", "pull,push")
        with servers.portside(root, "--floor", "0") as server:
            yield Hub(server, people)


# -- how long it takes


def test_how_long_a_refusal_takes_tells_nothing(hub: Hub) -> None:
    """A wrong password, a name that nobody has, and an account that is disabled: the same answer after the same time.

    Each try comes from another address, so that nobody is slowed down, and the kinds take turns, so that what else the machine does
    meets all of them.
    """
    names = {"wrong": iter(USERS * 12), "unknown": (f"nobody-{n}" for n in count()), "disabled": iter(DISABLED * 12)}
    times: dict[str, list[float]] = {kind: [] for kind in names}
    answers = set()
    for _ in range(TRIES):
        for kind in random.sample(list(names), len(names)):
            took, answer = guess(hub, next(names[kind]))
            times[kind].append(took)
            answers.add(answer)
    (answer,) = answers
    assert answer[0] == 401
    for kind in ("unknown", "disabled"):
        assert abs(rank_sum(times["wrong"], times[kind])) < 4, times


def guess(hub: Hub, name: str) -> tuple[float, tuple[int, str, bytes]]:
    """The seconds that a wrong password takes, and what is answered but for the time and the request's id."""
    form = urlencode({"grant_type": "password", "username": name, "password": WRONG, "service": "portside"}).encode()
    with hub.stranger() as wire:
        wire.request("GET", "/v2/")
        started = time.perf_counter()
        answer = wire.request("POST", "/auth/token", FORM, form)
        took = time.perf_counter() - started
    headers = [pair for pair in answer.headers if pair[0] not in ("date", "content-length")]
    return took, (answer.status, repr(headers), re.sub(rb'"request_id": "\w+"', b"", answer.body))


def rank_sum(first: Sequence[float], second: Sequence[float]) -> float:
    """How many standard deviations the ranks of the one are off from what chance gives (Mann and Whitney 1947, normal approximation)."""
    ranked = sorted([*((value, 1) for value in first), *((value, 0) for value in second)])
    ranks = sum(rank for rank, (_, is_first) in enumerate(ranked, 1) if is_first)
    n, m = len(first), len(second)
    return (ranks - n * (n + m + 1) / 2) / math.sqrt(n * m * (n + m + 1) / 12)


def test_the_statistic_sees_a_difference() -> None:
    numbers = random.Random(1)
    slow, fast, same = ([numbers.gauss(mean, 0.02) for _ in range(TRIES)] for mean in (0.2, 0.16, 0.2))
    assert abs(rank_sum(slow, fast)) > 4
    assert abs(rank_sum(slow, same)) < 3


# -- a flood

FLOOD = 1500
CONNECTIONS = 64


@dataclass
class Flood:
    """Wrong log-ins, as many at once as there are connections, each of these from an address of its own."""

    hub: Hub
    statuses: Counter[int] = field(default_factory=Counter)
    left: int = FLOOD
    sent_within: float = 0.0
    """Seconds until the last was sent."""

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CONNECTIONS):
                tasks.create_task(self._guess(next(self.hub.sources), started))

    async def _guess(self, source: str, started: float) -> None:
        port = self.hub.server.port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
        while self.left:
            self.left -= 1
            self.sent_within = time.perf_counter() - started
            name = random.choice([*USERS, *DISABLED, "bob", f"nobody-{self.left}"])
            target = random.choice(["/v2/", "/auth/token"])
            writer.write(head("GET", target, self.hub.server.address, basic(name, f"{WRONG} {self.left}")))
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: (\d+)\r\n", answer)
            assert length
            json.loads(await reader.readexactly(int(length[1])))
            self.statuses[int(answer.split(b" ", 2)[1])] += 1
        writer.close()
        await writer.wait_closed()


def test_a_flood_of_wrong_log_ins_costs_nobody_else_anything(hub: Hub) -> None:
    """Hundreds of guesses a second: each is answered with 401 or 429, each pull beside them is whole, and who had logged in gets tokens."""
    content = images.small()
    log_in = "/auth/token?service=portside&scope=repository:team/app:pull&offline_token=true"
    with Connection(hub.server.address) as wire:
        push(wire, content, basic("bob"))
        issued = wire.request("GET", log_in, basic("bob")).json
        form = urlencode({"grant_type": "refresh_token", "refresh_token": issued["refresh_token"]}).encode()
        wanted = {PULL: content.raw}
        wanted |= {
            f"/v2/team/app/blobs/{digest}": blob for digest, blob in content.blobs.items() if blob != content.raw
        }
        flood = Flood(hub)
        thread = threading.Thread(target=flood.run)
        thread.start()
        rounds = 0
        try:
            while thread.is_alive():
                for target, whole in wanted.items():
                    answer = wire.request("GET", target, bearer(issued["token"]))
                    assert (answer.status, answer.body) == (200, whole)
                assert wire.request("POST", "/auth/token", FORM, form).status == 200
                rounds += 1
        finally:
            flood.left = 0
            thread.join()
    assert sum(flood.statuses.values()) == FLOOD, "none was lost"
    assert set(flood.statuses) == {401, 429}, flood.statuses
    assert FLOOD / flood.sent_within > 200, flood.sent_within
    assert rounds > 20
