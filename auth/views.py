"""What an administrator is shown. All times in seconds of the Unix clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from auth.policy import Reason
from storage.people import Kind


@dataclass(frozen=True, slots=True)
class User:
    """An account and the groups that it is in."""

    name: str
    kind: Kind
    is_admin: bool
    is_disabled: bool
    groups: tuple[str, ...]
    created_at: float


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user who was added. ``password``: the one that was made, None where one was given; it can be shown only now."""

    user: User
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewPassword:
    """``password``: the one that was made, None where one was given; it can be shown only now."""

    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Group:
    """A group and its members, users and robots."""

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Robot:
    """A robot, what it was granted itself (``PATTERN:ACTIONS``), and how long its secret is good."""

    name: str
    grants: tuple[str, ...]
    created_at: float
    expires_at: float | None
    used_at: float | None


@dataclass(frozen=True, slots=True)
class NewRobot:
    """A robot and its new secret, which can be shown only now."""

    robot: Robot
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A personal token. ``limits``: where there are any, what may be done with it at most (``PATTERN:ACTIONS``)."""

    user: str
    name: str
    limits: tuple[str, ...]
    created_at: float
    expires_at: float | None
    used_at: float | None


@dataclass(frozen=True, slots=True)
class NewToken:
    """A personal token and its secret, which can be shown only now."""

    token: Token
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why somebody may, or may not, do each action in a repository. ``cut_off``: why nobody gets in by that name, "" where they do."""

    who: str
    repository: str
    groups: tuple[str, ...]
    cut_off: str
    actions: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be switched. ``personal_namespaces``: a user owns the repositories below their name."""

    personal_namespaces: bool


@dataclass(frozen=True, slots=True)
class Key:
    """A key of access tokens: one signs, those before it verify until their last token has expired."""

    kid: str
    is_signing: bool
