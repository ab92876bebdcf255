"""What facts are written in: the protocol of a SQL database, that `storage.sqlite` and `storage.postgres` satisfy.

The queries are written once, in `storage.sql_metadata`, `storage.sql_people` and their like, in the SQL that both speak: parameters are
``?``, every ``ON CONFLICT … DO UPDATE`` names its columns, ``RETURNING`` brings a row back. Where the two differ it is here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum, auto
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def storable(text: str) -> str:
    """Text with U+FFFD for what a database does not take: NUL and halves of surrogate pairs. People type what they like as their name."""
    return _UNSTORABLE.sub("\ufffd", text)


SCAN_BATCH = 1000
"""Rows of a scan that are in memory at once."""


class Topic(Enum):
    """What a write changes, of what answers are kept of."""

    METADATA = auto()
    PEOPLE = auto()


class Counter(Protocol):
    """A number that tells of changes: what was read while it was even, and is still the same, is still true."""

    def read(self) -> int: ...


class Cursor(Protocol):
    """The outcome of one statement."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...


class Connection(Protocol):
    """One transaction's connection. The outcome of a statement is read before the next one is executed."""

    def execute(self, query: str, parameters: Sequence[object] = ..., /) -> Cursor: ...
    def executemany(self, query: str, rows: Sequence[Sequence[object]], /) -> object: ...


class Database(Protocol):
    """Safe for threads and for any number of processes.

    ``generation`` tells of changes of metadata, ``people_generation`` of those of people: a push flushes no cache of rights, and a grant
    no kept manifest. One that cannot be known cheaply is always odd.

    ``clock`` is the SQL for the database's own time, in seconds of the Unix clock: leases are taken and ended by one clock.
    ``for_share`` and ``for_update`` end a select of rows that are to stay, or to be changed, until the transaction ends; empty where one
    writes at a time. ``settled`` goes on with the WHERE of a select from the outbox: only events that no earlier one can follow any more.
    """

    clock: str
    for_share: str
    for_update: str
    settled: str

    @property
    def generation(self) -> Counter: ...
    @property
    def people_generation(self) -> Counter: ...

    def row(self, query: str, parameters: Sequence[object]) -> Any:
        """A query's first row, None where there is none."""
        ...

    def rows(self, query: str, parameters: Sequence[object]) -> list[Any]:
        """A query's rows."""
        ...

    def scan(self, query: str, key: int = 0, batch: int = SCAN_BATCH) -> Iterator[tuple[object, ...]]:
        """Every row of a query, a batch at a time, by an integer key: it ends in ``> ? ORDER BY key LIMIT ?``."""
        ...

    def transaction(self, changes: Topic | None = None) -> AbstractContextManager[Connection]:
        """A write, durable when it returns. ``changes``: None for a write that changes no answer that anybody keeps.

        StoreFull, DatabaseUnavailable. What writes goes through `retry`: where several write at once, one may have to give way.
        """
        ...

    def retry(self, write: Callable[[], T], is_repeatable: bool) -> T:
        """Call ``write``, which is one transaction, until it is through; DatabaseUnavailable.

        Where it is not known whether it was made, only what is repeatable is made again.
        """
        ...

    def damages(self) -> list[str]:
        """What the database finds wrong with its own files, where it can be asked."""
        ...

    def close(self) -> None: ...


class MovableDatabase(Database, Protocol):
    """A database whose facts can be copied to another one, row by row (`storage.moving_facts`)."""

    def snapshot(self) -> AbstractContextManager[Connection]:
        """All facts as they are at one moment, to read, however long that takes. DatabaseUnavailable."""
        ...

    def last_numbers(self) -> Mapping[str, int]:
        """By table, the last number that a new row was given, also where that row has gone; 0 where there never was one."""
        ...

    def go_on_from(self, numbers: Mapping[str, int]) -> None:
        """Give new rows of these tables numbers above these."""
        ...


def scan_by(
    rows: Callable[[str, Sequence[object]], list[Any]], query: str, key: int, batch: int
) -> Iterator[tuple[object, ...]]:
    """`Database.scan`, by look-ups of their own: no read transaction is held between two batches, while a disk is being read."""
    after = -1
    while True:
        found = rows(query, (after, batch))
        yield from found
        if len(found) < batch:
            return
        after = found[-1][key]


class OnDatabase(Protocol):
    """A face of a database."""

    database: Database


F = TypeVar("F", bound=OnDatabase)


def retried(method: Callable[Concatenate[F, P], T]) -> Callable[Concatenate[F, P], T]:
    """A write that is made again where it is certain that nothing of it was made."""

    @functools.wraps(method)
    def write(self: F, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.database.retry(lambda: method(self, *args, **kwargs), False)

    return write


def repeatable(method: Callable[Concatenate[F, P], T]) -> Callable[Concatenate[F, P], T]:
    """As `retried`, also where that is not certain: made twice it leaves the same facts, and the second time gives the same answer."""

    @functools.wraps(method)
    def write(self: F, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.database.retry(lambda: method(self, *args, **kwargs), True)

    return write
