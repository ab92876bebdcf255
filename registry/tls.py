"""TLS of one connection (RFC 8446, RFC 5246): records to plain text and back by OpenSSL, on buffers in memory.

Not uvloop's own TLS: that cannot hand its state to a thread, and large bodies belong to a thread that owns the socket. A `Session` is
used by one thread at a time, the event loop's or the one that a `TLSChannel` was lent to.

A session gives OpenSSL whole records only. So OpenSSL never stops in the middle of one, nothing but a record's plain text has to be
looked for when the session changes hands, and its buffers stay as small as a record is.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from registry.channels import Outcome, receive, set_low_water
from registry.messages import LargeBody
from registry.relaying import relay
from registry.sending import Senders, SendFailed

HEADER = 5
"""Bytes before a record's own: type, version, length."""
RECORD_MAX = HEADER + 16384 + 2048
"""The longest record that any version allows, in bytes (RFC 5246 section 6.2.3)."""
PLAIN_MAX = 16384
RECEIVED_MAX = 256 * 1024
"""What is received at a time into a large body, in bytes."""
_DISTRUST = frozenset(
    {"unknown ca", "bad certificate", "certificate unknown", "certificate expired", "unsupported certificate"}
)


class TLS(Protocol):
    """Where certificates come from."""

    def context(self) -> ssl.SSLContext:
        """For the next handshake: at least TLS 1.2, ALPN http/1.1, no renegotiation. On the event loop, so from memory."""
        ...

    def refresh(self) -> None:
        """Called once a second, in a thread: files may have changed. Raises nothing."""
        ...


class TLSBroken(Exception):
    """The other side does not speak TLS as it should, or refuses to go on; ``reason`` in OpenSSL's or the alert's words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Session:
    """One connection's TLS, the server's side. Raw bytes go in by `feed`, and what has to be sent comes out of `take`.

    ``is_ended``: the client said that nothing follows (close_notify). ``failure``: why nothing more can be read, "" while it can.
    """

    __slots__ = ("_incoming", "_outgoing", "_ssl", "_tail", "failure", "is_ended")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._tail = b""
        self.is_ended = False
        self.failure = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be read."""
        return self.is_ended or bool(self.failure)

    @property
    def has_output(self) -> bool:
        return self._outgoing.pending > 0

    @property
    def has_input(self) -> bool:
        """Whether a whole record is there, or a part of one that was read in part."""
        return self._incoming.pending > 0 or self._ssl.pending() > 0

    def handshake(self) -> bool:
        """Go on with the handshake; whether it is done. TLSBroken, and `take` then has the alert that says so."""
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise TLSBroken(_reason(error)) from None
        return True

    def feed(self, raw: bytes) -> bool:
        """Take what came; whether there are whole records among it."""
        if self._tail:
            raw = self._tail + raw
        end = _whole(raw, 0, len(raw))
        if end == len(raw):
            self._tail = b""
            self._incoming.write(raw)
        else:
            self._tail = raw[end:]
            self._incoming.write(raw[:end])
        return end > 0

    def read(self) -> bytes:
        """All the plain text that is there."""
        parts: list[bytes] = []
        try:
            while not self.is_over:
                parts.append(self._ssl.read(PLAIN_MAX))
                self.is_ended = not parts[-1]
                if not self._incoming.pending:
                    break
        except ssl.SSLWantReadError:  # the last record was no data
            pass
        except ssl.SSLError as error:
            self.failure = _reason(error)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_into(self, view: memoryview) -> int:
        """As much of the plain text that is there as ``view`` takes; how many bytes."""
        got = 0
        while got < len(view) and self.has_input and not self.is_over:
            got += self._read_record(view[got:])
        return got

    def decrypt_into(self, raw: memoryview, r: int, e: int, view: memoryview, got: int) -> tuple[int, int]:
        """Decrypt the whole records of the raw bytes r..e into ``view`` from ``got`` on, until that is full.

        The ends of the plain text and of what was decrypted. Where a record was read in part, `read_into` gives the rest of it.
        """
        size = len(view)
        while got < size and e - r >= HEADER:
            end = r + HEADER + (raw[r + 3] << 8 | raw[r + 4])
            if end > e:
                if _may_be_record(raw, r, end - r):
                    break
                end = e
            self._incoming.write(raw[r:end])
            r = end
            got += self._read_record(view[got:])
            if self.is_ended or self.failure:
                break
        return got, r

    def take_tail(self) -> bytes:
        """Hand out the beginning of a record that is not whole yet."""
        tail, self._tail = self._tail, b""
        return tail

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """The records of some plain text, after all that had to be sent before; TLSBroken."""
        self.write(data)
        return self._outgoing.read()

    def write(self, data: bytes | memoryview) -> None:
        """Encrypt some plain text, for `take`; TLSBroken."""
        try:
            self._ssl.write(data)
        except ssl.SSLError as error:
            raise TLSBroken(_reason(error)) from None

    def take(self) -> bytes:
        """What has to be sent."""
        return self._outgoing.read()

    def close(self) -> None:
        """Say that nothing follows (close_notify), for `take`."""
        with contextlib.suppress(ssl.SSLError):  # the client's own is not waited for
            self._ssl.unwrap()

    def _read_record(self, view: memoryview) -> int:
        try:
            count = self._ssl.read(len(view), view)
        except ssl.SSLWantReadError:  # a record without data, for instance a new key
            return 0
        except ssl.SSLError as error:
            self.failure = _reason(error)
            return 0
        assert isinstance(count, int)
        self.is_ended = not count
        return count


