"""Passwords as argon2id hashes (RFC 9106), with the cost that argon2-cffi recommends: 64 MiB and about 0.2 s of processor time each.

That is dear on purpose, and so it comes after everything else: it is done by few threads, of low priority, with a short queue before them.
Whoever comes when the queue is full is sent away. argon2-cffi lets go of the interpreter's lock while it works, and the threads that it
starts for its lanes inherit the priority of ours.

The library is imported by the first thread that needs it: a server to which nobody logs in by a password never does.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import math
import os
import queue
import secrets
import threading
import time
import unicodedata
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argon2 import PasswordHasher

NICE = 10
"""The nice value of the threads that hash (man 2 setpriority): a tenth of the weight of the others. Lower ones spared the others no more,
while with ten busy processes on two cores a log-in took 6 to 9 s at nice 19, and 2 to 6 at this."""
GUESS = 0.25
"""Seconds that a hash takes, until the first ones are measured."""


class TooManyLogins(Exception):
    """More log-ins are waiting than will be looked at. ``retry_after`` in seconds, from how long the ones before take."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"too many log-ins at once: try again in {math.ceil(retry_after)} s")


class CannotVerify(Exception):
    """Whether a password is right could not be found out: no memory, a damaged hash, or the server stops."""


def hash_password(password: str) -> str:
    """The hash to keep. Blocks for a fraction of a second."""
    return _hasher().hash(_prepared(password))


def needs_rehash(hashed: str) -> bool:
    """Whether a hash was made with other parameters than are recommended now."""
    return _hasher().check_needs_rehash(hashed)


@dataclass(slots=True)
class _Job:
    hashed: str | None = field(repr=False)
    password: str = field(repr=False)
    verified: Future[bool]


class PasswordPool:
    """Verifies passwords, a few at once. Threads start with the first one."""

    def __init__(self, threads: int = 1, waiting: int = 32) -> None:
        """``waiting``: how many may wait for a thread. Each that is being verified takes 64 MiB."""
        self._size, self._waiting = threads, waiting
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._seconds = GUESS
        self._is_closed = False

    def verify(self, hashed: str | None, password: str) -> Future[bool]:
        """Whether a password is the one of a hash. None: the hash of nobody, which takes as long and is not right.

        TooManyLogins; the future fails with CannotVerify. It is resolved, and its callbacks run, in a thread of the pool.
        """
        job = _Job(hashed, password, Future())
        with self._lock:
            if self._is_closed:
                raise CannotVerify("the server is stopping")
            ahead = self._jobs.qsize()
            if ahead >= self._waiting:
                raise TooManyLogins(max(1.0, (ahead + self._size) * self._seconds / self._size))
            if len(self._threads) < self._size:
                thread = threading.Thread(target=self._work, name=f"passwords-{len(self._threads)}")
                thread.start()
                self._threads.append(thread)
            self._jobs.put(job)
        return job.verified

    def close(self) -> None:
        """Cancel what waits, and end the threads when they have finished what they are at."""
        with self._lock:
            self._is_closed = True
            waiting = []
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.append(self._jobs.get_nowait())
            for _ in self._threads:
                self._jobs.put(None)
        for job in waiting:
            if job is not None:
                job.verified.cancel()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        _run_behind()
        while (job := self._jobs.get()) is not None:
            if job.verified.set_running_or_notify_cancel():
                self._run(job)
            del job  # while the thread waits for the next one, it does not hold this one's password

    def _run(self, job: _Job) -> None:
        started = time.monotonic()
        try:
            is_right = is_password_of(_hash_of_nobody() if job.hashed is None else job.hashed, job.password)
        except Exception as error:
            job.verified.set_exception(error)
            return
        self._seconds += (time.monotonic() - started - self._seconds) / 8
        job.verified.set_result(is_right)


def is_password_of(hashed: str, password: str) -> bool:
    """Whether a password is the one of a hash; as slow as that is meant to be. CannotVerify."""
    from argon2.exceptions import VerificationError, VerifyMismatchError

    try:
        return _hasher().verify(hashed, _prepared(password))
    except VerifyMismatchError:
        return False
    except VerificationError as error:
        raise CannotVerify(f"a password could not be verified: {error}") from None
    except ValueError:  # InvalidHashError among them
        raise CannotVerify("a password could not be verified: the hash that is kept for it is damaged") from None


@functools.cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()


@functools.cache
def _hash_of_nobody() -> str:
    """A hash with the parameters of a new one, of no password that anybody knows: its result is drawn, not computed."""
    from argon2.low_level import ARGON2_VERSION

    hasher = _hasher()
    salt, result = (
        base64.b64encode(secrets.token_bytes(size)).decode("ascii").rstrip("=")
        for size in (hasher.salt_len, hasher.hash_len)
    )
    cost = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${cost}${salt}${result}"


def _prepared(password: str) -> bytes:
    """One spelling of what looks the same: keyboards differ in how they send an é (RFC 8265 section 4.2)."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


def _run_behind() -> None:
    """For the thread that calls, and those that it starts: let others go first.

    As a batch it does not interrupt others when it wakes; setting the policy also takes back the short slices that a thread inherits from
    the event loop's. SCHED_IDLE goes too far: on a busy machine log-ins hardly got on.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
