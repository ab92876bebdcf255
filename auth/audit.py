"""The part of the audit trail that is no change of facts: log-ins, tokens, denials.

Changes write their record in their own transaction. These are many and nobody waits for them: they are gathered and written a few times a
second; a crash can lose the last tenth of a second of them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from time import time
from typing import Protocol

from auth.names import hide_secrets
from storage.people import Actor, AuditRecord, Credential

logger = logging.getLogger("portside.auth")

WAITING_MAX = 20_000
"""Records that wait to be written; what comes then is counted, and the count is recorded."""
BATCH = 1000


USE_SECONDS = 60.0
"""How exact the time is at which a credential was last used."""


class Records(Protocol):
    """Where they go."""

    def add_records(self, records: Sequence[AuditRecord]) -> None: ...
    def note_use(self, credential_id: int, at: float) -> None: ...


class Trail:
    """Gathers records, of any thread. `note` never waits for a disk; `write` is called from one thread at a time, now and then."""

    def __init__(self, records: Records, clock: Callable[[], float] = time) -> None:
        self._records = records
        self._clock = clock
        self._lock = threading.Lock()
        """Held for what follows, never while something is written."""
        self._waiting: list[AuditRecord] = []
        self._dropped = 0
        self._uses: dict[int, float] = {}
        self._used: dict[int, float] = {}

    def note(self, kind: str, by: Actor, subject: str, is_success: bool, detail: str = "") -> None:
        """One thing that happened."""
        who, what, more = (hide_secrets(text) for text in (by.who, subject, detail))
        record = AuditRecord(0, self._clock(), kind, who, by.address, by.request_id, what, is_success, more)
        with self._lock:
            if len(self._waiting) >= WAITING_MAX:
                self._dropped += 1
            else:
                self._waiting.append(record)

    def note_use(self, credential: Credential) -> None:
        """A credential was shown, and was good."""
        now = self._clock()
        with self._lock:
            if now - self._used.get(credential.id, 0.0) >= USE_SECONDS:
                if len(self._used) >= WAITING_MAX:
                    self._used.clear()
                self._used[credential.id] = self._uses[credential.id] = now

    def has_waiting(self) -> bool:
        return bool(self._waiting or self._uses)

    def write(self) -> None:
        """Store what waits. What cannot be stored (a full disk) waits on."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            uses, self._uses = self._uses, {}
            dropped, self._dropped = self._dropped, 0
        if dropped:
            detail = f"{dropped} records came faster than they could be written and were dropped"
            waiting.append(AuditRecord(0, self._clock(), "denied", "", "", "", "audit", False, detail))
        try:
            while waiting:
                self._records.add_records(waiting[:BATCH])
                waiting = waiting[BATCH:]
            for credential_id, at in uses.items():
                self._records.note_use(credential_id, at)
        except Exception as error:
            logger.warning("%d audit records cannot be written now and wait: %s", len(waiting), error)
            with self._lock:
                self._waiting = (waiting + self._waiting)[:WAITING_MAX]
