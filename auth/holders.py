"""An administrator's verbs for what is shown instead of a password: the secrets of robots, and personal tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from auth.desk import Conflict, Desk, Invalid, NotFound, sentences
from auth.durations import end_of
from auth.names import new_secret, parse_name, secret_hash
from auth.policy import ACTIONS, parse_grant
from auth.views import NewRobot, NewToken, Robot, Token
from storage.people import Account, Credential, Effect, Kind, Purpose, Rule

TOKENS_MAX = 100
"""Personal tokens of one user."""
GRANTS_MAX = 100
"""Grants of one robot, or limits of one token, that are given at once."""

_TOKEN_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?\Z")


class Robots:
    """Accounts of programs. A robot has one secret, and what it is granted."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._people = desk.people

    def add(self, name: str, grants: Iterable[str], lifetime: float) -> NewRobot:
        """A new robot. ``grants``: ``PATTERN:ACTIONS`` each; ``lifetime``: seconds that its secret is good. Invalid, Conflict."""
        with sentences():
            parse_name(name)
            granted = _parse_grants(grants)
            account = self._people.add_account(name, Kind.ROBOT, self._desk.by)
            for pattern, actions in granted.items():
                self._people.put_rule(Rule(name, pattern, Effect.ALLOW, actions), self._desk.by)
        _, secret = self._new_secret(name, lifetime)
        return NewRobot(self._view(account), secret)

    def renew(self, name: str, lifetime: float | None = None) -> NewRobot:
        """Another secret, good for as long as the old one was where ``lifetime`` is None; the old one ends. Invalid, NotFound."""
        account = self._desk.account(name, Kind.ROBOT)
        if lifetime is None:
            lifetime = max((_lifetime(one) for one in self._secrets_of(name)), default=None)
        if lifetime is None:
            raise Invalid(f"{name} has no secret that could be renewed: say how long the new one is good, as 90d")
        added, secret = self._new_secret(name, lifetime)
        with sentences():
            for credential in self._secrets_of(name):
                if credential.id < added.id:  # of two who renew at once, the later one's stays
                    self._people.remove_credential(name, credential.id, self._desk.by)
            for credential in self._people.list_credentials(name):  # now nobody logs in by the old one any more
                if credential.purpose is Purpose.REFRESH:
                    self._people.remove_credential(name, credential.id, self._desk.by)
        return NewRobot(self._view(account), secret)

    def remove(self, name: str) -> None:
        """Drop a robot, its secret and its rules; Invalid, NotFound."""
        self._desk.account(name, Kind.ROBOT)
        with sentences():
            self._people.remove_account(name, self._desk.by)

    def list(self) -> Sequence[Robot]:
        """All of them, by name."""
        return [self._view(account) for account in self._people.list_accounts() if account.kind is Kind.ROBOT]

    def _new_secret(self, name: str, lifetime: float) -> tuple[Credential, str]:
        secret, now = new_secret(Purpose.ROBOT), self._desk.clock()
        credential = Credential(0, name, Purpose.ROBOT, "", now, end_of(lifetime, now), None)
        with sentences():
            return self._people.add_credential(credential, secret_hash(secret), self._desk.by), secret

    def _secrets_of(self, name: str) -> Sequence[Credential]:
        return [one for one in self._people.list_credentials(name) if one.purpose is Purpose.ROBOT]

    def _view(self, account: Account) -> Robot:
        """One without a secret, whose making was interrupted, has expired at once."""
        secrets = self._secrets_of(account.name)
        expires_at, used_at = (secrets[-1].expires_at, secrets[-1].used_at) if secrets else (account.created_at, None)
        rules = self._people.rules_of([account.name])
        grants = tuple(f"{rule.pattern}:{','.join(rule.actions)}" for rule in rules if rule.effect is Effect.ALLOW)
        return Robot(account.name, grants, account.created_at, expires_at, used_at)


class PersonalTokens:
    """What a person gives to programs that work in their name."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._people = desk.people

    def add(self, user: str, name: str, lifetime: float, limits: Iterable[str] = ()) -> NewToken:
        """A new token of a user. ``limits``: ``PATTERN:ACTIONS`` each, none: all that the user may. Invalid, NotFound, Conflict."""
        self._desk.account(user, Kind.USER)
        if not _TOKEN_NAME.match(name):
            raise Invalid(f"{name[:80]!r} is no name of a token: 1 to 64 letters, digits, '.', '_' and '-', as laptop")
        with sentences():
            limited = tuple(f"{pattern}:{','.join(actions)}" for pattern, actions in _parse_grants(limits).items())
        there = self._of(user)
        if any(one.name == name for one in there):
            raise Conflict(f"{user} has a token {name} already: revoke it, or choose another name")
        if len(there) >= TOKENS_MAX:
            raise Conflict(f"{user} has {len(there)} tokens, and {TOKENS_MAX} are allowed: revoke some")
        secret, now = new_secret(Purpose.PERSONAL), self._desk.clock()
        credential = Credential(0, user, Purpose.PERSONAL, name, now, end_of(lifetime, now), None, limited)
        with sentences():
            added = self._people.add_credential(credential, secret_hash(secret), self._desk.by)
        return NewToken(_view(added), secret)

    def remove(self, user: str, name: str) -> None:
        """Revoke a token, and with it the access tokens that it was shown for. Invalid, NotFound."""
        self._desk.account(user, Kind.USER)
        revoked = [one for one in self._of(user) if one.name == name]
        if not revoked:
            raise NotFound(f"{user} has no token {name[:80]}")
        with sentences():
            for token in revoked:
                self._people.remove_credential(user, token.id, self._desk.by)

    def list(self, user: str | None = None) -> Sequence[Token]:
        """A user's tokens, or everybody's; Invalid, NotFound."""
        if user is not None:
            return [_view(one) for one in self._of(self._desk.account(user, Kind.USER).name)]
        users = [account.name for account in self._people.list_accounts() if account.kind is Kind.USER]
        return [_view(one) for name in users for one in self._of(name)]

    def _of(self, user: str) -> Sequence[Credential]:
        return [one for one in self._people.list_credentials(user) if one.purpose is Purpose.PERSONAL]


def _parse_grants(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Pattern -> actions, of all grants together; InvalidPattern, Invalid."""
    granted: dict[str, tuple[str, ...]] = {}
    for count, text in enumerate(texts, 1):
        if count > GRANTS_MAX:
            raise Invalid(f"more than {GRANTS_MAX} patterns are given at once")
        pattern, actions = parse_grant(text)
        wanted = {*granted.get(pattern, ()), *actions}
        granted[pattern] = tuple(action for action in ACTIONS if action in wanted)
    return granted


def _lifetime(credential: Credential) -> float:
    return float("inf") if credential.expires_at is None else credential.expires_at - credential.created_at


def _view(credential: Credential) -> Token:
    return Token(
        credential.account,
        credential.name,
        credential.limits,
        credential.created_at,
        credential.expires_at,
        credential.used_at,
    )
