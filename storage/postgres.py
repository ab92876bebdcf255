"""A PostgreSQL database that any number of servers share. The facts in it are its faces' matter, in the same queries as on SQLite.

A look-up is one statement outside of any transaction, prepared at its first use: one round trip. Writes run side by side, at READ
COMMITTED: the faces lock the rows that they rest on (`storage.sql_metadata` says by which rule), and one that has to give way to another
is made again by `PostgresDatabase.retry`. Changes of people take turns (`storage.postgres_people`).

What the server did while the connection went is known except for a COMMIT: that write is made again only where twice is as good as once.
"""

from __future__ import annotations

import contextlib
import functools
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, TypeVar

import psycopg
from psycopg import errors

from storage.database import SCAN_BATCH, Topic, scan_by
from storage.errors import DatabaseUnavailable, StoreFull, StoreUnusable
from storage.postgres_people import ASK, RAISE, PeopleCounter
from storage.postgres_sessions import SESSION_WAIT, SESSIONS, Session, Sessions, said
from storage.versions import VERSIONS, too_new

T = TypeVar("T")

OLDEST = 13
"""The oldest PostgreSQL that has all that is asked of it."""
SCHEMA_LOCK = 0x706F727473696465
"""The advisory lock of whoever makes or migrates the tables."""
WRITERS = SESSIONS - 4
"""Writes at once. They may wait for each other, and look-ups must not wait for them."""
LOOK_UPS = 3
"""How often a look-up is tried where connections turn out to be dead."""
WRITE_SECONDS = 5.0
CONFLICTS = 8
"""How long a write is tried, and how often one that met rows of another."""
PAUSE_MAX = 0.5

_AGAIN = (errors.ForeignKeyViolation, errors.UniqueViolation)
"""What another write at the same time may have caused: with its rows in sight the same write does well."""
_SEQUENCES = """
SELECT t.relname, a.attname, pg_sequence_last_value(s.oid) FROM pg_class s
JOIN pg_depend d ON d.objid = s.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'a'
JOIN pg_class t ON t.oid = d.refobjid JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
WHERE s.relkind = 'S' AND pg_table_is_visible(t.oid)"""
"""The tables that number their rows: table, column, and the last number that was given, null before the first."""
_GAVE_WAY = (errors.SerializationFailure, errors.DeadlockDetected, errors.LockNotAvailable, errors.QueryCanceled)
"""What PostgreSQL ends a transaction with that another one is in the way of."""


class NeverKept:
    """A counter of changes that happen elsewhere too: what is read is never kept."""

    def read(self) -> int:
        """Always odd."""
        return 1


class _Transaction:
    """What a transaction's statements are executed by."""

    __slots__ = ("_cursor",)

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self._cursor = cursor

    def execute(self, query: str, parameters: Sequence[object] = (), /) -> psycopg.Cursor[Any]:
        return self._cursor.execute(_numbered(query), parameters)

    def executemany(self, query: str, rows: Sequence[Sequence[object]], /) -> None:
        if len(rows) == 1:  # psycopg sends more of them at once, which is dearer for one
            self._cursor.execute(_numbered(query), rows[0])
        else:
            self._cursor.executemany(_numbered(query), rows)


