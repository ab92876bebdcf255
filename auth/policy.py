"""Rules in, rights out: pure.

A rule says that a subject may, or may not, do some actions in the repositories that a pattern matches. An action is allowed where a rule
allows it and none denies it: a denial beats every permission, also an administrator's. ``admin`` on a pattern allows the other three.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oci.reference import NAME_MAX
from storage.people import Effect, Rule

PULL, PUSH, DELETE, ADMIN = "pull", "push", "delete", "admin"
ACTIONS = (PULL, PUSH, DELETE, ADMIN)
ALL = frozenset(ACTIONS)
NOTHING: frozenset[str] = frozenset()

_PATTERN_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._/-*")
_KEPT_MAX = 4096
"""Repositories whose rights an object keeps."""


class InvalidPattern(Exception):
    """A pattern that cannot match a repository's name, or a list of actions with an unknown one."""


def parse_pattern(text: str) -> str:
    """A pattern: a repository's name in which ``*`` stands for any characters, also ``/``; InvalidPattern."""
    if not text or len(text) > NAME_MAX or not _PATTERN_CHARACTERS.issuperset(text):
        raise InvalidPattern(
            f"{text[:100]!r} is not a pattern of repositories: a name in which * stands for any characters, as team/*, * or app"
        )
    return text


def parse_actions(text: str) -> tuple[str, ...]:
    """Actions with commas between them, ``*`` for all, in the order of `ACTIONS`; InvalidPattern."""
    words = set(text.split(","))
    if "*" in words:
        words = words - {"*"} | ALL
    if unknown := words - ALL:
        raise InvalidPattern(f"{sorted(unknown)[0][:40]!r} is not an action: use {', '.join(ACTIONS)}, or * for all")
    return tuple(action for action in ACTIONS if action in words)


def parse_grant(text: str) -> tuple[str, tuple[str, ...]]:
    """``PATTERN:ACTION,ACTION``, as robots and tokens are given; InvalidPattern."""
    pattern, colon, actions = text.rpartition(":")
    if not colon:
        raise InvalidPattern(f"{text[:100]!r} is not PATTERN:ACTIONS, as team/*:pull,push")
    return parse_pattern(pattern), parse_actions(actions)


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern matches a whole name. Each piece is taken at its first place, which is enough where ``*`` matches anything."""
    first, *rest = pattern.split("*")
    if not rest:
        return first == name
    if not name.startswith(first):
        return False
    *middle, last = rest
    at = len(first)
    for piece in middle:
        found = name.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return len(name) - at >= len(last) and name.endswith(last)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why an action is allowed or not, for `portside access`."""

    action: str
    is_allowed: bool
    because: str


class Rights:
    """What one account may do in any repository, as the facts were when this was made. Answers are kept."""

    def __init__(
        self, rules: Sequence[Rule], *, is_admin: bool = False, owns: str = "", limits: Iterable[str] = ()
    ) -> None:
        """``owns``: the first part of the names that the account owns, "" for none. ``limits``: of a credential, nothing above them."""
        self._rules = rules
        self._is_admin = is_admin
        self._own = f"{owns}/" if owns else ""
        self._limits = [parse_grant(limit) for limit in limits]
        self._kept: dict[str, frozenset[str]] = {}

    @property
    def is_limited(self) -> bool:
        """Whether the credential that was shown allows less than its account may."""
        return bool(self._limits)

    def of(self, repository: str) -> frozenset[str]:
        """The actions that are allowed in a repository, be it there or not."""
        found = self._kept.get(repository)
        if found is None:
            found = frozenset(reason.action for reason in self.explain(repository) if reason.is_allowed)
            if len(self._kept) >= _KEPT_MAX:
                self._kept.clear()
            self._kept[repository] = found
        return found

    def explain(self, repository: str) -> list[Reason]:
        """For each action whether it is allowed, and by what."""
        rules = [rule for rule in self._rules if matches(rule.pattern, repository)]
        return [self._decide(action, rules, repository) for action in ACTIONS]

    def _decide(self, action: str, rules: list[Rule], repository: str) -> Reason:
        for rule in rules:
            if rule.effect is Effect.DENY and action in rule.actions:
                return Reason(action, False, f"the rule that denies {_said(rule)}")
        if self._limits and not self._is_within_limits(action, repository):
            return Reason(action, False, "the token that is used is limited to less")
        if self._is_admin:
            return Reason(action, True, "an administrator of the hub")
        if self._own and repository.startswith(self._own):
            return Reason(action, True, f"the owner of {self._own}*")
        for rule in rules:
            if rule.effect is Effect.ALLOW and (action in rule.actions or ADMIN in rule.actions):
                return Reason(action, True, f"the rule that allows {_said(rule)}")
        return Reason(action, False, "no rule allows it")

    def _is_within_limits(self, action: str, repository: str) -> bool:
        return any(
            (action in granted or ADMIN in granted) and matches(pattern, repository)
            for pattern, granted in self._limits
        )


def _said(rule: Rule) -> str:
    return f"{rule.subject} {','.join(rule.actions)} on {rule.pattern}"
