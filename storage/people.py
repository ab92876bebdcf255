"""Who there is and what each may do, as facts: accounts, groups, rules, credentials, settings, and the audit trail.

The same database as everything else that a hub knows (`storage.metadata`), so that a change of rights is as durable as a push and every
server process of a root sees it. `auth/` gives these facts their meaning; here nothing is decided and no secret is stored: passwords as
argon2id hashes, everything else that a person could show as its SHA-256.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

EVERYONE = "everyone"
"""The subject of rules that hold for all, logged in or not."""


class Kind(Enum):
    """What an account stands for."""

    USER = "user"
    ROBOT = "robot"


class Effect(Enum):
    """What a rule does with its actions."""

    ALLOW = "allow"
    DENY = "deny"


class Purpose(Enum):
    """What a credential was made for."""

    PERSONAL = "personal"
    """A person's own token, named, shown once."""
    ROBOT = "robot"
    """The secret of a robot."""
    REFRESH = "refresh"
    """What a client keeps after a log-in instead of the password (distribution's token spec, offline_token)."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who causes a change, from where, and in which request: what the audit trail keeps beside the change.

    ``who`` is an account's name, "" for nobody, or ``local`` for a command on the hub's own machine.
    """

    who: str
    address: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Account:
    """A user or a robot. Names are unique among both. ``expires_at`` in seconds of the Unix clock.

    ``epoch`` grows with everything that cuts off what was issued before: a new password, a disabling. Access tokens carry it.
    """

    id: int
    name: str
    kind: Kind
    is_admin: bool
    is_disabled: bool
    epoch: int
    created_at: float
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class Rule:
    """What a subject may or may not do in the repositories that a pattern matches.

    ``subject``: an account's name, ``group:NAME``, or `EVERYONE`. ``actions``: of pull, push, delete, admin, sorted.
    """

    subject: str
    pattern: str
    effect: Effect
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret that an account can show instead of a password; the secret itself is not kept. Times in seconds of the Unix clock.

    ``limits``: where not empty, what may be done with it, as ``PATTERN:ACTION,ACTION``: never more than the account may.
    """

    id: int
    account: str
    purpose: Purpose
    name: str
    created_at: float
    expires_at: float | None
    used_at: float | None
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One line of the audit trail. ``sequence`` is 0 before it is stored; ``at`` in seconds of the Unix clock.

    ``kind``: login, token, denied, push, mount, delete, account, group, grant, credential, key, setting.
    ``subject``: what it was done to (``team/app@sha256:…``, ``user:bob``); ``is_success`` False for what was refused.
    """

    sequence: int
    at: float
    kind: str
    who: str
    address: str
    request_id: str
    subject: str
    is_success: bool
    detail: str = ""


class PeopleExist(Exception):
    """A name that is taken. ``what`` is ``user:NAME``, ``robot:NAME`` or ``group:NAME``."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"{what} exists already")


class PeopleUnknown(Exception):
    """A name that nobody bears. ``what`` as in `PeopleExist`, or ``account:NAME``."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(f"there is no {what}")


class PeopleFacts(Protocol):
    """What log-ins and requests ask. A few microseconds each on SQLite: on the event loop."""

    def find_account(self, name: str) -> Account | None: ...

    def password_hash(self, name: str) -> str | None:
        """The argon2id hash of a user's password; None where there is no such user, or one without a password."""
        ...

    def groups_of(self, name: str) -> Sequence[str]:
        """The names of the groups that an account is in, sorted."""
        ...

    def rules_of(self, subjects: Sequence[str]) -> Sequence[Rule]:
        """The rules of these subjects, in the order (subject, pattern, effect)."""
        ...

    def find_credential(self, secret_hash: str) -> Credential | None:
        """By the SHA-256 (hex) of the secret. Also an expired one: whoever asks compares."""
        ...

    def setting(self, name: str) -> str | None: ...

    def people_generation(self) -> int:
        """A number that changes with each write that may change an answer of the others, by any process. A fraction of a microsecond.

        Odd while it is not known: what is read then must not be kept.
        """
        ...


