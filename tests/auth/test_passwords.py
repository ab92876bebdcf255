"""Passwords are verified right, last, and a few at a time. All hashes here are real ones."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from argon2.profiles import get_default_parameters

from auth.passwords import NICE, CannotVerify, PasswordPool, TooManyLogins, hash_password, needs_rehash
from tests.servers import wait_until

PASSWORD = "correct horse battery"
HOME = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hashed() -> str:
    return hash_password(PASSWORD)


@pytest.fixture
def pool() -> Iterator[PasswordPool]:
    pool = PasswordPool()
    yield pool
    pool.close()


def test_a_password_is_right_or_wrong(pool: PasswordPool, hashed: str) -> None:
    assert pool.verify(hashed, PASSWORD).result(60) is True
    assert pool.verify(hashed, PASSWORD + " ").result(60) is False


def test_the_cost_is_the_library_s_and_each_hash_has_its_own_salt(hashed: str) -> None:
    parameters = get_default_parameters()
    cost = f"m={parameters.memory_cost},t={parameters.time_cost},p={parameters.parallelism}"
    assert hashed.startswith(f"$argon2id$v=19${cost}$")
    assert hash_password(PASSWORD) != hashed


def test_an_accent_is_right_however_a_keyboard_sends_it(pool: PasswordPool) -> None:
    hashed = hash_password("caf\u00e9 au lait")
    assert pool.verify(hashed, "cafe\u0301 au lait").result(60) is True
    assert pool.verify(hashed, "cafe au lait").result(60) is False


def test_nobody_has_no_password(pool: PasswordPool) -> None:
    for password in ("", PASSWORD):
        assert pool.verify(None, password).result(60) is False


def test_a_hash_of_other_times_still_works_and_is_told(pool: PasswordPool, hashed: str) -> None:
    old = PasswordHasher(time_cost=2, memory_cost=1024, parallelism=1).hash(PASSWORD)
    assert pool.verify(old, PASSWORD).result(60) is True
    assert needs_rehash(old)
    assert not needs_rehash(hashed)


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "plain text",
        "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$",
        "$argon2id$v=19$m=4294967295,t=3,p=4$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNoaGFzaA",  # 4 TiB of memory
        "$argon2id$v=19$m=1048576,t=3,p=4$é$aGFzaA",
    ],
)
def test_what_cannot_be_verified_is_neither_right_nor_wrong(pool: PasswordPool, hashed: str, damaged: str) -> None:
    error = pool.verify(damaged, PASSWORD).exception(60)
    assert isinstance(error, CannotVerify)
    assert PASSWORD not in str(error)
    assert pool.verify(hashed, PASSWORD).result(60) is True, "the thread is there for the next one"


def test_the_interpreter_runs_on_meanwhile(pool: PasswordPool, hashed: str) -> None:
    pool.verify(hashed, PASSWORD).result(60)
    verified, steps = pool.verify(hashed, PASSWORD), 0
    while not verified.done():
        wait([verified], 0.001)
        steps += 1
    assert steps > 20


def test_threads_and_their_lanes_let_others_go_first(pool: PasswordPool, hashed: str) -> None:
    pool.verify(hashed, PASSWORD).result(60)
    ours = {str(thread.native_id) for thread in threading.enumerate() if thread.name.startswith("passwords-")}
    others = set(os.listdir("/proc/self/task")) - ours
    verified, most, seen = pool.verify(hashed, PASSWORD), 0, set[tuple[int, int]]()
    while not verified.done():
        running = [priority(task) for task in os.listdir("/proc/self/task") if task not in others]
        seen.update(one for one in running if one is not None)
        most = max(most, len(running))
        wait([verified], 0.001)
    assert most >= 3, "our thread, and two lanes at least, were seen at work"
    assert seen == {(NICE, os.SCHED_BATCH)}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == 0


def priority(task: str) -> tuple[int, int] | None:
    """A thread's nice value and policy (man 5 proc, /proc/PID/stat, fields 19 and 41); None where it has ended."""
    try:
        fields = Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[16]), int(fields[38])


