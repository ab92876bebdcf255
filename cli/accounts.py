"""``portside init``, ``user`` and ``group``: who there is."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.administration import Target, group_of_verbs, on_target, open_place
from cli.options import Failure
from cli.passwords import PasswordOption, ask_new, ask_present, show_secret
from cli.place import Place, at_place
from cli.tables import moment, show, show_json

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.")]
MemberArgument = Annotated[str, typer.Argument(metavar="NAME", help="A user or a robot.")]
JSONOption = Annotated[bool, typer.Option("--json", help="One JSON object for each.")]


@at_place(has_blobs=False)
def init(
    place: Place,
    admin: Annotated[str, typer.Option(metavar="NAME", help="The first administrator.")],
    password_stdin: Annotated[bool, PasswordOption] = False,
    personal_namespaces: Annotated[
        bool, typer.Option("--personal-namespaces", help="A user owns the repositories below NAME/.")
    ] = False,
) -> None:
    """Switch accounts on: make the first administrator of a hub.

    From then on nobody may do anything that was not granted. Without
    --password-stdin a password is made, and shown this once.

    Example: portside init --root /srv/hub --admin ann
    """
    from cli.administration import failures
    from cli.passwords import read_line

    password = read_line("the password") if password_stdin else None
    with open_place(place, is_first=True) as target, failures(place):
        added = target.administration.initialise(admin, password, personal_namespaces=personal_namespaces)
    done = f"Accounts are on for {place}. {added.user.name} is its administrator"
    if added.password is None:
        print(f"{done}.", file=sys.stderr)
    else:
        show_secret(f"{done}, with this password, shown once:", added.password)


user = group_of_verbs("People: add, change and remove users.")
group = group_of_verbs("Groups, and who is in them.")


@user.command("add")
@on_target
def add_user(
    target: Target,
    name: NameArgument,
    admin: Annotated[bool, typer.Option("--admin", help="An administrator, who may do everything.")] = False,
    prompt: Annotated[bool, typer.Option("--prompt", help="Ask for a password.")] = False,
    password_stdin: Annotated[bool, PasswordOption] = False,
) -> None:
    """Add a user. Without a password, one is made and shown once.

    Example: portside user add bob
    """
    from registry.operations import ADD_USER
    from registry.questions import AddUser

    password = ask_new(name, from_stdin=password_stdin) if prompt or password_stdin else None
    added = target.ask(ADD_USER, AddUser(name, password, admin))
    if added.password is not None:
        show_secret(f"{name} was added, with this password, shown once:", added.password)
    else:
        print(f"{name} was added", file=sys.stderr)


@user.command("passwd")
@on_target
def set_password(
    target: Target,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="With --server: yourself if left out.")] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Make a password and show it once.")] = False,
    password_stdin: Annotated[bool, PasswordOption] = False,
) -> None:
    """Give a user another password. Log-ins and tokens by the old one end.

    Your own needs the present one too (with --password-stdin: the line before).

    Example: portside user passwd bob
    """
    from registry.operations import SET_OWN_PASSWORD, SET_PASSWORD
    from registry.questions import SetOwnPassword, SetPassword

    if generate and (password_stdin or name is None):
        raise Failure("--generate goes with a NAME and without --password-stdin", 2)
    if name is None:
        if target.is_local:
            raise Failure("say whose password it is: portside user passwd NAME", 2)
        present = ask_present(from_stdin=password_stdin)
        target.ask(SET_OWN_PASSWORD, SetOwnPassword(present, ask_new("yours", from_stdin=password_stdin)))
        print("your password was changed", file=sys.stderr)
        return
    password = None if generate else ask_new(name, from_stdin=password_stdin)
    changed = target.ask(SET_PASSWORD, SetPassword(name, password))
    if changed.password is not None:
        show_secret(f"{name} has this password now, shown once:", changed.password)
    else:
        print(f"the password of {name} was changed", file=sys.stderr)


@user.command("disable")
@on_target
def disable_user(target: Target, name: NameArgument) -> None:
    """Cut a user off, at once and everywhere. `enable` takes it back.

    Example: portside user disable bob
    """
    _change(target, name, is_disabled=True)
    print(f"{name} is disabled: passwords and tokens are refused", file=sys.stderr)


@user.command("enable")
@on_target
def enable_user(target: Target, name: NameArgument) -> None:
    """Let a user in again who was disabled.

    Example: portside user enable bob
    """
    _change(target, name, is_disabled=False)
    print(f"{name} is enabled", file=sys.stderr)


@user.command("admin")
@on_target
def make_admin(
    target: Target,
    name: NameArgument,
    off: Annotated[bool, typer.Option("--off", help="No administrator any more.")] = False,
) -> None:
    """Make a user an administrator, who may do everything.

    Example: portside user admin bob
    """
    _change(target, name, is_admin=not off)
    print(f"{name} is {'no administrator any more' if off else 'an administrator'}", file=sys.stderr)


@user.command("rm")
@on_target
def remove_user(target: Target, name: NameArgument) -> None:
    """Remove a user with their tokens, memberships and rules. Images stay.

    Example: portside user rm bob
    """
    from registry.operations import REMOVE_USER
    from registry.questions import OneUser

    target.ask(REMOVE_USER, OneUser(name))
    print(f"{name} was removed", file=sys.stderr)


@user.command("ls")
@on_target
def list_users(target: Target, as_json: JSONOption = False) -> None:
    """List the users.

    Example: portside user ls
    """
    from registry.operations import LIST_USERS
    from registry.questions import Nothing

    users = target.ask(LIST_USERS, Nothing()).users
    if as_json:
        show_json(users)
        return
    rows = [
        (
            one.name,
            "admin" if one.is_admin else "user",
            "disabled" if one.is_disabled else "active",
            ",".join(one.groups),
            moment(one.created_at),
        )
        for one in users
    ]
    show(("NAME", "ROLE", "STATE", "GROUPS", "ADDED"), rows)


@group.command("add")
@on_target
def add_group(target: Target, name: GroupArgument) -> None:
    """Add a group.

    Example: portside group add dev
    """
    from registry.operations import ADD_GROUP
    from registry.questions import AddGroup

    target.ask(ADD_GROUP, AddGroup(name))
    print(f"the group {name} was added: portside group join {name} NAME", file=sys.stderr)


@group.command("rm")
@on_target
def remove_group(target: Target, name: GroupArgument) -> None:
    """Remove a group with its rules. Its members stay users.

    Example: portside group rm dev
    """
    from registry.operations import REMOVE_GROUP
    from registry.questions import OneGroup

    target.ask(REMOVE_GROUP, OneGroup(name))
    print(f"the group {name} was removed", file=sys.stderr)


@group.command("join")
@on_target
def join(target: Target, name: GroupArgument, members: Annotated[list[str], typer.Argument(metavar="NAME...")]) -> None:
    """Take users and robots into a group.

    Example: portside group join dev bob eve
    """
    from registry.operations import ADD_MEMBER
    from registry.questions import Membership

    for member in members:
        target.ask(ADD_MEMBER, Membership(name, member))
        print(f"{member} is in {name}", file=sys.stderr)


@group.command("leave")
@on_target
def leave(
    target: Target, name: GroupArgument, members: Annotated[list[str], typer.Argument(metavar="NAME...")]
) -> None:
    """Take users and robots out of a group.

    Example: portside group leave dev bob
    """
    from registry.operations import REMOVE_MEMBER
    from registry.questions import Membership

    for member in members:
        target.ask(REMOVE_MEMBER, Membership(name, member))
        print(f"{member} is not in {name}", file=sys.stderr)


@group.command("ls")
@on_target
def list_groups(target: Target, as_json: JSONOption = False) -> None:
    """List the groups and their members.

    Example: portside group ls
    """
    from registry.operations import LIST_GROUPS
    from registry.questions import Nothing

    groups = target.ask(LIST_GROUPS, Nothing()).groups
    if as_json:
        show_json(groups)
    else:
        show(("NAME", "MEMBERS"), [(one.name, ",".join(one.members)) for one in groups])


def _change(target: Target, name: str, *, is_admin: bool | None = None, is_disabled: bool | None = None) -> None:
    from registry.operations import CHANGE_USER
    from registry.questions import ChangeUser

    target.ask(CHANGE_USER, ChangeUser(name, is_admin, is_disabled))
