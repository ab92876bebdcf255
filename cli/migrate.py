"""``portside migrate``: bring the metadata to the version that this Portside writes."""

from __future__ import annotations

from cli.options import Failure
from cli.place import Place, at_place


@at_place(has_blobs=False)
def migrate(place: Place) -> None:
    """Bring a hub's database to the version that this Portside writes.

    SQLite is also migrated by whatever opens it. On PostgreSQL, stop the
    older servers first: they cannot read what a newer one wrote.

    Example: portside migrate --database postgresql://portside@db/portside
    """
    from storage.errors import StorageError
    from storage.opening import migrate_database

    try:
        before, after = migrate_database(place.root, place.database or None)
    except (StorageError, OSError) as error:
        raise Failure(str(error)) from error
    if before is None:
        print(f"the database was empty and is of version {after} now")
    elif before == after:
        print(f"the database is of version {after} already: nothing to do")
    else:
        print(f"the database was of version {before or '0'} and is of version {after} now")
