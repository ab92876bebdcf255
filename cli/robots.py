"""``portside robot`` and ``token``: what programs show instead of a password."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.accounts import JSONOption
from cli.administration import Target, group_of_verbs, on_target
from cli.options import Failure
from cli.passwords import show_secret
from cli.tables import moment, show, show_json

RobotArgument = Annotated[str, typer.Argument(metavar="NAME", help="The robot's name.")]
TokenArgument = Annotated[str, typer.Argument(metavar="NAME", help="What the token is called.")]
UserOption = Annotated[
    str | None, typer.Option("--user", metavar="USER", help="Whose; with --server: yours if left out.")
]
EXPIRES = typer.Option("--expires", metavar="TIME", help="How long it is good: 90d, 12h, 1y, never.")

robot = group_of_verbs("Robots: accounts of programs, with a secret each.")
token = group_of_verbs("Personal tokens: for programs that work in a user's name.")


@robot.command("add")
@on_target
def add_robot(
    target: Target,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The robot's name.", show_default=False)] = None,
    named: Annotated[str | None, typer.Option("--name", hidden=True)] = None,
    grant: Annotated[
        list[str] | None, typer.Option("--grant", metavar="PATTERN:ACTIONS", help="What it may do; repeatable.")
    ] = None,
    expires: Annotated[str, EXPIRES] = "90d",
) -> None:
    """Add a robot, an account of a program. Its secret is shown once.

    Example: portside robot add ci --grant 'team/*:pull,push' --expires 90d
    """
    from registry.operations import ADD_ROBOT
    from registry.questions import AddRobot

    if (name is None) == (named is None):
        raise Failure("name the robot, once: portside robot add NAME", 2)
    added = target.ask(ADD_ROBOT, AddRobot(name or named or "", expires, tuple(grant or ())))
    until = moment(added.robot.expires_at)
    show_secret(f"{added.robot.name} was added. Its secret, shown once (until: {until}):", added.secret)


@robot.command("renew")
@on_target
def renew_robot(
    target: Target,
    name: RobotArgument,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="TIME", help="90d, 1y, never. Default: as long as before.")
    ] = None,
) -> None:
    """Give a robot another secret, shown once. The old one ends at once.

    Example: portside robot renew ci
    """
    from registry.operations import RENEW_ROBOT
    from registry.questions import RenewRobot

    renewed = target.ask(RENEW_ROBOT, RenewRobot(name, expires))
    until = moment(renewed.robot.expires_at)
    show_secret(f"The new secret of {name}, shown once (until: {until}):", renewed.secret)


@robot.command("rm")
@on_target
def remove_robot(target: Target, name: RobotArgument) -> None:
    """Remove a robot with its secret and rules.

    Example: portside robot rm ci
    """
    from registry.operations import REMOVE_ROBOT
    from registry.questions import OneRobot

    target.ask(REMOVE_ROBOT, OneRobot(name))
    print(f"{name} was removed", file=sys.stderr)


@robot.command("ls")
@on_target
def list_robots(target: Target, as_json: JSONOption = False) -> None:
    """List the robots: what they were granted, until when, last used when.

    Example: portside robot ls
    """
    from registry.operations import LIST_ROBOTS
    from registry.questions import Nothing

    robots = target.ask(LIST_ROBOTS, Nothing()).robots
    if as_json:
        show_json(robots)
        return
    rows = [(one.name, moment(one.expires_at), moment(one.used_at), " ".join(one.grants)) for one in robots]
    show(("NAME", "EXPIRES", "USED", "GRANTS"), rows)


@token.command("new")
@on_target
def new_token(
    target: Target,
    name: TokenArgument,
    user: UserOption = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="PATTERN:ACTIONS", help="All that it is good for; repeatable."),
    ] = None,
    expires: Annotated[str, EXPIRES] = "90d",
) -> None:
    """Make a personal token, shown once. It stands for its user's password.

    Example: portside token new laptop --user bob --limit 'team/*:pull'
    """
    from registry.operations import ADD_TOKEN
    from registry.questions import AddToken

    added = target.ask(ADD_TOKEN, AddToken(_whose(target, user), name, expires, tuple(limit or ())))
    until = moment(added.token.expires_at)
    show_secret(f"The token {name} of {added.token.user}, shown once (until: {until}):", added.secret)


@token.command("ls")
@on_target
def list_tokens(target: Target, user: UserOption = None, as_json: JSONOption = False) -> None:
    """List personal tokens. With --root and without --user: everybody's.

    Example: portside token ls --user bob
    """
    from registry.operations import LIST_TOKENS, LIST_USER_TOKENS
    from registry.questions import Nothing, OneUser

    if user is None and target.is_local:
        tokens = target.ask(LIST_TOKENS, Nothing()).tokens
    else:
        tokens = target.ask(LIST_USER_TOKENS, OneUser(_whose(target, user))).tokens
    if as_json:
        show_json(tokens)
        return
    rows = [(one.user, one.name, moment(one.expires_at), moment(one.used_at), " ".join(one.limits)) for one in tokens]
    show(("USER", "NAME", "EXPIRES", "USED", "LIMITS"), rows)


@token.command("rm")
@on_target
def remove_token(target: Target, name: TokenArgument, user: UserOption = None) -> None:
    """Revoke a personal token, and the log-ins that it was used for.

    Example: portside token rm laptop --user bob
    """
    from registry.operations import REMOVE_TOKEN
    from registry.questions import OneToken

    target.ask(REMOVE_TOKEN, OneToken(_whose(target, user), name))
    print(f"the token {name} was revoked", file=sys.stderr)


def _whose(target: Target, user: str | None) -> str:
    """The user who is named, else the one whose token the server is shown; Failure."""
    from registry.operations import SHOW_SELF
    from registry.questions import Nothing

    if user is not None:
        return user
    if target.is_local:
        raise Failure("say whose token it is: --user NAME", 2)
    return target.ask(SHOW_SELF, Nothing()).name
