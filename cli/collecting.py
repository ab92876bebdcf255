"""``portside gc`` and ``portside why``: what is kept, why, and for how long; and room on the disk now."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Failure
from cli.place import Place, at_place

if TYPE_CHECKING:
    from storage.collector import Freed, Policy
    from storage.database import Database
    from storage.reasons import Holding

UntaggedOption = Annotated[
    float | None,
    typer.Option("--untagged", min=0, metavar="DAYS", help="After which untagged manifests go. (They stay.)"),
]
TimeOption = Annotated[str | None, typer.Option(metavar="TIME", help="30m, 12h, 7d. (As the servers have it.)")]


@at_place()
def gc(
    place: Place,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be freed.")] = False,
    now: Annotated[bool, typer.Option("--now", help="What is unused goes at once: no grace.")] = False,
    untagged: UntaggedOption = None,
    grace: TimeOption = None,
    window: TimeOption = None,
) -> None:
    """Free what nothing refers to any more. Servers may go on; they do the same every few minutes.

    --grace: how long what is unused can be rescued. --window: how long a pushed blob may wait for its manifest.

    Example: portside gc --now --untagged 30 --root /srv/hub
    """
    from cli.progress import human
    from storage.collector import Collector
    from storage.errors import StorageError

    watching = sys.stderr.isatty()

    def show(what: str, count: int) -> None:
        print(f"\r{count} {what} ", end="", file=sys.stderr, flush=True)

    given = parse_policy(window, "0" if now else grace, untagged)
    place.expect_hub()
    with contextlib.ExitStack() as opened:
        database = place.open_database()
        opened.callback(database.close)
        stored = place.open_store(database, 0, trash_seconds=0.0 if now else None)
        opened.callback(stored.close)
        policy = given(database)
        collector = Collector(database, stored.collected, policy, progress=show if watching else _say_nothing)
        try:
            freed = collector.plan() if dry_run else collector.collect()
        except (StorageError, OSError) as error:
            raise Failure(
                f"{place} cannot be collected: {error}. What was freed before is freed; run it again"
            ) from error
    if watching:
        print(file=sys.stderr)
    would = "would be " if dry_run else ""
    print(f"{human(freed.bytes)} {would}freed, in {freed.blobs} blobs that no repository holds")
    for line in _reasons(freed, policy, would):
        print(line)


def _say_nothing(what: str, count: int) -> None:
    """Where nobody watches."""


def _reasons(freed: Freed, policy: Policy, would: str) -> list[str]:
    """What else there is to say, a line each."""
    hours = f"{policy.grace / 3600:g} h"
    lines = [
        (freed.manifests, f"manifests {would}removed: no tag, no index and no subject keeps them"),
        (freed.links, f"blobs {would}taken out of a repository none of whose manifests refers to them"),
        (freed.strays, "blobs removed that pushes had left that were cut"),
        (freed.uploads, "uploads dropped that nobody went on with for a day"),
        (freed.doomed_links, f"blobs found unused now: they go in {hours}; with --now at once"),
        (freed.doomed_manifests, "manifests found untagged now: they go when their time is over"),
        (freed.waiting, "were found unused before and wait still; with --now they go at once"),
    ]
    return [f"{count} {text}" for count, text in lines if count]


@at_place(has_blobs=False)
def why(
    place: Place,
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="Of a blob or a manifest: sha256:…")],
    untagged: UntaggedOption = None,
    grace: TimeOption = None,
    window: TimeOption = None,
) -> None:
    """Say what keeps a blob or a manifest, or when it goes.

    Example: portside why sha256:4b2a… --root /srv/hub
    """
    from cli.progress import human
    from oci.digest import Digest, InvalidDigest
    from storage.reasons import find_reasons

    try:
        wanted = Digest.parse(digest)
    except InvalidDigest as error:
        raise Failure(f"{digest[:200]!r} is not a digest: it is like sha256: and 64 hexadecimal digits", 2) from error
    given = parse_policy(window, grace, untagged)
    place.expect_hub()
    database = place.open_database()
    try:
        policy = given(database)
        found = find_reasons(database, wanted)
    finally:
        database.close()
    if found.size is None:
        raise Failure(f"nothing in {place} is known of {wanted}: no repository holds it, and it does not wait to go")
    print(f"{wanted}, {human(found.size)}")
    for held in found.holdings:
        for keeper in held.keepers:
            print(f"{held.kind} of {held.repository}: {keeper}")
        if not held.keepers:
            print(f"{held.kind} of {held.repository}: {_until(held, policy)}")
    if not found.holdings:
        print("no repository holds it: its bytes go with the next collection")


def _until(held: Holding, policy: Policy) -> str:
    """When something that nothing refers to goes."""
    from cli.tables import moment

    if held.kind == "manifest" and policy.untagged is None:
        return "nothing refers to it; untagged manifests stay, unless --untagged says otherwise"
    wait = policy.grace if held.kind == "blob" else max(policy.grace, policy.untagged or 0.0)
    if held.doomed_at is not None:
        found, goes = moment(held.doomed_at), _moment(held.doomed_at + wait)
        return f"nothing refers to it, a collection found at {found}; it goes with the first one after {goes}"
    touched, kept = moment(held.touched_at), _moment(held.touched_at + policy.window)
    return f"nothing refers to it yet; pushed or asked for at {touched}, and kept until {kept} at least"


def _moment(at: float) -> str:
    from cli.tables import moment

    return moment(None if math.isinf(at) else at)


def parse_policy(window: str | None, grace: str | None, untagged: float | None) -> Callable[[Database], Policy]:
    """What the options of a command say, and where they say nothing what the servers do; Failure."""
    from cli.chores import last_collection
    from storage.collector import DAY, DEFAULT_POLICY

    given: dict[str, float] = {}
    if window is not None:
        given["window"] = parse_time(window, "--window")
    if grace is not None:
        given["grace"] = parse_time(grace, "--grace")
    if untagged is not None:
        given["untagged"] = untagged * DAY

    def policy(database: Database) -> Policy:
        last = last_collection(database)
        return replace(DEFAULT_POLICY if last is None else last.policy, **given)

    return policy


def parse_time(text: str, option: str) -> float:
    """Seconds; Failure."""
    from auth.durations import InvalidDuration, parse_duration

    if text in ("0", "0s"):
        return 0.0
    try:
        return parse_duration(text)
    except InvalidDuration as error:
        raise Failure(f"{option}: {error}", 2) from error
