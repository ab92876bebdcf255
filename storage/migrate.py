"""Bring a database to a version of the schema: ``python -m storage.migrate URL-or-path [VERSION]``.

A program of its own, which `storage.sqlite` runs when the version is not the newest: Alembic and SQLAlchemy would cost every server 25 MB
and most of a second.
"""

from __future__ import annotations

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool


def migrate(database: Path | str, version: str = "head") -> None:
    """Upgrade or downgrade to a version, all of it or nothing.

    ``database``: a file of SQLite, whose root's lock is held by whoever calls, or the URL of a PostgreSQL database, which is locked here.
    """
    engine = _sqlite(database) if isinstance(database, Path) else _postgres(database)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        now = MigrationContext.configure(connection).get_current_revision() or "base"
        is_older = version == "base" or (version != "head" and now != "base" and version < now)
        run = command.downgrade if is_older else command.upgrade
        run(config, version)


def _sqlite(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def no_implicit_transactions(connection: object, record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def begin_at_once(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgres(url: str) -> Engine:
    import psycopg

    from storage.postgres import SCHEMA_LOCK
    from storage.postgres_sessions import connection_settings

    settings = connection_settings(url)  # by libpq, as the servers read it
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(**settings), poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def alone(connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})")

    return engine


if __name__ == "__main__":
    migrate(sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1]), *sys.argv[2:3])
