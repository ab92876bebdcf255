"""A connection that begins with a TLS handshake: the protocol of a raw transport, and the transport of the HTTP connection behind it.

It is SHAKING until the handshake is done, then OPEN, and CLOSED by either side. While it is OPEN the session is the event loop's, but
for the time in which it is lent to a thread: then nothing is read here, and nothing is written but what that thread posts.

Before the first record is whole, a connection costs what it has sent. Handshakes that are not done are bounded in number, bytes and
time: whoever opens a thousand of them pushes out his own.
"""

from __future__ import annotations

import asyncio
import re
import socket
from time import perf_counter
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from oci.errors import ErrorCode
from registry.errors import ClientGone
from registry.log import AccessLog
from registry.messages import Request, Response
from registry.serving import HTTPConnection, Service
from registry.tls import TLS, Session, TLSBroken, TLSChannel, explain, is_whole

HANDSHAKE_TIMEOUT = 10.0
"""Seconds from the connection to the handshake's end."""
HANDSHAKE_MAX = 64 * 1024
"""Bytes that a client may send before its handshake is done."""
HANDSHAKES_MAX = 1000
"""Handshakes that are under way at once; one more ends the oldest."""
UNREAD_MAX = 256 * 1024
"""Bytes that may wait for a client that makes us speak (by asking to renegotiate) and does not listen."""
LINES_MAX = 20
LINES_PER_SECOND = 1.0
"""Lines about refused handshakes: so many at once, and so many in the long run. The others are counted."""

_HANDSHAKE = 22
"""The type of a record that begins a handshake (RFC 8446 section 5.1)."""
_HOST = re.compile(rb"\r\nhost:[ \t]*([A-Za-z0-9._:\[\]-]{1,255})[ \t]*\r\n", re.IGNORECASE)


class Handshakes:
    """What the TLS connections of one process share: the certificates, those that are not open yet, and lines about them."""

    def __init__(self, tls: TLS, log: AccessLog) -> None:
        self.tls = tls
        self._log = log
        self._pending: dict[TLSConnection, None] = {}
        self._lines = float(LINES_MAX)
        self._noted_at = 0.0
        self._unsaid = 0

    def begin(self, connection: TLSConnection) -> None:
        self._pending[connection] = None
        if len(self._pending) > HANDSHAKES_MAX:
            next(iter(self._pending)).give_up("too many handshakes were under way")

    def end(self, connection: TLSConnection) -> None:
        self._pending.pop(connection, None)

    def note(self, client: str, started: float, message: str) -> None:
        """Write a line to the access log, unless there were many; ``started`` by perf_counter."""
        now = perf_counter()
        self._lines = min(self._lines + (now - self._noted_at) * LINES_PER_SECOND, LINES_MAX)
        self._noted_at = now
        if self._lines < 1:
            self._unsaid += 1
            return
        self._lines -= 1
        if self._unsaid:
            message, self._unsaid = f"{message} (and {self._unsaid} more that were not logged)", 0
        request_id = self._log.next_id()
        request = Request(b"-", b"-", [], client=client, keep_alive=False, started=started, request_id=request_id)
        self._log.record(request, Response(400, [], message=message), now)


