"""A hub copied to another place: any database and any store to any other, while its servers go on.

A copy makes the destination what the source was at one moment: facts, bytes, then the facts again, for what came while the bytes were on
their way. It may be cut and made again; each goes on from what is there. The last one, when the source's servers have been stopped, finds
little to do, and leaves both the same.

The destination is the copy's alone until it serves. It keeps a note of which hub it is a copy of; and when somebody has written to it
since, its last events are others than the source's. Then it is refused: a copy would undo what was written there.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from oci.digest import Digest
from storage.blobs import BlobStore
from storage.collector import Collected
from storage.database import Connection, MovableDatabase
from storage.errors import StorageError
from storage.moving_blobs import bring
from storage.moving_facts import BATCH, mirror, rows_of
from storage.tasks import Task, read_note

IDENTITY = "identity"
COPY = "copy"
"""Rows of the tasks whose notes are a hub's own name, and the name of the hub that it is a copy of."""
PASSES = 2
"""The first brings nearly all bytes; the second, unless the first found nothing to do, what came meanwhile."""
LOGS = ("outbox", "audit")
"""Tables that each write adds to: their last rows tell whether somebody wrote."""

_SPARSE = """
SELECT count(*) FROM manifest_references f WHERE
(f.kind = 'blob' AND NOT EXISTS (SELECT 1 FROM blobs b WHERE b.digest = f.digest))
OR (f.kind <> 'blob' AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = f.digest))"""
_LINKED = (
    "SELECT id, digest, size FROM blobs WHERE id > ?"
    " AND EXISTS (SELECT 1 FROM repository_blobs l WHERE l.blob_id = blobs.id) ORDER BY id LIMIT ?"
)

Progress = Callable[[str], None]
"""Told, in a few words, how far it is."""


class DestinationInUse(StorageError):
    """The destination has content that is not an earlier copy's."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}. A copy goes to an empty database, or to one that is a copy of the same hub already"
        )


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub's facts and bytes; ``collected``: how bytes are taken away there."""

    database: MovableDatabase
    blobs: BlobStore
    collected: Collected


