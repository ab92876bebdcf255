"""How fast passwords may be tried, and what the time that it takes tells."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from auth.authenticator import Authenticator, Login, WrongCredentials
from auth.passwords import CannotVerify, PasswordPool, TooManyLogins, needs_rehash
from auth.throttle import SlowDown, Throttle
from tests.auth.logins import ADDRESS, PASSWORD, Clock, People, Waiting
from tests.servers import wait_until


def test_time_does_not_tell_an_unknown_user_from_a_wrong_password(
    people: People, pool: PasswordPool, ticks: Clock
) -> None:
    authenticator = Authenticator(people, pool, Throttle(), ticks=ticks)
    taken: dict[str, list[float]] = {"bob": [], "nobody": []}

    def attempt(name: str) -> float:
        ticks.now += 60
        started = time.perf_counter()
        assert isinstance(authenticator.begin(name, "a wrong password", ADDRESS).exception(60), WrongCredentials)
        return time.perf_counter() - started

    attempt("bob")  # the first one imports the library
    for _ in range(4):  # other work on the machine can spoil a round; a difference in ours shows in each
        for _ in range(15):
            for name, times in taken.items():
                times.append(attempt(name))
        wrong, unknown = (statistics.median(times) for times in taken.values())
        if abs(unknown / wrong - 1) < 0.2:
            return
    pytest.fail(f"seconds, in the middle: {wrong:.3f} for a wrong password, {unknown:.3f} for an unknown user")


def test_failures_slow_down_what_follows_and_a_success_ends_it(
    held: Authenticator, waiting: Waiting, ticks: Clock
) -> None:
    for name in ("bob", "nobody"):
        for index in range(5):
            held.begin(name, f"wrong password {index}", ADDRESS)
        with pytest.raises(SlowDown) as caught:
            held.begin(name, PASSWORD, ADDRESS)
        assert caught.value.retry_after == 1, "counted when they begin: those that still wait too"
        waiting.finish(False)
    ticks.now += 1
    future = held.begin("bob", PASSWORD, ADDRESS)
    waiting.finish(True)
    assert future.result(0).account.name == "bob"
    for index in range(5):
        held.begin("bob", f"wrong password {index}", ADDRESS)


def test_who_shares_the_work_of_others_is_slowed_and_counted_too(held: Authenticator, waiting: Waiting) -> None:
    slowed, other = "198.51.100.1", "198.51.100.2"
    for index in range(20):
        held.begin(f"user{index}", PASSWORD, slowed)
    for index in range(4):
        held.begin("bob", f"wrong password {index}", other)
    held.begin("bob", PASSWORD, ADDRESS)
    with pytest.raises(SlowDown):
        held.begin("bob", PASSWORD, slowed)
    held.begin("bob", PASSWORD, other)
    waiting.finish(False)
    with pytest.raises(SlowDown):
        held.begin("bob", PASSWORD, other)


def test_a_log_in_that_was_not_looked_at_is_no_failure(held: Authenticator, waiting: Waiting) -> None:
    waiting.is_full = True
    for _ in range(30):
        with pytest.raises(TooManyLogins):
            held.begin("bob", PASSWORD, ADDRESS)
    waiting.is_full = False
    for error in (CannotVerify("no memory"), OSError("the facts are gone")):
        for _ in range(10):
            future = held.begin("bob", PASSWORD, ADDRESS)
            waiting.finish(error)
            assert future.exception(0) is error
    held.begin("bob", PASSWORD, ADDRESS)
    assert len(waiting.pending) == 1


def test_facts_that_fail_fail_the_log_in(held: Authenticator, people: People, waiting: Waiting) -> None:
    future = held.begin("bob", PASSWORD, ADDRESS)

    def fail() -> None:
        raise OSError("the disk is gone")

    people.on_lookup = fail
    waiting.finish(True)
    assert isinstance(future.exception(0), OSError)


def test_a_hash_of_other_times_is_made_anew(real: Authenticator, people: People) -> None:
    old = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    people.set_password("bob", old)
    login = real.begin("bob", PASSWORD, ADDRESS).result(60)
    wait_until(lambda: people.password_hash("bob") != old, "it was hashed anew", 60)
    renewed = people.password_hash("bob")
    assert renewed is not None
    assert not needs_rehash(renewed)
    assert real.begin("bob", PASSWORD, ADDRESS).result(60) == login
    assert people.password_hash("bob") == renewed
    with pytest.raises(WrongCredentials):
        real.begin("bob", "another password", ADDRESS).result(60)


def test_a_password_that_is_hashed_anew_while_it_is_verified_is_right(
    held: Authenticator, people: People, waiting: Waiting, hashed: str
) -> None:
    future = held.begin("bob", PASSWORD, ADDRESS)
    people.set_password("bob", PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD))
    waiting.finish(True)
    assert future.result(60).account.name == "bob"


def test_a_flood_is_refused_and_not_queued(people: People) -> None:
    pool = PasswordPool()
    authenticator = Authenticator(people, pool, Throttle())
    authenticator.begin("nobody", PASSWORD, ADDRESS).exception(60)
    token, before = people.give("bob"), resident()
    accepted, refused, taken = list[Future[Login]](), 0, list[float]()
    try:
        while len(taken) < 400 or not accepted[0].done():  # as fast as they come, each a user from elsewhere
            try:
                accepted.append(authenticator.begin(f"user{len(taken)}", PASSWORD, f"10.0.0.{len(taken) % 256}"))
            except TooManyLogins:
                refused += 1
            started = time.perf_counter()
            assert authenticator.known("bob", token, ADDRESS) is not None
            taken.append(time.perf_counter() - started)
        assert 32 <= len(accepted) <= 40, "32 wait, one is verified, and a few more were done meanwhile"
        assert refused == len(taken) - len(accepted)
        assert resident() - before < 80 * 1024 * 1024, "one is verified at a time, in 64 MiB"
        assert statistics.quantiles(taken, n=100)[-1] < 0.01, "99 of 100 who are known do not notice"
    finally:
        pool.close()
    errors = [one.exception(0) for one in accepted]
    assert isinstance(errors[0], WrongCredentials)
    assert isinstance(errors[-1], CannotVerify), "who waits for a server that stops is told so"


def resident() -> int:
    """This process's memory, in bytes (man 5 proc)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
