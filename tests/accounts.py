"""A hub's people, made directly in its facts: for tests of what follows from them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from auth.gate import ACCOUNTS_SETTING
from auth.names import new_secret, secret_hash
from auth.passwords import hash_password
from auth.policy import parse_actions
from storage.people import Actor, Credential, Effect, Kind, Purpose, Rule
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople
from storage.sqlite import SQLiteDatabase

BY = Actor("local")
PASSWORD = "correct horse battery"
"""Everybody's, unless a test says otherwise."""


@contextlib.contextmanager
def people_of(root: Path) -> Iterator[SQLPeople]:
    """The facts of a root, also while servers run on it."""
    metadata = SQLMetadata(SQLiteDatabase(root))
    try:
        yield SQLPeople(metadata.database)
    finally:
        metadata.close()


def make(people: SQLPeople, *users: str, admin: str = "root", password: str = PASSWORD) -> None:
    """Switch accounts on, with an administrator and users of one password."""
    people.set_setting(ACCOUNTS_SETTING, "on", BY)
    people.add_account(admin, Kind.USER, BY, is_admin=True)
    people.set_password(admin, hash_password(password), BY)
    add(people, *users, password=password)


def add(people: SQLPeople, *users: str, password: str = PASSWORD) -> None:
    """Users of one password, where accounts are on."""
    hashed = hash_password(password)
    for user in users:
        people.add_account(user, Kind.USER, BY)
        people.set_password(user, hashed, BY)


def rule(people: SQLPeople, who: str, pattern: str, actions: str, effect: Effect = Effect.ALLOW) -> None:
    """Give or, with DENY, take."""
    people.put_rule(Rule(who, pattern, effect, parse_actions(actions) if actions else ()), BY)


def token(
    people: SQLPeople, account: str, *limits: str, purpose: Purpose = Purpose.PERSONAL, ends: float | None = None
) -> str:
    """A new secret of an account; ``ends`` in seconds of the Unix clock."""
    secret = new_secret(purpose)
    credential = Credential(0, account, purpose, "test", time.time(), ends, None, limits)
    people.add_credential(credential, secret_hash(secret), BY)
    return secret