class PostgresDatabase:
    """A `storage.database.MovableDatabase` by a URL (``postgresql://…``, also as SQLAlchemy writes it, ``postgresql+psycopg://…``)."""

    clock = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
    for_share = " FOR KEY SHARE"
    for_update = " FOR UPDATE"
    settled = " AND age(xmin) > age(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS xid))"

    def __init__(self, url: str) -> None:
        """Open a database, making its tables where it is empty. StoreUnusable, StoreTooNew."""
        self._sessions = Sessions(url)
        self._writers = threading.BoundedSemaphore(WRITERS)
        self.generation = NeverKept()
        self.people_generation = PeopleCounter(self._people_number)
        try:
            self._open()
        except BaseException:
            self._sessions.close()
            raise

    def close(self) -> None:
        """End the connections, and the thread that looks for changes of people."""
        self.people_generation.close()
        self._sessions.close()

    # -- reading

    def row(self, query: str, parameters: Sequence[object]) -> Any:
        """A query's first row, None where there is none. DatabaseUnavailable."""
        return self._look_up(query, parameters, psycopg.Cursor.fetchone)

    def rows(self, query: str, parameters: Sequence[object]) -> list[Any]:
        """A query's rows. DatabaseUnavailable."""
        return self._look_up(query, parameters, psycopg.Cursor.fetchall)

    def scan(self, query: str, key: int = 0, batch: int = SCAN_BATCH) -> Iterator[tuple[object, ...]]:
        """See `storage.database.scan_by`."""
        return scan_by(self.rows, query, key, batch)

    def _look_up(self, query: str, parameters: Sequence[object], fetch: Callable[[psycopg.Cursor[Any]], T]) -> T:
        """Ask, on another connection where one turns out to be dead: a server that was started again is noticed here."""
        text, began = _numbered(query), time.monotonic()
        for _ in range(LOOK_UPS):
            with self._sessions.session() as session:
                try:
                    return fetch(session.cursor.execute(text, parameters))
                except psycopg.OperationalError as error:
                    cause = said(error)
                    if not session.connection.closed:
                        break
        raise DatabaseUnavailable(cause, time.monotonic() - began)

    def _people_number(self) -> int:
        row = self.row(ASK, ())
        return 0 if row is None else int(row[0])

    def damages(self) -> list[str]:
        """Nothing: it is for a program of its own, pg_amcheck, and for who may read the server's files."""
        return []

    # -- one write

    @contextlib.contextmanager
    def transaction(self, changes: Topic | None = None) -> Iterator[_Transaction]:
        """A write, beside others, durable when it returns. StoreFull, DatabaseUnavailable.

        One of `Topic.PEOPLE` runs alone among all of them.
        """
        began = time.monotonic()
        if not self._writers.acquire(timeout=SESSION_WAIT):
            raise DatabaseUnavailable(f"{WRITERS} writes are under way", SESSION_WAIT)
        try:
            with self._sessions.session() as session:
                with self._undone_if_it_fails(session, began):
                    session.cursor.execute(b"BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE")
                    number = None
                    if changes is Topic.PEOPLE:
                        number = int(session.cursor.execute(_numbered(RAISE)).fetchone()[0])  # type: ignore[index]
                    yield _Transaction(session.cursor)
                self._commit(session, number, began)
        finally:
            self._writers.release()

    @contextlib.contextmanager
    def _undone_if_it_fails(self, session: Session, began: float) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if not session.connection.closed:
                with contextlib.suppress(psycopg.Error):  # then it is closed, which undoes as well
                    session.connection.rollback()
            if isinstance(error, errors.DiskFull):
                raise StoreFull(0, 0) from error
            if isinstance(error, _GAVE_WAY) or (isinstance(error, psycopg.Error) and session.connection.closed):
                raise DatabaseUnavailable(said(error), time.monotonic() - began) from error
            raise

    def _commit(self, session: Session, people: int | None, began: float) -> None:
        at = time.monotonic()
        try:
            session.connection.commit()
        except psycopg.Error as error:
            if people is not None:
                self.people_generation.forget()
            has_answered = not session.connection.closed
            raise DatabaseUnavailable(said(error), time.monotonic() - began, is_undone=has_answered) from error
        if people is not None:
            self.people_generation.wrote(people, at)

    def retry(self, write: Callable[[], T], is_repeatable: bool) -> T:
        """Again after a short random pause, for `WRITE_SECONDS`; DatabaseUnavailable."""
        began, is_undone, conflicts, pause = time.monotonic(), True, 0, 0.005
        while True:
            try:
                return write()
            except DatabaseUnavailable as error:
                is_undone = is_undone and error.is_undone
                seconds = time.monotonic() - began
                if not (is_undone or is_repeatable) or seconds + pause > WRITE_SECONDS:
                    raise DatabaseUnavailable(error.cause, seconds, is_undone) from error
            except _AGAIN:
                conflicts += 1
                if conflicts > CONFLICTS:
                    raise
            time.sleep(random.uniform(0, pause))  # nosec B311: so that two do not meet again
            pause = min(2 * pause, PAUSE_MAX)

    # -- moving

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[_Transaction]:
        """A transaction that only reads, of one moment, and may take its time. DatabaseUnavailable."""
        began = time.monotonic()
        with self._sessions.session() as session, self._undone_if_it_fails(session, began):
            session.cursor.execute(b"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            session.cursor.execute(b"SET LOCAL statement_timeout = 0")
            session.cursor.execute(b"SET LOCAL idle_in_transaction_session_timeout = 0")
            yield _Transaction(session.cursor)
            session.connection.rollback()

    def last_numbers(self) -> dict[str, int]:
        """Of the sequences, which go on beside all transactions."""
        return {str(table): int(number or 0) for table, _, number in self.rows(_SEQUENCES, ())}

    def go_on_from(self, numbers: Mapping[str, int]) -> None:
        """Set the sequences, unless they are further already, and to no less than the highest number that is there."""
        found = {str(table): (str(column), int(number or 0)) for table, column, number in self.rows(_SEQUENCES, ())}
        with self.transaction() as connection:
            for table, (column, number) in found.items():
                query = f"SELECT coalesce(max({column}), 0) FROM {table}"  # nosec B608: names of the schema
                wanted = max([numbers.get(table, 0), *(int(row[0]) for row in connection.execute(query).fetchall())])
                if wanted > number:
                    connection.execute(
                        "SELECT setval(pg_get_serial_sequence(?, ?), ?)", (table, column, wanted)
                    ).fetchone()

    # -- the schema

    def _open(self) -> None:
        where = self._sessions.where
        with _opening(self._sessions):
            with self._sessions.session() as session:
                info = session.connection.info
                encoding = info.parameter_status("server_encoding")
                if info.server_version < OLDEST * 10000:
                    raise StoreUnusable(f"the database {where} is of a PostgreSQL before {OLDEST}: take a newer one")
                if encoding != "UTF8":
                    raise StoreUnusable(
                        f"the database {where} stores text as {encoding}: make one with  createdb --encoding UTF8 --template template0"
                    )
                version = schema_version(session.connection)
            if version is None:
                self._make_tables()
            elif version and version not in VERSIONS:
                raise too_new(f"the metadata in the database {where}", version)
            elif version != VERSIONS[-1]:
                raise StoreUnusable(
                    f"the metadata in the database {where} are of version {version or '0'}, this Portside writes {VERSIONS[-1]}: "
                    "stop the servers that are older, then run `portside migrate` with the same --database"
                )

    def _make_tables(self) -> None:
        """From ``schema_postgres.sql``; of several servers that start at once one makes them."""
        script = resources.files("storage").joinpath("schema_postgres.sql").read_text("utf-8")
        with self._sessions.session() as session, session.connection.transaction():
            connection = session.connection
            connection.execute(f"SELECT pg_advisory_xact_lock({SCHEMA_LOCK})".encode())
            if schema_version(connection) is None:
                connection.execute(script.encode(), prepare=False)
                connection.execute(b"CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
                connection.execute(b"INSERT INTO alembic_version VALUES ($1)", (VERSIONS[-1],))


def find_version(url: str) -> str | None:
    """The version of a database that is not opened for anything else; StoreUnusable."""
    sessions = Sessions(url)
    with contextlib.closing(sessions), _opening(sessions), sessions.session() as session:
        return schema_version(session.connection)


@contextlib.contextmanager
def _opening(sessions: Sessions) -> Iterator[None]:
    """What goes wrong now is for the person who starts a server: StoreUnusable."""
    try:
        yield
    except DatabaseUnavailable as error:
        raise StoreUnusable(
            f"the database {sessions.where} is not reached ({error.cause}): start PostgreSQL, or mend the URL"
        ) from error
    except psycopg.Error as error:
        raise StoreUnusable(f"the database {sessions.where} cannot be used: {error}") from error


def schema_version(connection: psycopg.Connection[Any]) -> str | None:
    """The schema's version, "" for the base of the chain, None for an empty database.

    The catalogue is read as a table: what ``to_regclass`` knows in a transaction may be from before a lock that was waited for.
    """
    there = "SELECT 1 FROM pg_class WHERE relname = 'alembic_version' AND pg_table_is_visible(oid)"
    if connection.execute(there).fetchone() is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return "" if row is None else str(row[0])


_MARK = re.compile(r"'[^']*'|\?")


@functools.lru_cache(maxsize=1024)
def _numbered(query: str) -> str:
    """A query with ``$1``, ``$2``… for its ``?``, as PostgreSQL itself has them: nothing else in it, no ``%`` either, has to change."""
    count = 0

    def number(found: re.Match[str]) -> str:
        nonlocal count
        if found[0] != "?":
            return found[0]
        count += 1
        return f"${count}"

    return _MARK.sub(number, query)
