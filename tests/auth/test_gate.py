from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from auth.authenticator import Authenticator
from auth.gate import Gate
from auth.identity import Identity
from auth.passwords import PasswordPool
from auth.throttle import Throttle
from storage.people import EVERYONE, Rule
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople
from storage.sqlite import SQLiteDatabase
from tests import accounts


class Changing(SQLPeople):
    """Something happens right after the rules were read, before their reader goes on: what another thread may do at any time."""

    then: Callable[[], object] | None = None

    def rules_of(self, subjects: Sequence[str]) -> Sequence[Rule]:
        found = super().rules_of(subjects)
        then, self.then = self.then, None
        if then is not None:
            then()
        return found


@pytest.fixture
def people(tmp_path: Path) -> Iterator[Changing]:
    metadata = SQLMetadata(SQLiteDatabase(tmp_path))
    people = Changing(metadata.database)
    accounts.make(people, "bob")
    yield people
    metadata.close()


@pytest.fixture
def gate(people: Changing) -> Iterator[Gate]:
    pool = PasswordPool()
    gate = Gate(
        people, Authenticator(people, pool, Throttle()), lambda: pytest.fail("no bearer of a signed token comes")
    )
    yield gate
    gate.close()
    pool.close()


def who(gate: Gate, secret: str | None) -> Identity:
    header = None if secret is None else f"Bearer {secret}".encode()
    found = gate.identify(header, "192.0.2.1", lambda identity, credential: None)
    assert not isinstance(found, Future)
    return found


@pytest.mark.parametrize("is_nobody", [False, True], ids=["an account", "nobody"])
def test_a_right_that_is_taken_while_another_thread_looks_it_up_is_not_kept(
    gate: Gate, people: Changing, is_nobody: bool
) -> None:
    secret = None if is_nobody else accounts.token(people, "bob")
    subject = EVERYONE if is_nobody else "bob"
    accounts.rule(people, subject, "app", "pull")

    def take_it_and_ask() -> None:
        accounts.rule(people, subject, "app", "")
        assert not who(gate, secret).may("pull", "app"), "another thread asks after the change"

    people.then = take_it_and_ask
    assert who(gate, secret).may("pull", "app"), "it was so when it was looked up"
    assert people.then is None
    assert not who(gate, secret).may("pull", "app")


def test_what_is_known_is_not_looked_up_again(gate: Gate, people: Changing) -> None:
    secret = accounts.token(people, "bob")
    known = who(gate, secret)
    assert who(gate, secret) is known
    nobody = who(gate, None)
    assert who(gate, None) is nobody
    accounts.rule(people, "bob", "app", "pull")
    assert who(gate, secret) is not known
    assert who(gate, None) is not nobody
