"""Who a name and a secret are: at once where that is known or can be looked up, later where a password has to be hashed.

A wrong name, a wrong password, a disabled account and one without a password are told apart by nobody: they get one answer, after the same
work. What was right is kept for seconds, under a keyed hash; the key lives and dies with the process. Not so refresh tokens: another server
may hear of a change two seconds late (`storage.postgres_people`), and what is got for one lives for minutes.
"""

from __future__ import annotations

import functools
import logging
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from hashlib import blake2b
from time import monotonic, time
from typing import Protocol

from auth.names import NAME_MAX, is_name, is_password, secret_hash, secret_purpose
from auth.passwords import CannotVerify, PasswordPool, hash_password, is_password_of, needs_rehash
from auth.throttle import Throttle
from storage.people import Account, Credential, Purpose

logger = logging.getLogger("portside.auth")

KEPT_SECONDS = 30.0
KEPT_MAX = 10_000
"""How long, and how many, log-ins are kept that were right."""


class WrongCredentials(Exception):
    """Not let in, and no word of what was wrong. ``name``: as it was given, made printable and cut to what an audit record holds."""

    def __init__(self, name: str) -> None:
        self.name = "".join(letter if letter.isprintable() else "?" for letter in name[:NAME_MAX])
        super().__init__("the name or the password is wrong, or the token is no longer good")


