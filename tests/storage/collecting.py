"""A hub's storage for tests of collecting, and time that passes at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from oci.digest import Digest
from oci.manifest import Manifest
from storage.collector import Collector, Freed, Policy
from storage.file_collecting import FileCollecting
from storage.filesystem import FilesystemBlobStore
from storage.sql_metadata import SQLMetadata
from storage.sqlite import SQLiteDatabase
from storage.uploads import append
from tests.storage.metadata_conformance import manifest

DAY = 86400.0


class Cut(Exception):
    """A push that ends here, as by a crash."""


@dataclass
class Storage:
    """One root, opened. What it does it does as the registry does it."""

    store: FilesystemBlobStore
    metadata: SQLMetadata

    @classmethod
    def open(cls, root: Path) -> Storage:
        return cls(FilesystemBlobStore(root, floor=0), SQLMetadata(SQLiteDatabase(root)))

    @property
    def files(self) -> FileCollecting:
        return FileCollecting(self.store)

    def push(self, repository: str, data: bytes, between: Callable[[], None] = lambda: None) -> Digest:
        """As `UploadHandlers._commit`. ``between``: what happens when the blob has its name and no link yet."""
        digest = Digest.of(data)
        upload = self.store.start(repository)
        append(upload, data)
        upload.prepare(digest)
        with self.store.publishing(digest):
            size = upload.commit(digest)
            between()
            self.metadata.link_blob(repository, digest, size)
        return digest

    def cut_push(self, data: bytes) -> Digest:
        """A push that dies between the name and the link."""

        def die() -> None:
            raise Cut

        try:
            self.push("cut", data, die)
        except Cut:
            return Digest.of(data)
        raise AssertionError

    def image(self, repository: str, *layers: bytes, tags: list[str], **more: object) -> Manifest:
        """Push an image of so many layers."""
        for data in layers:
            self.push(repository, data)
        made = manifest("", layers=[descriptor(data) for data in layers], config=descriptor(layers[0]), **more)
        self.metadata.put_manifest(repository, made, tags)
        return made

    def collect(self, policy: Policy | None = None) -> Freed:
        """One collection; by default with neither window nor grace."""
        return Collector(self.metadata.database, self.files, policy or Policy(0, 0)).collect()

    def collect_by_default(self) -> Freed:
        """One collection as the server does it."""
        return self.collect(Policy())

    def plan(self, policy: Policy) -> Freed:
        return Collector(self.metadata.database, self.files, policy).plan()

    def pass_time(self, seconds: float) -> None:
        """Everything that has happened, happened so much earlier."""
        with self.metadata.database.transaction() as connection:
            for table, columns in (
                ("repository_blobs", ("linked_at", "doomed_at")),
                ("repository_manifests", ("pushed_at", "doomed_at")),
            ):
                for column in columns:
                    connection.execute(f"UPDATE {table} SET {column} = {column} - ?", (seconds,))

    def has(self, repository: str, data: bytes) -> bool:
        """Whether a repository has a blob, with its bytes."""
        digest = Digest.of(data)
        link, size = self.metadata.find_blob(repository, digest), self.store.size(digest)
        assert link is None or link == size, "a link has its bytes"
        return link is not None

    def left(self) -> tuple[set[str], set[str], set[str], list[str]]:
        """Digests of files, of rows and of references, and what is left of pushes that were cut, and of trash."""
        rows = self.metadata.database.rows
        return (
            {str(digest) for digest in self.store.digests()},
            {text for (text,) in rows("SELECT digest FROM blobs", ())},
            {text for (text,) in rows("SELECT DISTINCT digest FROM manifest_references WHERE kind = 'blob'", ())},
            [str(note.digest) for note in self.store.guard.notes()] + os.listdir(self.store.paths.trash),
        )

    def contents(self) -> tuple[list[str], list[str]]:
        """Every fact and every file, to see that nothing has changed."""
        facts = [repr(row) for row in self.metadata.database.rows("SELECT * FROM repository_blobs ORDER BY 1, 2", ())]
        for table in ("blobs", "repository_manifests", "manifests", "outbox", "audit", "tasks", "trash"):
            facts += [repr(row) for row in self.metadata.database.rows(f"SELECT * FROM {table} ORDER BY 1, 2", ())]
        kept = ("blobs", "uploads", "publishing", "trash", "quarantine")
        return facts, sorted(str(path) for name in kept for path in (self.store.paths.root / name).rglob("*"))


def descriptor(data: bytes, media_type: str = "application/octet-stream") -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}
