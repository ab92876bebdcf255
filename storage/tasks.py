"""What one of all the servers of a hub does at a time: a lease in the database, and a note that the next holder finds.

A lease spares double work, nothing more: whoever is paused for longer than it lasts goes on beside the next holder, so what is done under
one has to be right when two do it.
"""

from __future__ import annotations

import uuid

from storage.database import Database, repeatable

LEASE = 60.0
"""Seconds that a lease lasts beyond the last sign of life of its holder."""


class Task:
    """One named task, as one would-be holder sees it. Time is the database's."""

    def __init__(self, database: Database, name: str) -> None:
        self.database = database
        self._name = name
        self._holder = uuid.uuid4().hex

    @repeatable
    def take(self) -> bool:
        """Take the lease, or prolong one's own; False where another has it."""
        clock = self.database.clock
        with self.database.transaction() as connection:
            row = connection.execute(
                "INSERT INTO tasks (name, holder, held_until, detail)"  # nosec B608: the clock is a word of ours
                f" VALUES (?, ?, {clock} + ?, '')"
                " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until"
                f" WHERE tasks.holder = excluded.holder OR tasks.held_until < {clock} RETURNING name",
                (self._name, self._holder, LEASE),
            ).fetchone()
        return row is not None

    @repeatable
    def leave(self) -> None:
        """Let the next one have it."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE tasks SET held_until = 0 WHERE name = ? AND holder = ?", (self._name, self._holder)
            )

    @repeatable
    def write_note(self, note: str) -> None:
        """Keep a text for whoever holds the task next; nothing where it is somebody else's by now."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE tasks SET detail = ? WHERE name = ? AND holder = ?", (note, self._name, self._holder)
            )


def read_note(database: Database, name: str) -> str:
    """The text that the last holder of a task left; empty where there is none."""
    row = database.row("SELECT detail FROM tasks WHERE name = ?", (name,))
    return "" if row is None else str(row[0])
