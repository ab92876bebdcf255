from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.sqlite import SQLiteDatabase
from storage.tasks import LEASE, Task, read_note


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SQLiteDatabase]:
    opened = SQLiteDatabase(tmp_path)
    yield opened
    opened.close()


def test_one_has_it_until_it_leaves_or_says_nothing_for_long(database: SQLiteDatabase) -> None:
    one, two, other = Task(database, "a"), Task(database, "a"), Task(database, "b")
    assert one.take()
    assert one.take()
    assert not two.take()
    assert other.take()
    one.leave()
    assert two.take()
    assert not one.take()
    with database.transaction() as connection:
        connection.execute("UPDATE tasks SET held_until = held_until - ?", (LEASE + 1,))
    assert one.take()


def test_a_note_is_for_the_next_holder_and_no_one_else_writes_it(database: SQLiteDatabase) -> None:
    one, two = Task(database, "a"), Task(database, "a")
    assert read_note(database, "a") == ""
    assert one.take()
    one.write_note("first")
    two.write_note("second")
    assert read_note(database, "a") == "first"
    two.leave()
    assert not two.take()
    one.leave()
    assert two.take()
    assert read_note(database, "a") == "first"