class TLSChannel:
    """A session and a duplicate of its connection's socket, lent to threads. See `registry.channels.Channel`.

    ``post`` takes what reading makes us say (an alert) from any thread to the connection's own transport.
    ``give_back`` is called on the event loop when the channel is closed.
    """

    def __init__(
        self, sock: socket.socket, session: Session, post: Callable[[bytes], None], give_back: Callable[[], None]
    ) -> None:
        self._sock = sock
        self._session = session
        self._post = post
        self._give_back = give_back
        self._raw: memoryview | None = None
        self._r = self._e = 0

    def fileno(self) -> int:
        return self._sock.fileno()

    def receive_into(self, view: memoryview, certain: int) -> tuple[int, Outcome | None]:
        session = self._session
        if self._raw is None:
            tail = session.take_tail()
            self._raw = memoryview(bytearray(RECEIVED_MAX + RECORD_MAX))
            self._raw[: len(tail)] = tail
            self._r, self._e = 0, len(tail)
        raw = self._raw
        got = session.read_into(view)
        outcome: Outcome | None = None
        while True:
            got, self._r = session.decrypt_into(raw, self._r, self._e, view, got)
            if got == len(view) or session.is_over:
                break
            tail_size = self._e - self._r
            raw[:tail_size] = raw[self._r : self._e]
            # Of what is certain to follow, so much may have come already, in a record that is not whole.
            certain_raw = 0 if got else max(certain - RECORD_MAX, 1)
            received, outcome = receive(self._sock, raw[tail_size : tail_size + RECEIVED_MAX], certain_raw)
            self._r, self._e = 0, tail_size + received
            if outcome is not None:
                break
        if session.has_output:
            self._post(session.take())
        return (got, None) if got else (0, outcome or Outcome.GONE)

    def rest(self) -> None:
        set_low_water(self._sock, 1)
        if self._raw is not None:
            self._session.feed(bytes(self._raw[self._r : self._e]))
            self._raw = None

    async def send(self, head: bytes, body: LargeBody, senders: Senders) -> None:
        try:
            await relay(self._sock, _Records(self._session), head, body, senders)
        except TLSBroken as error:
            raise SendFailed(f"TLS failed: {error}") from error

    def close(self) -> None:
        self._sock.close()
        self._give_back()


class _Records:
    """What is sent becomes records (`registry.relaying.Seal`)."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def begin(self, head: bytes, is_all: bool) -> bytes:
        self._session.write(head)
        return self._session.take() if is_all else b""

    def seal(self, data: memoryview) -> bytes:
        return self._session.encrypt(data)


def explain(reason: str) -> str:
    """A reason of `TLSBroken`, with what to do about it where that is known."""
    if reason in _DISTRUST:
        return f"{reason} (the client does not trust this server's certificate: see `portside trust`)"
    return reason


def is_whole(raw: bytes) -> bool:
    """Whether the first record is there; true also of what cannot become one."""
    return _whole(raw, 0, len(raw)) > 0


def _whole(raw: bytes, r: int, e: int) -> int:
    """Where the last whole record ends. What cannot be a record counts as whole: OpenSSL will say what is wrong with it."""
    while e - r >= HEADER:
        size = HEADER + (raw[r + 3] << 8 | raw[r + 4])
        if r + size > e:
            return r if _may_be_record(raw, r, size) else e
        r += size
    return r


def _may_be_record(raw: bytes | memoryview, r: int, size: int) -> bool:
    """Whether something that is not whole may become a record: each version's major number is 3."""
    return size <= RECORD_MAX and raw[r + 1] == 3


def _reason(error: ssl.SSLError) -> str:
    """OpenSSL's words for what went wrong; of an alert that the client sent, the alert's."""
    text = error.reason or "protocol error"
    for prefix in ("TLSV1_ALERT_", "TLSV13_ALERT_", "SSLV3_ALERT_"):
        text = text.removeprefix(prefix)
    return text.replace("_", " ").lower()
