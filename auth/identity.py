"""Who asks, and what they may do: what a request's Authorization has become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from auth.policy import ALL, NOTHING, Rights

CATALOG = "catalog"
"""The one name of the scope type ``registry``: the list of repositories."""


class Verdict(Enum):
    """May this be done?"""

    ALLOWED = auto()
    NOT_IN_TOKEN = auto()
    """The rights are there, or may be, but the token was not asked for them: ask for another."""
    DENIED = auto()


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks. ``name`` is "" for nobody, and for an open hub, where there are no accounts.

    ``rights``: of the account, None where only the token counts (an open hub, a foreign issuer). ``claims``: repository -> actions of the
    bearer token, None where none was sent. ``expires_at`` in seconds of the Unix clock.
    """

    name: str
    is_admin: bool = False
    is_open: bool = False
    rights: Rights | None = None
    claims: Mapping[str, frozenset[str]] | None = None
    can_list: bool = True
    expires_at: float = field(default=float("inf"))

    def verdict(self, action: str, repository: str) -> Verdict:
        """Whether an action may be done in a repository, be it there or not."""
        if self.is_open:
            return Verdict.ALLOWED
        if self.rights is not None and action not in self.rights.of(repository):
            return Verdict.DENIED
        if self.claims is not None and action not in self.claims.get(repository, NOTHING):
            return Verdict.NOT_IN_TOKEN
        return Verdict.ALLOWED

    def may(self, action: str, repository: str) -> bool:
        """`verdict`, where only yes or no counts."""
        return self.verdict(action, repository) is Verdict.ALLOWED

    def may_see(self, repository: str) -> bool:
        """Whether a list may show a repository: the account's own rights, whatever this token was asked for."""
        if self.is_open:
            return True
        if self.rights is not None:
            return "pull" in self.rights.of(repository)
        return self.claims is not None and "pull" in self.claims.get(repository, NOTHING)


OPEN = Identity("", is_open=True)
"""Everybody, on a hub without accounts."""


def claims_of(access: object) -> dict[str, frozenset[str]]:
    """Repository -> actions of a token's access entries (``*`` is all)."""
    claims: dict[str, frozenset[str]] = {}
    for entry in access:  # type: ignore[attr-defined]
        if entry.type == "repository":
            actions = ALL if "*" in entry.actions else frozenset(entry.actions) & ALL
            claims[entry.name] = claims.get(entry.name, NOTHING) | actions
    return claims
