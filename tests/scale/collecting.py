"""Collections of blobs in S3 whose times are those of a test: a server's are of minutes.

As a program (``python -m tests.scale.collecting``), so that it can be killed: it takes a root, or a database's URL, and a service's URL.
"""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from storage.collector import Collector, Freed, Policy
from storage.database import Database
from storage.opening import open_database
from storage.s3 import S3BlobStore
from storage.s3_collecting import S3Collecting
from storage.s3_names import S3Location, parse_pointer
from storage.sql_uploads import ANNOUNCED
from tests import s3
from tests.servers import wait_until

WINDOW = 4.0
"""Seconds for which what was pushed is left alone."""
PREFIX = "hub"
READING_SECONDS = 1.0
"""How long an object outlives its blob, for who reads it then."""


def collect(database: Database, location: S3Location) -> Freed:
    """One collection, without a grace."""
    with closing(S3BlobStore(location, database)) as store:
        collected = S3Collecting(store, database, settling=WINDOW, trash_seconds=READING_SECONDS)
        return Collector(database, collected, Policy(WINDOW, 0)).collect()


def collect_all(database: Database, location: S3Location) -> list[str]:
    """Drop everything that nothing refers to, where nobody pushes any more; the names of objects that are no blob's and still there."""
    with closing(S3BlobStore(location, database)) as store:

        def has_no_uploads() -> bool:
            store.expire_uploads(0)
            return database.row("SELECT 1 FROM uploads", ()) is None

        wait_until(has_no_uploads, "every upload's lease is over")
        collected = S3Collecting(store, database, settling=0, trash_seconds=-ANNOUNCED)  # as if a day had passed
        Collector(database, collected, Policy(0, 0)).collect()
    assert database.rows("SELECT place FROM trash", ()) == []
    pointers = [parse_pointer(place) for (place,) in database.rows("SELECT place FROM blobs", ())]
    known = {name for pointer in pointers if pointer for name in (pointer.name, pointer.data)}
    found = s3.objects(location.endpoint or "", location.prefix)
    assert known <= found.keys(), known - found.keys()
    return sorted(found.keys() - known)


def main() -> None:
    place, url = sys.argv[1:]
    is_url = "://" in place
    with closing(open_database(Path() if is_url else Path(place), place if is_url else None)) as database:
        freed = collect(database, s3.location(url, PREFIX))
    print(f"in {freed.blobs} blobs")


if __name__ == "__main__":
    main()
