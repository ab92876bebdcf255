"""WWW-Authenticate, read strictly (RFC 9110 section 11.6.1).

::

    WWW-Authenticate = #challenge
    challenge        = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
    auth-param       = token BWS "=" BWS ( token / quoted-string )
    token            = 1*tchar
    token68          = 1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="
    quoted-string    = DQUOTE *( qdtext / quoted-pair ) DQUOTE

Both lists use commas; a new challenge is told from a further parameter by the "=" that follows a parameter's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

LENGTH_MAX = 16 * 1024

_SPACES = re.compile(r" *")
_OWS = re.compile(r"[ \t]*")
_SEPARATORS = re.compile(r"[ \t,]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PARAMETER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?=[\"!#$%&'*+.^_`|~0-9A-Za-z-])")
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|\Z))")
_QUOTED = re.compile(r'"((?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*)"')
_PAIR = re.compile(r"\\(.)")


class InvalidChallenge(ValueError):
    """A WWW-Authenticate that RFC 9110 does not allow."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge. ``scheme`` and the parameters' names are in lower case; ``token68`` and ``parameters`` exclude each other."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    token68: str | None = None


def parse_challenges(values: Iterable[str]) -> list[Challenge]:
    """Every challenge of every WWW-Authenticate field, in order; InvalidChallenge says where the grammar is broken."""
    return [challenge for value in values for challenge in _parse(value)]


def _parse(text: str) -> list[Challenge]:
    if len(text) > LENGTH_MAX:
        raise InvalidChallenge(f"a WWW-Authenticate of {len(text)} characters is refused")
    out: list[Challenge] = []
    position = _end(_SEPARATORS, text, 0)
    while position < len(text):
        scheme = _TOKEN.match(text, position)
        if scheme is None:
            raise InvalidChallenge(f"no authentication scheme at character {position} of {text[:200]!r}")
        position = scheme.end()
        name = scheme[0].lower()
        if position < len(text) and text[position] not in " \t,":
            raise InvalidChallenge(f"no authentication scheme at character {scheme.start()} of {text[:200]!r}")
        position = _end(_SPACES, text, position)
        # A parameter comes first: "a=b" could be read as a token68 only if nothing followed the "=".
        token68 = None if _PARAMETER.match(text, position) else _TOKEN68.match(text, position)
        if token68 is not None:
            out.append(Challenge(name, token68=token68[0]))
            position = token68.end()
        else:
            parameters, position = _parameters(text, position)
            out.append(Challenge(name, parameters))
        following = _end(_SEPARATORS, text, position)
        if following < len(text) and "," not in text[position:following]:
            raise InvalidChallenge(f"a comma is missing at character {position} of {text[:200]!r}")
        position = following
    return out


def _parameters(text: str, position: int) -> tuple[dict[str, str], int]:
    """The parameters from ``position`` on, and where the next challenge (or the end) is."""
    out: dict[str, str] = {}
    end = position
    while True:
        match = _PARAMETER.match(text, position)
        if match is None:
            return out, end
        name = match[1].lower()
        if name in out:
            raise InvalidChallenge(f"the parameter {name!r} stands twice in {text[:200]!r}")
        quoted = _QUOTED.match(text, match.end())
        value = quoted if quoted is not None else _TOKEN.match(text, match.end())
        if value is None:
            raise InvalidChallenge(f"the value of {name!r} is broken in {text[:200]!r}")
        out[name] = _PAIR.sub(r"\1", value[1]) if quoted is not None else value[0]
        end = _end(_OWS, text, value.end())
        if end == len(text):
            return out, end
        if text[end] != ",":
            raise InvalidChallenge(f"a comma is missing after {name!r} in {text[:200]!r}")
        position = _end(_SEPARATORS, text, end)


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match is not None else position
