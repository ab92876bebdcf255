"""A hub filled from what another registry has stored, in place: its bytes are linked or copied where they are, not pushed through it.

Each blob is verified by its digest before it gets its name, each manifest before it is recorded, and what the source has damaged or lost
is told by name and left out. An image goes with its blobs or not at all; an index may have manifests that are not there, as one that was
pushed may. What is there already is passed over: an import that was cut, or is made again, goes on. Servers of the hub may run meanwhile;
so may the other registry, whose files nobody changes.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from oci.digest import Digest
from oci.manifest import SIZE_MAX, InvalidManifest, Manifest
from oci.mediatypes import is_nondistributable
from storage.blobs import BlobStore
from storage.distribution import Held, Volume, data_of, held, tagged
from storage.errors import DigestMismatch
from storage.moving_blobs import THREADS, upload
from storage.people import Actor
from storage.sql_metadata import SQLMetadata

TOUCHED = 3600.0
"""Seconds that a link is taken for fresh: one that is older is touched, so that no collector drops it before its manifest is there."""

Record = Callable[[int], None]
ShortCut = Callable[[Digest, str, int, Record], bool]
"""Have the hub's store take a digest's bytes from a file of the volume, of so many bytes, without copying them through here, and record
the size; False where it cannot. DigestMismatch."""
Progress = Callable[[str], None]


@dataclass(slots=True)
class Imported:
    """What an import did. ``bytes`` are those of the blobs that were ``linked`` (by a short cut) or ``copied``."""

    repositories: int = 0
    manifests: int = 0
    tags: int = 0
    linked: int = 0
    copied: int = 0
    present: int = 0
    bytes: int = 0
    broken: list[str] = field(default_factory=list)


class Fate(NamedTuple):
    """What became of one blob: whether it was linked, copied or there, its size in bytes where it came, what is wrong with it."""

    linked: int = 0
    copied: int = 0
    present: int = 0
    size: int = 0
    fault: str = ""


class Importer:
    """One import, of a volume into a hub. ``by``: who the audit trail names."""

    def __init__(
        self,
        volume: Volume,
        metadata: SQLMetadata,
        blobs: BlobStore,
        short_cut: ShortCut,
        by: Actor,
        progress: Progress,
    ) -> None:
        self._volume = volume
        self._metadata = metadata
        self._blobs = blobs
        self._short_cut = short_cut
        self._by = by
        self._progress = progress
        self._done = Imported()

    def run(self) -> Imported:
        """Import every repository. StorageError, OSError: of the hub, or where the volume cannot be read at all."""
        with ThreadPoolExecutor(THREADS, thread_name_prefix="importing") as pool:
            for one in held(self._volume):
                self._done.broken += one.broken
                self._import(one, pool)
                self._done.repositories += 1
        return self._done

    def _import(self, one: Held, pool: ThreadPoolExecutor) -> None:
        manifests = [found for digest in one.manifests if (found := self._read(one.name, digest)) is not None]
        wanted = dict.fromkeys(one.layers)
        for manifest in manifests:
            wanted |= dict.fromkeys(_needed(manifest))
        try:
            fates = list(pool.map(lambda digest: self._bring(one.name, digest), wanted))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        self._count(fates)
        faults = {digest: fate.fault for digest, fate in zip(wanted, fates, strict=True) if fate.fault}
        self._done.broken += [f"repository {one.name}: blob {digest} {fault}" for digest, fault in faults.items()]
        tags = self._tags(one)
        for manifest in manifests:
            names = tags.pop(manifest.digest, [])
            lost = [digest for digest in _needed(manifest) if digest in faults]
            if lost:
                named = f" (tags {', '.join(names)})" if names else ""
                self._done.broken.append(
                    f"repository {one.name}: manifest {manifest.digest}{named} is left out: it needs {lost[0]}"
                )
            else:
                self._put(one.name, manifest, names)
        self._done.broken += [
            f"repository {one.name}: tag {name} is left out: it points at {digest}, which is not there"
            for digest, names in tags.items()
            for name in names
        ]
        self._progress(f"{self._done.repositories + 1} repositories, {self._done.manifests} manifests, {one.name}")

    def _read(self, repository: str, digest: Digest) -> Manifest | None:
        """A manifest of the volume; None, and a line of what is broken, where it is not good."""
        raw, fault = b"", ""
        try:
            for piece in self._volume.read(data_of(digest)):
                raw += piece
                if len(raw) > SIZE_MAX:
                    break
        except OSError as error:
            fault = _unreadable(error)
        if not fault and not digest.matches(raw):
            fault = "is damaged: its bytes are others" if raw else "is missing"
        if not fault:
            try:
                return Manifest.parse(raw, None, digest.algorithm)
            except InvalidManifest as error:
                fault = f"cannot be taken: {error}"
        self._done.broken.append(f"repository {repository}: manifest {digest} {fault}")
        return None

    def _tags(self, one: Held) -> dict[Digest, list[str]]:
        """The names of tags by what they point at."""
        found: dict[Digest, list[str]] = {}
        for tag in one.tags:
            digest = tagged(self._volume, one.name, tag)
            if digest is None:
                self._done.broken.append(f"repository {one.name}: tag {tag} is left out: its link has no digest")
            else:
                found.setdefault(digest, []).append(tag)
        return found

    def _put(self, repository: str, manifest: Manifest, tags: Sequence[str]) -> None:
        """Record a manifest with its tags, unless they are there."""
        self._done.manifests += 1
        self._done.tags += len(tags)
        found = self._metadata.find_manifest(repository, manifest.digest)
        if found is None or not all(self._is_tagged(repository, tag, manifest.digest) for tag in tags):
            self._metadata.put_manifest(repository, manifest, tags, self._by)

    def _is_tagged(self, repository: str, tag: str, digest: Digest) -> bool:
        found = self._metadata.find_manifest(repository, tag)
        return found is not None and found.digest == digest

    def _bring(self, repository: str, digest: Digest) -> Fate:
        """Have the hub hold a blob in a repository."""
        name = data_of(digest)
        size = self._volume.size(name)
        if size is None:
            return Fate(fault="is missing")
        if self._blobs.size(digest) == size and self._hold(repository, digest):
            return Fate(present=1)

        def record(size: int) -> None:
            self._metadata.link_blob(repository, digest, size)

        try:
            if self._short_cut(digest, name, size, record):
                return Fate(linked=1, size=size)
            upload(self._blobs, digest, self._volume.read(name), record)
        except DigestMismatch:
            return Fate(fault="is damaged: its bytes are others")
        except OSError as error:
            return Fate(fault=_unreadable(error))
        return Fate(copied=1, size=size)

    def _count(self, fates: Sequence[Fate]) -> None:
        for fate in fates:
            self._done.linked += fate.linked
            self._done.copied += fate.copied
            self._done.present += fate.present
            self._done.bytes += fate.size

    def _hold(self, repository: str, digest: Digest) -> bool:
        """Link a blob that the hub has, where any repository does: then no collector is taking its bytes."""
        held = self._metadata.find_link(repository, digest)
        if held is not None and held.linked_at > time.time() - TOUCHED:
            return True
        return self._metadata.mount_blob(repository, digest, None) is not None


def _unreadable(error: OSError) -> str:
    """What is wrong with one file; any other failure is one of the whole disk, and goes on."""
    if error.errno not in (errno.EIO, errno.EACCES, errno.EISDIR):
        raise error
    return f"cannot be read: {error.strerror}"


def _needed(manifest: Manifest) -> Iterable[Digest]:
    """The blobs that a manifest cannot be pulled without: not those that are fetched from elsewhere."""
    return [item.digest for item in manifest.blobs() if not item.urls and not is_nondistributable(item.media_type)]
