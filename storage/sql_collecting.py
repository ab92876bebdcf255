"""What a collector asks of the facts and takes away from them, in SQL.

The questions are set differences and scans by key, read without a lock. Every removal is a short transaction that takes the repository's
row, or the blobs', and asks again before it removes: whatever happened since the question is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from storage.database import Connection, Database, Topic, repeatable, retried
from storage.people import Actor
from storage.sql_metadata import SQLMetadata

COLLECTOR = Actor("collector")
"""Who drops a manifest, in the audit trail."""
POPULAR = 1000
"""A link to a blob that so many manifests of other repositories refer to is left: dropping it would free nothing, and finding out in a
transaction that none of them is in this repository would take long. (Every signature refers to the one empty config.)"""

# What is above the digest ``?``, so that a large repository is looked at in parts.
_UNREFERENCED = """
SELECT u.digest, b.id, b.size, l.doomed_at FROM (
 SELECT d.digest AS digest FROM repository_blobs k JOIN blobs d ON d.id = k.blob_id
 WHERE k.repository_id = ? AND k.linked_at <= ? AND d.digest > ?
 EXCEPT
 SELECT f.digest AS digest FROM repository_manifests h JOIN manifest_references f ON f.manifest_id = h.manifest_id
 WHERE h.repository_id = ? AND f.kind = 'blob' AND f.digest > ?
) u JOIN blobs b ON b.digest = u.digest JOIN repository_blobs l ON l.repository_id = ? AND l.blob_id = b.id
WHERE (SELECT p.manifest_id FROM manifest_references p WHERE p.digest = u.digest AND p.kind = 'blob' LIMIT 1 OFFSET ?) IS NULL
ORDER BY u.digest LIMIT ?"""
_STILL_UNREFERENCED = """NOT EXISTS (SELECT 1 FROM manifest_references f WHERE f.kind = 'blob'
 AND f.digest = (SELECT b.digest FROM blobs b WHERE b.id = repository_blobs.blob_id)
 AND EXISTS (SELECT 1 FROM repository_manifests h WHERE h.repository_id = repository_blobs.repository_id
  AND h.manifest_id = f.manifest_id))"""
_UNTAGGED = """
NOT EXISTS (SELECT 1 FROM tags t WHERE t.manifest_id = repository_manifests.manifest_id
 AND t.repository_id = repository_manifests.repository_id)
AND NOT EXISTS (SELECT 1 FROM manifest_references f WHERE f.kind = 'manifest'
 AND f.digest = (SELECT m.digest FROM manifests m WHERE m.id = repository_manifests.manifest_id)
 AND EXISTS (SELECT 1 FROM repository_manifests i WHERE i.repository_id = repository_manifests.repository_id
  AND i.manifest_id = f.manifest_id))
AND NOT EXISTS (SELECT 1 FROM manifest_references s WHERE s.manifest_id = repository_manifests.manifest_id AND s.kind = 'subject'
 AND EXISTS (SELECT 1 FROM manifests o JOIN repository_manifests g ON g.manifest_id = o.id
  WHERE o.digest = s.digest AND g.repository_id = repository_manifests.repository_id))"""
_UNLINKED = "NOT EXISTS (SELECT 1 FROM repository_blobs l WHERE l.blob_id = blobs.id)"


@dataclass(frozen=True, slots=True)
class Terms:
    """When things go, as moments of the Unix clock: touched after ``touched`` they stay; what was doomed after ``doomed`` waits."""

    now: float
    touched: float
    doomed: float

    @property
    def has_grace(self) -> bool:
        """Whether what is doomed now is not dropped at once."""
        return self.doomed < self.now


@dataclass(frozen=True, slots=True)
class Candidate:
    """A link or a manifest of a repository that nothing refers to. ``size`` in bytes; ``doomed_at``: since when that is known."""

    id: int
    digest: str
    size: int
    doomed_at: float | None

    def is_due(self, terms: Terms) -> bool:
        """Whether there is anything to do about it now: to doom it, or to drop it."""
        return self.doomed_at is None or self.doomed_at <= terms.doomed

    def is_ending(self, terms: Terms) -> bool:
        """Whether it goes now."""
        return self.doomed_at <= terms.doomed if self.doomed_at is not None else not terms.has_grace


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A row of ``blobs``. ``place``: the key of its bytes in an object store, None for a file."""

    id: int
    digest: str
    size: int
    place: str | None


