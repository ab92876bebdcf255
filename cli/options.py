"""Options that several commands share."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Annotated, Any

import typer


def default_root() -> Path:
    """Where a hub lives when nobody says: the system's place for root, the user's own otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/portside")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "portside"


RootOption = Annotated[
    Path,
    typer.Option(
        "--root",
        envvar="PORTSIDE_ROOT",
        help="The hub's directory.",
        default_factory=default_root,
        show_default=False,
        file_okay=False,
    ),
]


def option_of(name: str, annotation: Any, default: object) -> inspect.Parameter:
    """A parameter that a decorator adds to a command, as typer reads it."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


class Failure(Exception):
    """What ends a command with a message and an exit code, without a traceback."""

    def __init__(self, message: str, code: int = 1) -> None:
        self.code = code
        super().__init__(message)
