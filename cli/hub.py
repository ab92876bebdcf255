"""A hub, wired: storage, accounts, tokens and the registry on them."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import time
from typing import TYPE_CHECKING

from auth.audit import Trail
from auth.gate import Gate
from cli.chores import Chores
from cli.options import Failure
from cli.place import Place, Stored
from registry.access import Access
from registry.app import Registry
from registry.blobs import Elsewhere
from registry.origin import Network, Origin
from registry.threads import Disk, Lookups
from registry.tokens import TokenHandlers
from storage.collector import DEFAULT_POLICY, UPLOAD_LIFETIME, Collected, Policy
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople

if TYPE_CHECKING:
    from auth.keys import KeyRing
    from auth.tokens import TokenIssuer, TokenVerifier
    from registry.asgi import Application
    from storage.database import Database

logger = logging.getLogger("portside.registry")

REDIRECT_SECONDS = 1200
"""How long a client may begin to read at an object store what it was sent there for."""
LOOK_UPS = 40
"""Look-ups at once in a database, or a store, that is not in this process."""
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
        store: Collected,
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
    place: Place,
    database: Database,
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
    s3_redirect: bool = False,
) -> Hub:
    """Build a hub at its place. ``floor`` in bytes; ``gc_interval`` in seconds and ``scrub`` in bytes a second, 0 for never.

    What only accounts need is imported when the first account logs in.
    """
    from auth.authenticator import Authenticator
    from auth.passwords import PasswordPool
    from auth.throttle import Throttle

    metadata, people = SQLMetadata(database), SQLPeople(database)
    disk, lookups = Disk(), Lookups(LOOK_UPS if place.is_remote else 0)
    trail = Trail(people)
    pool = PasswordPool()
    authenticator = Authenticator(people, pool, Throttle())

    @functools.cache
    def keys() -> KeyRing:
        from auth.keys import KeyRing

        return KeyRing(place.key_source(database), TOKEN_SECONDS)

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
    tokens = TokenHandlers(gate, authenticator, issuer, keys, people, trail, disk, lookups, service, audiences)
    stored = place.open_store(database, floor)
    elsewhere = _elsewhere(stored) if s3_redirect else None
    registry = Registry(stored.blobs, metadata, access, tokens, api, disk, lookups, policy.window, elsewhere)
    chores = Chores(database, stored, policy, gc_interval, scrub)
    closers = (pool.close, gate.close, stored.close)
    return Hub(registry, stored.collected, people, trail, audit_seconds, chores, issuer, closers)


def _elsewhere(stored: Stored) -> Elsewhere:
    """Where clients get large blobs from the object store itself; Failure."""
    objects = stored.objects
    if objects is None:
        raise Failure("--s3-redirect goes with --store s3://BUCKET", 2)
    return lambda digest: objects.url(digest, REDIRECT_SECONDS, "application/octet-stream")
