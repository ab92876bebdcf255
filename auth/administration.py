"""What an administrator does, on the facts of one hub: the same for the commands on the hub's machine and for ``/api/v1``.

Everything here blocks, is durable and audited when it returns, and is felt by every server process at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import time
from typing import Protocol

from auth.accounts import GroupList, Users
from auth.desk import Conflict, Desk, Invalid, People, sentences
from auth.gate import ACCOUNTS_SETTING
from auth.grants import Grants
from auth.holders import PersonalTokens, Robots
from auth.names import parse_name, parse_password
from auth.rights import PERSONAL_SETTING
from auth.views import Key, NewUser, Settings
from storage.people import Actor, AuditRecord, Kind

NO_ACCOUNTS = "this hub has no accounts: `portside init --root DIR --admin NAME`, on its own machine, makes the first"
KINDS = (
    "login",
    "token",
    "denied",
    "push",
    "mount",
    "delete",
    "account",
    "group",
    "grant",
    "credential",
    "key",
    "setting",
)
"""What audit records are about."""
RECORDS_MAX = 1000
"""Audit records of one answer."""

FIRST_SETTING = "first-administrator"
"""Whom the first start is for: of two at once one is refused, and one that was interrupted is gone on with."""
_ON = "on"


class KeyRing(Protocol):
    """The keys that sign access tokens."""

    def jwks(self) -> Mapping[str, Sequence[Mapping[str, str]]]: ...
    def rotate(self) -> str: ...


class Administration:
    """The verbs, by what they are about. All but `initialise` raise Conflict on a hub without accounts."""

    def __init__(
        self, people: People, keys: Callable[[], KeyRing], by: Actor, clock: Callable[[], float] = time
    ) -> None:
        """``keys`` is asked for where they are needed: they take a while to import. ``by``: who the audit trail names."""
        self._unchecked = Desk(people, by, clock)
        self._keys = keys

    @property
    def users(self) -> Users:
        return Users(self._desk())

    @property
    def groups(self) -> GroupList:
        return GroupList(self._desk())

    @property
    def robots(self) -> Robots:
        return Robots(self._desk())

    @property
    def tokens(self) -> PersonalTokens:
        return PersonalTokens(self._desk())

    @property
    def rules(self) -> Grants:
        return Grants(self._desk())

    def initialise(self, name: str, password: str | None = None, *, personal_namespaces: bool = False) -> NewUser:
        """The first start: make an administrator, with a password that is made where none is given, and switch accounts on.

        Invalid; Conflict where they are on already. One that was interrupted can be done again.
        """
        desk = self._unchecked
        if desk.people.setting(ACCOUNTS_SETTING) is not None:
            raise Conflict("this hub has accounts already: `portside user add NAME --admin` adds an administrator")
        users = Users(desk)
        with sentences():
            parse_name(name)
            if password is not None:
                parse_password(password)
        first = desk.people.claim_setting(FIRST_SETTING, name, desk.by)
        if first != name:
            raise Conflict(
                f"another first start is under way, for the administrator {first}; if that one was interrupted, go on with it: "
                f"portside init --admin {first}"
            )
        account = desk.people.find_account(name)
        if account is None or account.kind is not Kind.USER:
            added = users.add(name, password, is_admin=True)
        else:
            made = users.set_password(name, password)
            added = NewUser(users.change(name, is_admin=True, is_disabled=False), made.password)
        if personal_namespaces:
            desk.people.set_setting(PERSONAL_SETTING, _ON, desk.by)
        desk.people.set_setting(ACCOUNTS_SETTING, _ON, desk.by)
        return added

    def settings(self) -> Settings:
        """What is switched on."""
        return Settings(self._desk().people.setting(PERSONAL_SETTING) is not None)

    def change_settings(self, personal_namespaces: bool | None = None) -> Settings:
        """Switch what is not None."""
        desk = self._desk()
        if personal_namespaces is not None:
            desk.people.set_setting(PERSONAL_SETTING, _ON if personal_namespaces else None, desk.by)
        return self.settings()

    def audit(
        self,
        *,
        since: float = 0.0,
        who: str | None = None,
        kind: str | None = None,
        after: int = 0,
        limit: int = RECORDS_MAX,
    ) -> Sequence[AuditRecord]:
        """At most ``limit`` records from ``since`` on (seconds of the Unix clock), the oldest first, above sequence ``after``. Invalid."""
        if kind is not None and kind not in KINDS:
            raise Invalid(f"{kind[:40]!r} is not a kind of audit record: use one of {', '.join(KINDS)}")
        return self._desk().people.find_records(
            since=since, who=who, kind=kind, after=after, limit=min(limit, RECORDS_MAX)
        )

    def keys(self) -> Sequence[Key]:
        """The keys, the one that signs first."""
        self._desk()
        return [Key(entry["kid"], index == 0) for index, entry in enumerate(self._keys().jwks()["keys"])]

    def rotate_keys(self) -> Sequence[Key]:
        """Sign by a new key from now on. Tokens that were signed before stay good until they expire."""
        desk = self._desk()
        kid = self._keys().rotate()
        record = AuditRecord(
            0,
            desk.clock(),
            "key",
            desk.by.who,
            desk.by.address,
            desk.by.request_id,
            f"key:{kid}",
            True,
            "signs from now on",
        )
        desk.people.add_records([record])
        return self.keys()

    def _desk(self) -> Desk:
        if self._unchecked.people.setting(ACCOUNTS_SETTING) is None:
            raise Conflict(NO_ACCOUNTS)
        return self._unchecked
