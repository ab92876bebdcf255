"""``portside grant``, ``revoke``, ``rules`` and ``access``: who may do what where, and why."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cli.accounts import JSONOption
from cli.administration import Target, on_target
from cli.tables import show, show_json

if TYPE_CHECKING:
    from storage.people import Effect, Rule

WhoArgument = Annotated[str, typer.Argument(metavar="WHO", help="A user, a robot, group:NAME, or everyone.")]
PatternArgument = Annotated[str, typer.Argument(metavar="PATTERN", help="A repository's name; * is any characters.")]
ActionsArgument = Annotated[str, typer.Argument(metavar="ACTIONS", help="Of pull,push,delete,admin; * is all.")]
DenyOption = Annotated[bool, typer.Option("--deny", help="Of the rule that forbids: it beats every other.")]


@on_target
def grant(
    target: Target, who: WhoArgument, pattern: PatternArgument, actions: ActionsArgument, deny: DenyOption = False
) -> None:
    """Allow something in the repositories that a pattern matches, or deny it.

    Example: portside grant group:dev 'team/*' pull,push
    """
    from registry.operations import GRANT
    from registry.questions import ChangeRule

    rule = target.ask(GRANT, ChangeRule(who, pattern, actions, _effect(deny)))
    print(_said(rule), file=sys.stderr)


@on_target
def revoke(
    target: Target, who: WhoArgument, pattern: PatternArgument, actions: ActionsArgument, deny: DenyOption = False
) -> None:
    """Take back what was granted by a rule, or with --deny what was denied.

    Example: portside revoke group:dev 'team/*' push
    """
    from registry.operations import REVOKE
    from registry.questions import ChangeRule

    rule = target.ask(REVOKE, ChangeRule(who, pattern, actions, _effect(deny)))
    print(_said(rule), file=sys.stderr)


@on_target
def rules(target: Target, as_json: JSONOption = False) -> None:
    """List the rules of all users, robots and groups.

    Example: portside rules
    """
    from registry.operations import LIST_RULES
    from registry.questions import Nothing

    found = target.ask(LIST_RULES, Nothing()).rules
    if as_json:
        show_json(found)
    else:
        rows = [(one.subject, one.effect.value, ",".join(one.actions), one.pattern) for one in found]
        show(("WHO", "EFFECT", "ACTIONS", "PATTERN"), rows)


@on_target
def access(
    target: Target,
    who: Annotated[str, typer.Argument(metavar="WHO", help="A user, a robot, or everyone.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="A repository, be it there or not.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what somebody may do in a repository, and by which rule.

    Example: portside access bob team/app
    """
    from registry.operations import EXPLAIN
    from registry.questions import Explain

    found = target.ask(EXPLAIN, Explain(who, repository))
    if as_json:
        show_json([found])
        return
    if found.groups:
        print(f"{who} is in {', '.join(found.groups)}")
    rows = [(one.action, "yes" if one.is_allowed else "no", one.because) for one in found.actions]
    show(("ACTION", "MAY", "BECAUSE"), rows)


def _effect(deny: bool) -> Effect:
    from storage.people import Effect

    return Effect.DENY if deny else Effect.ALLOW


def _said(rule: Rule) -> str:
    """The rule as it is now."""
    from storage.people import Effect

    is_denial = rule.effect is Effect.DENY
    if not rule.actions:
        return f"no rule {'denies' if is_denial else 'allows'} {rule.subject} anything on {rule.pattern} any more"
    return f"{rule.subject} may {'not ' if is_denial else ''}{','.join(rule.actions)} on {rule.pattern}"
