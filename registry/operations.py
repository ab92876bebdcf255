"""What can be asked of a hub's administration, as one table: ``/api/v1`` is routed, parsed and described by it, and the commands ask by it.

An operation's question is a dataclass. Its fields go into the path where that names them, else into the query of a GET, else into the body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from auth.administration import Administration
from auth.desk import sentences
from auth.durations import parse_duration
from auth.views import Explanation, Group, NewPassword, NewRobot, NewToken, NewUser, Settings, User
from registry.questions import (
    AddGroup,
    AddRobot,
    AddToken,
    AddUser,
    ChangeRule,
    ChangeSettings,
    ChangeUser,
    Explain,
    FindRecords,
    Groups,
    Keys,
    Membership,
    Nothing,
    OneGroup,
    OneRobot,
    OneToken,
    OneUser,
    Records,
    RenewRobot,
    Robots,
    Rules,
    SetOwnPassword,
    SetPassword,
    Tokens,
    Users,
)
from storage.people import Rule

Question = TypeVar("Question")
Answer = TypeVar("Answer")


BASE = "/api/v1"
"""The path that those of operations are below."""


class Who(Enum):
    """Who may ask."""

    ADMIN = "administrators"
    OWNER = "administrators, and the user whose name is in the path"
    ANYBODY = "whoever is logged in"


@dataclass(frozen=True, slots=True)
class Operation(Generic[Question, Answer]):
    """One thing that can be asked. ``run`` blocks and raises AdministrationError.

    ``proof``: of a question, the present password of who asks, which is verified before it is run.
    """

    name: str
    method: str
    path: str
    question: type[Question]
    answer: type[Answer]
    run: Callable[[Administration, Question], Answer]
    about: str
    status: int = 200
    who: Who = Who.ADMIN
    proof: Callable[[Question], str] | None = None

    @property
    def has_body(self) -> bool:
        """Whether the question, or what of it is not in the path, comes as JSON."""
        return self.method in ("POST", "PUT", "PATCH")


NONE: type[None] = type(None)
"""The answer that is none: 204."""


def _seconds(lifetime: str) -> float:
    with sentences():
        return parse_duration(lifetime)


def _seconds_or_none(lifetime: str | None) -> float | None:
    return None if lifetime is None else _seconds(lifetime)


SHOW_SELF = Operation(
    "showSelf",
    "GET",
    "/self",
    Nothing,
    User,
    lambda on, ask: on.users.show_own(),
    "The account of who asks",
    who=Who.ANYBODY,
)
SET_OWN_PASSWORD = Operation(
    "setOwnPassword",
    "PUT",
    "/self/password",
    SetOwnPassword,
    NONE,
    lambda on, ask: on.users.set_own_password(ask.password),
    "Change one's own password; log-ins and tokens by the old one end",
    204,
    Who.ANYBODY,
    lambda ask: ask.old_password,
)
LIST_USERS = Operation(
    "listUsers", "GET", "/users", Nothing, Users, lambda on, ask: Users(tuple(on.users.list())), "List the users"
)
ADD_USER = Operation(
    "addUser",
    "POST",
    "/users",
    AddUser,
    NewUser,
    lambda on, ask: on.users.add(ask.name, ask.password, is_admin=ask.is_admin),
    "Add a user",
    201,
)
SHOW_USER = Operation(
    "showUser",
    "GET",
    "/users/{user}",
    OneUser,
    User,
    lambda on, ask: on.users.show(ask.user),
    "Show a user",
    who=Who.OWNER,
)
CHANGE_USER = Operation(
    "changeUser",
    "PATCH",
    "/users/{user}",
    ChangeUser,
    User,
    lambda on, ask: on.users.change(ask.user, is_admin=ask.is_admin, is_disabled=ask.is_disabled),
    "Disable or enable a user, make them an administrator or none",
)
REMOVE_USER = Operation(
    "removeUser",
    "DELETE",
    "/users/{user}",
    OneUser,
    NONE,
    lambda on, ask: on.users.remove(ask.user),
    "Remove a user with their tokens, memberships and rules; images stay",
    204,
)
SET_PASSWORD = Operation(
    "setPassword",
    "PUT",
    "/users/{user}/password",
    SetPassword,
    NewPassword,
    lambda on, ask: on.users.set_password(ask.user, ask.password),
    "Give a user another password; log-ins and tokens by the old one end",
)
LIST_USER_TOKENS = Operation(
    "listUserTokens",
    "GET",
    "/users/{user}/tokens",
    OneUser,
    Tokens,
    lambda on, ask: Tokens(tuple(on.tokens.list(ask.user))),
    "List a user's personal tokens",
    who=Who.OWNER,
)
ADD_TOKEN = Operation(
    "addToken",
    "POST",
    "/users/{user}/tokens",
    AddToken,
    NewToken,
    lambda on, ask: on.tokens.add(ask.user, ask.name, _seconds(ask.expires), ask.limits),
    "Make a personal token; its secret is in this answer and nowhere else",
    201,
    Who.OWNER,
)
REMOVE_TOKEN = Operation(
    "removeToken",
    "DELETE",
    "/users/{user}/tokens/{token}",
    OneToken,
    NONE,
    lambda on, ask: on.tokens.remove(ask.user, ask.token),
    "Revoke a personal token, and the log-ins that it was used for",
    204,
    Who.OWNER,
)
LIST_TOKENS = Operation(
    "listTokens",
    "GET",
    "/tokens",
    Nothing,
    Tokens,
    lambda on, ask: Tokens(tuple(on.tokens.list())),
    "List everybody's personal tokens",
)
LIST_GROUPS = Operation(
    "listGroups", "GET", "/groups", Nothing, Groups, lambda on, ask: Groups(tuple(on.groups.list())), "List the groups"
)
ADD_GROUP = Operation(
    "addGroup", "POST", "/groups", AddGroup, Group, lambda on, ask: on.groups.add(ask.name), "Add a group", 201
)
REMOVE_GROUP = Operation(
    "removeGroup",
    "DELETE",
    "/groups/{group}",
    OneGroup,
    NONE,
    lambda on, ask: on.groups.remove(ask.group),
    "Remove a group with its rules",
    204,
)
ADD_MEMBER = Operation(
    "addMember",
    "PUT",
    "/groups/{group}/members/{member}",
    Membership,
    NONE,
    lambda on, ask: on.groups.set_member(ask.group, ask.member, True),
    "Take a user or robot into a group",
    204,
)
REMOVE_MEMBER = Operation(
    "removeMember",
    "DELETE",
    "/groups/{group}/members/{member}",
    Membership,
    NONE,
    lambda on, ask: on.groups.set_member(ask.group, ask.member, False),
    "Take a user or robot out of a group",
    204,
)
LIST_ROBOTS = Operation(
    "listRobots", "GET", "/robots", Nothing, Robots, lambda on, ask: Robots(tuple(on.robots.list())), "List the robots"
)
ADD_ROBOT = Operation(
    "addRobot",
    "POST",
    "/robots",
    AddRobot,
    NewRobot,
    lambda on, ask: on.robots.add(ask.name, ask.grants, _seconds(ask.expires)),
    "Add a robot; its secret is in this answer and nowhere else",
    201,
)
RENEW_ROBOT = Operation(
    "renewRobot",
    "POST",
    "/robots/{robot}/secret",
    RenewRobot,
    NewRobot,
    lambda on, ask: on.robots.renew(ask.robot, _seconds_or_none(ask.expires)),
    "Give a robot another secret; the old one ends at once",
)
REMOVE_ROBOT = Operation(
    "removeRobot",
    "DELETE",
    "/robots/{robot}",
    OneRobot,
    NONE,
    lambda on, ask: on.robots.remove(ask.robot),
    "Remove a robot with its secret and rules",
    204,
)
LIST_RULES = Operation(
    "listRules", "GET", "/rules", Nothing, Rules, lambda on, ask: Rules(tuple(on.rules.list())), "List the rules"
)
GRANT = Operation(
    "grant",
    "POST",
    "/rules/grant",
    ChangeRule,
    Rule,
    lambda on, ask: on.rules.grant(ask.who, ask.pattern, ask.actions, ask.effect),
    "Add actions to a rule; the rule as it is then",
)
REVOKE = Operation(
    "revoke",
    "POST",
    "/rules/revoke",
    ChangeRule,
    Rule,
    lambda on, ask: on.rules.revoke(ask.who, ask.pattern, ask.actions, ask.effect),
    "Take actions away from a rule; the rule as it is then, gone where it has none",
)
EXPLAIN = Operation(
    "explainAccess",
    "GET",
    "/access",
    Explain,
    Explanation,
    lambda on, ask: on.rules.explain(ask.who, ask.repository),
    "Why somebody may, or may not, do what in a repository",
)
AUDIT = Operation(
    "findRecords",
    "GET",
    "/audit",
    FindRecords,
    Records,
    lambda on, ask: Records(
        tuple(on.audit(since=ask.since, who=ask.who, kind=ask.kind, after=ask.after, limit=ask.limit))
    ),
    "Read the audit trail",
)
SHOW_SETTINGS = Operation(
    "showSettings", "GET", "/settings", Nothing, Settings, lambda on, ask: on.settings(), "Show what is switched on"
)
CHANGE_SETTINGS = Operation(
    "changeSettings",
    "PATCH",
    "/settings",
    ChangeSettings,
    Settings,
    lambda on, ask: on.change_settings(ask.personal_namespaces),
    "Switch something on or off",
)
LIST_KEYS = Operation(
    "listKeys",
    "GET",
    "/keys",
    Nothing,
    Keys,
    lambda on, ask: Keys(tuple(on.keys())),
    "List the keys of access tokens",
)
ROTATE_KEYS = Operation(
    "rotateKeys",
    "POST",
    "/keys/rotate",
    Nothing,
    Keys,
    lambda on, ask: Keys(tuple(on.rotate_keys())),
    "Sign access tokens by a new key; those that are out stay good until they expire",
)

OPERATIONS: Sequence[Operation[Any, Any]] = [one for one in globals().values() if isinstance(one, Operation)]
"""All of the above: none is left out."""
