"""Bring a database to a version of the schema: ``python -m storage.migrate DATABASE [VERSION]``.

A program of its own, which `storage.sqlite` runs when the version is not the newest: Alembic and SQLAlchemy would cost every server 25 MB
and most of a second.
"""

from __future__ import annotations

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import NullPool


def migrate(database: Path, version: str = "head") -> None:
    """Upgrade or downgrade to a version, all of it or nothing. Whoever calls holds the root's lock."""
    engine = create_engine(f"sqlite:///{database}", poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def no_implicit_transactions(connection: object, record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def begin_at_once(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        now = MigrationContext.configure(connection).get_current_revision() or "base"
        is_older = version == "base" or (version != "head" and now != "base" and version < now)
        run = command.downgrade if is_older else command.upgrade
        run(config, version)


if __name__ == "__main__":
    migrate(Path(sys.argv[1]), *sys.argv[2:3])
