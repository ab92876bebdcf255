"""Signing keys in SQL, for servers that share a database and no directory. Whoever can read the database can sign tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from storage.database import Database, Topic, repeatable, retried


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A private key in PEM form; ``created_at`` in seconds of the Unix clock."""

    number: int
    created_at: float
    pem: str = field(repr=False)


class SQLKeys:
    """The rows. Adding one is a change of people: every process hears of it as it hears of those."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def list(self) -> Sequence[KeyRow]:
        """In the order of their numbers."""
        return [
            KeyRow(*row)
            for row in self.database.rows("SELECT number, created_at, pem FROM signing_keys ORDER BY number", ())
        ]

    @retried
    def add(self, pem: str, created_at: float, is_first: bool) -> None:
        """Under the next number; a first one only where there is none."""
        with self.database.transaction(Topic.PEOPLE) as connection:
            last = connection.execute("SELECT max(number) FROM signing_keys").fetchone()[0]
            if last is None or not is_first:
                row = ((last or 0) + 1, created_at, pem)
                connection.execute("INSERT INTO signing_keys (number, created_at, pem) VALUES (?, ?, ?)", row)

    @repeatable
    def remove(self, number: int) -> None:
        """Nothing where it has gone."""
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM signing_keys WHERE number = ?", (number,))

    def generation(self) -> int:
        """Changes with each new key."""
        return self.database.people_generation.read()
