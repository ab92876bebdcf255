"""The connections to a PostgreSQL database: opened when they are needed, at most so many, the one that was used last is used next.

What a connection has prepared is prepared for it alone, so a few busy connections serve better than many. A connection that failed, or was
left in the middle of something, is closed and never used again. Whoever finds no server is told at once, and a server that takes long to
refuse is left alone for a while: look-ups run on an event loop, which must not wait for a machine that is gone.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterator
from time import monotonic
from typing import Any

import psycopg
from psycopg import RawCursor
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper
from psycopg.types.string import StrDumperUnknown

from storage.database import storable
from storage.errors import DatabaseUnavailable, StoreUnusable

logger = logging.getLogger("portside.storage")

SESSIONS = 16
"""Connections of one process."""
SESSION_WAIT = 5.0
"""Seconds that are waited for one of them."""
REST = 10
REST_MAX = 5.0
"""After a server was not reached: how many times as long as that took it is not tried again, and how many seconds at most."""
LOG_PAUSE = 10.0
"""Seconds between two lines of the log that say that the server is not reached."""
SCHEMES = ("postgresql", "postgresql+psycopg", "postgres")

_DEFAULTS = {
    "connect_timeout": "3",
    "fallback_application_name": "portside",
    "target_session_attrs": "read-write",  # of several hosts the one that can be written to, also after a failover
    "keepalives_idle": "30",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",  # a machine that vanished is noticed in seconds, not in a quarter of an hour
}
_SETTINGS = "-c statement_timeout=10000 -c idle_in_transaction_session_timeout=30000 -c jit=off -c enable_seqscan=off"
"""Milliseconds. Each look-up has its index, and a plan that was made while a table was small goes on to be used."""


class _TextDumper(StrDumperUnknown):
    """Text as PostgreSQL can store it: what it cannot is looked for as it would have been stored."""

    def dump(self, obj: str) -> bytes:
        return storable(obj).encode()


class Session:
    """A connection and the cursor that is used again and again on it, which halves what a look-up costs."""

    __slots__ = ("connection", "cursor")

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.cursor = connection.cursor(binary=True)

    def is_idle(self) -> bool:
        """Whether it is well and in no transaction."""
        return self.connection.pgconn.transaction_status == TransactionStatus.IDLE


class Sessions:
    """The connections of one process to one database. Safe for threads.

    ``where``: the database's name and host, for messages; what else the URL says, the password too, is in none. A pooler in between has to
    give each connection a session of its own: it has settings, and statements that were prepared.
    """

    def __init__(self, url: str) -> None:
        """Nothing is opened yet. StoreUnusable for a URL that is none."""
        told = connection_settings(url)
        self.where = f"{told.get('dbname') or told.get('user') or ''} on {told.get('host') or 'this machine'}"
        told["options"] = f"{_SETTINGS} {told.get('options') or ''}".strip()
        self._conninfo = make_conninfo("", **_DEFAULTS | told)
        self._idle: deque[Session] = deque()
        self._free = threading.BoundedSemaphore(SESSIONS)
        self._is_closed = False
        self._rest_until = 0.0
        self._said_at: float | None = None
        """When the log was told last that the server is not reached; None before it ever was: whoever opens it says so."""
        self._cause = ""

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A connection that no other thread uses now. DatabaseUnavailable."""
        if not self._free.acquire(timeout=SESSION_WAIT):
            raise DatabaseUnavailable(f"all {SESSIONS} connections are in use", SESSION_WAIT)
        try:
            session = self._borrow()
            try:
                yield session
            finally:
                self._give_back(session)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close what is idle now, and the others when they are given back."""
        self._is_closed = True
        self._close_idle()

    def _borrow(self) -> Session:
        try:
            return self._idle.pop()
        except IndexError:
            return Session(self._connect())

    def _give_back(self, session: Session) -> None:
        if session.is_idle() and not self._is_closed:
            self._idle.append(session)
            return
        was_lost = session.connection.broken
        session.connection.close()
        if was_lost:
            self._close_idle()  # whatever ended it has most likely ended them too

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().connection.close()

    def _connect(self) -> psycopg.Connection[Any]:
        began = monotonic()
        if began < self._rest_until:
            raise DatabaseUnavailable(self._cause, 0.0)
        try:
            connection = psycopg.connect(
                self._conninfo, autocommit=True, prepare_threshold=0, cursor_factory=RawCursor[Any]
            )
        except psycopg.OperationalError as error:
            now = monotonic()
            self._cause = said(error)
            self._rest_until = now + min(REST * (now - began), REST_MAX)
            if self._said_at is not None and now > self._said_at + LOG_PAUSE:
                self._said_at = now
                logger.warning("the database %s is not reached: %s", self.where, self._cause)
            raise DatabaseUnavailable(self._cause, now - began) from error
        if self._said_at is None:
            self._said_at = began - LOG_PAUSE
        connection.adapters.register_dumper(str, _TextDumper)
        connection.adapters.register_dumper(int, Int8Dumper)  # one statement is prepared for all sizes of numbers
        return connection


def said(error: psycopg.Error) -> str:
    """An error's words, on one line."""
    return " ".join(str(error).split())


def connection_settings(url: str) -> dict[str, Any]:
    """What a URL says, by the names of libpq. StoreUnusable, without a word of the URL: a part of the password may be anywhere in it."""
    scheme, mark, rest = url.partition("://")
    told: dict[str, Any] = {}
    with contextlib.suppress(psycopg.ProgrammingError):
        told = {name: value for name, value in conninfo_to_dict(f"postgresql://{rest}").items() if value is not None}
    words = f"{told.get('host')} {told.get('dbname')}"  # an @ here comes out of a password with a / or an @ in it
    is_port = str(told.get("port", 0)).replace(",", "").isdecimal()
    if not mark or scheme not in SCHEMES or not told or "@" in words or not is_port:
        raise StoreUnusable(
            "the database's URL cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "with % and two hexadecimal digits for what is special in the password"
        )
    return told
