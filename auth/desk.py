"""What every verb of an administrator works on, and how it says no."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import time
from typing import Protocol

from auth.durations import InvalidDuration
from auth.names import InvalidName, parse_name
from auth.policy import InvalidPattern
from storage.people import (
    Account,
    Actor,
    Audit,
    Credentials,
    Groups,
    Kind,
    PeopleChanges,
    PeopleExist,
    PeopleFacts,
    PeopleLists,
    PeopleUnknown,
)


class AdministrationError(Exception):
    """What was asked for cannot be done; the message is for the person who asked, and holds no secret."""


class Invalid(AdministrationError):
    """A name, pattern, password or duration that nothing can have."""


class NotFound(AdministrationError):
    """There is nobody and nothing of that name."""


class Conflict(AdministrationError):
    """It cannot be done as things are: a name is taken, an administrator is the last one, there are no accounts yet."""


class People(PeopleFacts, PeopleChanges, Groups, Credentials, PeopleLists, Audit, Protocol):
    """All that is known about people: an administrator's verbs each use a part."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The facts, who changes them, and what time it is (seconds of the Unix clock)."""

    people: People
    by: Actor
    clock: Callable[[], float] = time

    def account(self, name: str, kind: Kind) -> Account:
        """An account that is there and of this kind; Invalid, NotFound."""
        with sentences():
            account = self.people.find_account(parse_name(name))
        if account is None:
            raise NotFound(f"there is no {kind.value} {name}")
        if account.kind is not kind:
            raise NotFound(
                f"{name} is a {account.kind.value}, not a {kind.value}: see `portside {account.kind.value} ls`"
            )
        return account


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Turn what the facts and the parsers raise into an AdministrationError."""
    try:
        yield
    except PeopleExist as error:
        kind, _, name = error.what.partition(":")
        raise Conflict(f"the name {name} is taken: there is a {kind} that bears it") from error
    except PeopleUnknown as error:
        kind, _, name = error.what.partition(":")
        raise NotFound(f"there is no {'user or robot' if kind == 'account' else kind} {name}") from error
    except (InvalidName, InvalidPattern, InvalidDuration) as error:
        raise Invalid(str(error)) from error
