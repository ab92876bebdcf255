from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from oci.digest import Digest
from storage.check import Report, check
from storage.filesystem import FilesystemBlobStore
from storage.sql_metadata import SQLMetadata
from storage.sqlite import SQLiteDatabase
from tests.storage.blob_conformance import push
from tests.storage.metadata_conformance import manifest, subject_of


@dataclass
class Hub:
    root: Path
    store: FilesystemBlobStore
    metadata: SQLMetadata

    def push(self, repository: str, data: bytes) -> Digest:
        digest = push(self.store, data)
        self.metadata.link_blob(repository, digest, len(data))
        return digest


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    opened = Hub(tmp_path, FilesystemBlobStore(tmp_path, floor=0), SQLMetadata(SQLiteDatabase(tmp_path)))
    for number in range(150):
        opened.push("app", b"%d" % number)
    opened.push("app", b"{}")
    opened.metadata.put_manifest("app", manifest(), ["1", "2"])
    yield opened
    opened.metadata.close()


def test_a_healthy_store(hub: Hub) -> None:
    seen: list[tuple[int, int]] = []
    report = check(hub.store, hub.metadata.database, progress=lambda blobs, size: seen.append((blobs, size)))
    assert report.problems == report.repaired == []
    assert (report.blobs, report.manifests, report.tags, report.sparse, report.unreferenced) == (151, 1, 2, 0, 0)
    assert seen[-1] == (151, report.bytes)


def test_what_may_be_is_counted_and_no_problem(hub: Hub) -> None:
    push(hub.store, b"left by a crash between the rename and the commit")
    hub.metadata.put_manifest("app", manifest("sparse", **subject_of(manifest("never pushed"))), [])
    report = check(hub.store, hub.metadata.database)
    assert report.problems == []
    assert (report.unreferenced, report.sparse) == (1, 1)


def check_while(hub: Hub, digest: Digest, act: Callable[[], object]) -> Report:
    """Repair, and act when one blob was verified and nothing follows from it yet: that is when progress is told."""
    at = list(hub.store.digests()).index(digest) + 1

    def progress(blobs: int, size: int) -> None:
        if blobs == at:
            act()

    return check(hub.store, hub.metadata.database, repair=True, progress=progress)


def damage(hub: Hub, digest: Digest) -> None:
    path = hub.store.paths.blob(digest)
    path.chmod(0o600)
    path.write_bytes(b"damaged")


def test_what_a_push_heals_meanwhile_is_neither_reported_nor_moved(hub: Hub) -> None:
    digest = Digest.of(b"7")
    damage(hub, digest)
    report = check_while(hub, digest, lambda: hub.push("other", b"7"))
    assert report.problems == report.repaired == []
    assert hub.store.paths.blob(digest).read_bytes() == b"7"


def test_what_is_deleted_meanwhile_is_no_damage(hub: Hub) -> None:
    digest = Digest.of(b"7")
    damage(hub, digest)
    hub.metadata.unlink_blob("app", digest)
    report = check_while(hub, digest, hub.store.paths.blob(digest).unlink)
    assert report.problems == report.repaired == []


def test_a_damaged_blob_is_found_moved_aside_and_healed(hub: Hub) -> None:
    digest = Digest.of(b"7")
    path = hub.store.paths.blob(digest)
    path.chmod(0o600)
    path.write_bytes(b"8")
    (problem,) = check(hub.store, hub.metadata.database).problems
    assert str(digest) in problem
    assert "--repair" in problem
    report = check(hub.store, hub.metadata.database, repair=True)
    assert str(digest) in report.repaired[0]
    assert f"blob {digest} is missing; app had it" in report.problems[0]
    hub.push("other", b"7")
    assert check(hub.store, hub.metadata.database).problems == []


def test_a_missing_blob_is_found(hub: Hub) -> None:
    hub.store.paths.blob(Digest.of(b"9")).unlink()
    (problem,) = check(hub.store, hub.metadata.database).problems
    assert f"{Digest.of(b'9')} is missing" in problem


def test_a_truncated_blob_is_found(hub: Hub) -> None:
    path = hub.store.paths.blob(Digest.of(b"100"))
    path.chmod(0o600)
    path.write_bytes(b"")
    assert "damaged" in check(hub.store, hub.metadata.database).problems[0]


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE manifests SET body = x'00'", "manifest"),
        ("DELETE FROM repository_manifests", "2 tags whose manifest it does not hold"),
        ("UPDATE blobs SET size = 77 WHERE size = 2 AND id = (SELECT max(id) FROM blobs)", "77"),
    ],
)
def test_wrong_facts_are_found(hub: Hub, statement: str, problem: str) -> None:
    connection = sqlite3.connect(hub.store.paths.metadata)
    connection.execute(statement)
    connection.commit()
    connection.close()
    report = check(hub.store, hub.metadata.database)
    assert len(report.problems) == 1
    assert problem in report.problems[0]


def portside_check(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "check", "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


def test_the_command(hub: Hub, tmp_path: Path) -> None:
    well = portside_check(hub.root)
    assert (well.returncode, well.stderr) == (0, "")
    assert "151 blobs" in well.stdout
    hub.store.paths.blob(Digest.of(b"9")).unlink()
    ill = portside_check(hub.root, "--repair")
    assert ill.returncode == 1
    assert "is missing" in ill.stdout
    assert "1 problems were found" in ill.stderr
    nothing = portside_check(tmp_path / "nowhere")
    assert nothing.returncode == 1
    assert "no root of a hub" in nothing.stderr
