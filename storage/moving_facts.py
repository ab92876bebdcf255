"""The facts of one hub made those of another: every table that belongs to a hub, row by row, with its numbers.

A copy is a mirror. Both sides are read in the order of their keys, a batch at a time, and what differs is written: so the first copy
writes everything, a later one what has changed since, and one that was cut goes on. Nothing rests on having seen each event: links that a
collector dropped, and people, leave none in the outbox.

What goes from the destination goes first, from the tables that refer to the ones that are referred to. SQLite gives the number of a row
that has gone to another one: such a row gets its new name only after all others have lost theirs.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Boolean, Table, UniqueConstraint

from oci.digest import Digest, InvalidDigest
from storage.database import Connection, MovableDatabase, Topic, storable
from storage.schema import metadata
from storage.sql_collecting import Discard, StoredBlob

LEFT_OUT = {"uploads", "trash", "tasks", "counters", "signing_keys"}
"""What belongs to a hub's servers, not to the hub; and keys, which may be files (`auth.moved_keys`)."""
OWN = {("blobs", "place")}
"""Columns that say where the bytes are: each store has its own."""
BODIES = {"manifests": "body"}
"""Columns that are compared by their length, and read by themselves. Such a table's digest tells whether one is right."""
BATCH = 500
BODIES_MAX = 8 * 1024 * 1024
"""Rows of one transaction, and bytes of bodies after which it has no more."""

Key = tuple[Any, ...]
Values = tuple[Any, ...]
Progress = Callable[[str, int], None]
"""Told (table, rows of it so far)."""


@dataclass(slots=True)
class Mirrored:
    """What a copy of the facts wrote. ``rows``: by table, how many the source has; ``damaged``: manifests whose bytes are others."""

    written: int = 0
    removed: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """A table as it is copied. ``values``: the columns beside the key, without a body. ``named``: what no two rows have the same of."""

    name: str
    key: tuple[str, ...]
    values: tuple[str, ...]
    body: str
    named: str
    booleans: frozenset[str]

    @classmethod
    def of(cls, table: Table) -> CopiedTable:
        """From the schema."""
        key = tuple(column.name for column in table.primary_key.columns)
        body = BODIES.get(table.name, "")
        others = [column.name for column in table.columns if column.name not in (*key, body)]
        values = tuple(name for name in others if (table.name, name) not in OWN)
        unique = [one for one in table.constraints if isinstance(one, UniqueConstraint)]
        named = next((column.name for one in unique for column in one.columns), "")
        booleans = frozenset(column.name for column in table.columns if isinstance(column.type, Boolean))
        return cls(table.name, key, values, body, named, booleans)

    def read(self, connection: Connection, columns: Sequence[str]) -> Iterator[tuple[Key, Values]]:
        """Every row's key and these columns, in the order of the keys."""
        listed, order = ", ".join((*self.key, *columns)), ", ".join(self.key)
        width, after = len(self.key), f"WHERE ({order}) > ({_marks(self.key)})"
        flags = [at for at, name in enumerate((*self.key, *columns)) if name in self.booleans]
        parameters: tuple[Any, ...] = ()
        while True:
            page = f"SELECT {listed} FROM {self.name} {after * bool(parameters)} ORDER BY {order} LIMIT {BATCH}"  # nosec B608: the schema's names
            rows = connection.execute(page, parameters).fetchall()
            for row in rows:
                plain = [storable(value) if isinstance(value, str) else value for value in row]
                for at in flags:
                    plain[at] = bool(plain[at])
                yield tuple(plain[:width]), tuple(plain[width:])
            if len(rows) < BATCH:
                return
            parameters = tuple(rows[-1][:width])

    @property
    def compared(self) -> tuple[str, ...]:
        """The columns that have to be the same."""
        return (*self.values, f"length({self.body})") if self.body else self.values

    @property
    def put(self) -> str:
        """The statement that writes a row."""
        columns = (*self.key, *self.values, *filter(None, [self.body]))
        changed = ", ".join(f"{name} = excluded.{name}" for name in columns[len(self.key) :])
        then = f"UPDATE SET {changed}" if changed else "NOTHING"  # nosec B608: as below
        insert = f"INSERT INTO {self.name} ({', '.join(columns)}) VALUES ({_marks(columns)})"  # nosec B608: the schema's names
        return f"{insert} ON CONFLICT ({', '.join(self.key)}) DO {then}"

    def where(self) -> str:
        return " AND ".join(f"{name} = ?" for name in self.key)


TABLES = [CopiedTable.of(table) for table in metadata.sorted_tables if table.name not in LEFT_OUT]
"""Those that are referred to before those that refer to them."""


def mirror(source: Connection, destination: MovableDatabase, discard: Discard, progress: Progress) -> Mirrored:
    """Give the destination, which nobody else writes to, the rows of a source's snapshot. ``discard``: for bytes of blobs that go.

    DatabaseUnavailable, StoreFull.
    """
    done = Mirrored()
    for table in reversed(TABLES):
        _remove(table, source, destination, discard, done)
    for table in TABLES:
        _write(table, source, destination, progress, done)
    with destination.transaction(Topic.PEOPLE):
        pass  # whoever keeps something of people asks anew
    return done


def rows_of(connection: Connection) -> dict[str, int]:
    """By table, how many rows there are."""
    return {
        table.name: int(connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0])  # nosec B608: as above
        for table in TABLES
    }