class TLSConnection(asyncio.Protocol):
    """One client's connection. Constructed by uvicorn's server, with the service and the handshakes bound before."""

    def __init__(
        self,
        service: Service,
        handshakes: Handshakes,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._service = service
        self._handshakes = handshakes
        self._state = server_state
        self._loop = _loop or asyncio.get_running_loop()
        self._arguments = (service, config, server_state, app_state, self._loop)
        self._raw: asyncio.Transport
        self._session: Session | None = None
        self._http: HTTPConnection | None = None
        self._held = b""
        self._received = 0
        self._client = ""
        self._started = perf_counter()
        self._is_closed = False
        self._is_ended = False
        self._is_paused = False
        self._is_lent = False
        self._has_more = False
        self.deadline = 0.0

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._client = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else "local"
        self._state.connections.add(self)  # type: ignore[arg-type]
        self.deadline = self._loop.time() + HANDSHAKE_TIMEOUT
        self._handshakes.begin(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._http is not None:
            self._http.connection_lost(exc)
        elif self._received and not self._is_closed:
            self._note("TLS handshake failed: the client closed the connection")
        self._forget()
        self._is_closed = True
        self._session = self._http = None

    def data_received(self, data: bytes) -> None:
        if self._is_closed or self._is_ended:
            return
        if self._http is None:
            self._shake(data)
        elif cast(Session, self._session).feed(data):
            self._pull()

    def eof_received(self) -> bool:
        if self._http is None:
            return False
        self._end()
        return True  # closed by `close`, when the last answer is written

    def pause_writing(self) -> None:
        if self._http is not None:
            self._http.pause_writing()

    def resume_writing(self) -> None:
        if self._http is not None:
            self._http.resume_writing()

    # -- the handshake; uvicorn's server and its sweep know it by these

    def shutdown(self) -> None:
        self._abandon()

    def expire(self) -> None:
        self.give_up(f"it was not done after {HANDSHAKE_TIMEOUT:.0f} s")

    def give_up(self, reason: str) -> None:
        """End a handshake that leads nowhere."""
        self._note(f"TLS handshake failed: {reason}")
        self._abandon()

    def _shake(self, data: bytes) -> None:
        self._received += len(data)
        if self._session is None:
            self._held += data
            if self._held[:1].isalpha():
                self._answer_plain()
                return
            if self._held[0] == _HANDSHAKE and not is_whole(self._held):
                return
            self._session = Session(self._handshakes.tls.context())
            data, self._held = self._held, b""
        session = self._session
        session.feed(data)
        try:
            is_done = session.handshake()
        except TLSBroken as error:
            self._raw.write(session.take())
            self._note(f"TLS handshake failed: {explain(error.reason)}")
            self._is_closed = True
            self._forget()
            self._raw.close()
            return
        if session.has_output:
            self._raw.write(session.take())
        if is_done:
            self._open(session)
        elif self._received > HANDSHAKE_MAX:
            self.give_up(f"it is longer than {HANDSHAKE_MAX} bytes")

    def _open(self, session: Session) -> None:
        self._forget()
        self._http = HTTPConnection(*self._arguments, open_channel=self._lend)
        self._http.connection_made(cast(asyncio.Transport, self))
        if session.has_input:
            self._pull()

    def _answer_plain(self) -> None:
        """Tell somebody who speaks plain HTTP, in plain HTTP, where he is."""
        found = _HOST.search(self._held)
        host = "" if found is None else found[1].decode("ascii")
        self._forget()
        http = HTTPConnection(*self._arguments)
        http.connection_made(self._raw)
        self._raw.set_protocol(http)
        http.refuse(ErrorCode.REQUEST_INVALID, "this port speaks TLS: use https" + (f"://{host}/" if host else ""))

    def _abandon(self) -> None:
        self._is_closed = True
        self._forget()
        self._raw.abort()

    def _forget(self) -> None:
        """No longer count as a handshake."""
        self._handshakes.end(self)
        self._state.connections.discard(self)

    def _note(self, message: str) -> None:
        self._handshakes.note(self._client, self._started, message)

    # -- what the HTTP connection sees as its transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)

    def write(self, data: bytes) -> None:
        if self._is_closed:
            return
        try:
            self._raw.write(cast(Session, self._session).encrypt(data))
        except TLSBroken as error:
            self._fail(error.reason)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        session = cast(Session, self._session)
        session.close()
        self._raw.write(session.take())
        self._raw.close()

    def abort(self) -> None:
        self._is_closed = True
        self._raw.abort()

    def pause_reading(self) -> None:
        self._is_paused = True
        if not self._is_closed:
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._is_paused = False
        self._read_on()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if not self._is_closed:
            self._raw.set_write_buffer_limits(high, low)

    # -- plain text

    def _pull(self) -> None:
        """Hand on what can be decrypted."""
        if self._is_closed:
            return
        if self._is_paused or self._is_lent:
            self._has_more = True
            return
        session, http = cast(Session, self._session), cast(HTTPConnection, self._http)
        data = session.read()
        if session.has_output:
            self._post(session.take())
        if data:
            http.data_received(data)
        if session.is_ended:
            self._end()
        elif session.failure:
            self._fail(session.failure)

    def _end(self) -> None:
        """The client sends no more, and may still want to hear the answer."""
        if self._is_ended or self._is_closed:
            return
        self._is_ended = True
        if not cast(HTTPConnection, self._http).eof_received():
            self.close()

    def _fail(self, reason: str) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._note(f"TLS failed: {explain(reason)}")
        self._raw.close()

    def _post(self, data: bytes) -> None:
        """Write what reading made us say; the session may be a thread's meanwhile."""
        if self._is_closed:
            return
        if self._raw.get_write_buffer_size() > UNREAD_MAX:
            self._note("TLS failed: the client does not read what it asks for")
            self.abort()
        else:
            self._raw.write(data)

    def _lend(self, sock: socket.socket) -> TLSChannel:
        """A channel for threads, which have the session until it is closed; ClientGone."""
        if self._is_closed:
            sock.close()
            raise ClientGone
        self._is_lent = self._has_more = True
        self._raw.pause_reading()
        session = cast(Session, self._session)
        return TLSChannel(sock, session, self._post_from_thread, self._take_back)

    def _post_from_thread(self, data: bytes) -> None:
        self._loop.call_soon_threadsafe(self._post, data)

    def _take_back(self) -> None:
        self._is_lent = False
        self._read_on()

    def _read_on(self) -> None:
        if self._is_closed or self._is_paused or self._is_lent:
            return
        self._raw.resume_reading()
        if self._has_more:
            self._has_more = False
            self._loop.call_soon(self._pull)  # a thread may have left something that has come long ago
