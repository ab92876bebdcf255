"""Which database a hub has its facts in, by what a person says: a URL, or else the root that SQLite's file is in."""

from __future__ import annotations

from pathlib import Path

from storage.database import MovableDatabase
from storage.errors import StoreUnusable
from storage.versions import VERSIONS, too_new


def open_database(root: Path, url: str | None) -> MovableDatabase:
    """Open a root's database, or the one of a URL, which is not looked for in a root then. StoreUnusable, StoreTooNew.

    A new one is made. SQLite is migrated at once; PostgreSQL is refused until `migrate_database` was called: many servers may share it.
    """
    if url is not None:
        from storage.postgres import PostgresDatabase

        return PostgresDatabase(url)
    from storage.sqlite import SQLiteDatabase

    return SQLiteDatabase(root)


def where(root: Path, url: str | None) -> str:
    """How a message names a hub's facts; never with the password."""
    if url is None:
        return f"the root {root}"
    from storage.postgres_sessions import connection_settings

    told = connection_settings(url)
    return f"the database {told.get('dbname') or told.get('user') or ''} on {told.get('host') or 'this machine'}"


def migrate_database(root: Path, url: str | None) -> tuple[str | None, str]:
    """Bring a database to the newest version, making one where there is none; the version before (None for none) and after it.

    StoreUnusable, StoreTooNew.
    """
    if url is None:
        from storage.sqlite import SQLiteDatabase

        database = SQLiteDatabase(root)
        database.close()
        return database.found, VERSIONS[-1]
    from storage.postgres import PostgresDatabase, find_version

    version = find_version(url)
    if version and version not in VERSIONS:
        raise too_new("the metadata in the database", version)
    if version is not None and version != VERSIONS[-1]:
        _migrate(url, version)
    PostgresDatabase(url).close()
    return version, VERSIONS[-1]


def _migrate(url: str, version: str) -> None:
    from alembic.util import CommandError
    from sqlalchemy.exc import SQLAlchemyError

    from storage.migrate import migrate

    try:
        migrate(url)
    except (SQLAlchemyError, CommandError) as error:
        raise StoreUnusable(
            f"the database could not be migrated from version {version or '0'}; nothing was changed. The migration said: {error}"
        ) from error
