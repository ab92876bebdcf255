"""An `Authenticator` on people in memory: `real`, which hashes passwords, and `held`, whose passwords wait for the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from auth.authenticator import Authenticator
from auth.passwords import PasswordPool, hash_password
from auth.throttle import Throttle
from tests.auth.logins import PASSWORD, START, Clock, People, Waiting


@pytest.fixture(scope="session")
def hashed() -> str:
    return hash_password(PASSWORD)


@pytest.fixture
def people(hashed: str) -> People:
    people = People()
    people.add("bob", hashed)
    return people


@pytest.fixture
def pool() -> Iterator[PasswordPool]:
    pool = PasswordPool()
    yield pool
    pool.close()


@pytest.fixture
def ticks() -> Clock:
    return Clock(100.0)


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def waiting() -> Waiting:
    return Waiting()


@pytest.fixture
def real(people: People, pool: PasswordPool, clock: Clock, ticks: Clock) -> Authenticator:
    """With passwords that are hashed."""
    return Authenticator(people, pool, Throttle(), clock, ticks)


@pytest.fixture
def held(people: People, waiting: Waiting, clock: Clock, ticks: Clock) -> Authenticator:
    """With passwords that wait."""
    return Authenticator(people, waiting, Throttle(), clock, ticks)
