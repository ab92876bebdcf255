"""How long something lasts, as a person writes it: ``90d``, ``12h``, ``30m``, ``1y``, ``never``."""

from __future__ import annotations

import math
import re

NEVER = "never"
YEARS_MAX = 100

_FORM = re.compile(r"(?P<count>[1-9][0-9]{0,9})(?P<unit>[smhdwy])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}


class InvalidDuration(ValueError):
    """A string that is no duration."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text[:40]!r} is not a duration: use a number and s, m, h, d, w or y, as 90d, at most {YEARS_MAX}y, or {NEVER}"
        )


def parse_duration(text: str) -> float:
    """Seconds, infinity for ``never``. A year has 365 days. InvalidDuration."""
    if text == NEVER:
        return math.inf
    found = _FORM.match(text)
    seconds = int(found["count"]) * _SECONDS[found["unit"]] if found is not None else 0
    if not 0 < seconds <= YEARS_MAX * _SECONDS["y"]:
        raise InvalidDuration(text)
    return float(seconds)


def end_of(lifetime: float, start: float) -> float | None:
    """When what begins at ``start`` (seconds of the Unix clock) ends; None for never."""
    return None if math.isinf(lifetime) else start + lifetime
