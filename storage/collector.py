"""The collector: what nothing refers to any more goes, beside pushes, mounts, deletes and other collectors, at any moment.

What holds at every moment (`storage/collecting.md` says why each step keeps it):

1. A link has its bytes.
2. A manifest that is there has the links to its blobs that were there when it was pushed.
3. Whoever was told that a blob is there may count on it for half a `Policy.window`.

One collection goes, in short steps, from the roots down: manifests that nothing keeps (where the policy says so), links that no manifest
refers to, blobs that no repository holds, then what crashes left. Nothing is decided by walking the store: candidates are found by
questions to the database that hold no lock, and each removal asks again in its own transaction. So it may be cut after any step, and two
may run at once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from oci.digest import Digest
from storage.database import Connection, Database
from storage.sql_collecting import Candidate, SQLCollecting, StoredBlob, Terms

DAY = 86400.0
UPLOAD_LIFETIME = DAY
"""Seconds after which an upload that nobody goes on with is dropped."""
READ_BATCH = 50_000
"""Candidates that one question brings."""
LINKS_BATCH = 60
MANIFESTS_BATCH = 20
BLOBS_BATCH = 25
"""What one transaction removes: the others wait for it, a few milliseconds."""
FOREVER = 100 * 365 * DAY

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Policy:
    """How long what nothing refers to is kept, all in seconds.

    ``window``: how long a pushed blob may wait for its manifest, and a manifest for its tag or index. ``grace``: how much longer something
    waits once a collection has found it unreferenced. ``untagged``: how long a manifest waits after it was found without a tag, an index
    or a subject that keeps it; None: for ever.
    """

    window: float = DAY
    grace: float = DAY
    untagged: float | None = None


DEFAULT_POLICY = Policy()


@dataclass(slots=True)
class Freed:
    """What a collection did, or would do. ``bytes`` are those of ``blobs``.

    ``manifests`` had no tag; ``links`` no manifest referred to; ``blobs`` no repository held; ``strays`` were left by pushes that were
    cut; nobody went on with ``uploads``. ``doomed`` links and manifests were found unreferenced now and go when the grace is over.
    """

    manifests: int = 0
    links: int = 0
    blobs: int = 0
    strays: int = 0
    uploads: int = 0
    bytes: int = 0
    doomed_links: int = 0
    doomed_manifests: int = 0
    waiting: int = 0
    """Links and manifests that were doomed before and whose grace is not over."""

    def is_nothing(self) -> bool:
        """Whether nothing went."""
        return not (self.manifests or self.links or self.blobs or self.strays or self.uploads)


class Collected(Protocol):
    """What collecting needs of a store of blobs."""

    @property
    def settling(self) -> float:
        """Seconds after its publishing in which a blob may be without a link, where no lock tells; 0 where `alone` does."""
        ...

    def alone(self) -> AbstractContextManager[None]:
        """While it is held nobody is between publishing a blob and linking it. It comes before any transaction, and is short."""
        ...

    def discard(self, connection: Connection, blobs: Sequence[StoredBlob]) -> None:
        """Take bytes out of reach, in the transaction that removes their rows. What is not there is no error."""
        ...

    def empty_trash(self) -> None:
        """Delete for good what was discarded, also by a collection that was cut."""
        ...

    def cut_publishings(self) -> Sequence[Digest]:
        """Blobs whose pushes may have been cut before the link. Asked while `alone` is held, it is certain."""
        ...

    def forget_publishings(self, digests: Collection[Digest]) -> None:
        """They were seen to. `alone` is held still."""
        ...

    def expire_uploads(self, older_than: float) -> int:
        """Drop uploads that nobody went on with for so many seconds; how many."""
        ...


Progress = Callable[[str, int], None]
"""Told (what is looked at, how many were), now and then."""


class CollectionEnded(Exception):
    """The collector was told to end. What it did so far is whole."""


class Collector:
    """One hub's collector. ``clock`` in seconds of the Unix clock, as pushes tell it; ``is_ending`` is asked between two steps."""

    def __init__(
        self,
        database: Database,
        store: Collected,
        policy: Policy,
        *,
        progress: Progress = lambda what, count: None,
        clock: Callable[[], float] = time.time,
        is_ending: Callable[[], bool] = lambda: False,
    ) -> None:
        self._facts = SQLCollecting(database)
        self._store = store
        self._policy = policy
        self._progress = progress
        self._clock = clock
        self._is_ending = is_ending

    def collect(self) -> Freed:
        """One collection; CollectionEnded between two of its steps, StoreFull."""
        freed = Freed()
        for count, (key, name) in enumerate(self._facts.repositories(), 1):
            self._collect_repository(key, name, freed)
            self._progress("repositories", count)
        self._drop_blobs(freed)
        self._drop_strays(freed)
        self._store.empty_trash()
        freed.uploads += self._store.expire_uploads(UPLOAD_LIFETIME)
        return freed

    def plan(self) -> Freed:
        """What `collect` would do, by the same questions; nothing is changed.

        Not counted is what only a manifest refers to that would go itself (where the grace is zero it goes, too), and what crashes and
        abandoned uploads left.
        """
        freed, terms = Freed(), self._terms(self._policy.grace)
        ends: dict[int, int] = {}
        for count, (key, _) in enumerate(self._facts.repositories(), 1):
            if (kept := self._manifest_terms()) is not None:
                manifests = self._facts.untagged_manifests(key, kept.touched)
                freed.manifests += sum(found.is_ending(kept) for found in manifests)
                freed.doomed_manifests += kept.has_grace * sum(found.doomed_at is None for found in manifests)
                freed.waiting += sum(not found.is_due(kept) for found in manifests)
            for found in self._unreferenced(key, terms):
                if found.is_ending(terms):
                    freed.links += 1
                    ends[found.id] = ends.get(found.id, 0) + 1
                elif found.doomed_at is None:
                    freed.doomed_links += 1
                else:
                    freed.waiting += 1
            self._progress("repositories", count)
        for blob in self._facts.unlinked_blobs(self._published()):
            freed.blobs += 1
            freed.bytes += blob.size
        for size in self._facts.ended_sizes(ends):
            freed.blobs += 1
            freed.bytes += size
        return freed

    # -- one repository

    def _collect_repository(self, key: int, name: str, freed: Freed) -> None:
        if (kept := self._manifest_terms()) is not None:
            while self._judge_manifests(key, name, kept, freed):
                pass  # what an index kept, or a subject, may be next
        self._judge_links(key, self._terms(self._policy.grace), freed)

    def _judge_manifests(self, key: int, name: str, terms: Terms, freed: Freed) -> int:
        """Doom and drop manifests that nothing keeps; how many were dropped."""
        found = self._facts.untagged_manifests(key, terms.touched)
        self._pardon(self._facts.doomed_manifests(key), found, lambda keys: self._facts.pardon_manifests(key, keys))
        dropped = 0
        for batch in self._batches([one for one in found if one.is_due(terms)], MANIFESTS_BATCH):
            doomed, gone = self._facts.judge_manifests(key, name, batch, terms)
            freed.doomed_manifests += terms.has_grace * doomed
            dropped += len(gone)
        freed.manifests += dropped
        if not dropped:
            freed.waiting += sum(not one.is_due(terms) for one in found)
        return dropped

    def _judge_links(self, key: int, terms: Terms, freed: Freed) -> None:
        """Doom and drop links that no manifest of the repository refers to."""
        doomed_before = self._facts.doomed_links(key)
        found: list[Candidate] = []
        for link in self._unreferenced(key, terms):
            found.append(link)
            freed.waiting += not link.is_due(terms)
        self._pardon(doomed_before, found, lambda keys: self._facts.pardon_links(key, keys))
        for batch in self._batches([link for link in found if link.is_due(terms)], LINKS_BATCH):
            doomed, gone = self._facts.judge_links(key, batch, terms)
            freed.doomed_links += terms.has_grace * doomed
            freed.links += len(gone)

    def _pardon(self, doomed: list[int], found: list[Candidate], pardon: Callable[[Sequence[int]], None]) -> None:
        still = {candidate.id for candidate in found}
        for batch in self._batches([key for key in doomed if key not in still], LINKS_BATCH):
            pardon(batch)

    def _unreferenced(self, key: int, terms: Terms) -> Iterator[Candidate]:
        after = ""
        while links := self._facts.unreferenced_links(key, terms.touched, after, READ_BATCH):
            yield from links
            if len(links) < READ_BATCH:
                return
            after = links[-1].digest

    # -- bytes

    def _drop_blobs(self, freed: Freed) -> None:
        published = self._published()
        found = [blob.id for blob in self._facts.unlinked_blobs(published)]
        for batch in self._batches(found, BLOBS_BATCH):
            with self._store.alone():
                gone = self._facts.drop_blobs(batch, published, self._store.discard)
            freed.blobs += len(gone)
            freed.bytes += sum(blob.size for blob in gone)
            self._progress("blobs", freed.blobs)

    def _drop_strays(self, freed: Freed) -> None:
        """What pushes that were cut between a blob's name and its first link left."""
        while self._store.cut_publishings():
            with self._store.alone():
                cut = self._store.cut_publishings()[:BLOBS_BATCH]
                if not cut:
                    return
                strays = self._facts.drop_strays([str(digest) for digest in cut], self._store.discard)
                self._store.forget_publishings(frozenset(cut))
            freed.strays += len(strays)
            self._go_on()

    # -- time

    def _terms(self, grace: float) -> Terms:
        now = self._clock()
        return Terms(now, now - self._policy.window, now - grace)

    def _manifest_terms(self) -> Terms | None:
        untagged = self._policy.untagged
        return None if untagged is None else self._terms(max(untagged, self._policy.grace))

    def _published(self) -> float:
        """Before which a blob without a link was published, to be nobody's. With a lock it is any time, whatever a clock said then."""
        return self._clock() - self._store.settling if self._store.settling else self._clock() + FOREVER

    def _batches(self, items: Sequence[Item], size: int) -> Iterator[list[Item]]:
        """Batches, and after each a pause as long as it took: who lets a lock go and takes it again at once starves the others."""
        remaining = iter(items)
        while batch := list(itertools.islice(remaining, size)):
            self._go_on()
            began = time.monotonic()
            yield batch
            time.sleep(time.monotonic() - began)

    def _go_on(self) -> None:
        if self._is_ending():
            raise CollectionEnded
