"""``portside check``: is everything that was stored still what it was?"""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer

from cli.options import Failure
from cli.place import Place, at_place


@at_place()
def check(
    place: Place,
    repair: Annotated[
        bool, typer.Option("--repair", help="Move damaged blobs aside, so that a push heals them.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="First find blobs in S3 that a lost database knew.")
    ] = False,
) -> None:
    """Verify every blob, manifest, tag and link of a hub. Servers may go on.

    Ends with 0 where all is well, with 1 where something is wrong.

    Example: portside check --root /srv/hub
    """
    from cli.progress import human
    from cli.tables import moment
    from storage.check import check as run
    from storage.errors import StorageError

    def show(blobs: int, size: int) -> None:
        print(f"\r{blobs} blobs, {human(size)} verified", end="", file=sys.stderr, flush=True)

    watching = sys.stderr.isatty()
    place.expect_hub()
    with contextlib.ExitStack() as opened:
        database = place.open_database()
        opened.callback(database.close)
        stored = place.open_store(database, 0)
        opened.callback(stored.close)
        try:
            if rebuild:
                if stored.objects is None:
                    raise Failure("--rebuild goes with --store s3://BUCKET: files need no database to be found", 2)
                print(f"{stored.objects.rebuild()} blobs were found again in {place.store}")
            report = run(stored.blobs, database, repair=repair, progress=show if watching else None)
        except (StorageError, OSError) as error:
            raise Failure(f"{place} cannot be checked: {error}") from error
    if watching:
        print(file=sys.stderr)
    print(
        f"{report.blobs} blobs ({human(report.bytes)}), {report.manifests} manifests and {report.tags} tags verified; "
        f"{report.unreferenced} blobs that no repository holds, {report.sparse} references to what was never pushed"
    )
    if report.scrubbed.last_ended:
        ended = moment(report.scrubbed.last_ended)
        print(
            f"the last scrub read all {report.scrubbed.last_blobs} blobs, to {ended}; {report.scrubbed.last_damaged} were damaged"
        )
    for line in report.repaired:
        print(f"repaired: {line}")
    for line in report.problems:
        print(f"problem: {line}")
    if report.problems:
        raise Failure(f"{len(report.problems)} problems were found in {place}")
