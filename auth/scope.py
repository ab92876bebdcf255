"""What a token is asked for: ``repository:team/app:pull,push`` (distribution, docs/content/spec/auth/scope.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

SCOPES_MAX = 100
"""Scopes in one request for a token."""
LENGTH_MAX = 512
"""Characters of one scope."""

# resourcescope := resourcetype [ "(" class ")" ] ":" resourcename ":" action *( "," action ); a name may hold "host:port"
_SCOPE = re.compile(
    r"(?P<type>[a-z0-9]+)(?:\((?P<class>[a-z0-9]+)\))?:(?P<name>[A-Za-z0-9._/:\[\]-]+):(?P<actions>(?:\*|[a-z]+)(?:,(?:\*|[a-z]+))*)\Z"
)


class InvalidScope(Exception):
    """A scope that is not of the grammar; the message quotes what was sent."""


@dataclass(frozen=True, slots=True)
class Scope:
    """One resource, and what is wanted with it. ``resource_class`` is what stands in parentheses after the type, "" for nothing."""

    type: str
    name: str
    actions: tuple[str, ...]
    resource_class: str = ""

    @classmethod
    def parse(cls, text: str) -> Scope:
        """One scope; InvalidScope."""
        found = _SCOPE.match(text) if len(text) <= LENGTH_MAX else None
        if found is None:
            raise InvalidScope(
                f"{text[:100]!r} is not a scope: TYPE:NAME:ACTION,ACTION, as repository:team/app:pull,push"
            )
        actions = tuple(dict.fromkeys(found["actions"].split(",")))
        return cls(found["type"], found["name"], actions, found["class"] or "")

    def __str__(self) -> str:
        kind = f"{self.type}({self.resource_class})" if self.resource_class else self.type
        return f"{kind}:{self.name}:{','.join(self.actions)}"


def parse_scopes(values: Iterable[str]) -> list[Scope]:
    """The scopes of a request: parameters that repeat, or words in one (RFC 6749 section 3.3); InvalidScope."""
    words = [word for value in values for word in value.split(" ") if word]
    if len(words) > SCOPES_MAX:
        raise InvalidScope(f"{len(words)} scopes are asked for in one token, {SCOPES_MAX} are allowed")
    return [Scope.parse(word) for word in words]
