"""A hub, wired: storage, accounts, tokens and the registry on them."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from auth.audit import Trail
from auth.gate import Gate
from cli.chores import Chores
from registry.access import Access
from registry.app import Registry
from registry.origin import Network, Origin
from registry.threads import Disk
from registry.tokens import TokenHandlers
from storage.collector import DEFAULT_POLICY, UPLOAD_LIFETIME, Policy
from storage.database import Database
from storage.file_collecting import FileCollecting
from storage.filesystem import FilesystemBlobStore
from storage.scrub import Scrub
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople

if TYPE_CHECKING:
    from auth.keys import KeyRing
    from auth.tokens import TokenIssuer, TokenVerifier
    from registry.asgi import Application

logger = logging.getLogger("portside.registry")

TOKEN_SECONDS = 300.0
"""How long an access token lives."""
SERVICE = "portside"
"""What tokens are made out to and by, where nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Another issuer whose tokens this registry takes. ``jwks`` is a file or a URL, ``realm`` where clients get such tokens."""

    issuer: str
    jwks: str
    realm: str


class Hub:
    """What a server process runs, and what it has to do now and then (`registry.server.Housekeeping`)."""

    def __init__(
        self,
        registry: Registry,
        store: FilesystemBlobStore,
        people: SQLPeople,
        trail: Trail,
        audit_seconds: float,
        chores: Chores,
        warm: Callable[[], object],
        closers: Sequence[Callable[[], None]],
    ) -> None:
        self.registry = registry
        self._store = store
        self._people = people
        self._trail = trail
        self._audit_seconds = audit_seconds
        self._chores = chores
        self._warm = warm
        self._closers = closers

    def warm(self) -> None:
        """Import, in a thread of its own, what the first log-in needs: the event loop is not to wait for it."""
        threading.Thread(target=self._warm, name="warm").start()

    def start_chores(self) -> None:
        """Collect and scrub in the background from now on."""
        self._chores.start()

    def has_news(self) -> bool:
        """Whether `flush` has something to write."""
        return self._trail.has_waiting()

    def flush(self) -> None:
        """Write the audit records that wait."""
        self._trail.write()

    def tidy(self) -> None:
        """Drop abandoned uploads and audit records that are older than they are kept."""
        dropped = self._store.expire_uploads(UPLOAD_LIFETIME)
        if dropped:
            logger.info("%d uploads that nobody went on with for a day were dropped", dropped)
        self._people.trim_records(time() - self._audit_seconds)

    def close(self) -> None:
        """Write what waits, and end the threads."""
        self._chores.close()
        for close in self._closers:
            close()
        self.flush()


def wire(
    root: Path,
    metadata: SQLMetadata,
    *,
    floor: int | None = None,
    scheme: str = "http",
    external_url: str = "",
    proxies: Sequence[Network] = (),
    service: str = SERVICE,
    audiences: Sequence[str] = (),
    foreign: Foreign | None = None,
    audit_seconds: float = 365 * 86400.0,
    policy: Policy = DEFAULT_POLICY,
    gc_interval: float = 0.0,
    scrub: float = 0.0,
) -> Hub:
    """Build a hub on a root. ``floor`` in bytes; ``gc_interval`` in seconds and ``scrub`` in bytes a second, 0 for never.

    What only accounts need is imported when the first account logs in.
    """
    from auth.authenticator import Authenticator
    from auth.passwords import PasswordPool
    from auth.throttle import Throttle

    people = SQLPeople(metadata.database)
    disk = Disk()
    trail = Trail(people)
    pool = PasswordPool()
    authenticator = Authenticator(people, pool, Throttle())

    @functools.cache
    def keys() -> KeyRing:
        from auth.keys import KeyRing

        return KeyRing(root / "auth" / "keys", TOKEN_SECONDS)

    @functools.cache
    def verifier() -> TokenVerifier:
        from auth.tokens import TokenVerifier

        if foreign is None:
            return TokenVerifier(keys(), service, service)
        from auth.foreign import ForeignIssuer

        return TokenVerifier(keys(), service, service, [ForeignIssuer(foreign.issuer, service, foreign.jwks)])

    @functools.cache
    def issuer() -> TokenIssuer:
        from auth.tokens import TokenIssuer

        return TokenIssuer(keys(), service, TOKEN_SECONDS)

    def api() -> Application:
        from registry.api import administration

        return administration(people, keys, authenticator, trail, disk)

    gate = Gate(people, authenticator, verifier, has_foreign=foreign is not None)
    access = Access(
        gate, Origin(scheme, external_url, proxies), trail, service, foreign.realm if foreign is not None else ""
    )
    tokens = TokenHandlers(gate, authenticator, issuer, keys, people, trail, disk, service, audiences)
    store = FilesystemBlobStore(root, floor=floor)
    registry = Registry(store, metadata, access, tokens, api, disk, policy.window)
    chores = _chores(store, metadata.database, policy, gc_interval, scrub)
    return Hub(registry, store, people, trail, audit_seconds, chores, issuer, (pool.close, gate.close))


def _chores(store: FilesystemBlobStore, database: Database, policy: Policy, interval: float, rate: float) -> Chores:
    """What is done in the background, on files."""
    collected = FileCollecting(store)

    def scrub(pause: Callable[[float], bool]) -> None:
        Scrub(store, collected, database, rate, pause).run()

    return Chores(database, collected, policy, interval, scrub if rate else None)
