"""Signing keys as rows of a database, for a hub of many servers that share no directory (`storage.sql_keys`)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric import ec

from auth.keys import KeysUnusable, StoredKey, parse_private_key
from storage.sql_keys import KeyRow, SQLKeys


class KeyRows:
    """`auth.keys.KeySource` of one database, which whoever opened it closes."""

    place = "the database's table signing_keys"
    seconds_to_spread = 65.0
    """Other servers hear of a key within two seconds; the rest is for clocks that differ by 60."""

    def __init__(self, rows: SQLKeys) -> None:
        self._rows = rows

    def generation(self) -> int:
        """That of people; never a statement."""
        return self._rows.generation()

    def stamp(self) -> None:
        """Rows are not changed by hand."""

    def list(self) -> Sequence[StoredKey]:
        """One statement."""
        return [StoredKey(row.number, row.created_at, functools.partial(_load, row)) for row in self._rows.list()]

    def add(self, pem: bytes, created_at: float, *, is_first: bool) -> None:
        """One transaction."""
        self._rows.add(pem.decode("ascii"), created_at, is_first)

    def remove(self, key: StoredKey) -> None:
        """One transaction."""
        self._rows.remove(key.number)

    def close(self) -> None:
        """Nothing: the database is others' too."""


def _load(row: KeyRow) -> ec.EllipticCurvePrivateKey:
    key = parse_private_key(row.pem.encode("utf-8"))
    if key is None:
        raise KeysUnusable(
            KeyRows.place, f"number {row.number} is no unencrypted P-256 private key in PEM form; delete that row"
        )
    return key
