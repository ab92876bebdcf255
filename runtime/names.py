"""Names for containers that nobody named."""

from __future__ import annotations

import re
import secrets

# fmt: off
_FIRST = (
    "amber", "brave", "brisk", "calm", "clear", "eager", "fair", "fond", "gentle", "glad", "golden", "happy",
    "hardy", "jolly", "keen", "kind", "lively", "lucky", "merry", "mild", "neat", "noble", "proud", "quick",
    "quiet", "ready", "silver", "smart", "snug", "solid", "steady", "sunny", "swift", "tidy", "warm", "wise",
)
_SECOND = (
    "anchor", "barge", "beacon", "bollard", "brig", "buoy", "canal", "capstan", "clipper", "compass", "crane",
    "cutter", "davit", "dock", "ferry", "fjord", "galley", "gull", "harbour", "hawser", "helm", "hull", "jetty",
    "keel", "ketch", "lagoon", "lantern", "lock", "mast", "mole", "oar", "pier", "pilot", "quay", "rudder", "sail",
    "schooner", "skiff", "sloop", "spar", "tide", "tiller", "tug", "wharf", "winch", "yawl",
)
# fmt: on
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")


def is_container_name(text: str) -> bool:
    """Whether a person may give a container this name: letters, digits, ``_``, ``.`` and ``-``, as in Docker."""
    return _NAME.match(text) is not None


def random_name() -> str:
    """``adjective_noun_number``."""
    return f"{secrets.choice(_FIRST)}_{secrets.choice(_SECOND)}_{secrets.randbelow(1000)}"
