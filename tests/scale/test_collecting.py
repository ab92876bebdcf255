"""Collections beside pushes, mounts and deletes, where facts, or blobs, or both are not in the root: `tests.durability.test_collecting`.

What was acknowledged and not deleted is whole at every moment, and in the end nothing is left over.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from storage.database import Database
from storage.filesystem import FilesystemBlobStore
from storage.opening import open_database
from storage.sql_metadata import SQLMetadata
from tests import s3
from tests.durability.test_collecting import SEED, Client, Images
from tests.scale.collecting import PREFIX, WINDOW, collect_all
from tests.servers import Server, portside, run
from tests.storage.collecting import Storage
from tests.tools import tool
from tests.wire.client import Connection

COLLECTIONS = 6
CLIENTS = 3
PAIRS = ("s3 and postgresql", "s3 and sqlite", "files and postgresql")
_FREED = re.compile(r"in (\d+) blobs")


@dataclass(frozen=True, slots=True)
class Pair:
    """Where blobs and facts are: ``url`` of a database, "" for the root's; ``service`` of S3, None for files."""

    root: Path
    url: str
    service: Server | None

    @property
    def options(self) -> list[str]:
        """That say it to `portside`."""
        database = ["--database", self.url] if self.url else []
        bucket = f"s3://{s3.BUCKET}/{PREFIX}"
        return database + (["--store", bucket, "--s3-endpoint", self.service.url] if self.service else [])

    @property
    def collection(self) -> list[str]:
        """The command of one collection without a grace."""
        if self.service:
            return [sys.executable, "-m", "tests.scale.collecting", self.url or str(self.root), self.service.url]
        words = ("gc", "--now", "--window", f"{int(WINDOW)}s", "--root", str(self.root))
        return [str(tool("portside")), *words, *self.options]

    @contextlib.contextmanager
    def database(self) -> Iterator[Database]:
        with contextlib.closing(open_database(self.root, self.url or None)) as database:
            yield database

    def left(self) -> list[str]:
        """What no blob of the facts is, when all has been collected."""
        with self.database() as database:
            if self.service:
                return collect_all(database, s3.location(self.service.url, PREFIX))
            run([*self.collection[:2], "--now", "--window", "0", "--root", str(self.root), *self.options])
            files, rows, _, others = Storage(FilesystemBlobStore(self.root, floor=0), SQLMetadata(database)).left()
            assert rows <= files
            return [*sorted(files - rows), *others]


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    blobs, facts = request.param.split(" and ")
    url = request.getfixturevalue("postgres_url") if facts == "postgresql" else ""
    if blobs == "files":
        yield Pair(tmp_path / "root", url, None)
        return
    with s3.s3_server("versitygw", tmp_path / "s3") as service:
        yield Pair(tmp_path / "root", url, service)


def collect(pair: Pair, rng: random.Random) -> int | None:
    """A collection that is killed at some moment, or ends; how many blobs it freed, None where it was killed."""
    process = subprocess.Popen(pair.collection, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if rng.random() < 0.4:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.5, 2.0))
        process.kill()
    said, errors = process.communicate()
    assert process.returncode in (0, -9), errors
    found = _FREED.search(said)
    return int(found[1]) if process.returncode == 0 and found else None


def test_collections_beside_pushes_mounts_and_deletes(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.KEYS.items():
        monkeypatch.setenv(name, value)
    images, rng = Images(), random.Random(SEED)
    times = ("--push-window", f"{int(WINDOW)}s", "--gc-interval", "0.5", "--gc-grace", "0")
    # Servers share a root where files or SQLite are in it, and nothing else where they are not.
    is_apart = bool(pair.service and pair.url)
    roots = [pair.root, tmp_path / "other" if is_apart else pair.root]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(portside(root, *pair.options, "--floor", "0", *times)) for root in roots]
        clients = [Client(number, servers[number % 2].address, images) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            freed: list[int | None] = []
            while len(freed) < COLLECTIONS or not any(freed):  # nothing goes before a window is over
                freed.append(collect(pair, rng))
                assert not [client.failure for client in clients if client.failure is not None]
        finally:
            for client in clients:
                client.is_ending.set()
            for client in clients:
                client.join(60)
        assert not [client.failure for client in clients if client.failure is not None]
        for server in servers:
            with Connection(server.address) as connection:
                for key in images.names():
                    images.verify(connection, key)
            assert "is missing or damaged" not in server.log.read_text()
    run([str(tool("portside")), "check", "--root", str(pair.root), *pair.options], os.environ)
    assert pair.left() == []
    with pair.database() as database:
        held = {digest for (digest,) in database.rows("SELECT digest FROM blobs", ())}
        query = "SELECT DISTINCT digest FROM manifest_references WHERE kind = 'blob'"
        assert held == {digest for (digest,) in database.rows(query, ())}
    assert images.acknowledged > COLLECTIONS
    assert sum(client.counted_on for client in clients) > 0
    print(f"blobs freed: {freed}; {images.acknowledged} images, {images.verified} pulled")
