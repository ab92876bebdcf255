"""Signing keys in a database: what several servers, each with connections and a clock of its own, make of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from auth.key_rows import KeyRows
from auth.keys import RETIREMENT_MARGIN, KeyRing, KeysUnusable
from auth.tokens import TokenIssuer, TokenVerifier
from storage.database import Database
from storage.postgres import PostgresDatabase
from storage.sql_keys import SQLKeys
from storage.sqlite import SQLiteDatabase
from tests.servers import wait_until

LIFETIME = 300.0
SPREAD = KeyRows.seconds_to_spread


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


Server = Callable[[], Database]
"""Opens the hub's database once more."""


@pytest.fixture(params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with contextlib.ExitStack() as opened:
        url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""

        def open_one() -> Database:
            database: Database = PostgresDatabase(url) if url else SQLiteDatabase(tmp_path)
            opened.callback(database.close)
            return database

        yield open_one


def ring(database: Database, clock: Clock) -> KeyRing:
    return KeyRing(KeyRows(SQLKeys(database)), LIFETIME, clock=clock)


def test_servers_that_start_at_once_have_one_key(server: Server) -> None:
    clock, databases = Clock(), [server() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        rings = list(pool.map(lambda database: ring(database, clock), databases))
    assert len({one.signing().kid for one in rings}) == 1
    assert len(SQLKeys(databases[0]).list()) == 1


def test_a_new_key_is_known_everywhere_before_it_signs(server: Server) -> None:
    clock = Clock()
    here, there = ring(server(), clock), ring(server(), clock)
    first = here.signing().kid
    second = here.rotate()
    assert here.find(second) is not None
    wait_until(lambda: there.find(second) is not None, "the other server has heard of it", 10)
    assert here.signing().kid == there.signing().kid == first
    clock.now += SPREAD
    wait_until(lambda: here.signing().kid == there.signing().kid == second, "it signs", 10)
    token = TokenIssuer(here, "hub", LIFETIME).issue(
        subject="a", audience="hub", access=[], epoch=0, credential=None, now=clock.now
    )
    assert TokenVerifier(there, "hub", "hub").verify(token.text, clock.now).subject == "a"
    assert [entry["kid"] for entry in there.jwks()["keys"]] == [second, first]


def test_a_key_retires_when_its_last_token_has_expired(server: Server) -> None:
    clock, database = Clock(), server()
    here = ring(database, clock)
    first = here.signing().kid
    second = here.rotate()
    clock.now += SPREAD + LIFETIME + RETIREMENT_MARGIN - 1
    assert ring(server(), clock).find(first) is not None, "it signed until the other one did"
    clock.now += 1
    assert ring(server(), clock).find(first) is None
    assert [row.number for row in SQLKeys(database).list()] == [2]
    wait_until(lambda: here.find(first) is None, "the first server finds that out too", 10)
    assert here.signing().kid == second


def test_a_row_that_is_no_key_is_told(server: Server) -> None:
    database = server()
    SQLKeys(database).add("no key at all", 0.0, True)
    with pytest.raises(KeysUnusable, match="number 1 is no unencrypted P-256") as caught:
        ring(database, Clock())
    assert "no key at all" not in str(caught.value)