class PeopleChanges(Protocol):
    """The writes that an administrator makes. Blocking, durable, audited in the same transaction.

    Seen at once by every process of a root, by the servers that share a PostgreSQL database within two seconds.
    """

    def add_account(
        self, account: str, kind: Kind, by: Actor, *, is_admin: bool = False, expires_at: float | None = None
    ) -> Account:
        """A new account, without password or rights; PeopleExist."""
        ...

    def set_password(self, name: str, password_hash: str, by: Actor) -> None:
        """Keep a new password's hash, drop the account's refresh credentials, raise the epoch; PeopleUnknown."""
        ...

    def renew_password_hash(self, name: str, before: str, after: str) -> bool:
        """Keep another hash of the same password; whether it had the one ``before``. It cuts nobody off, and is no record."""
        ...

    def set_account(
        self, name: str, by: Actor, *, is_admin: bool | None = None, is_disabled: bool | None = None
    ) -> Account:
        """Change what is not None; disabling drops the refresh credentials; any change raises the epoch; PeopleUnknown."""
        ...

    def remove_account(self, name: str, by: Actor) -> None:
        """Drop the account with its credentials, memberships and rules; PeopleUnknown. A later account of the name inherits nothing:
        its epoch starts above that of the one before."""
        ...

    def put_rule(self, rule: Rule, by: Actor, *, before: Sequence[str] | None = None) -> bool:
        """Make the rule of (subject, pattern, effect) have exactly these actions, none: drop it. PeopleUnknown for the subject.

        With ``before`` only where it has those now: who read the rule and makes another of it writes over nobody's change. Whether it was.
        """
        ...

    def set_setting(self, name: str, value: str | None, by: Actor) -> None:
        """Keep a setting, None: drop it."""
        ...

    def claim_setting(self, name: str, value: str, by: Actor) -> str:
        """Keep a setting that there is none of; the one that there is now."""
        ...


class Groups(Protocol):
    """Groups and who is in them. Writes as in `PeopleChanges`."""

    def add_group(self, name: str, by: Actor) -> None: ...
    def remove_group(self, name: str, by: Actor) -> None: ...
    def set_member(self, group: str, account: str, is_member: bool, by: Actor) -> None: ...
    def list_groups(self) -> Sequence[tuple[str, Sequence[str]]]: ...


class Credentials(Protocol):
    """The secrets that accounts hold beside passwords. Adding one changes nobody's answers; removing one is seen at once."""

    def add_credential(
        self, credential: Credential, secret_hash: str, by: Actor, *, epoch: int | None = None
    ) -> Credential:
        """Keep a new one (its ``id`` is ignored and chosen); PeopleUnknown. Of an account's refresh credentials the newest 100 stay.

        ``epoch``: the account's when its log-in was verified. PeopleUnknown where it has another by now: what a change of the password
        cuts off does not come back by a log-in that was under way.
        """
        ...

    def list_credentials(self, account: str) -> Sequence[Credential]: ...

    def remove_credential(self, account: str, credential_id: int, by: Actor) -> bool:
        """Drop one; whether the account had it."""
        ...

    def note_use(self, credential_id: int, at: float) -> None:
        """Remember that a credential was used. No change of the generation, no audit record."""
        ...


class PeopleLists(Protocol):
    """What an administrator looks at."""

    def list_accounts(self) -> Sequence[Account]: ...
    def list_rules(self) -> Sequence[Rule]: ...
    def list_settings(self) -> Sequence[tuple[str, str]]: ...


class Audit(Protocol):
    """The trail. Changes of metadata and people write their own records; this is for the rest: log-ins, tokens, denials."""

    def add_records(self, records: Sequence[AuditRecord]) -> None:
        """Keep records, in one transaction (their ``sequence`` is chosen)."""
        ...

    def find_records(
        self, *, since: float = 0.0, who: str | None = None, kind: str | None = None, after: int = 0, limit: int = 1000
    ) -> Sequence[AuditRecord]:
        """At most ``limit`` records, the oldest first, above sequence ``after``."""
        ...

    def trim_records(self, before: float) -> int:
        """Drop what is older than ``before``, in batches that hold the lock for milliseconds; how many."""
        ...
