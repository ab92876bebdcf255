from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage import sqlite as module
from storage.database import Topic
from storage.errors import StoreFull, StoreTooNew, StoreUnusable
from storage.migrate import migrate
from storage.paths import Paths
from storage.people import Actor, Kind
from storage.schema import sqlite_script
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople
from storage.sqlite import SQLiteDatabase
from storage.versions import VERSIONS
from tests.storage.metadata_conformance import A, manifest

PEOPLE = {"accounts", "groups", "memberships", "rules", "credentials", "settings", "audit"}
TOPICS = {"generation": Topic.METADATA, "people_generation": Topic.PEOPLE}
ADD = "INSERT INTO repositories (name, created_at) VALUES (?, 0)"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SQLiteDatabase]:
    opened = SQLiteDatabase(tmp_path / "root")
    yield opened
    opened.close()


def start(root: Path, code: str) -> subprocess.Popen[str]:
    """Another process, with ``database`` open."""
    prelude = "import sys\nfrom pathlib import Path\n"
    prelude += "from storage.database import Topic\nfrom storage.sqlite import SQLiteDatabase\n"
    prelude += "database = SQLiteDatabase(Path(sys.argv[1]))\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", prelude + code, str(root)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def names(database: SQLiteDatabase) -> list[str]:
    return [name for (name,) in database.rows("SELECT name FROM repositories ORDER BY name", ())]


@pytest.mark.parametrize("counter", ["generation", "people_generation"])
def test_a_writer_that_dies_leaves_its_generation_odd_until_the_next_lock(
    database: SQLiteDatabase, counter: str
) -> None:
    process = start(
        database.paths.root,
        f"with database.transaction(Topic.{TOPICS[counter].name}) as c:\n c.execute({ADD!r}, ('lost',))\n"
        " print('inside', flush=True); sys.stdin.read()",
    )
    dying, other = database.generation, database.people_generation
    if counter == "people_generation":
        dying, other = other, dying
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        odd = dying.read()
        assert odd % 2 == 1
        assert other.read() == 0
    finally:
        process.kill()
        process.communicate()
    assert dying.read() == odd
    with database.transaction() as connection:
        assert dying.read() == odd + 1, (
            "a write that no counter tells of settles it, or one rare change would be missed for long"
        )
        connection.execute(ADD, ("app",))
    assert dying.read() == odd + 1
    assert other.read() == 0
    assert names(database) == ["app"]


def test_a_write_moves_the_counter_that_it_names_and_no_other(database: SQLiteDatabase) -> None:
    with database.transaction(Topic.PEOPLE):
        assert database.people_generation.read() == 1
    assert (database.generation.read(), database.people_generation.read()) == (0, 2)
    with database.transaction(Topic.METADATA):
        assert database.generation.read() == 1
    with database.transaction():
        assert (database.generation.read(), database.people_generation.read()) == (2, 2)
    assert (database.generation.read(), database.people_generation.read()) == (2, 2)


def test_a_failed_write_leaves_nothing(database: SQLiteDatabase) -> None:
    def fail() -> None:
        with database.transaction(Topic.METADATA) as connection:
            connection.execute(ADD, ("half",))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(database) == []
    assert database.generation.read() == 2
    with database.transaction(Topic.METADATA) as connection:
        connection.execute(ADD, ("whole",))
    assert names(database) == ["whole"]


def test_a_full_disk_is_told_as_such_and_the_write_undone(database: SQLiteDatabase) -> None:
    pages = database._writer.execute("PRAGMA page_count").fetchone()[0]
    database._writer.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        with database.transaction(Topic.PEOPLE) as connection:
            for number in range(1000):
                connection.execute(ADD, (f"{number}" * 100,))

    with pytest.raises(StoreFull) as raised:
        fill()
    assert raised.value.free > 0
    assert names(database) == []
    assert database.people_generation.read() == 2
    with database.transaction() as connection:
        connection.execute(ADD, ("little",))
    assert names(database) == ["little"]


def test_what_was_acknowledged_is_synced(database: SQLiteDatabase) -> None:
    assert database._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert database._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_root_is_opened_again(tmp_path: Path) -> None:
    first = SQLiteDatabase(tmp_path)
    with first.transaction() as connection:
        connection.execute(ADD, ("app",))
    first.close()
    second = SQLiteDatabase(tmp_path)
    assert names(second) == ["app"]
    second.close()


def test_an_old_sqlite_is_mentioned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "portside.storage")
    for version, lines in (((3, 51, 2), 1), ((3, 51, 3), 0)):
        caplog.clear()
        monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
        SQLiteDatabase(tmp_path).close()
        assert len(caplog.records) == lines


