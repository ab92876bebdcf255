"""The questions that a hub's administration is asked, and the lists that it answers with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from auth.administration import KINDS, RECORDS_MAX
from auth.holders import GRANTS_MAX
from auth.views import Group, Key, Robot, Token, User
from registry.values import Note
from storage.people import AuditRecord, Effect, Rule

Name = Annotated[str, Note("The name of a user, a robot or a group.", longest=64, example="bob")]
Password = Annotated[str, Note("8 to 1,024 characters.", longest=1024, is_secret=True)]
Lifetime = Annotated[str, Note("A number and s, m, h, d, w or y, or never.", longest=20, example="90d")]
Pattern = Annotated[
    str, Note("A repository's name in which * stands for any characters, also '/'.", longest=255, example="team/*")
]
Actions = Annotated[
    str, Note("Of pull, push, delete and admin, with commas between them; * for all.", longest=40, example="pull,push")
]
GrantList = Annotated[
    tuple[Annotated[str, Note("PATTERN:ACTIONS", longest=300, example="team/*:pull,push")], ...],
    Note("What is allowed, one PATTERN:ACTIONS each.", longest=GRANTS_MAX),
]
Subject = Annotated[str, Note("An account's name, group:NAME, or everyone.", longest=80, example="group:dev")]


# -- questions


@dataclass(frozen=True, slots=True)
class Nothing:
    """Nothing."""


@dataclass(frozen=True, slots=True)
class AddUser:
    """A new user. Without a password one is made, and is in the answer."""

    name: Name
    password: Password | None = field(default=None, repr=False)
    is_admin: bool = False


@dataclass(frozen=True, slots=True)
class OneUser:
    """A user."""

    user: Name


@dataclass(frozen=True, slots=True)
class ChangeUser:
    """What is to be different; null and what is left out stay as they are."""

    user: Name
    is_admin: bool | None = None
    is_disabled: bool | None = None


@dataclass(frozen=True, slots=True)
class SetPassword:
    """A new password. Without one, one is made, and is in the answer."""

    user: Name
    password: Password | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class SetOwnPassword:
    """One's present password and the new one."""

    old_password: Password = field(repr=False)
    password: Password = field(repr=False)


@dataclass(frozen=True, slots=True)
class AddGroup:
    """A new group."""

    name: Name


@dataclass(frozen=True, slots=True)
class OneGroup:
    """A group."""

    group: Name


@dataclass(frozen=True, slots=True)
class Membership:
    """A user or robot in a group."""

    group: Name
    member: Name


@dataclass(frozen=True, slots=True)
class AddRobot:
    """A new robot, what it may do, and how long its secret is good."""

    name: Name
    expires: Lifetime
    grants: GrantList = ()


@dataclass(frozen=True, slots=True)
class RenewRobot:
    """How long the new secret is good; left out: as long as the old one was."""

    robot: Name
    expires: Lifetime | None = None


@dataclass(frozen=True, slots=True)
class OneRobot:
    """A robot."""

    robot: Name


@dataclass(frozen=True, slots=True)
class AddToken:
    """A new personal token. Without limits it may do what its user may."""

    user: Name
    name: Annotated[str, Note("What to call it.", longest=64, example="laptop")]
    expires: Lifetime
    limits: GrantList = ()


@dataclass(frozen=True, slots=True)
class OneToken:
    """A personal token."""

    user: Name
    token: Annotated[str, Note("The token's name.", longest=64, example="laptop")]


@dataclass(frozen=True, slots=True)
class ChangeRule:
    """Actions of the rule of a subject, a pattern and an effect."""

    who: Subject
    pattern: Pattern
    actions: Actions
    effect: Effect = Effect.ALLOW


@dataclass(frozen=True, slots=True)
class Explain:
    """A subject and a repository."""

    who: Annotated[str, Note("An account's name, or everyone.", longest=80, example="bob")]
    repository: Annotated[str, Note("A repository, be it there or not.", longest=255, example="team/app")]


@dataclass(frozen=True, slots=True)
class FindRecords:
    """Which records. To read on, ask for what is after the last sequence."""

    since: Annotated[float, Note("Seconds of the Unix clock.", least=0)] = 0.0
    who: Annotated[str | None, Note("An account's name; local for commands on the hub's machine.", longest=200)] = None
    kind: Annotated[str | None, Note(f"One of {', '.join(KINDS)}.", longest=40, example="push")] = None
    after: Annotated[int, Note("A sequence; the records above it.", least=0)] = 0
    limit: Annotated[int, Note("How many at most.", least=1, most=RECORDS_MAX)] = RECORDS_MAX


@dataclass(frozen=True, slots=True)
class ChangeSettings:
    """What is to be different; null and what is left out stay as they are."""

    personal_namespaces: bool | None = None


# -- answers that are lists


@dataclass(frozen=True, slots=True)
class Users:
    """Users, by name."""

    users: tuple[User, ...]


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups, by name."""

    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Robots:
    """Robots, by name."""

    robots: tuple[Robot, ...]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Personal tokens, by user, the oldest first."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules, by subject and pattern."""

    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Records:
    """Audit records, the oldest first."""

    records: tuple[AuditRecord, ...]


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys, the one that signs first."""

    keys: tuple[Key, ...]