Discard = Callable[[Connection, Sequence[StoredBlob]], None]
"""Take bytes out of reach, in the transaction that removes their rows."""


class SQLCollecting:
    """The collector's side of one database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # -- questions

    def repositories(self) -> Iterator[tuple[int, str]]:
        """Every repository: id and name."""
        for key, name in self.database.scan("SELECT id, name FROM repositories WHERE id > ? ORDER BY id LIMIT ?"):
            yield int(str(key)), str(name)

    def unreferenced_links(self, repository_id: int, touched: float, after: str, limit: int) -> list[Candidate]:
        """At most ``limit`` links above the digest ``after`` that no manifest of the repository refers to, touched before."""
        parameters = (repository_id, touched, after, repository_id, after, repository_id, POPULAR, limit)
        rows = self.database.rows(_UNREFERENCED, parameters)
        return [Candidate(key, digest, size, doomed_at) for digest, key, size, doomed_at in rows]

    def doomed_links(self, repository_id: int) -> list[int]:
        """The blobs of the links that were found unreferenced once."""
        query = "SELECT blob_id FROM repository_blobs WHERE repository_id = ? AND doomed_at IS NOT NULL"
        return [int(key) for (key,) in self.database.rows(query, (repository_id,))]

    def untagged_manifests(self, repository_id: int, touched: float) -> list[Candidate]:
        """Manifests that no tag, no index and no subject keeps in the repository, pushed before."""
        rows = self.database.rows(
            "SELECT manifest_id, doomed_at FROM repository_manifests"  # nosec B608: words of this module
            f" WHERE repository_id = ? AND pushed_at <= ? AND {_UNTAGGED} ORDER BY manifest_id",
            (repository_id, touched),
        )
        found: list[Candidate] = []
        for key, doomed_at in rows:
            row = self.database.row("SELECT digest, size FROM manifests WHERE id = ?", (key,))
            if row is not None:
                found.append(Candidate(key, row[0], row[1], doomed_at))
        return found

    def doomed_manifests(self, repository_id: int) -> list[int]:
        """The manifests that were found untagged once."""
        query = "SELECT manifest_id FROM repository_manifests WHERE repository_id = ? AND doomed_at IS NOT NULL"
        return [int(key) for (key,) in self.database.rows(query, (repository_id,))]

    def unlinked_blobs(self, published: float) -> Iterator[StoredBlob]:
        """Every blob that no repository holds, published before."""
        query = (
            "SELECT id, digest, size, place FROM blobs"  # nosec B608: words of this module
            f" WHERE {_UNLINKED} AND published_at <= {published:.6f} AND id > ? ORDER BY id LIMIT ?"
        )
        for key, digest, size, place in self.database.scan(query):
            yield StoredBlob(int(str(key)), str(digest), int(str(size)), None if place is None else str(place))

    def unknown(self, digests: Sequence[str]) -> set[str]:
        """Of some digests, those that no row knows."""
        return set(digests) - {digest for (digest,) in self.database.rows(_known(digests), digests)}

    def ended_sizes(self, ends: Mapping[int, int]) -> Iterator[int]:
        """Of blobs, each with how many of its links end: the sizes of those that have no other."""
        for key, count in ends.items():
            row = self.database.row(
                "SELECT size, (SELECT count(*) FROM repository_blobs l WHERE l.blob_id = blobs.id) FROM blobs WHERE id = ?",
                (key,),
            )
            if row is not None and row[1] == count:
                yield int(row[0])

    # -- removals, each one transaction

    @retried
    def judge_links(self, repository_id: int, candidates: Sequence[Candidate], terms: Terms) -> tuple[int, list[int]]:
        """Doom those that are unreferenced still, and drop those that were doomed long enough ago: how many are doomed, which went."""
        keys = [candidate.id for candidate in candidates]
        chosen = f"repository_id = ? AND blob_id IN ({_marks(keys)}) AND linked_at <= ? AND {_STILL_UNREFERENCED}"
        with self.database.transaction(Topic.METADATA) as connection:
            self._take_repository(connection, repository_id)
            doomed = connection.execute(
                f"UPDATE repository_blobs SET doomed_at = ? WHERE doomed_at IS NULL AND {chosen}",  # nosec B608
                (terms.now, repository_id, *keys, terms.touched),
            ).rowcount
            gone = connection.execute(
                f"DELETE FROM repository_blobs WHERE doomed_at <= ? AND {chosen} RETURNING blob_id",  # nosec B608
                (terms.doomed, repository_id, *keys, terms.touched),
            ).fetchall()
        return doomed, [int(key) for (key,) in gone]

    @retried
    def judge_manifests(
        self, repository_id: int, repository: str, candidates: Sequence[Candidate], terms: Terms
    ) -> tuple[int, list[int]]:
        """The same for manifests that nothing keeps. Each that goes is an event and a record, as when a person deletes it."""
        keys = [candidate.id for candidate in candidates]
        chosen = f"repository_id = ? AND manifest_id IN ({_marks(keys)}) AND pushed_at <= ? AND {_UNTAGGED}"
        digests = {candidate.id: candidate.digest for candidate in candidates}
        with self.database.transaction(Topic.METADATA) as connection:
            self._take_repository(connection, repository_id)
            connection.execute(
                f"SELECT id FROM manifests WHERE id IN ({_marks(keys)}) ORDER BY id{self.database.for_update}",  # nosec B608
                keys,
            ).fetchall()  # what else holds them is decided below, and by others at the same time
            doomed = connection.execute(
                f"UPDATE repository_manifests SET doomed_at = ? WHERE doomed_at IS NULL AND {chosen}",  # nosec B608
                (terms.now, repository_id, *keys, terms.touched),
            ).rowcount
            due = connection.execute(
                f"SELECT manifest_id FROM repository_manifests WHERE doomed_at <= ? AND {chosen}",  # nosec B608
                (terms.doomed, repository_id, *keys, terms.touched),
            ).fetchall()
            for (key,) in due:
                SQLMetadata.drop_manifest(connection, repository, digests[key], (repository_id, key), COLLECTOR)
        return doomed, [int(key) for (key,) in due]

    @repeatable
    def pardon_links(self, repository_id: int, keys: Sequence[int]) -> None:
        """Something refers to them again: when it does no longer, their time begins anew."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE repository_blobs SET doomed_at = NULL"  # nosec B608: only marks
                f" WHERE repository_id = ? AND blob_id IN ({_marks(keys)})",
                (repository_id, *keys),
            )

    @repeatable
    def pardon_manifests(self, repository_id: int, keys: Sequence[int]) -> None:
        """Something keeps them again."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE repository_manifests SET doomed_at = NULL"  # nosec B608: only marks
                f" WHERE repository_id = ? AND manifest_id IN ({_marks(keys)})",
                (repository_id, *keys),
            )

    @retried
    def drop_blobs(self, keys: Sequence[int], published: float, discard: Discard) -> list[StoredBlob]:
        """Of some blobs, take the bytes and the rows of those that no repository holds; which those were."""
        with self.database.transaction(Topic.METADATA) as connection:
            marks = _marks(keys)
            connection.execute(
                f"SELECT id FROM blobs WHERE id IN ({marks}) ORDER BY id{self.database.for_update}",  # nosec B608
                keys,
            ).fetchall()
            rows = connection.execute(
                "SELECT id, digest, size, place FROM blobs"  # nosec B608: only marks
                f" WHERE id IN ({marks}) AND published_at <= ? AND {_UNLINKED} ORDER BY id",
                (*keys, published),
            ).fetchall()
            blobs = [StoredBlob(*row) for row in rows]
            if blobs:
                discard(connection, blobs)
                gone = [blob.id for blob in blobs]
                connection.execute(f"DELETE FROM blobs WHERE id IN ({_marks(gone)})", gone)  # nosec B608
        return blobs

    @retried
    def drop_strays(self, digests: Sequence[str], discard: Discard) -> list[str]:
        """Of some bytes, take those whose blob no row knows; which those were."""
        with self.database.transaction() as connection:
            known = connection.execute(_known(digests), digests).fetchall()
            strays = sorted(set(digests) - {digest for (digest,) in known})
            discard(connection, [StoredBlob(0, digest, 0, None) for digest in strays])
        return strays

    def _take_repository(self, connection: Connection, repository_id: int) -> None:
        """Nobody changes what the repository holds until the transaction ends."""
        connection.execute(
            f"SELECT id FROM repositories WHERE id = ?{self.database.for_update}",  # nosec B608: a word of ours
            (repository_id,),
        ).fetchone()


def _known(digests: Sequence[str]) -> str:
    return f"SELECT digest FROM blobs WHERE digest IN ({_marks(digests)})"  # nosec B608: only marks


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
