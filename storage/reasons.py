"""Why a blob or a manifest is kept: what refers to it, in each repository that holds it, or since when nothing does."""

from __future__ import annotations

from dataclasses import dataclass

from oci.digest import Digest
from storage.database import Database

SHOWN_MAX = 100
"""Manifests of one repository that are named."""


@dataclass(frozen=True, slots=True)
class Holding:
    """One repository that holds a blob or a manifest. ``touched_at`` and ``doomed_at`` in seconds of the Unix clock.

    ``keepers``: what refers to it there, in words; empty where nothing does.
    """

    kind: str
    repository: str
    keepers: tuple[str, ...]
    touched_at: float
    doomed_at: float | None


@dataclass(frozen=True, slots=True)
class Reasons:
    """Everything about one digest. ``size`` in bytes, None where neither a blob nor a manifest of it is known."""

    size: int | None
    holdings: tuple[Holding, ...]


def find_reasons(database: Database, digest: Digest) -> Reasons:
    """Look a digest up, as a blob and as a manifest."""
    text = str(digest)
    holdings: list[Holding] = []
    row = database.row("SELECT id, size FROM blobs WHERE digest = ?", (text,))
    size = None if row is None else int(row[1])
    if row is not None:
        links = database.rows(
            "SELECT r.id, r.name, l.linked_at, l.doomed_at FROM repository_blobs l JOIN repositories r ON r.id = l.repository_id"
            " WHERE l.blob_id = ? ORDER BY r.name",
            (row[0],),
        )
        holdings += [Holding("blob", name, _blob_keepers(database, key, text), *times) for key, name, *times in links]
    manifest = database.row("SELECT id, size FROM manifests WHERE digest = ?", (text,))
    if manifest is not None:
        size = int(manifest[1])
        held = database.rows(
            "SELECT r.id, r.name, h.pushed_at, h.doomed_at FROM repository_manifests h JOIN repositories r ON r.id = h.repository_id"
            " WHERE h.manifest_id = ? ORDER BY r.name",
            (manifest[0],),
        )
        holdings += [
            Holding("manifest", name, _manifest_keepers(database, key, manifest[0], text), *times)
            for key, name, *times in held
        ]
    return Reasons(size, tuple(holdings))


def _blob_keepers(database: Database, repository_id: int, digest: str) -> tuple[str, ...]:
    keepers: list[str] = []
    for key, manifest in _referring(database, repository_id, digest, "blob"):
        by = _manifest_keepers(database, repository_id, key, manifest)
        keepers.append(f"manifest {manifest}" + (f" ({'; '.join(by)})" if by else ", which has no tag"))
    return tuple(keepers)


def _manifest_keepers(database: Database, repository_id: int, manifest_id: int, digest: str) -> tuple[str, ...]:
    tags = database.rows(
        "SELECT name FROM tags WHERE manifest_id = ? AND repository_id = ? ORDER BY name LIMIT ?",
        (manifest_id, repository_id, SHOWN_MAX),
    )
    keepers = [f"tag {name}" for (name,) in tags]
    for index_id, index in _referring(database, repository_id, digest, "manifest"):
        names = database.rows(
            "SELECT name FROM tags WHERE manifest_id = ? AND repository_id = ? ORDER BY name LIMIT ?",
            (index_id, repository_id, SHOWN_MAX),
        )
        tagged = "".join(f", tag {name}" for (name,) in names)
        keepers.append(f"index {index}{tagged}")
    subjects = database.rows(
        "SELECT s.digest FROM manifest_references s JOIN manifests o ON o.digest = s.digest"
        " JOIN repository_manifests g ON g.manifest_id = o.id"
        " WHERE s.manifest_id = ? AND s.kind = 'subject' AND g.repository_id = ?",
        (manifest_id, repository_id),
    )
    return (*keepers, *(f"subject {subject}" for (subject,) in subjects))


def _referring(database: Database, repository_id: int, digest: str, kind: str) -> list[tuple[int, str]]:
    """Manifests of a repository that refer to a digest."""
    rows = database.rows(
        "SELECT m.id, m.digest FROM manifest_references f JOIN manifests m ON m.id = f.manifest_id"
        " JOIN repository_manifests h ON h.manifest_id = f.manifest_id"
        " WHERE f.digest = ? AND f.kind = ? AND h.repository_id = ? ORDER BY m.id LIMIT ?",
        (digest, kind, repository_id, SHOWN_MAX),
    )
    return [(int(key), str(text)) for key, text in rows]
