"""Who a secret of ours is, and where none is left behind."""

from __future__ import annotations

import gc
import sys

import pytest

from auth.authenticator import KEPT_MAX, Authenticator, Login, WrongCredentials
from auth.names import new_secret, secret_hash
from auth.passwords import PasswordPool
from auth.throttle import SlowDown, Throttle
from storage.people import Credential, Purpose
from tests.auth.logins import ADDRESS, PASSWORD, START, Clock, People, Waiting


def test_log_ins_that_are_kept_are_bounded(held: Authenticator, people: People) -> None:
    tokens = [people.give("bob") for _ in range(KEPT_MAX + 1)]
    for token in tokens:
        assert held.known("bob", token, ADDRESS) is not None
    before = people.lookups
    for token in tokens[1:]:
        assert held.known("bob", token, ADDRESS) is not None
    assert people.lookups == before
    assert held.known("bob", tokens[0], ADDRESS) is not None
    assert people.lookups == before + 2, "the oldest was looked up anew, its credential and its account"


@pytest.mark.parametrize("purpose", [Purpose.PERSONAL, Purpose.ROBOT])
def test_a_secret_of_ours_is_known_without_any_hashing(held: Authenticator, people: People, purpose: Purpose) -> None:
    secret = people.give("bob", purpose)
    login = held.known("bob", secret, ADDRESS)
    assert login == Login(people.accounts["bob"], people.credentials[secret_hash(secret)])
    before = people.lookups
    assert held.known("bob", secret, ADDRESS) == login
    assert people.lookups == before, "it is kept"
    assert held.known("eve", secret, ADDRESS) is None
    assert held.known("", secret, ADDRESS) is None


def test_a_refresh_token_is_no_password_and_a_password_no_refresh_token(held: Authenticator, people: People) -> None:
    refresh, personal = people.give("bob", Purpose.REFRESH), people.give("bob")
    assert held.refresh(refresh, ADDRESS).account.name == "bob"
    assert held.known("bob", personal, ADDRESS) is not None
    for name in ("bob", ""):
        assert held.known(name, refresh, ADDRESS) is None
        assert isinstance(held.begin(name, refresh, ADDRESS).exception(0), WrongCredentials)
    for secret in (personal, "", PASSWORD, refresh[:-1], new_secret(Purpose.REFRESH)):
        with pytest.raises(WrongCredentials):
            held.refresh(secret, ADDRESS)


def test_a_secret_that_is_recorded_for_another_purpose_is_not_taken(held: Authenticator, people: People) -> None:
    secret = new_secret(Purpose.PERSONAL)
    people.credentials[secret_hash(secret)] = Credential(7, "bob", Purpose.REFRESH, "", START, None, None)
    assert held.known("bob", secret, ADDRESS) is None


@pytest.mark.parametrize("of", ["credential", "account"])
@pytest.mark.parametrize("purpose", Purpose)
def test_a_secret_ends_when_it_expires_also_while_it_is_kept(
    held: Authenticator, people: People, clock: Clock, purpose: Purpose, of: str
) -> None:
    people.change("bob", expires_at=START + 10 if of == "account" else None)
    secret = people.give("bob", purpose, START + 10 if of == "credential" else None)

    def attempt() -> Login | None:
        return held.refresh(secret, ADDRESS) if purpose is Purpose.REFRESH else held.known("bob", secret, ADDRESS)

    clock.now += 9.9
    assert attempt() is not None
    clock.now += 0.1
    if purpose is Purpose.REFRESH:
        with pytest.raises(WrongCredentials):
            attempt()
    else:
        assert attempt() is None
        assert isinstance(held.begin("bob", secret, ADDRESS).exception(0), WrongCredentials)


def test_a_password_that_is_kept_ends_when_its_account_expires(
    held: Authenticator, people: People, waiting: Waiting, clock: Clock
) -> None:
    people.change("bob", expires_at=START + 10)
    held.begin("bob", PASSWORD, ADDRESS)
    waiting.finish(True)
    assert held.known("bob", PASSWORD, ADDRESS) is not None
    clock.now += 10
    assert held.known("bob", PASSWORD, ADDRESS) is None


