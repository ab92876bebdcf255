"""``portside audit``, ``key`` and ``settings``: who did what, the keys of tokens, and what is switched on."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cli.accounts import JSONOption
from cli.administration import Target, group_of_verbs, on_target
from cli.options import Failure
from cli.tables import moment, printable, show, show_json

if TYPE_CHECKING:
    from storage.people import AuditRecord

FOLLOW_INTERVAL = 1.0
"""Seconds between two looks at the trail."""

key = group_of_verbs("The keys that sign access tokens.")


@on_target
def audit(
    target: Target,
    since: Annotated[str, typer.Option(metavar="TIME", help="How far back: 30m, 1h, 7d; never: all.")] = "1d",
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Of one account, or local.")] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="Of one kind: push, login, denied, …")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what comes.")] = False,
    as_json: JSONOption = False,
) -> None:
    """Show who did what, when and from where: log-ins, denials, every change.

    Example: portside audit --since 1h --user bob --follow
    """
    from auth.durations import InvalidDuration, parse_duration
    from registry.operations import AUDIT
    from registry.questions import FindRecords

    try:
        start = max(0.0, time.time() - parse_duration(since))
    except InvalidDuration as error:
        raise Failure(f"--since: {error}", 2) from error
    after = 0
    try:
        while True:
            records = target.ask(AUDIT, FindRecords(start, user, kind, after)).records
            if as_json:
                show_json(records)
            else:
                for record in records:
                    print(_line(record))
            sys.stdout.flush()
            if records:
                after = records[-1].sequence
            elif not follow:
                return
            else:
                time.sleep(FOLLOW_INTERVAL)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:
        raise typer.Exit(0) from None


@key.command("ls")
@on_target
def list_keys(target: Target, as_json: JSONOption = False) -> None:
    """List the keys: the one that signs, and those that still verify.

    Example: portside key ls
    """
    from registry.operations import LIST_KEYS
    from registry.questions import Nothing

    keys = target.ask(LIST_KEYS, Nothing()).keys
    if as_json:
        show_json(keys)
    else:
        show(("KEY", "DOES"), [(one.kid, "signs and verifies" if one.is_signing else "verifies") for one in keys])


@key.command("rotate")
@on_target
def rotate_keys(target: Target) -> None:
    """Sign by a new key. Tokens that are out stay good until they expire.

    Example: portside key rotate
    """
    from registry.operations import ROTATE_KEYS
    from registry.questions import Nothing

    keys = target.ask(ROTATE_KEYS, Nothing()).keys
    print(f"{keys[0].kid} signs from now on", file=sys.stderr)


@on_target
def settings(
    target: Target,
    personal_namespaces: Annotated[
        bool | None,
        typer.Option(
            "--personal-namespaces/--no-personal-namespaces",
            help="Whether a user owns the repositories below NAME/.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show what is switched on in a hub, or switch it.

    Example: portside settings --personal-namespaces
    """
    from registry.operations import CHANGE_SETTINGS, SHOW_SETTINGS
    from registry.questions import ChangeSettings, Nothing
    from registry.values import write

    if personal_namespaces is None:
        found = target.ask(SHOW_SETTINGS, Nothing())
    else:
        found = target.ask(CHANGE_SETTINGS, ChangeSettings(personal_namespaces))
    rows = [(name.replace("_", "-"), json.dumps(value)) for name, value in write(found).items()]
    show(("SETTING", "VALUE"), rows)


def _line(record: AuditRecord) -> str:
    """A record in one line, without what a terminal would obey: names that were tried come from strangers."""
    done = "ok" if record.is_success else "REFUSED"
    cells = [moment(record.at), f"{record.who or '-':<12}", f"{record.kind:<10}", f"{done:<7}", record.subject or "-"]
    cells += [record.detail, f"from {record.address}" if record.address else ""]
    return printable("  ".join(cell for cell in cells if cell))
