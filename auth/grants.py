"""An administrator's verbs for rules: who may do what where, and why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from auth.desk import Desk, Invalid, NotFound, sentences
from auth.names import parse_name
from auth.policy import ACTIONS, Reason, Rights, parse_actions, parse_pattern
from auth.rights import GROUP, rights_of
from auth.views import Explanation
from oci.reference import is_repository_name
from storage.people import EVERYONE, Account, Effect, Kind, PeopleUnknown, Purpose, Rule


class Grants:
    """The rules. ``who`` is an account's name, ``group:NAME`` or ``everyone``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._people = desk.people

    def grant(self, who: str, pattern: str, actions: str, effect: Effect = Effect.ALLOW) -> Rule:
        """Add actions to a rule; the rule as it is then. Invalid, NotFound."""
        wanted = self._parse(who, pattern, actions)
        return self._change(who, pattern, effect, lambda there: {*there, *wanted})

    def revoke(self, who: str, pattern: str, actions: str, effect: Effect = Effect.ALLOW) -> Rule:
        """Take actions away from a rule; the rule as it is then, gone where it has none. Invalid, NotFound: there is no such rule."""
        unwanted = self._parse(who, pattern, actions)

        def without(there: Sequence[str]) -> set[str]:
            if not there:
                raise NotFound(
                    f"there is no rule that {'denies' if effect is Effect.DENY else 'allows'} {who} anything on {pattern}: "
                    "`portside rules` lists what there is, `portside access WHO REPO` says which one counts"
                )
            return {*there} - {*unwanted}

        return self._change(who, pattern, effect, without)

    def list(self) -> Sequence[Rule]:
        """All of them, by subject and pattern."""
        return self._people.list_rules()

    def explain(self, who: str, repository: str) -> Explanation:
        """Why an account, or everyone who is not logged in, may or may not do what in a repository. Invalid, NotFound."""
        if not is_repository_name(repository):
            raise Invalid(f"{repository[:100]!r} is not the name of a repository, as team/app")
        if who.startswith(GROUP):
            raise Invalid(
                "access is a user's, a robot's or everyone's: `portside rules` lists what a group was granted"
            )
        if who == EVERYONE:
            reasons = Rights(self._people.rules_of([EVERYONE])).explain(repository)
            return Explanation(who, repository, (), "", tuple(reasons))
        with sentences():
            account = self._people.find_account(parse_name(who))
            if account is None:
                raise PeopleUnknown(f"account:{who}")
        reasons = rights_of(self._people, account).explain(repository)
        cut_off = self._cut_off(account)
        if cut_off:
            reasons = [Reason(reason.action, False, cut_off) for reason in reasons]
        groups = tuple(self._people.groups_of(who))
        return Explanation(who, repository, groups, cut_off, tuple(reasons))

    def _cut_off(self, account: Account) -> str:
        """Why nobody gets in by this account, "" where they do."""
        if account.is_disabled:
            return f"the account {account.name} is disabled"
        now = self._desk.clock()
        if account.expires_at is not None and account.expires_at <= now:
            return f"the account {account.name} has expired"
        if account.kind is Kind.ROBOT:
            secrets = [one for one in self._people.list_credentials(account.name) if one.purpose is Purpose.ROBOT]
            if all(one.expires_at is not None and one.expires_at <= now for one in secrets):
                return f"the secret of {account.name} has expired: `portside robot renew {account.name}` makes another"
        return ""

    def _parse(self, who: str, pattern: str, actions: str) -> tuple[str, ...]:
        with sentences():
            if who != EVERYONE:
                parse_name(who.removeprefix(GROUP))
            parse_pattern(pattern)
            return parse_actions(actions)

    def _actions(self, who: str, pattern: str, effect: Effect) -> tuple[str, ...]:
        for rule in self._people.rules_of([who]):
            if rule.pattern == pattern and rule.effect is effect:
                return rule.actions
        return ()

    def _change(
        self, who: str, pattern: str, effect: Effect, change: Callable[[Sequence[str]], Collection[str]]
    ) -> Rule:
        """Make another rule of the one that is there, again where somebody else was faster."""
        while True:
            there = self._actions(who, pattern, effect)
            wanted = change(there)
            rule = Rule(who, pattern, effect, tuple(action for action in ACTIONS if action in wanted))
            with sentences():
                if self._people.put_rule(rule, self._desk.by, before=there):
                    return rule