class Facts(Protocol):
    """The part of `storage.people` that is needed here, by several threads."""

    def find_account(self, name: str) -> Account | None: ...
    def password_hash(self, name: str) -> str | None: ...
    def find_credential(self, secret_hash: str) -> Credential | None: ...
    def renew_password_hash(self, name: str, before: str, after: str) -> bool: ...
    def people_generation(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Login:
    """Who was let in. ``credential``: what was shown, None for a password."""

    account: Account
    credential: Credential | None

    def has_ended(self, now: float) -> bool:
        """Whether the account or the credential has expired. ``now`` in seconds of the Unix clock."""
        ends = (self.account.expires_at, None if self.credential is None else self.credential.expires_at)
        return any(end is not None and end <= now for end in ends)


@dataclass(frozen=True, slots=True)
class _Kept:
    login: Login
    generation: int
    until: float


@dataclass(slots=True)
class _Attempt:
    """A password that is being verified, and who waits for it from where."""

    name: str
    key: bytes
    hashed: str | None = field(repr=False)
    password: str = field(repr=False)
    addresses: set[str] = field(default_factory=set)
    waiting: list[Future[Login]] = field(default_factory=list)


class Authenticator:
    """One per process, for any of its threads."""

    def __init__(
        self,
        facts: Facts,
        pool: PasswordPool,
        throttle: Throttle,
        clock: Callable[[], float] = time,
        ticks: Callable[[], float] = monotonic,
    ) -> None:
        """``clock``: seconds of the Unix clock, for what expires; ``ticks``: of one that never goes back."""
        self._facts, self._pool, self._throttle = facts, pool, throttle
        self._clock, self._ticks = clock, ticks
        self._secret_key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        """Held for what follows, and the throttle; `_kept` is read without."""
        self._kept: dict[bytes, _Kept] = {}
        self._kept_generation = -1
        self._attempts: dict[tuple[bytes, str | None], _Attempt] = {}

    def known(self, name: str, secret: str, address: str) -> Login | None:
        """Who this is, where no password has to be hashed for it: look-ups only. Never slowed down: it is right or it is not."""
        generation = self._facts.people_generation()
        key = self._key(name, secret)
        login = self._find_kept(key, generation)
        if login is not None:
            return login
        if secret_purpose(secret) not in (Purpose.PERSONAL, Purpose.ROBOT):
            return None
        login = self._by_secret(secret)
        if login is None or login.account.name != name:
            return None
        return self._keep(key, login, generation)

    def begin(self, name: str, secret: str, address: str) -> Future[Login]:
        """Verify a password. Those who try the same at once share the work, and who waits for it may give up without the others.

        `auth.throttle.SlowDown`, `auth.passwords.TooManyLogins`, `auth.passwords.CannotVerify`; the future fails with WrongCredentials or
        CannotVerify.
        """
        found: Future[Login] = Future()
        now = self._ticks()
        if not is_name(name) or not is_password(secret):
            # Nobody's password, whoever there is. A secret of ours gets here where `known` did not let it in.
            if not self._is_recorded(secret):
                self._count_at_once(name[:NAME_MAX], address, now)
            found.set_exception(WrongCredentials(name))
            return found
        key, hashed = self._key(name, secret), self._facts.password_hash(name)
        verified = None
        with self._lock:
            attempt = self._attempts.get((key, hashed))
            if attempt is None or address not in attempt.addresses:
                self._throttle.check(name, address, now)
                if attempt is None:
                    verified = self._pool.verify(hashed, secret)
                    attempt = self._attempts[key, hashed] = _Attempt(name, key, hashed, secret)
                self._throttle.failed(name, address, now)
                attempt.addresses.add(address)
            attempt.waiting.append(found)
        if verified is not None:
            verified.add_done_callback(functools.partial(self._finish, attempt))
        return found

    def refresh(self, secret: str, address: str) -> Login:
        """Who holds a refresh token, by the facts as they are now; WrongCredentials."""
        if secret_purpose(secret) is not Purpose.REFRESH:
            raise WrongCredentials("")
        login = self._by_secret(secret)
        if login is not None:
            return login
        if not self._is_recorded(secret):
            with self._lock:
                self._throttle.failed("", address, self._ticks())
        raise WrongCredentials("")

    # -- secrets of ours

    def _is_recorded(self, secret: str) -> bool:
        """Whether a secret was made here, good or not: to show one that has expired is no guess, and programs do it for days."""
        return secret_purpose(secret) is not None and self._facts.find_credential(secret_hash(secret)) is not None

    def _by_secret(self, secret: str) -> Login | None:
        credential = self._facts.find_credential(secret_hash(secret))
        if credential is None or credential.purpose is not secret_purpose(secret):
            return None
        account = self._facts.find_account(credential.account)
        return self._admit(account, credential)

    def _admit(self, account: Account | None, credential: Credential | None) -> Login | None:
        if account is None or account.is_disabled:
            return None
        login = Login(account, credential)
        return None if login.has_ended(self._clock()) else login

    # -- passwords

    def _count_at_once(self, account: str, address: str, now: float) -> None:
        """Count what needs no work to be known as wrong; SlowDown."""
        with self._lock:
            self._throttle.check(account, address, now)
            self._throttle.failed(account, address, now)

    def _finish(self, attempt: _Attempt, verified: Future[bool]) -> None:
        """Tell those who wait. Runs in a thread of the pool."""
        login: Login | None = None
        error: Exception | None = None
        try:
            if verified.result():
                login = self._by_password(attempt)
        except CancelledError:
            error = CannotVerify("the server is stopping")
        except Exception as failure:
            error = failure
        with self._lock:
            del self._attempts[attempt.key, attempt.hashed]
            for address in attempt.addresses:
                if login is not None:
                    self._throttle.succeeded(attempt.name, address, self._ticks())
                elif error is not None:
                    self._throttle.forgive(attempt.name, address)
        for waiting in attempt.waiting:
            if not waiting.set_running_or_notify_cancel():
                continue
            if login is not None:
                waiting.set_result(login)
            else:
                waiting.set_exception(error or WrongCredentials(attempt.name))
        if login is not None and attempt.hashed is not None and needs_rehash(attempt.hashed):
            self._renew(attempt.name, attempt.hashed, attempt.password)

    def _renew(self, name: str, hashed: str, password: str) -> None:
        """Keep a hash by the parameters that are recommended now, instead of an older one. Nobody waits for it."""
        try:
            self._facts.renew_password_hash(name, hashed, hash_password(password))
        except Exception as error:
            logger.warning("the password hash of %s stays as it was made long ago: %s", name, error)

    def _by_password(self, attempt: _Attempt) -> Login | None:
        """The log-in by a password that was right when it was looked up: it waited since, and may have been changed."""
        generation = self._facts.people_generation()
        hashed = self._facts.password_hash(attempt.name)
        if attempt.hashed is None or hashed is None:
            return None
        if hashed != attempt.hashed and not is_password_of(hashed, attempt.password):  # else it was only hashed anew
            return None
        login = self._admit(self._facts.find_account(attempt.name), None)
        if login is None:
            return None
        self._keep(attempt.key, login, generation)
        return login

    # -- what is kept

    def _key(self, name: str, secret: str) -> bytes:
        text = f"{name}\0{secret}".encode("utf-8", "surrogatepass")
        return blake2b(text, key=self._secret_key, digest_size=32).digest()

    def _find_kept(self, key: bytes, generation: int) -> Login | None:
        kept = self._kept.get(key)
        if kept is None or kept.generation != generation or kept.until <= self._ticks():
            return None
        return None if kept.login.has_ended(self._clock()) else kept.login

    def _keep(self, key: bytes, login: Login, generation: int) -> Login:
        """Keep what was found out since ``generation``: not while a write was under way (odd, see `storage.generation`)."""
        if generation & 1:
            return login
        with self._lock:
            if generation != self._kept_generation:
                self._kept.clear()
                self._kept_generation = generation
            self._kept.pop(key, None)
            if len(self._kept) >= KEPT_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = _Kept(login, generation, self._ticks() + KEPT_SECONDS)
        return login