def test_all_files_are_private_also_in_a_directory_that_is_not(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(0o755)
    opened = SQLiteDatabase(root)
    with opened.transaction() as connection:
        connection.execute(ADD, ("app",))
    modes = {path.name: path.stat().st_mode & 0o777 for path in root.iterdir()}
    opened.close()
    files = ["metadata.db", "metadata.db-wal", "metadata.db-shm", "lock", "generation", "people-generation"]
    assert modes == dict.fromkeys(files, 0o600)


def test_look_ups_in_threads_leave_nothing_open(tmp_path: Path) -> None:
    opened = SQLiteDatabase(tmp_path)
    descriptors = Path("/proc/self/fd")

    def count() -> int:
        return sum(os.path.realpath(entry).startswith(str(tmp_path)) for entry in descriptors.iterdir())

    with opened.transaction() as connection:
        connection.execute(ADD, ("app",))
    assert names(opened) == ["app"]
    before = count()
    for _ in range(5):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(names, opened).result() == ["app"]
    assert count() <= before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(names, opened).result() == ["app"]
        opened.close()
        assert count() == 0
    files = ["generation", "lock", "metadata.db", "people-generation"]
    assert sorted(os.listdir(tmp_path)) == files, "closed last, it is checkpointed"


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    Paths(tmp_path).metadata.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnusable, match=r"metadata\.db cannot be opened"):
        SQLiteDatabase(tmp_path)


# -- versions


def schema_of(path: Path) -> dict[str, str]:
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND name <> 'alembic_version'"
        )
        return {name: " ".join(sql.split()) for name, sql in rows}
    finally:
        connection.close()


def execute(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_tables_migrations_and_script_are_the_same_schema(tmp_path: Path) -> None:
    script = Path(module.__file__).with_name("schema.sql").read_text()
    assert script == sqlite_script()
    SQLiteDatabase(tmp_path).close()
    migrate(tmp_path / "migrated.db")
    made = schema_of(Paths(tmp_path).metadata)
    assert made == schema_of(tmp_path / "migrated.db")
    assert {"repositories", "blobs", "manifests", "tags", "outbox", "ix_tags_manifest"} | PEOPLE <= made.keys()


def test_migrations_go_up_and_down(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    steps = []
    for version in VERSIONS:
        migrate(path, version)
        steps.append(schema_of(path))
    assert steps[0].keys() < steps[1].keys()
    migrate(path, VERSIONS[0])
    assert schema_of(path) == steps[0]
    migrate(path, "base")
    assert schema_of(path) == {}
    migrate(path)
    assert schema_of(path) == steps[-1]


def test_a_root_of_the_first_version_is_migrated_with_its_data_and_goes_back(tmp_path: Path) -> None:
    path = Paths(tmp_path).metadata
    image, by = manifest(), Actor("local")
    opened = SQLMetadata(SQLiteDatabase(tmp_path))
    opened.link_blob("app", A, 5)
    opened.put_manifest("app", image, ["1"])
    opened.close()
    for turn in range(2):
        migrate(path, "0001")
        assert PEOPLE.isdisjoint(schema_of(path))
        opened = SQLMetadata(SQLiteDatabase(tmp_path))
        assert (opened.find_blob("app", A), opened.find_manifest("app", "1") is not None) == (5, True)
        assert opened.list_repositories(10, "").names == ["app"]
        people = SQLPeople(opened.database)
        assert (*people.list_accounts(), *people.find_records()) == (), turn
        account = people.add_account("bob", Kind.USER, by)
        people.add_group("dev", by)
        people.set_member("dev", "bob", True, by)
        assert (people.find_account("bob"), people.groups_of("bob")) == (account, ["dev"])
        opened.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SQLiteDatabase(tmp_path).close()
    path = Paths(tmp_path).metadata
    before = schema_of(path)
    execute(path, "UPDATE alembic_version SET version_num = '0000'")
    monkeypatch.setattr(module, "VERSIONS", ("0000", *VERSIONS))
    with pytest.raises(StoreUnusable, match="nothing was changed"):  # Alembic itself does not know 0000
        SQLiteDatabase(tmp_path)
    assert schema_of(path) == before


def test_a_root_at_the_base_of_the_chain_is_migrated(tmp_path: Path) -> None:
    SQLiteDatabase(tmp_path).close()
    migrate(Paths(tmp_path).metadata, "base")
    opened = SQLiteDatabase(tmp_path)
    assert names(opened) == []
    opened.close()


def test_a_newer_root_is_refused_and_unchanged(tmp_path: Path) -> None:
    SQLiteDatabase(tmp_path).close()
    path = Paths(tmp_path).metadata
    execute(path, "UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    with pytest.raises(StoreTooNew, match="9999"):
        SQLiteDatabase(tmp_path)
    assert path.read_bytes() == before
