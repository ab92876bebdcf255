"""The commands about people, rights and the audit trail, and those that move hubs, as they stand beside the others.

There are more than thirty of them: they are imported when one is called, or all are listed, so that the others start as fast as without.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperGroup

from cli.administration import group_of_verbs

NAMES = (
    "init",
    "user",
    "group",
    "robot",
    "token",
    "grant",
    "revoke",
    "rules",
    "access",
    "audit",
    "settings",
    "key",
    "store",
    "import",
)


class Verbs(TyperGroup):
    """All verbs of ``portside``: ``typer.Typer(cls=Verbs)``. ``ctx`` is click's, of which typer brings its own."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The others first."""
        return [*super().list_commands(ctx), *NAMES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of the others, or one of these."""
        found = super().get_command(ctx, cmd_name)
        return _command(cmd_name) if found is None and cmd_name in NAMES else found


def _command(name: str) -> Any:
    verb = _find(name)
    if isinstance(verb, typer.Typer):
        app = verb
    else:
        app = group_of_verbs()
        app.command(name)(verb)
    command = typer.main.get_command(app)
    command.name = name
    return command


def _find(name: str) -> typer.Typer | Callable[..., None]:
    """A verb, or the group of verbs of a noun."""
    from cli import accounts, importing, rights, robots, store, trail

    homes: dict[str, ModuleType] = dict.fromkeys(("init", "user", "group"), accounts)
    homes |= dict.fromkeys(("robot", "token"), robots) | dict.fromkeys(("audit", "key", "settings"), trail)
    homes |= {"store": store, "import": importing}
    words = {"import": "imports"}  # what Python keeps for itself
    found: typer.Typer | Callable[..., None] = getattr(homes.get(name, rights), words.get(name, name))
    return found
