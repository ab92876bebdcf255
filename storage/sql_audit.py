"""The audit trail in SQL. The record of a change is added in the transaction of the change: neither is ever there without the other."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from storage.database import Connection, Database, repeatable, retried, storable
from storage.people import Actor, AuditRecord

DETAIL_MAX = 1000
"""Characters of a detail that are kept: a push may name any number of tags."""
TRIM_BATCH = 500
"""Records that are dropped in one transaction, which takes a few milliseconds."""

_ADD = "INSERT INTO audit (at, kind, who, address, request_id, subject, is_success, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_FIND_FIRST = "SELECT min(sequence) FROM audit WHERE at >= ?"
_TRIM = "DELETE FROM audit WHERE sequence IN (SELECT sequence FROM audit WHERE at < ? ORDER BY at LIMIT ?)"


def record_change(connection: Connection, kind: str, by: Actor, subject: str, detail: str) -> int:
    """Add the record of a change to the transaction that is under way; its sequence."""
    row = _row(AuditRecord(0, time.time(), kind, by.who, by.address, by.request_id, subject, True, detail))
    return int(connection.execute(f"{_ADD} RETURNING sequence", row).fetchone()[0])


def _row(record: AuditRecord) -> tuple[object, ...]:
    """What is stored of a record: all of its words, in letters that can be."""
    words = (record.kind, record.who, record.address, record.request_id, record.subject, record.detail[:DETAIL_MAX])
    kind, who, address, request_id, subject, detail = (storable(word) for word in words)
    return (record.at, kind, who, address, request_id, subject, record.is_success, detail)


def _list_query(columns: Iterable[str]) -> str:
    also = "".join(f" AND {column} = ?" for column in columns)
    return (
        "SELECT sequence, at, kind, who, address, request_id, subject, is_success, detail FROM audit"  # nosec B608: columns of ours
        f" WHERE sequence > ? AND at >= ?{also} ORDER BY sequence LIMIT ?"
    )


def _record(row: Any) -> AuditRecord:
    sequence, at, kind, who, address, request_id, subject, is_success, detail = row
    return AuditRecord(sequence, at, kind, who, address, request_id, subject, bool(is_success), detail)


class SQLAudit:
    """`storage.people.Audit` of one root."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @retried
    def add_records(self, records: Sequence[AuditRecord]) -> None:
        """One transaction, that no generation tells of."""
        if not records:
            return
        with self.database.transaction() as connection:
            connection.executemany(_ADD, [_row(record) for record in records])

    def find_records(
        self, *, since: float = 0.0, who: str | None = None, kind: str | None = None, after: int = 0, limit: int = 1000
    ) -> Sequence[AuditRecord]:
        """One range of the primary key, or of the index by who.

        A clock may step back: what is younger than ``since`` starts at the lowest sequence of all that is, which the index by time knows.
        """
        if after <= 0 < since:
            first = self.database.row(_FIND_FIRST, (since,))[0]
            if first is None:
                return []
            after = first - 1
        wanted = {column: value for column, value in (("who", who), ("kind", kind)) if value is not None}
        rows = self.database.rows(_list_query(wanted), (after, since, *wanted.values(), limit))
        return [_record(row) for row in rows]

    def trim_records(self, before: float) -> int:
        """Transactions of `TRIM_BATCH`, a pause as long after each: who lets a lock go and takes it again at once starves the others."""
        total = 0
        while True:
            began = time.monotonic()
            gone = self._trim(before)
            total += gone
            if gone < TRIM_BATCH:
                return total
            time.sleep(time.monotonic() - began)

    @repeatable
    def _trim(self, before: float) -> int:
        with self.database.transaction() as connection:
            return connection.execute(_TRIM, (before, TRIM_BATCH)).rowcount
