"""What a server does in the background: collections now and then, and the scrub. One process of all those of a root at a time."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from cli.place import Stored
from cli.progress import human
from storage.collector import CollectionEnded, Collector, Freed, Policy
from storage.database import Database
from storage.file_collecting import FileCollecting
from storage.scrub import Scrub
from storage.tasks import LEASE, Task, read_note

logger = logging.getLogger("portside.storage")

TASK = "collector"
SCRUB_LOOK = 600.0
"""Seconds between two looks whether a round of the scrub is to be begun, or gone on with where a process left it."""
SHARE = 0.05
"""Of its time, a collector works at most so much: where a collection takes long, the next comes later."""


@dataclass(frozen=True, slots=True)
class LastCollection:
    """When the servers' last collection ended (seconds of the Unix clock, 0 for not yet), and by which policy they collect."""

    ended: float
    policy: Policy


def last_collection(database: Database) -> LastCollection | None:
    """What the servers of a root did last; None where none has collected."""
    note = read_note(database, TASK)
    if not note:
        return None
    values = json.loads(note)
    return LastCollection(values["ended"], Policy(**values["policy"]))


class Chores:
    """The collector and the scrub of one server process, each in a thread of its own.

    ``interval`` in seconds and ``scrub`` in bytes a second, 0 for never.
    """

    def __init__(self, database: Database, stored: Stored, policy: Policy, interval: float, scrub: float) -> None:
        self._database = database
        self._stored = stored
        self._policy = policy
        self._interval = interval
        self._scrub = scrub
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begin. Processes that start together do not work together: each waits for a while of its own."""
        if self._interval > 0:
            self._begin("collector", self._collect_when_due, self._interval / 2)
        if self._scrub > 0 and self._stored.files is not None:
            self._begin("scrub", self._go_on_with_scrub, SCRUB_LOOK)

    def close(self) -> None:
        """End between two steps, and wait for that."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _begin(self, name: str, work: Callable[[], None], every: float) -> None:
        thread = threading.Thread(target=self._repeat, args=(name, work, every), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _repeat(self, name: str, work: Callable[[], None], every: float) -> None:
        pause = every * random.uniform(0.1, 1.0)  # nosec B311: nothing secret
        while not self._ending.wait(pause):
            began = time.monotonic()
            try:
                work()
            except CollectionEnded:
                return
            except Exception as error:
                logger.warning("the %s could not go on, it tries again later: %s", name, error)
            pause = max(every * random.uniform(0.5, 1.5), (time.monotonic() - began) / SHARE)  # nosec B311

    def _collect_when_due(self) -> None:
        """One collection, where none of any process ended within the interval and none is under way."""
        task = Task(self._database, TASK)
        if not self._is_due() or not task.take():
            return
        kept = time.monotonic()

        def keep(what: str, count: int) -> None:
            nonlocal kept
            if time.monotonic() > kept + LEASE / 4:
                kept = time.monotonic()
                task.take()

        try:
            if not self._is_due():  # another was just faster
                return
            last = last_collection(self._database)
            self._write(task, 0.0 if last is None else last.ended)
            collector = Collector(
                self._database, self._stored.collected, self._policy, progress=keep, is_ending=self._ending.is_set
            )
            freed = collector.collect()
            self._write(task, time.time())
        finally:
            task.leave()
        if not freed.is_nothing():
            logger.info("collected: %s", sentence(freed))

    def _is_due(self) -> bool:
        last = last_collection(self._database)
        return last is None or not 0 <= time.time() - last.ended < self._interval

    def _write(self, task: Task, ended: float) -> None:
        task.write_note(json.dumps({"ended": ended, "policy": asdict(self._policy)}))

    def _go_on_with_scrub(self) -> None:
        files = self._stored.files
        assert files is not None, "an object store reads its objects itself"
        Scrub(files, FileCollecting(files), self._database, self._scrub, self._ending.wait).run()


def sentence(freed: Freed) -> str:
    """What a collection did, in a line for a log."""
    parts = [
        (freed.manifests, "untagged manifests"),
        (freed.links, "links that no manifest referred to"),
        (freed.blobs, f"blobs ({human(freed.bytes)}) that no repository held"),
        (freed.strays, "blobs of pushes that were cut"),
        (freed.uploads, "abandoned uploads"),
    ]
    return ", ".join(f"{count} {what}" for count, what in parts if count)