def test_an_unknown_secret_is_a_failure_and_an_expired_one_is_none(
    held: Authenticator, people: People, waiting: Waiting
) -> None:
    expired = people.give("bob", expires_at=START)
    for _ in range(30):
        assert isinstance(held.begin("bob", expired, ADDRESS).exception(0), WrongCredentials)
    for _ in range(5):
        assert isinstance(held.begin("bob", new_secret(Purpose.ROBOT), ADDRESS).exception(0), WrongCredentials)
    with pytest.raises(SlowDown):
        held.begin("bob", new_secret(Purpose.ROBOT), ADDRESS)
    assert held.known("bob", people.give("bob"), ADDRESS) is not None, "who is right is never slowed down"
    assert not waiting.pending


@pytest.mark.parametrize("change", ["disabled", "revoked"])
def test_a_refresh_token_ends_before_another_servers_change_is_heard_of(
    held: Authenticator, people: People, change: str
) -> None:
    refresh = people.give("bob", Purpose.REFRESH)
    assert held.refresh(refresh, ADDRESS).account.name == "bob"
    generation = people.generation
    if change == "disabled":
        people.change("bob", is_disabled=True)
    else:
        del people.credentials[secret_hash(refresh)]
    people.generation = generation
    with pytest.raises(WrongCredentials):
        held.refresh(refresh, ADDRESS)


def test_unknown_refresh_tokens_count_against_the_address(held: Authenticator, people: People) -> None:
    expired = people.give("bob", Purpose.REFRESH, START)
    for _ in range(30):
        with pytest.raises(WrongCredentials):
            held.refresh(expired, ADDRESS)
    held.begin("eve", PASSWORD, ADDRESS)
    for _ in range(20):
        with pytest.raises(WrongCredentials):
            held.refresh(new_secret(Purpose.REFRESH), ADDRESS)
    with pytest.raises(SlowDown):
        held.begin("joe", PASSWORD, ADDRESS)


def test_nothing_holds_a_secret(
    real: Authenticator, people: People, pool: PasswordPool, caplog: pytest.LogCaptureFixture
) -> None:
    password = "".join(["the ", "wrong ", "one"])
    token, unknown, refresh = people.give("bob"), new_secret(Purpose.PERSONAL), people.give("bob", Purpose.REFRESH)
    login = real.begin("bob", PASSWORD, ADDRESS).result(60)
    assert real.known("bob", PASSWORD, ADDRESS) == login
    held = [login, real.known("bob", token, ADDRESS), real.refresh(refresh, ADDRESS)]
    errors = [real.begin("bob", secret, ADDRESS).exception(60) for secret in (password, unknown)]
    pool.verify(None, "something else, so that the thread has come to its next turn").result(60)
    reached = [
        reached.decode("latin-1") if isinstance(reached, bytes) else reached for reached in below([real, held, errors])
    ]
    for secret in (PASSWORD, password, token, unknown, refresh):
        assert not [text for text in reached if secret in text]
        assert secret not in f"{real!r}{held!r}{errors!r}{caplog.text}"


def test_what_is_kept_is_kept_under_a_key_that_no_other_process_has(people: People, waiting: Waiting) -> None:
    token, seen = people.give("bob"), list[set[bytes]]()
    for _ in range(2):
        authenticator = Authenticator(people, waiting, Throttle())
        assert authenticator.known("bob", token, ADDRESS) is not None
        seen.append({found for found in below(authenticator) if isinstance(found, bytes) and len(found) >= 16})
    assert len(seen[0]) >= 2, "the key and the hash"
    assert not seen[0] & seen[1]


def test_a_change_of_people_drops_what_was_kept(held: Authenticator, people: People) -> None:
    first, second = people.give("bob"), people.give("bob")
    login = held.known("bob", first, ADDRESS)
    before = sys.getrefcount(login)
    people.change("bob", is_admin=True)
    assert held.known("bob", second, ADDRESS) is not None
    assert sys.getrefcount(login) == before - 1


def below(start: object) -> list[str | bytes]:
    """Every string and bytes that can be reached from an object without passing through classes, modules and functions."""
    seen, found, todo = {id(start)}, list[str | bytes](), [start]
    while todo:
        current = todo.pop()
        if isinstance(current, (str, bytes)):
            found.append(current)
        elif not isinstance(current, (type, type(sys), type(below))):
            for referent in gc.get_referents(current):
                if id(referent) not in seen:
                    seen.add(id(referent))
                    todo.append(referent)
    return found
