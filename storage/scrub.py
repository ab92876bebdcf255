"""The scrub: reads every blob now and then, slowly, before somebody who needs it finds it damaged.

In the order of the digests, a round after the other, at a set rate. Where it stands is kept in the database (`storage.tasks`), so that
another process, or the same after a restart, goes on from there. Damaged bytes are moved aside: the next push heals the blob. Files that
no row knows are removed, with the guard held: an old crash, or another version, left them.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice

from oci.digest import Digest
from storage.collector import BLOBS_BATCH, Collected
from storage.damage import set_aside, verify
from storage.database import Database
from storage.errors import BlobNotFound
from storage.filesystem import FilesystemBlobStore
from storage.sql_collecting import SQLCollecting
from storage.tasks import LEASE, Task, read_note

logger = logging.getLogger("portside.storage")

TASK = "scrub"
ROUND_SECONDS = 7 * 86400.0
"""Seconds from the beginning of one round to that of the next: a small store is not read again and again."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """How far the scrub is. Times in seconds of the Unix clock, 0 for never. ``last_…`` are of the last whole round."""

    after: str = ""
    """The digest that was read last in this round, empty before the first."""
    began: float = 0.0
    blobs: int = 0
    damaged: int = 0
    strays: int = 0
    last_ended: float = 0.0
    last_blobs: int = 0
    last_damaged: int = 0


def scrubbed(database: Database) -> Scrubbed:
    """How far the scrub of a hub is, whichever process does it."""
    note = read_note(database, TASK)
    return Scrubbed(**json.loads(note)) if note else Scrubbed()


class _Ended(Exception):
    """The scrub is to end, or somebody else has taken it over."""


class Scrub:
    """The scrub of one root. ``rate`` in bytes a second. ``pause`` waits for so many seconds, and says whether to end."""

    def __init__(
        self,
        store: FilesystemBlobStore,
        collected: Collected,
        database: Database,
        rate: float,
        pause: Callable[[float], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._collected = collected
        self._facts = SQLCollecting(database)
        self._database = database
        self._task = Task(database, TASK)
        self._rate = rate
        self._pause = pause
        self._clock = clock
        self._state = Scrubbed()
        self._due = self._kept = 0.0

    def run(self) -> None:
        """Go on with the round that is under way, or begin the next where it is time; return when it is done, or is to end."""
        if not self._task.take():
            return
        try:
            self._state = scrubbed(self._database)
            if not self._state.began:
                if self._clock() < self._state.last_ended + ROUND_SECONDS:
                    return
                self._state = replace(self._state, began=self._clock())
            self._due = self._kept = time.monotonic()
            try:
                self._go_through()
            finally:
                self._task.write_note(json.dumps(asdict(self._state)))
        except _Ended:
            return
        finally:
            self._task.leave()

    def _go_through(self) -> None:
        digests = self._store.digests(self._state.after)
        while batch := list(islice(digests, BLOBS_BATCH)):
            for digest in batch:
                self._read(digest)
                self._state = replace(self._state, after=str(digest))
            self._drop_strays(batch)
        done = self._state
        logger.info(
            "scrub: all %d blobs were read; %d were damaged, %d files were nobody's",
            done.blobs,
            done.damaged,
            done.strays,
        )
        self._state = Scrubbed(last_ended=self._clock(), last_blobs=done.blobs, last_damaged=done.damaged)

    def _read(self, digest: Digest) -> None:
        try:
            _, is_good = verify(self._store, digest, self._pace)
        except BlobNotFound:
            return
        damaged = self._state.damaged
        if not is_good and (aside := set_aside(self._store, digest)):
            damaged += 1
            logger.error(
                "blob %s is damaged: its bytes have another digest and are now %s; look after the disk, and push an image that has the "
                "blob, that heals it (`portside why %s` names the repositories)",
                digest,
                aside,
                digest,
            )
        self._state = replace(self._state, blobs=self._state.blobs + 1, damaged=damaged)

    def _drop_strays(self, digests: Sequence[Digest]) -> None:
        """Remove files of blobs that no row knows. Most batches have none: they are looked for before the guard is taken."""
        names = [str(digest) for digest in digests]
        if self._facts.unknown(names):
            with self._collected.alone():
                strays = self._facts.drop_strays(names, self._collected.discard)
            self._collected.empty_trash()
            self._state = replace(self._state, strays=self._state.strays + len(strays))

    def _pace(self, count: int) -> None:
        """Wait until so many bytes more may be read, and keep the lease. What was not used is not saved up; _Ended."""
        now = time.monotonic()
        self._due = max(self._due, now - 1.0) + count / self._rate
        if self._due > now and self._pause(self._due - now):
            raise _Ended
        if now > self._kept + LEASE / 4:
            self._kept = now
            if not self._task.take():  # this process was stopped for long
                raise _Ended
            self._task.write_note(json.dumps(asdict(self._state)))
