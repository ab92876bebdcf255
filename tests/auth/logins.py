"""A hub's people in memory, and a pool of threads that waits for the test: for tests of who is let in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from auth.names import new_secret, secret_hash
from auth.passwords import PasswordPool, TooManyLogins
from storage.people import Account, Credential, Kind, Purpose

PASSWORD = "correct horse battery"
ADDRESS = "192.0.2.1"
START = 1_700_000_000.0


@dataclass
class People:
    """Facts in memory. A write makes the generation odd and even again, as the real ones do."""

    accounts: dict[str, Account] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    credentials: dict[str, Credential] = field(default_factory=dict)
    generation: int = 0
    lookups: int = 0
    on_lookup: Callable[[], None] = lambda: None
    """What another process does at the moment of a look-up."""

    def find_account(self, name: str) -> Account | None:
        self.lookups += 1
        found = self.accounts.get(name)
        self.on_lookup()
        return found

    def password_hash(self, name: str) -> str | None:
        return self.hashes.get(name)

    def find_credential(self, secret_hash: str) -> Credential | None:
        self.lookups += 1
        return self.credentials.get(secret_hash)

    def renew_password_hash(self, name: str, before: str, after: str) -> bool:
        if self.hashes.get(name) != before:
            return False
        self.hashes[name] = after
        return True

    def people_generation(self) -> int:
        return self.generation

    def change(self, name: str, **changes: object) -> None:
        self.generation += 2
        self.accounts[name] = replace(self.accounts[name], **changes)  # type: ignore[arg-type]

    def set_password(self, name: str, hashed: str) -> None:
        self.generation += 2
        self.hashes[name] = hashed

    def add(
        self, name: str, hashed: str | None = None, kind: Kind = Kind.USER, expires_at: float | None = None
    ) -> None:
        self.accounts[name] = Account(len(self.accounts), name, kind, False, False, 0, START, expires_at)
        if hashed is not None:
            self.hashes[name] = hashed

    def give(self, name: str, purpose: Purpose = Purpose.PERSONAL, expires_at: float | None = None) -> str:
        secret = new_secret(purpose)
        self.credentials[secret_hash(secret)] = Credential(7, name, purpose, "test", START, expires_at, None)
        return secret


class Waiting(PasswordPool):
    """A pool whose passwords are verified when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[tuple[str | None, str, Future[bool]]] = []
        self.is_full = False

    def verify(self, hashed: str | None, password: str) -> Future[bool]:
        if self.is_full:
            raise TooManyLogins(3)
        verified: Future[bool] = Future()
        self.pending.append((hashed, password, verified))
        return verified

    def finish(self, outcome: bool | Exception = False) -> None:
        for _, _, verified in self.pending:
            if isinstance(outcome, bool):
                verified.set_result(outcome)
            else:
                verified.set_exception(outcome)
        self.pending.clear()


@dataclass
class Clock:
    now: float

    def __call__(self) -> float:
        return self.now
