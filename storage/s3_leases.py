"""Who has an upload, kept true: the leases of a process, prolonged by one thread while there are any.

A lease that could not be prolonged in time is lost, here a little earlier than in the database: whoever has it stops before another begins.
"""

from __future__ import annotations

import logging
import threading
import time

from storage.sql_uploads import LEASE, SQLUploads, Taken

logger = logging.getLogger("portside.storage")

RENEWAL = 0.3
"""Of a lease, after which it is prolonged."""
MARGIN = 0.2
"""Of a lease, before its end in the database, at which it counts as lost here."""


class Lease:
    """One upload's lease. ``is_held`` costs nothing to ask."""

    def __init__(self, leases: Leases, taken: Taken, since: float) -> None:
        self.taken = taken
        self._leases = leases
        self.until = since + (1 - MARGIN) * LEASE

    @property
    def is_held(self) -> bool:
        return time.monotonic() < self.until

    def end(self) -> None:
        """No longer prolonged; may be called twice."""
        self._leases.forget(self)


class Leases:
    """All of a process."""

    def __init__(self, facts: SQLUploads) -> None:
        self._facts = facts
        self._held: list[Lease] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self, taken: Taken, since: float) -> Lease:
        """Prolong the lease of an upload that was taken up not before ``since`` (of `time.monotonic`)."""
        lease = Lease(self, taken, since)
        with self._lock:
            self._held.append(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="upload-leases", daemon=True)
                self._thread.start()
        return lease

    def forget(self, lease: Lease) -> None:
        """See `Lease.end`."""
        with self._lock:
            if lease in self._held:
                self._held.remove(lease)

    def close(self) -> None:
        """Prolong nothing any more."""
        self._closing.set()

    def _run(self) -> None:
        """Until no upload has been open for the time of a lease."""
        idle_since = time.monotonic()
        while not self._closing.wait(RENEWAL * LEASE):
            with self._lock:
                now = time.monotonic()
                if self._held:
                    idle_since = now
                elif now - idle_since > LEASE:
                    self._thread = None
                    return
                due = [lease for lease in self._held if lease.is_held]
            if due:
                self._renew(due, now)

    def _renew(self, due: list[Lease], now: float) -> None:
        try:
            kept = self._facts.renew([(lease.taken.id, lease.taken.holder) for lease in due])
        except (
            Exception
        ) as error:  # of whatever database: it is tried again, and what cannot be prolonged ends by itself
            logger.warning("the leases of %d uploads could not be prolonged: %s", len(due), error)
            return
        for lease, is_kept in zip(due, kept, strict=True):
            lease.until = now + (1 - MARGIN) * LEASE if is_kept else 0.0
