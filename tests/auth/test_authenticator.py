"""Who a name and a password are, and when that ends."""

from __future__ import annotations

import pytest
from argon2 import PasswordHasher

from auth.authenticator import KEPT_SECONDS, Authenticator, Login, WrongCredentials
from auth.throttle import SlowDown
from storage.people import Kind, Purpose
from tests.auth.logins import ADDRESS, PASSWORD, START, Clock, People, Waiting


def test_a_right_password_is_known_from_then_on(real: Authenticator, people: People, ticks: Clock) -> None:
    assert real.known("bob", PASSWORD, ADDRESS) is None
    login = real.begin("bob", PASSWORD, ADDRESS).result(60)
    assert login == Login(people.accounts["bob"], None)
    assert real.known("bob", PASSWORD, "198.51.100.7") == login
    assert real.known("bob", PASSWORD + "!", ADDRESS) is None
    assert real.known("bob2", PASSWORD, ADDRESS) is None
    ticks.now += KEPT_SECONDS - 0.1
    assert real.known("bob", PASSWORD, ADDRESS) == login
    ticks.now += 0.1
    assert real.known("bob", PASSWORD, ADDRESS) is None


def test_every_wrong_log_in_gets_one_answer_for_the_same_work(
    held: Authenticator, people: People, waiting: Waiting, hashed: str
) -> None:
    people.add("nopassword")
    people.add("ci", kind=Kind.ROBOT)
    people.add("disabled", hashed)
    people.change("disabled", is_disabled=True)
    people.add("expired", hashed, expires_at=START)
    messages = set()
    for name, is_right in [
        ("bob", False),
        ("nobody", False),
        ("nopassword", False),
        ("ci", False),
        ("disabled", False),
        ("disabled", True),
        ("expired", True),
    ]:
        future = held.begin(name, PASSWORD, ADDRESS)
        assert len(waiting.pending) == 1, f"no work was done for {name}"
        assert not future.done()
        waiting.finish(is_right)
        error = future.exception(0)
        assert isinstance(error, WrongCredentials)
        assert error.name == name
        messages.add(str(error))
        assert held.known(name, PASSWORD, ADDRESS) is None
    assert messages == {"the name or the password is wrong, or the token is no longer good"}


def test_who_has_no_password_is_not_let_in_whatever_the_pool_says(
    held: Authenticator, people: People, waiting: Waiting
) -> None:
    people.add("nopassword")
    futures = [held.begin(name, PASSWORD, ADDRESS) for name in ("nobody", "nopassword")]
    waiting.finish(True)
    assert all(isinstance(future.exception(0), WrongCredentials) for future in futures)


@pytest.mark.parametrize("password", ["", "short", "p" * 1025, "pass\0word", "lone \ud800 surrogate"])
def test_what_is_nobody_s_password_is_refused_at_once(held: Authenticator, waiting: Waiting, password: str) -> None:
    for name in ("bob", "nobody"):
        assert held.known(name, password, ADDRESS) is None
        assert isinstance(held.begin(name, password, ADDRESS).exception(0), WrongCredentials)
    assert not waiting.pending


@pytest.mark.parametrize("name", ["", "Bob", "everyone", "a/b", "x" * 65, "\ud800", "bob\n\x1b[31m"])
def test_a_name_that_nobody_has_is_refused_at_once(held: Authenticator, waiting: Waiting, name: str) -> None:
    assert held.known(name, PASSWORD, ADDRESS) is None
    error = held.begin(name, PASSWORD, ADDRESS).exception(0)
    assert isinstance(error, WrongCredentials)
    assert error.name.isprintable()
    assert len(error.name) <= 64
    assert not waiting.pending
    for _ in range(4):
        held.begin(name, PASSWORD, ADDRESS)
    with pytest.raises(SlowDown):
        held.begin(name, PASSWORD, ADDRESS)


def test_those_who_try_the_same_at_once_share_the_work(held: Authenticator, people: People, waiting: Waiting) -> None:
    same = [held.begin("bob", PASSWORD, address) for address in [ADDRESS] * 30 + ["192.0.2.2", "192.0.2.3"]]
    other = held.begin("bob", "another password", ADDRESS)
    assert [password for _, password, _ in waiting.pending] == [PASSWORD, "another password"]
    assert same[3].cancel(), "a client that goes away"
    waiting.pending[0][2].set_result(True)
    expected = Login(people.accounts["bob"], None)
    assert [one.result(0) for one in same if one is not same[3]] == [expected] * 31
    assert not other.done()
    waiting.pending[1][2].set_result(False)
    assert isinstance(other.exception(0), WrongCredentials)
    waiting.pending.clear()
    held.begin("bob", PASSWORD, ADDRESS)
    assert len(waiting.pending) == 1, "what comes later is looked at anew"


