"""One root's SQLite database: its connections, its one writer among all processes, its versions. The facts in it are its faces' matter.

Look-ups run where they are asked for: a point query takes 5 to 10 µs, a hop to another thread 100. Writes run one at a time under a lock
file, of whatever process: with `BEGIN IMMEDIATE` alone, waiting writers are served in no order and starve (2 s seen), and SQLite before
3.51.3 can lose a commit when two connections write and checkpoint at the same instant.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from storage.database import SCAN_BATCH, Topic, scan_by
from storage.errors import StoreFull, StoreUnusable
from storage.generation import Generation
from storage.paths import PRIVATE_MODE, Paths, prepare
from storage.versions import VERSIONS, too_new

logger = logging.getLogger("portside.storage")
T = TypeVar("T")

FIXED_WAL = (3, 51, 3)
"""The SQLite that lost no commits any more (its WAL-reset bug is in 3.7.0 to 3.51.2)."""
ROOM_TO_OPEN = 256 * 1024
"""Bytes that SQLite needs on the disk to open a database that was closed: its log and the log's index."""


_NUMBERED = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%'"


class SQLiteDatabase:
    """A `storage.database.MovableDatabase` in a file below a root.

    ``found``: the version that it had when it was opened, "" for the base of the chain, None for one that was made.
    """

    clock = "((julianday('now') - 2440587.5) * 86400.0)"
    for_share = for_update = settled = ""

    def __init__(self, root: Path) -> None:
        """Open a root, making or migrating its database. StoreUnusable, StoreTooNew."""
        self.paths = prepare(root)
        self._mutex = threading.Lock()
        self._readers: list[sqlite3.Connection] = []
        self._idle: deque[sqlite3.Connection] = deque()
        try:
            with contextlib.ExitStack() as opened:
                self._lock = os.open(self.paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
                opened.callback(os.close, self._lock)
                self.generation = Generation(self.paths.generation)
                opened.callback(self.generation.close)
                self.people_generation = Generation(self.paths.people_generation)
                opened.callback(self.people_generation.close)
                with self._locked():
                    self._writer = self._open_writer()
                opened.pop_all()
        except (OSError, sqlite3.Error) as error:
            hint = "; the disk is full: make room there, then start again" if self._free() < ROOM_TO_OPEN else ""
            raise StoreUnusable(f"the metadata in {self.paths.metadata} cannot be opened: {error}{hint}") from error
        if sqlite3.sqlite_version_info < FIXED_WAL:
            logger.info(
                "SQLite %s can lose commits when two connections write and checkpoint at once; Portside writes from one at a time, "
                "so leave metadata.db to Portside (3.51.3 has the repair)",
                sqlite3.sqlite_version,
            )

    def close(self) -> None:
        """Close the connections, the writer's under the lock and last: whoever closes a database's last connection checkpoints it."""
        with self._locked():
            for reader in self._readers:
                reader.close()
            self._writer.close()
        self.generation.close()
        self.people_generation.close()
        os.close(self._lock)

    # -- reading

    def row(self, query: str, parameters: Sequence[object]) -> Any:
        """A query's first row, None where there is none."""
        connection = self._borrow()
        try:
            return connection.execute(query, parameters).fetchone()
        finally:
            self._idle.append(connection)

    def rows(self, query: str, parameters: Sequence[object]) -> list[Any]:
        """A query's rows."""
        connection = self._borrow()
        try:
            return connection.execute(query, parameters).fetchall()
        finally:
            self._idle.append(connection)

    def scan(self, query: str, key: int = 0, batch: int = SCAN_BATCH) -> Iterator[tuple[object, ...]]:
        """See `storage.database.scan_by`."""
        return scan_by(self.rows, query, key, batch)

    def damages(self) -> list[str]:
        """What SQLite finds wrong with the file itself (PRAGMA quick_check), at most 20 lines."""
        return [str(line) for (line,) in self.rows("PRAGMA quick_check(20)", ()) if line != "ok"]

    # -- one write

    @contextlib.contextmanager
    def transaction(self, changes: Topic | None = None) -> Iterator[sqlite3.Connection]:
        """A write: alone among all threads and processes, durable when it returns. StoreFull.

        ``changes``: what its counter is to tell of, None for a write that changes none of the answers that are kept.
        """
        counter = None
        if changes is not None:
            counter = self.generation if changes is Topic.METADATA else self.people_generation
        with self._locked():
            connection = self._writer
            if counter is not None:
                counter.begin()
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                if "full" in str(error):
                    raise StoreFull(self._free(), 0) from error
                raise
            finally:
                if counter is not None:
                    counter.end()

    def retry(self, write: Callable[[], T], is_repeatable: bool) -> T:
        """Once: whoever writes, writes alone, and what was not made will not be made the second time either."""
        return write()

    # -- moving

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A read transaction. The write-ahead log grows while it lasts."""
        connection = self._borrow()
        try:
            connection.execute("BEGIN")
            connection.execute(
                "SELECT count(*) FROM alembic_version"
            ).fetchone()  # the first look is what the moment is
            yield connection
        finally:
            connection.execute("ROLLBACK")
            self._idle.append(connection)

    def last_numbers(self) -> dict[str, int]:
        """What SQLite keeps for tables whose numbers are never given twice; of the others it takes the highest that is there."""
        return {str(name): int(number) for name, number in self.rows("SELECT name, seq FROM sqlite_sequence", ())}

    def go_on_from(self, numbers: Mapping[str, int]) -> None:
        """The same, written. Tables that have no such number need none."""
        tables = {str(name) for (name,) in self.rows(_NUMBERED, ())}
        with self.transaction() as connection:
            for table in sorted(tables & numbers.keys()):
                connection.execute("DELETE FROM sqlite_sequence WHERE name = ? AND seq < ?", (table, numbers[table]))
                connection.execute(
                    "INSERT INTO sqlite_sequence (name, seq) SELECT ?, ?"
                    " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = ?)",
                    (table, numbers[table], table),
                )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock, and even counters: nobody else is writing, so one that is odd was left by a writer that died."""
        with self._mutex:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                self.generation.settle()
                self.people_generation.settle()
                yield
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _free(self) -> int:
        status = os.statvfs(self.paths.root)
        return status.f_bavail * status.f_frsize

    # -- connections and versions

    def _borrow(self) -> sqlite3.Connection:
        """A connection that no other thread uses now. There are never more than look-ups were under way at once, and all end in `close`.

        (One for each thread would stay open when its thread has ended: Python collects connections late, for they are in a cycle.)
        """
        try:
            return self._idle.pop()
        except IndexError:
            connection = _connect(self.paths)
            self._readers.append(connection)
            return connection

    def _open_writer(self) -> sqlite3.Connection:
        """The connection that writes, of a database that is made and migrated. The lock is held."""
        _make_private(self.paths.metadata)
        connection = _connect(self.paths)
        try:
            self._bring_up_to_date(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _bring_up_to_date(self, connection: sqlite3.Connection) -> None:
        """Make a new database from ``schema.sql``, or migrate an old one."""
        self.found = version = _version(connection)
        if version == VERSIONS[-1]:
            return
        if version is None:
            script = resources.files("storage").joinpath("schema.sql").read_text("utf-8")
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\n"  # nosec B608: a file of this package
                "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY);\n"
                f"INSERT INTO alembic_version VALUES ('{VERSIONS[-1]}');\nCOMMIT;"
            )
            return
        if version and version not in VERSIONS:
            raise too_new(f"the metadata in {self.paths.metadata}", version)
        done = subprocess.run(
            [sys.executable, "-m", "storage.migrate", str(self.paths.metadata)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            pass_fds=[self._lock],  # it keeps the lock to its end, also when this process is killed
        )
        if done.returncode != 0:
            raise StoreUnusable(
                f"the metadata in {self.paths.metadata} could not be migrated from version {version}; nothing was changed. "
                f"The migration said:\n{done.stderr[-2000:]}"
            )


def _make_private(database: Path) -> None:
    """Give a new database its mode, which SQLite gives to the files beside it.

    One that is there is not opened: closing any descriptor of it would drop the locks that SQLite has on it in this process
    (man 2 fcntl_locking).
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE))


def _connect(paths: Paths) -> sqlite3.Connection:
    connection = sqlite3.connect(
        paths.metadata, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=30
    )
    try:
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA mmap_size = 268435456")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> str | None:
    """The schema's version, "" for the base of the chain, None for an empty database."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone() is None:
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return "" if row is None else str(row[0])