def test_a_full_queue_sends_people_away(hashed: str) -> None:
    pool = PasswordPool(waiting=2)
    try:
        outcomes = [refusal(pool, hashed) for _ in range(100)]
        refused = [one for one in outcomes if one is not None]
        assert len(refused) in (97, 98), "two wait, and one is being verified if the thread has taken it already"
        assert 1 <= refused[0].retry_after <= 60
        assert str(refused[0]) == f"too many log-ins at once: try again in {math.ceil(refused[0].retry_after)} s"
        wait_until(lambda: refusal(pool, hashed) is None, "room in the queue")
    finally:
        pool.close()


def refusal(pool: PasswordPool, hashed: str) -> TooManyLogins | None:
    try:
        pool.verify(hashed, PASSWORD)
    except TooManyLogins as error:
        return error
    return None


def test_how_long_to_wait_follows_from_how_long_it_takes(hashed: str) -> None:
    pool = PasswordPool(waiting=20)
    cheap = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
    try:
        for _ in range(60):
            assert pool.verify(cheap, PASSWORD).result(60)
        error = None
        while error is None:
            error = refusal(pool, hashed)
        assert error.retry_after == 1, "21 of the quick ones take less"
    finally:
        pool.close()


def test_more_threads_verify_at_once(hashed: str) -> None:
    pool = PasswordPool(threads=2)
    try:
        pending = [pool.verify(hashed, PASSWORD) for _ in range(4)]
        while not all(one.running() for one in pending[:2]):
            assert not pending[0].done(), "the second started only when the first had ended"
        assert all(one.result(60) for one in pending)
    finally:
        pool.close()


def test_what_was_given_up_is_not_verified(pool: PasswordPool, hashed: str) -> None:
    pending = [pool.verify(hashed, PASSWORD) for _ in range(20)]
    cancelled = [one.cancel() for one in pending[1:-1]]
    assert cancelled == [True] * 18
    started = time.process_time()
    assert pending[-1].result(60) is True
    many = time.process_time() - started
    started = time.process_time()
    assert pool.verify(hashed, PASSWORD).result(60) is True
    assert many < 6 * (time.process_time() - started)


def test_closing_ends_the_threads_and_what_waits(hashed: str) -> None:
    pool = PasswordPool(threads=2)
    pending = [pool.verify(hashed, PASSWORD) for _ in range(10)]
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("passwords-")]
    assert len(threads) == 2
    while not pending[1].running() and not pending[1].done():
        pass
    pool.close()
    assert not any(thread.is_alive() for thread in threads)
    assert [one.result(0) for one in pending[:2]] == [True, True], "what was being verified is finished"
    for one in pending[4:]:
        with pytest.raises(CancelledError):
            one.result(0)
    with pytest.raises(CannotVerify, match="the server is stopping"):
        pool.verify(hashed, PASSWORD)
    pool.close()


def test_a_pool_that_nobody_used_starts_and_leaves_nothing() -> None:
    before = threading.active_count()
    pool = PasswordPool()
    assert threading.active_count() == before
    pool.close()


def test_an_idle_thread_holds_no_password(pool: PasswordPool, hashed: str) -> None:
    password = "".join(["made ", "for ", "this"])
    before = sys.getrefcount(password)
    verified = pool.verify(hashed, password)
    assert sys.getrefcount(password) > before
    assert verified.result(60) is False
    del verified
    wait_until(lambda: sys.getrefcount(password) == before, "the thread's next turn")


def test_no_password_is_printed(hashed: str) -> None:
    from auth.passwords import _Job

    pool = PasswordPool()
    job = _Job(hashed, PASSWORD, pool.verify(hashed, PASSWORD))
    pool.close()
    assert not re.search(f"{PASSWORD}|argon2id", f"{job!r} {job.verified!r} {pool!r}")


def test_the_library_is_imported_by_whom_needs_it() -> None:
    code = """
import sys
import auth.authenticator, auth.names, auth.passwords, auth.throttle
pool = auth.passwords.PasswordPool()
print(sorted(sys.modules.keys() & {"argon2", "cryptography", "jwt", "httpx"}))
pool.verify(None, "password").result()
print("argon2" in sys.modules)
pool.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\nTrue\n"
