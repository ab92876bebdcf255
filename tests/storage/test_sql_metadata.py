from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci.digest import Digest
from storage import sql_metadata
from storage.sql_audit import SQLAudit
from storage.sql_metadata import SQLMetadata
from storage.sqlite import SQLiteDatabase
from tests.storage.metadata_conformance import A, MetadataConformance, manifest


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[SQLMetadata]:
    opened = SQLMetadata(SQLiteDatabase(tmp_path / "root"))
    yield opened
    opened.close()


@pytest.fixture
def audit(metadata: SQLMetadata) -> SQLAudit:
    return SQLAudit(metadata.database)


class TestConformance(MetadataConformance):
    pass


def start(root: Path, code: str) -> subprocess.Popen[str]:
    prelude = "import sys, time\nfrom pathlib import Path\nfrom oci.digest import Digest\nfrom storage.sql_metadata import SQLMetadata\n"
    prelude += "from storage.sqlite import SQLiteDatabase\n"
    prelude += "metadata = SQLMetadata(SQLiteDatabase(Path(sys.argv[1])))\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", prelude + code, str(root)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def test_several_processes_write_at_once_and_lose_nothing(metadata: SQLMetadata, tmp_path: Path) -> None:
    code = "import os\nfor i in range(60): metadata.link_blob(f'r/{os.getpid()}', Digest.of(b'%d-%d' % (os.getpid(), i)), i)"
    processes = [start(tmp_path / "root", code) for _ in range(4)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert len(metadata.list_repositories(100, "").names) == 4
    for process in processes:
        assert all(
            metadata.find_blob(f"r/{process.pid}", Digest.of(b"%d-%d" % (process.pid, i))) == i for i in range(60)
        )
    assert metadata.generation() % 2 == 0


def test_a_write_of_another_process_is_read_at_once_and_seen_in_the_generation(
    metadata: SQLMetadata, tmp_path: Path
) -> None:
    assert metadata.find_blob("app", A) is None
    before = metadata.generation()
    assert before % 2 == 0
    start(tmp_path / "root", "metadata.link_blob('app', Digest.of(b'a'), 1)").communicate()
    after = metadata.generation()
    assert after > before
    assert after % 2 == 0
    assert metadata.find_blob("app", A) is not None


def test_every_look_up_goes_by_an_index(metadata: SQLMetadata) -> None:
    queries = [
        value
        for name, value in vars(sql_metadata).items()
        if name.startswith(("_FIND", "_HAS", "_LIST")) and isinstance(value, str)
    ]
    assert len(queries) == 10
    for query in queries:
        plan = [row[3] for row in metadata.database.rows(f"EXPLAIN QUERY PLAN {query}", ("x",) * query.count("?"))]
        assert all(step.startswith(("SEARCH", "SCALAR SUBQUERY", "REUSE SUBQUERY")) for step in plan), plan


def test_the_outbox_is_bounded(metadata: SQLMetadata, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_metadata, "OUTBOX_KEPT", 5)
    monkeypatch.setattr(sql_metadata, "OUTBOX_TRIM", 10)
    for number in range(20):
        metadata.link_blob("app", Digest.of(b"%d" % number), 1)
    assert [event.sequence for event in metadata.events(0, 100)] == [16, 17, 18, 19, 20]


def test_a_push_heals_a_damaged_manifest(metadata: SQLMetadata) -> None:
    image = manifest()
    metadata.put_manifest("app", image, ["1"])
    with metadata._transaction() as connection:
        connection.execute("UPDATE manifests SET body = 'damaged'")
    metadata.put_manifest("app", image, ["1"])
    found = metadata.find_manifest("app", "1")
    assert found is not None
    assert found.body == image.raw
