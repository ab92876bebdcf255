"""The counter that tells processes on PostgreSQL of changes of people.

The number is a row that every such change raises first, which makes it a lock too: one change at a time, of whatever process, and what it
reads is what it writes over. It is felt at once by the process that makes it and within two seconds by all others, each of which looks
once a second; one that could not look for four keeps nothing until it can.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from storage.errors import StorageError

PAUSE = 1.0
"""Seconds between two looks."""
TRUSTED = 4.0
"""Seconds that a number is taken for true."""
RAISE = (
    "INSERT INTO counters (name, number) VALUES ('people', 1)"
    " ON CONFLICT (name) DO UPDATE SET number = counters.number + 1 RETURNING number"
)
ASK = "SELECT number FROM counters WHERE name = 'people'"
_UNKNOWN = 1


class PeopleCounter:
    """A `storage.database.Counter`. ``ask`` reads the number in the database; the thread that calls it begins with the first `read`."""

    def __init__(self, ask: Callable[[], int]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._known = (_UNKNOWN, 0.0)
        """What `read` says, and when it was so."""
        self._writes = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def read(self) -> int:
        """The number, odd where it is not known; a fraction of a microsecond."""
        if self._thread is None:
            self._start()
        number, at = self._known
        return number if monotonic() - at < TRUSTED else _UNKNOWN

    def wrote(self, number: int, at: float) -> None:
        """A change of this process has raised it, and was not made before ``at``."""
        with self._lock:
            self._writes += 1
            self._known = (2 * number, at)

    def forget(self) -> None:
        """It is not known whether a change of this process was made."""
        with self._lock:
            self._writes += 1
            self._known = (_UNKNOWN, 0.0)

    def look(self) -> None:
        """Read the number in the database. What was read while this process wrote may be old, and is not taken."""
        began, writes = monotonic(), self._writes
        try:
            number = self._ask()
        except StorageError:
            return
        with self._lock:
            if writes == self._writes:
                self._known = (2 * number, began)

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._ended.is_set():
                self._thread = threading.Thread(target=self._run, name="people", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            self.look()
            self._ended.wait(PAUSE)
