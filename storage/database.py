"""What facts are written in: the protocol of a SQL database, that `storage.sqlite` and `storage.postgres` satisfy.

The queries are written once, in `storage.sql_metadata`, `storage.sql_people` and their like, in the SQL that both speak: parameters are
``?``, every ``ON CONFLICT … DO UPDATE`` names its columns, ``RETURNING`` brings a row back. Where the two differ it is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from enum import Enum, auto
from typing import Any, Protocol


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
    """One transaction's connection."""

    def execute(self, query: str, parameters: Sequence[object] = ..., /) -> Cursor: ...
    def executemany(self, query: str, rows: Sequence[Sequence[object]], /) -> object: ...


class Database(Protocol):
    """Safe for threads and for any number of processes.

    ``generation`` tells of changes of metadata, ``people_generation`` of those of people: a push flushes no cache of rights, and a grant
    no kept manifest. One that cannot be known cheaply is always odd.

    ``clock`` is the SQL for the database's own time, in seconds of the Unix clock: leases are taken and ended by one clock.

    ``for_update`` and ``for_share`` end a ``SELECT`` whose rows nobody else may change until the transaction ends; empty where there is
    one writer at a time.
    """

    clock: str
    for_update: str
    for_share: str

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

    def scan(self, query: str, key: int = 0, batch: int = ...) -> Iterator[tuple[object, ...]]:
        """Every row of a query, a batch at a time, by an integer key: it ends in ``> ? ORDER BY key LIMIT ?``."""
        ...

    def transaction(self, changes: Topic | None = None) -> AbstractContextManager[Connection]:
        """A write, durable when it returns. ``changes``: None for a write that changes no answer that anybody keeps. StoreFull."""
        ...

    def close(self) -> None: ...