def _remove(
    table: CopiedTable, source: Connection, destination: MovableDatabase, discard: Discard, done: Mirrored
) -> None:
    """Take away rows that the source does not have, and the names of those that it has under another one."""
    columns = [table.named] if table.named else []
    gone: list[Key] = []
    renamed: list[Key] = []
    with destination.snapshot() as now:
        for key, theirs, ours in _pairs(table.read(source, columns), table.read(now, columns)):
            if theirs is None:
                gone.append(key)
            elif ours is not None and theirs != ours:
                renamed.append(key)
    for keys in _batches(gone, BATCH):
        _in_transaction(destination, functools.partial(_delete, table, keys, discard))
    for keys in _batches(renamed, BATCH):
        _in_transaction(destination, functools.partial(_unname, table, keys, discard))
    done.removed += len(gone)


def _delete(table: CopiedTable, keys: Sequence[Key], discard: Discard, connection: Connection) -> None:
    if table.name == "blobs":
        discard(connection, _blobs(connection, keys))
    connection.executemany(f"DELETE FROM {table.name} WHERE {table.where()}", keys)  # nosec B608: as above


def _unname(table: CopiedTable, keys: Sequence[Key], discard: Discard, connection: Connection) -> None:
    """Give rows a name that none has. Where it was the digest of bytes, those are no longer this row's."""
    also = ""
    if table.name == "blobs":
        discard(connection, _blobs(connection, keys))
        also = ", place = NULL"
    query = f"UPDATE {table.name} SET {table.named} = ?{also} WHERE {table.where()}"  # nosec B608: as above
    connection.executemany(query, [(f"moving {'-'.join(map(str, key))}", *key) for key in keys])


def _blobs(connection: Connection, keys: Sequence[Key]) -> list[StoredBlob]:
    query = f"SELECT id, digest, size, place FROM blobs WHERE id IN ({_marks(keys)})"  # nosec B608: only marks
    found = connection.execute(query, [key for (key,) in keys]).fetchall()
    return [StoredBlob(*row) for row in found if not str(row[1]).startswith("moving ")]


def _write(
    table: CopiedTable, source: Connection, destination: MovableDatabase, progress: Progress, done: Mirrored
) -> None:
    """Write rows that the destination does not have, or has otherwise."""
    count = 0
    waiting: list[tuple[Key, Values]] = []
    size = 0

    def flush() -> None:
        rows = [(*key, *values, *_body(table, source, key, values, done)) for key, values in waiting]
        _in_transaction(destination, lambda connection: connection.executemany(table.put, rows))
        done.written += len(waiting)
        waiting.clear()

    for key, theirs, ours in _against(table, source, destination):
        count += theirs is not None
        if theirs is not None and theirs != ours:
            waiting.append((key, theirs[: len(table.values)]))
            size += theirs[-1] if table.body else 0
            if len(waiting) == BATCH or size > BODIES_MAX:
                flush()
                size = 0
                progress(table.name, count)
    if waiting:
        flush()
    done.rows[table.name] = count
    progress(table.name, count)


def _against(
    table: CopiedTable, source: Connection, destination: MovableDatabase
) -> Iterator[tuple[Key, Values | None, Values | None]]:
    """The rows of both. What is written meanwhile is behind what is being read of the destination: its snapshot does not see it."""
    with destination.snapshot() as now:
        yield from _pairs(table.read(source, table.compared), table.read(now, table.compared))


def _body(table: CopiedTable, source: Connection, key: Key, values: Values, done: Mirrored) -> tuple[bytes, ...]:
    """A row's body. One that is damaged is left out: then its length differs, and the next copy looks whether it was healed."""
    if not table.body:
        return ()
    row = source.execute(f"SELECT {table.body} FROM {table.name} WHERE {table.where()}", key).fetchone()  # nosec B608: as above
    body, name = bytes(row[0]), str(values[table.values.index(table.named)])
    try:
        if Digest.parse(name).matches(body):
            return (body,)
    except InvalidDigest:
        pass
    done.damaged.append(name)
    return (b"",)


def _pairs(
    source: Iterator[tuple[Key, Values]], destination: Iterator[tuple[Key, Values]]
) -> Iterator[tuple[Key, Values | None, Values | None]]:
    """Each key of either side, in order, with the values of both, None where there is no such row."""
    theirs, ours = next(source, None), next(destination, None)
    while theirs is not None or ours is not None:
        if ours is None or (theirs is not None and theirs[0] < ours[0]):
            assert theirs is not None
            yield theirs[0], theirs[1], None
            theirs = next(source, None)
        elif theirs is None or ours[0] < theirs[0]:
            yield ours[0], None, ours[1]
            ours = next(destination, None)
        else:
            yield theirs[0], theirs[1], ours[1]
            theirs, ours = next(source, None), next(destination, None)


def _in_transaction(database: MovableDatabase, write: Callable[[Connection], object]) -> None:
    """One transaction, again where that helps: written twice the rows are the same."""

    def once() -> None:
        with database.transaction(Topic.METADATA) as connection:
            write(connection)

    database.retry(once, True)


def _batches(keys: Sequence[Key], size: int) -> Iterator[list[Key]]:
    walk = iter(keys)
    while batch := list(itertools.islice(walk, size)):
        yield batch


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
