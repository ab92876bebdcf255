"""``portside store copy``: a hub's facts and blobs to another place."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.administration import group_of_verbs
from cli.options import Failure
from cli.place import Place, at_place, checked_place

if TYPE_CHECKING:
    from storage.moving import Hub, Moved

WORDS = {
    "outbox": "events",
    "audit": "audit records",
    "manifest_references": "references",
    "repository_blobs": "links to blobs",
    "repository_manifests": "links to manifests",
}
"""What is in tables that people know by other names."""

store = group_of_verbs("Where a hub is: copy it to another database, disk or bucket.")


@store.callback()
def group() -> None:
    """A group, of one verb."""


@store.command("copy")
@at_place()
def copy(
    place: Place,
    to_root: Annotated[
        Path | None, typer.Option("--to-root", help="The other hub's directory.", file_okay=False)
    ] = None,
    to_database: Annotated[
        str, typer.Option("--to-database", metavar="URL", help="PostgreSQL for its facts.", show_default=False)
    ] = "",
    to_store: Annotated[
        str, typer.Option("--to-store", metavar="s3://BUCKET/PREFIX", help="S3 for its blobs.", show_default=False)
    ] = "",
    to_s3_endpoint: Annotated[
        str, typer.Option("--to-s3-endpoint", metavar="URL", help="Its S3 service.", show_default=False)
    ] = "",
) -> None:
    """Copy a hub to another place. Its servers may go on meanwhile.

    The --to options say where to, as the others say from where. Copy
    again to bring what is new since, and once more when the servers
    have been stopped: then both are the same.

    Example: portside store copy --root /srv/hub --to-root /mnt/hub
    """
    from auth.keys import KeysUnusable
    from auth.moved_keys import copy_keys
    from storage.errors import StorageError
    from storage.moving import move

    if to_root is None and not (to_database and to_store):
        raise Failure("--to-root is needed, unless --to-database and --to-store say where all of it goes", 2)
    there = checked_place(Place(to_root or place.root, to_database, to_store, to_s3_endpoint), "to-")
    place.expect_hub()
    if place.root.resolve() == there.root.resolve() and not there.database and not place.database:
        raise Failure(f"{place} is where it is copied from", 2)
    if place.store and (place.store, place.s3_endpoint) == (there.store, there.s3_endpoint):
        raise Failure(f"{place.store} is where the blobs are: give the copy a prefix of its own with --to-store", 2)
    watching = sys.stderr.isatty()

    def show(words: str) -> None:
        print(f"\r{words:<75.75}", end="", file=sys.stderr, flush=True)

    try:
        with contextlib.ExitStack() as opened:
            source, destination = _open(place, opened), _open(there, opened)
            moved = move(source, destination, show if watching else lambda words: None)
            keys = [where.key_source(hub.database) for where, hub in ((place, source), (there, destination))]
            for one in keys:
                opened.callback(one.close)
            count = copy_keys(*keys)
    except (StorageError, KeysUnusable, OSError) as error:
        raise Failure(f"{place} could not be copied to {there}: {error}") from error
    if watching:
        print(file=sys.stderr)
    _tell(place, there, moved, count)


def _open(place: Place, opened: contextlib.ExitStack) -> Hub:
    from storage.moving import Hub

    database = place.open_database()
    opened.callback(database.close)
    stored = place.open_store(database, trash_seconds=0.0)
    opened.callback(stored.close)
    return Hub(database, stored.blobs, stored.collected)


def _tell(place: Place, there: Place, moved: Moved, keys: int) -> None:
    from cli.progress import human

    print(
        f"{moved.blobs} blobs ({human(moved.bytes)}) were copied and verified, {moved.present} are there; "
        f"{moved.written} rows were written and {moved.removed} removed; {keys} signing keys"
    )
    counts = ", ".join(f"{ours} {WORDS.get(table, table)}" for table, (_, ours) in moved.rows.items() if ours)
    print(f"{there} has {counts or 'nothing'}")
    for line in moved.problems:
        print(f"problem: {line}")
    if moved.problems:
        raise Failure(f"{len(moved.problems)} problems were found in the copy of {place}")
    if moved.behind:
        print(
            f"{moved.behind} changes came to {place} meanwhile: copy again, at last when its servers have been stopped"
        )
    else:
        print("both are the same")