@dataclass(slots=True)
class Moved:
    """What a copy did, and the comparison at its end. ``rows``: by table, how many each side has.

    ``problems`` are for a person: what the source has damaged or lost, and where the two differ. ``behind``: how many changes came to the
    source since the moment that was copied.
    """

    written: int = 0
    removed: int = 0
    blobs: int = 0
    bytes: int = 0
    present: int = 0
    rows: dict[str, tuple[int, int]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    behind: int = 0


def move(source: Hub, destination: Hub, progress: Progress) -> Moved:
    """Copy a hub. DestinationInUse, and what either side may raise: StorageError, OSError."""
    _claim(source.database, destination.database)
    done = Moved()
    damaged: set[str] = set()
    for _ in range(PASSES):
        with source.database.snapshot() as then:
            mirrored = mirror(
                then,
                destination.database,
                destination.collected.discard,
                lambda table, rows: progress(f"{rows} rows of {table}"),
            )
            done.written += mirrored.written
            done.removed += mirrored.removed
            damaged.update(mirrored.damaged)
            counts, sparse, seen = mirrored.rows, _count(then, _SPARSE), _last_rows(then)
        destination.database.go_on_from(source.database.last_numbers())
        destination.collected.empty_trash()
        before = done.blobs
        done.problems.clear()
        _bring(source, destination, done, progress)
        if not (mirrored.written or mirrored.removed or done.blobs > before):
            break
    done.problems += [
        f"manifest {name} is damaged at the source: push its image there again" for name in sorted(damaged)
    ]
    progress("comparing")
    _compare(destination, counts, sparse, done)
    with source.database.snapshot() as now:
        last = _last_rows(now)
    done.behind = sum(_sequence(last[table]) - _sequence(seen[table]) for table in LOGS)
    return done


def _bring(source: Hub, destination: Hub, done: Moved, progress: Progress) -> None:
    """Bring the bytes of every blob that the destination's facts know."""
    rows = destination.database.scan("SELECT id, digest, size FROM blobs WHERE id > ? ORDER BY id LIMIT ?", batch=BATCH)
    wanted: Iterator[tuple[Digest, int]] = ((Digest.parse(str(text)), int(str(size))) for _, text, size in rows)
    brought = bring(
        wanted,
        source.blobs,
        destination.blobs,
        lambda blobs, size: progress(f"{blobs} blobs are there, {size} bytes of them copied now"),
    )
    done.blobs += brought.copied
    done.bytes += brought.bytes
    done.present = brought.present
    lost = [(digest, "is missing") for digest in brought.missing] + [(one, "is damaged") for one in brought.damaged]
    for digest, fault in lost:
        held = "SELECT 1 FROM blobs b JOIN repository_blobs l ON l.blob_id = b.id WHERE b.digest = ? LIMIT 1"
        line = f"blob {digest} {fault} at the source: push an image that has it there again"
        if line not in done.problems and source.database.row(held, (str(digest),)) is not None:
            done.problems.append(line)


def _compare(destination: Hub, counts: dict[str, int], sparse: int, done: Moved) -> None:
    """See that the destination has all rows, the bytes of each link, and of what manifests refer to no less than the source."""
    with destination.database.snapshot() as now:
        ours, ours_sparse = rows_of(now), _count(now, _SPARSE)
    done.rows = {table: (count, ours[table]) for table, count in counts.items()}
    for table, (theirs, here) in done.rows.items():
        if theirs != here:
            done.problems.append(f"the source has {theirs} rows of {table}, the destination {here}: copy again")
    if ours_sparse != sparse:
        done.problems.append(
            f"of what manifests refer to, {sparse} things are not in the source and {ours_sparse} not in the destination"
        )
    for _, text, size in destination.database.scan(_LINKED, batch=BATCH):
        found = destination.blobs.size(Digest.parse(str(text)))
        if found != size and not any(str(text) in line for line in done.problems):
            done.problems.append(f"blob {text} has {found} bytes at the destination and should have {size}: copy again")


def _claim(source: MovableDatabase, destination: MovableDatabase) -> None:
    """Note whose copy the destination is; DestinationInUse."""
    identity = read_note(source, IDENTITY)
    if not identity:
        identity = uuid.uuid4().hex
        _note(source, IDENTITY, identity)
    if read_note(destination, IDENTITY) == identity:
        raise DestinationInUse("the source and the destination are one database")
    earlier = read_note(destination, COPY)
    if earlier == identity:
        _expect_untouched(source, destination)
        return
    if earlier:
        raise DestinationInUse("the destination is a copy of another hub")
    with destination.snapshot() as now:
        if any(rows_of(now).values()):
            raise DestinationInUse("the destination has content of its own")
    _note(destination, COPY, identity)


def _expect_untouched(source: MovableDatabase, destination: MovableDatabase) -> None:
    """That nobody wrote to the destination since it was copied: its last events are the source's, or older than all that it keeps."""
    with source.snapshot() as theirs, destination.snapshot() as ours:
        for table, row in _last_rows(ours).items():
            first = theirs.execute(f"SELECT min(sequence) FROM {table}").fetchone()[0]  # nosec B608: words of this module
            if row is None or first is None or row[0] < first:
                continue
            query = f"SELECT sequence, at, kind FROM {table} WHERE sequence = ?"  # nosec B608: as above
            same = theirs.execute(query, (row[0],)).fetchone()
            if same is None or tuple(same) != row:
                raise DestinationInUse(
                    "the destination has been written to since it was copied, by a server or a command"
                )


def _last_rows(connection: Connection) -> dict[str, tuple[int, float, str] | None]:
    found: dict[str, tuple[int, float, str] | None] = {}
    for table in LOGS:
        query = f"SELECT sequence, at, kind FROM {table} ORDER BY sequence DESC LIMIT 1"  # nosec B608: as above
        row = connection.execute(query).fetchone()
        found[table] = None if row is None else (int(row[0]), float(row[1]), str(row[2]))
    return found


def _sequence(row: tuple[int, float, str] | None) -> int:
    return 0 if row is None else row[0]


def _count(connection: Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _note(database: MovableDatabase, name: str, text: str) -> None:
    task = Task(database, name)
    if not task.take():
        raise DestinationInUse("another copy has just begun")
    task.write_note(text)
    task.leave()
