"""The rights of an account, out of the facts: for the gate, which keeps them, and for who explains them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from auth.policy import Rights
from storage.people import EVERYONE, Account, Kind, Rule

PERSONAL_SETTING = "personal-namespaces"
"""The setting that says, when it is there, that a user owns what is below their name."""
GROUP = "group:"
"""What stands before a group's name where an account's could stand too."""


class RightsFacts(Protocol):
    """What rights are made of."""

    def groups_of(self, name: str) -> Sequence[str]: ...
    def rules_of(self, subjects: Sequence[str]) -> Sequence[Rule]: ...
    def setting(self, name: str) -> str | None: ...


def rights_of(facts: RightsFacts, account: Account, limits: Iterable[str] = ()) -> Rights:
    """What an account may do by the rules of its own, of its groups and of everyone. ``limits``: of the credential that it used."""
    groups = [f"{GROUP}{name}" for name in facts.groups_of(account.name)]
    is_owner = account.kind is Kind.USER and facts.setting(PERSONAL_SETTING) is not None
    return Rights(
        facts.rules_of([account.name, *groups, EVERYONE]),
        is_admin=account.is_admin,
        owns=account.name if is_owner else "",
        limits=limits,
    )
