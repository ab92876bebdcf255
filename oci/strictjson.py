"""JSON from another machine: bounded, without duplicate keys, without NaN, never a traceback."""

from __future__ import annotations

import json
from typing import Any

DEPTH_MAX = 64


class InvalidJSON(ValueError):
    """Bytes that are not the JSON that is allowed here; the message says why."""


def parse_object(data: bytes, limit: int) -> dict[str, Any]:
    """Read one JSON object from at most ``limit`` bytes of UTF-8; InvalidJSON otherwise.

    Duplicate keys are refused (RFC 8259 section 4 leaves their meaning open, and two readers of one manifest must not see two images).
    """
    if len(data) > limit:
        raise InvalidJSON(f"it has {len(data)} bytes, more than the {limit} that are allowed")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise InvalidJSON("it is not UTF-8") from error
    except RecursionError:
        raise InvalidJSON(f"it is nested deeper than {DEPTH_MAX} levels") from None
    except InvalidJSON:
        raise
    except ValueError as error:
        raise InvalidJSON(f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidJSON("it is not a JSON object")
    _check(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidJSON(f"the key {key[:100]!r} stands twice in one object")
            seen.add(key)
    return out


def _refuse(name: str) -> Any:
    raise InvalidJSON(f"{name} is not JSON")


def _check(root: dict[str, Any]) -> None:
    """Bound the depth, and refuse lone surrogates: such text could be neither stored nor sent on."""
    level: list[Any] = [root]
    for _ in range(DEPTH_MAX):
        following: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                for key in value:
                    _check_text(key)
                following.extend(value.values())
            elif isinstance(value, list):
                following.extend(value)
            elif isinstance(value, str):
                _check_text(value)
        if not following:
            return
        level = following
    raise InvalidJSON(f"it is nested deeper than {DEPTH_MAX} levels")


def _check_text(text: str) -> None:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidJSON("a string in it has a lone surrogate, which no UTF-8 text can hold") from error