def test_thirty_identical_failures_at_once_count_as_one(held: Authenticator, waiting: Waiting) -> None:
    for _ in range(30):
        held.begin("bob", PASSWORD, ADDRESS)
    waiting.finish(False)
    for index in range(4):
        held.begin("bob", f"wrong password {index}", ADDRESS)
    last = held.begin(
        "bob", "wrong password 3", ADDRESS
    )  # the fifth: one more would wait, yet this one is being looked at
    with pytest.raises(SlowDown):
        held.begin("bob", PASSWORD, ADDRESS)
    waiting.finish(False)
    assert isinstance(last.exception(0), WrongCredentials)


def test_a_changed_password_ends_the_old_one_at_once(held: Authenticator, people: People, waiting: Waiting) -> None:
    held.begin("bob", PASSWORD, ADDRESS)
    waiting.finish(True)
    assert held.known("bob", PASSWORD, ADDRESS) is not None
    people.set_password("bob", "another hash")
    assert held.known("bob", PASSWORD, ADDRESS) is None
    future = held.begin("bob", PASSWORD, ADDRESS)
    assert waiting.pending[0][0] == "another hash"
    waiting.finish(False)
    assert isinstance(future.exception(0), WrongCredentials)


@pytest.mark.parametrize("kind", ["password", "token", "refresh token"])
def test_a_disabled_account_ends_at_once(held: Authenticator, people: People, waiting: Waiting, kind: str) -> None:
    token, refresh = people.give("bob"), people.give("bob", Purpose.REFRESH)

    def attempt() -> bool:
        if kind == "refresh token":
            try:
                return held.refresh(refresh, ADDRESS) is not None
            except WrongCredentials:
                return False
        return held.known("bob", token if kind == "token" else PASSWORD, ADDRESS) is not None

    held.begin("bob", PASSWORD, ADDRESS)
    waiting.finish(True)
    assert attempt()
    people.change("bob", is_disabled=True)
    assert not attempt()


def test_a_password_that_was_changed_while_it_was_verified(
    held: Authenticator, people: People, waiting: Waiting
) -> None:
    future = held.begin("bob", PASSWORD, ADDRESS)
    another = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("another password")
    people.set_password("bob", another)
    newer = held.begin("bob", "another password", ADDRESS)
    assert [hashed for hashed, _, _ in waiting.pending][1:] == [another], "the new one's owner waits for the new hash"
    waiting.finish(True)
    assert isinstance(future.exception(0), WrongCredentials)
    assert newer.exception(0) is None


@pytest.mark.parametrize("change", ["disabled", "removed", "expired"])
def test_an_account_that_ended_while_its_password_was_verified(
    held: Authenticator, people: People, waiting: Waiting, clock: Clock, change: str
) -> None:
    people.change("bob", expires_at=START + 10)
    future = held.begin("bob", PASSWORD, ADDRESS)
    if change == "disabled":
        people.change("bob", is_disabled=True)
    elif change == "removed":
        del people.accounts["bob"]
    else:
        clock.now += 10
    waiting.finish(True)
    assert isinstance(future.exception(0), WrongCredentials)


def test_nothing_is_kept_while_people_are_being_changed(held: Authenticator, people: People, waiting: Waiting) -> None:
    people.generation += 1
    held.begin("bob", PASSWORD, ADDRESS)
    waiting.finish(True)
    assert held.known("bob", PASSWORD, ADDRESS) is None
    people.generation += 1
    assert held.known("bob", PASSWORD, ADDRESS) is None


@pytest.mark.parametrize("kind", ["password", "token"])
def test_what_changed_between_two_look_ups_is_not_kept(
    held: Authenticator, people: People, waiting: Waiting, kind: str
) -> None:
    secret = people.give("bob") if kind == "token" else PASSWORD

    def disable() -> None:
        people.on_lookup = lambda: None
        people.change("bob", is_disabled=True)

    people.on_lookup = disable
    if kind == "token":
        held.known("bob", secret, ADDRESS)  # may be let in this once: the change came while it was answered
    else:
        held.begin("bob", secret, ADDRESS)
        waiting.finish(True)
    assert people.accounts["bob"].is_disabled
    assert held.known("bob", secret, ADDRESS) is None
