"""Verify a store: every byte against its digest, every fact against the bytes and the other facts.

It runs beside live servers: what looks wrong is looked at once more before it is reported, since a push or a delete may have come between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from oci.digest import Digest, InvalidDigest
from storage.blobs import BlobStore
from storage.damage import is_damaged, set_aside, verify
from storage.database import Database
from storage.errors import BlobNotFound
from storage.scrub import Scrubbed, scrubbed
from storage.sql_metadata import SQLMetadata

THREADS = 2
AHEAD = 64
"""Blobs whose hashes are under way or done but not yet looked at."""

BODIES_AHEAD = 8
"""Manifests that are in memory at once: each may have 8 MiB."""

Progress = Callable[[int, int], None]
"""Told (blobs verified so far, bytes read so far)."""


@dataclass(slots=True)
class Report:
    """What was found. ``problems`` are for a person to act on; the counts below are how a healthy store may look."""

    problems: list[str] = field(default_factory=list)
    repaired: list[str] = field(default_factory=list)
    blobs: int = 0
    bytes: int = 0
    manifests: int = 0
    tags: int = 0
    unreferenced: int = 0
    """Blob files that no row knows: a crash between publishing and recording leaves them. The collector takes them."""
    scrubbed: Scrubbed = field(default_factory=Scrubbed)
    """How far the servers are with reading all bytes by themselves."""
    sparse: int = 0
    """References to content that was never pushed to the hub, which sparse images and indexes may have."""


def check(store: BlobStore, database: Database, *, repair: bool = False, progress: Progress | None = None) -> Report:
    """Verify a store and its facts. With ``repair``, damaged blobs are moved to ``quarantine/``, so that the next push heals them."""
    metadata = SQLMetadata(database)
    report = Report()
    for line in database.damages():
        report.problems.append(f"the database is damaged: {line}. Stop the servers and restore it from a backup.")
    _check_bytes(store, metadata, report, repair, progress or (lambda blobs, size: None))
    _check_links(store, metadata, report)
    _check_manifests(metadata, report)
    _check_tags(metadata, report)
    _check_references(store, metadata, report)
    report.scrubbed = scrubbed(database)
    return report


def _check_bytes(store: BlobStore, metadata: SQLMetadata, report: Report, repair: bool, progress: Progress) -> None:
    """Read every blob file once."""
    with ThreadPoolExecutor(THREADS) as pool:
        for digest, size, is_good in _verified(store, pool):
            report.blobs += 1
            report.bytes += size
            progress(report.blobs, report.bytes)
            if not is_good:
                _look_again(store, digest, report, repair)
                continue
            recorded = metadata.blob_size(digest)
            if recorded is None:
                report.unreferenced += 1
            elif recorded != size:
                report.problems.append(
                    f"blob {digest} has {size} bytes, the metadata say {recorded}: push it again, that corrects them"
                )


def _verified(store: BlobStore, pool: ThreadPoolExecutor) -> Iterator[tuple[Digest, int, bool]]:
    """Every blob with its size and whether its bytes are its own, hashed a little ahead. One that goes meanwhile is passed over."""
    waiting: list[tuple[Digest, Future[tuple[int, bool]]]] = []
    walk = store.digests()
    while True:
        while len(waiting) < AHEAD and (digest := next(walk, None)) is not None:
            waiting.append((digest, pool.submit(verify, store, digest)))
        if not waiting:
            return
        digest, future = waiting.pop(0)
        try:
            size, is_good = future.result()
        except BlobNotFound:
            if store.size(digest) is None:
                continue
            size, is_good = 0, False
        yield digest, size, is_good


def _look_again(store: BlobStore, digest: Digest, report: Report, repair: bool) -> None:
    """Report what is damaged still: a push may have healed it, a collector removed it."""
    if not repair:
        if is_damaged(store, digest):
            report.problems.append(
                f"blob {digest} is damaged: its bytes are others, or gone. Run `portside check --repair`, then push an image that has it"
            )
        return
    aside = set_aside(store, digest)
    if not aside:
        return
    report.repaired.append(
        f"blob {digest} was damaged; its bytes are {aside}. The next push of an image that has it heals it"
    )


def _check_links(store: BlobStore, metadata: SQLMetadata, report: Report) -> None:
    """Every blob that a repository holds has bytes."""
    query = "SELECT b.id, b.digest FROM blobs b WHERE EXISTS (SELECT 1 FROM repository_blobs l WHERE l.blob_id = b.id) AND b.id > ?"
    for _, text in metadata.database.scan(f"{query} ORDER BY b.id LIMIT ?"):
        digest = Digest.parse(str(text))
        if store.size(digest) is None and (holders := metadata.blob_holders(digest)) and store.size(digest) is None:
            report.problems.append(
                f"blob {digest} is missing; {', '.join(holders)} had it. Push an image that has it to one of them: all are healed"
            )


def _check_manifests(metadata: SQLMetadata, report: Report) -> None:
    """Every manifest's bytes have its digest."""
    query = "SELECT id, digest, size, body FROM manifests WHERE id > ? ORDER BY id LIMIT ?"
    for _, text, size, body in metadata.database.scan(query, batch=BODIES_AHEAD):
        report.manifests += 1
        try:
            is_good = isinstance(body, bytes) and len(body) == size and Digest.parse(str(text)).matches(body)
        except InvalidDigest:
            is_good = False
        if not is_good:
            report.problems.append(f"manifest {text} is damaged in the metadata: push its image again, that heals it")


def _check_tags(metadata: SQLMetadata, report: Report) -> None:
    """Every tag names a manifest that its repository holds."""
    query = (
        "SELECT r.id, r.name,"
        " (SELECT count(*) FROM tags t WHERE t.repository_id = r.id),"
        " (SELECT count(*) FROM tags t JOIN repository_manifests h"
        "  ON h.repository_id = t.repository_id AND h.manifest_id = t.manifest_id JOIN manifests m ON m.id = h.manifest_id"
        "  WHERE t.repository_id = r.id)"
        " FROM repositories r WHERE r.id > ? ORDER BY r.id LIMIT ?"
    )
    for _, name, tags, resolved in metadata.database.scan(query):
        report.tags += int(str(tags))
        if tags != resolved:
            report.problems.append(
                f"repository {name} has {int(str(tags)) - int(str(resolved))} tags whose manifest it does not hold: push them again"
            )


def _check_references(store: BlobStore, metadata: SQLMetadata, report: Report) -> None:
    """Count what manifests refer to and nobody ever pushed. (What was pushed and is lost is a problem that the links have told.)"""
    query = (
        "SELECT m.id, (SELECT count(*) FROM manifest_references f WHERE f.manifest_id = m.id AND ("
        " (f.kind = 'blob' AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = f.digest)) OR"
        " (f.kind <> 'blob' AND NOT EXISTS (SELECT 1 FROM manifests o WHERE o.digest = f.digest))))"
        " FROM manifests m WHERE m.id > ? ORDER BY m.id LIMIT ?"
    )
    for _, missing in metadata.database.scan(query):
        report.sparse += int(str(missing))
