from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oci.digest import Digest
from storage import sqlite
from storage.errors import StoreTooNew, StoreUnusable
from storage.migrate import migrate
from storage.paths import Paths
from storage.schema import sqlite_script
from storage.sqlite import SQLiteMetadata
from tests.storage.metadata_conformance import A, MetadataConformance, manifest


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[SQLiteMetadata]:
    opened = SQLiteMetadata(tmp_path / "root")
    yield opened
    opened.close()


class TestConformance(MetadataConformance):
    pass


def start(root: Path, code: str) -> subprocess.Popen[str]:
    prelude = "import sys, time\nfrom pathlib import Path\nfrom oci.digest import Digest\nfrom storage.sqlite import SQLiteMetadata\n"
    prelude += "metadata = SQLiteMetadata(Path(sys.argv[1]))\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", prelude + code, str(root)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def test_several_processes_write_at_once_and_lose_nothing(metadata: SQLiteMetadata) -> None:
    code = "import os\nfor i in range(60): metadata.link_blob(f'r/{os.getpid()}', Digest.of(b'%d-%d' % (os.getpid(), i)), i)"
    processes = [start(metadata.paths.root, code) for _ in range(4)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert len(metadata.list_repositories(100, "").names) == 4
    for process in processes:
        assert all(
            metadata.find_blob(f"r/{process.pid}", Digest.of(b"%d-%d" % (process.pid, i))) == i for i in range(60)
        )
    assert metadata.generation() % 2 == 0


def test_a_write_of_another_process_is_read_at_once_and_seen_in_the_generation(metadata: SQLiteMetadata) -> None:
    assert metadata.find_blob("app", A) is None
    before = metadata.generation()
    start(metadata.paths.root, "metadata.link_blob('app', Digest.of(b'a'), 1)").communicate()
    assert metadata.generation() > before
    assert metadata.find_blob("app", A) is not None


def test_a_writer_that_dies_leaves_the_generation_odd_until_the_next(metadata: SQLiteMetadata) -> None:
    process = start(
        metadata.paths.root,
        "with metadata._transaction() as c:\n c.execute(\"INSERT INTO repositories (name, created_at) VALUES ('lost', 0)\")\n"
        " print('inside', flush=True); sys.stdin.read()",
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    assert metadata.generation() % 2 == 1
    process.send_signal(signal.SIGKILL)
    process.communicate()
    odd = metadata.generation()
    assert odd % 2 == 1
    metadata.link_blob("app", A, 1)
    assert metadata.generation() > odd
    assert metadata.generation() % 2 == 0
    assert metadata.list_repositories(10, "").names == ["app"]


def test_a_failed_write_leaves_nothing(metadata: SQLiteMetadata) -> None:
    before = metadata.generation()

    def fail() -> None:
        with metadata._transaction() as connection:
            connection.execute("INSERT INTO repositories (name, created_at) VALUES ('half', 0)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert metadata.list_repositories(10, "").names == []
    assert metadata.generation() % 2 == 0
    assert metadata.generation() > before
    metadata.link_blob("app", A, 1)


def test_every_look_up_goes_by_an_index(metadata: SQLiteMetadata) -> None:
    queries = [
        value
        for name, value in vars(sqlite).items()
        if name.startswith(("_FIND", "_HAS", "_LIST")) and isinstance(value, str)
    ]
    assert len(queries) == 7
    for query in queries:
        plan = [row[3] for row in metadata._rows(f"EXPLAIN QUERY PLAN {query}", ("x",) * query.count("?"))]
        assert all(step.startswith("SEARCH") for step in plan), plan


def test_the_outbox_is_bounded(metadata: SQLiteMetadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "OUTBOX_KEPT", 5)
    monkeypatch.setattr(sqlite, "OUTBOX_TRIM", 10)
    for number in range(20):
        metadata.link_blob("app", Digest.of(b"%d" % number), 1)
    assert [event.sequence for event in metadata.events(0, 100)] == [16, 17, 18, 19, 20]


def test_what_was_acknowledged_is_synced(metadata: SQLiteMetadata) -> None:
    assert metadata._writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert metadata._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_root_is_opened_again(tmp_path: Path) -> None:
    first = SQLiteMetadata(tmp_path)
    first.put_manifest("app", manifest(), ["1"])
    first.close()
    second = SQLiteMetadata(tmp_path)
    assert second.find_manifest("app", "1") is not None
    second.close()


def test_a_newer_root_is_refused_and_unchanged(tmp_path: Path) -> None:
    SQLiteMetadata(tmp_path).close()
    database = Paths(tmp_path).metadata
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(StoreTooNew, match="9999"):
        SQLiteMetadata(tmp_path)


def test_a_push_heals_a_damaged_manifest(metadata: SQLiteMetadata) -> None:
    image = manifest()
    metadata.put_manifest("app", image, ["1"])
    with metadata._transaction() as connection:
        connection.execute("UPDATE manifests SET body = 'damaged'")
    metadata.put_manifest("app", image, ["1"])
    found = metadata.find_manifest("app", "1")
    assert found is not None
    assert found.body == image.raw


def test_metadata_are_private_also_in_a_directory_that_is_not(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir(0o755)
    opened = SQLiteMetadata(root)
    opened.link_blob("app", A, 1)
    modes = {path.name: path.stat().st_mode & 0o777 for path in root.iterdir()}
    opened.close()
    assert modes == dict.fromkeys(["metadata.db", "metadata.db-wal", "metadata.db-shm", "lock", "generation"], 0o600)


def test_look_ups_in_threads_leave_nothing_open(tmp_path: Path) -> None:
    opened = SQLiteMetadata(tmp_path)
    descriptors = Path("/proc/self/fd")

    def count() -> int:
        return sum(os.path.realpath(entry).startswith(str(tmp_path)) for entry in descriptors.iterdir())

    opened.link_blob("app", A, 1)
    assert opened.find_blob("app", A) is not None
    before = count()
    for _ in range(5):
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(opened.find_blob, "app", A).result() is not None
    assert count() <= before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(opened.find_blob, "app", A).result() is not None
        opened.close()
        assert count() == 0
    assert sorted(os.listdir(tmp_path)) == ["generation", "lock", "metadata.db"], "closed last, it is checkpointed"


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    Paths(tmp_path).metadata.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreUnusable, match=r"metadata\.db cannot be opened"):
        SQLiteMetadata(tmp_path)


def schema_of(path: Path) -> dict[str, str]:
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND name <> 'alembic_version'"
        )
        return {name: " ".join(sql.split()) for name, sql in rows}
    finally:
        connection.close()


def test_tables_migrations_and_script_are_the_same_schema(tmp_path: Path) -> None:
    script = Path(sqlite.__file__).with_name("schema.sql").read_text()
    assert script == sqlite_script()
    SQLiteMetadata(tmp_path).close()
    migrate(tmp_path / "migrated.db")
    made = schema_of(Paths(tmp_path).metadata)
    assert made == schema_of(tmp_path / "migrated.db")
    assert {"repositories", "blobs", "manifests", "tags", "outbox", "ix_tags_manifest"} <= made.keys()


def test_migrations_go_up_and_down(tmp_path: Path) -> None:
    database = tmp_path / "m.db"
    migrate(database)
    up = schema_of(database)
    migrate(database, "base")
    assert schema_of(database) == {}
    migrate(database)
    assert schema_of(database) == up


def test_an_older_root_is_migrated_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest version is the only one yet: a database at the base of the chain, known by a name before it, stands for an older one."""
    SQLiteMetadata(tmp_path).close()
    database = Paths(tmp_path).metadata
    migrate(database, "base")
    connection = sqlite3.connect(database)
    connection.execute("INSERT INTO alembic_version VALUES ('0000')")
    connection.commit()
    connection.close()
    monkeypatch.setattr(sqlite, "VERSIONS", ("0000", "0001"))
    with pytest.raises(StoreUnusable, match="nothing was changed"):  # Alembic itself does not know 0000
        SQLiteMetadata(tmp_path)
    connection = sqlite3.connect(database)
    connection.execute("DELETE FROM alembic_version")
    connection.commit()
    connection.close()
    opened = SQLiteMetadata(tmp_path)
    opened.link_blob("app", A, 1)
    opened.close()
