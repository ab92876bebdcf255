"""Sessions and channels on buffers and real sockets: every byte once and in order, however records and reads fall."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from registry import channels, relaying
from registry.channels import Outcome
from registry.handshakes import Handshakes, TLSConnection
from registry.log import AccessLog
from registry.messages import FileBody
from registry.sending import Senders, SendFailed
from registry.serving import Service
from registry.tls import RECORD_MAX, Session, TLSBroken, TLSChannel, explain, is_whole
from storage.filesystem import FileReader
from tests.secure import Authority, authority
from tests.servers import wait_until

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
SIZE = 3_456_789


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    return ssl.TLSVersion[request.param]


def _server_context(issued: Authority) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 1
    context.load_cert_chain(issued.chain, issued.key)
    return context


class Pair:
    """A session, and a client of it in memory: ``send`` makes the client's records, ``hear`` reads the session's."""

    def __init__(self, issued: Authority, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
        self.session = Session(_server_context(issued))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = issued.context(version).wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        is_done = is_shaken = False
        while not (is_done and is_shaken):
            is_shaken = self._is_shaken()
            self.session.feed(self._outgoing.read())
            is_done = is_done or self.session.handshake()
            self._incoming.write(self.session.take())

    def _is_shaken(self) -> bool:
        try:
            self.client.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def send(self, *messages: bytes) -> bytes:
        for message in messages:
            self.client.write(message)
        return self._outgoing.read()

    def close_notify(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.client.unwrap()
        return self._outgoing.read()

    def hear(self, raw: bytes) -> bytes:
        self._incoming.write(raw)
        got = b""
        while True:
            try:
                part = self.client.read(65536)
            except ssl.SSLWantReadError:
                return got
            if not part:
                return got
            got += part


# -- sessions


@pytest.mark.parametrize("step", [1, 4, 5, 100, 20_000, 1_000_000])
def test_records_may_come_in_any_pieces(issued: Authority, version: ssl.TLSVersion, step: int) -> None:
    pair = Pair(issued, version)
    data = random.Random(step).randbytes(70_000)
    raw = pair.send(data[:1], data[1:300], data[300:40_000], data[40_000:])
    got = b""
    for at in range(0, len(raw), step):
        if pair.session.feed(raw[at : at + step]):
            got += pair.session.read()
            assert len(got) > 0
        assert not pair.session.is_over
    assert got == data


def test_what_is_encrypted_is_what_the_client_reads(issued: Authority, version: ssl.TLSVersion) -> None:
    pair = Pair(issued, version)
    data = random.Random(1).randbytes(300_000)
    assert pair.hear(pair.session.encrypt(data)) == data
    pair.session.close()
    assert pair.session.has_output
    assert pair.hear(pair.session.take()) == b""
    pair.client.unwrap()  # would want to read, had no close_notify come


def test_data_before_the_end_is_read(issued: Authority, version: ssl.TLSVersion) -> None:
    pair = Pair(issued, version)
    pair.session.feed(pair.send(b"last words") + pair.close_notify())
    assert pair.session.read() == b"last words"
    assert pair.session.is_ended
    assert pair.hear(pair.session.encrypt(b"the answer")) == b"the answer"


def test_data_before_a_broken_record_is_read(issued: Authority, version: ssl.TLSVersion) -> None:
    pair = Pair(issued, version)
    good, bad = pair.send(b"good"), bytearray(pair.send(b"never"))
    bad[-1] ^= 1
    pair.session.feed(good + bytes(bad))
    assert pair.session.read() == b"good"
    assert pair.session.failure == "decryption failed or bad record mac"
    assert pair.session.has_output, "the alert"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x16\x03\x01\xff\xff" + bytes(100), "packet length too long"),
        (b"\x99" * 200, "wrong version number"),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", "length too short"),
    ],
    ids=["long", "garbage", "an empty hello"],
)
def test_what_is_no_handshake_is_refused_with_a_reason(issued: Authority, raw: bytes, reason: str) -> None:
    session = Session(_server_context(issued))
    assert session.feed(raw)
    with pytest.raises(TLSBroken) as raised:
        session.handshake()
    assert raised.value.reason == reason


def test_the_reason_of_a_client_that_distrusts_says_what_to_do(issued: Authority) -> None:
    session = Session(_server_context(issued))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    session.feed(outgoing.read())
    assert not session.handshake()
    incoming.write(session.take())
    with pytest.raises(ssl.SSLCertVerificationError):
        client.do_handshake()
    session.feed(outgoing.read())
    with pytest.raises(TLSBroken) as raised:
        session.handshake()
    assert raised.value.reason == "unknown ca"
    assert "portside trust" in explain(raised.value.reason)
    assert explain("no shared cipher") == "no shared cipher"


@pytest.mark.parametrize(
    ("raw", "whole"),
    [
        (b"", False),
        (b"\x16\x03\x01\x00", False),
        (b"\x16\x03\x01\x00\x02\x00", False),
        (b"\x16\x03\x01\x00\x02\x00\x00", True),
        (b"\x16\x03\x01\x00\x02\x00\x00\x16", True),
        (b"\x16\x03\x01\x48\x00", False),
        (b"\x16\x03\x01\x48\x01", True),
        (b"GET / ", True),
        (b"\x16\x03\x01\x00\x00GET / ", True),
    ],
)
def test_a_whole_record(raw: bytes, whole: bool) -> None:
    assert is_whole(raw) is whole


# -- channels


class Line:
    """A channel over a real connection; ``client`` is the other end's socket, for the records of ``pair``."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.client = socket.create_connection(listener.getsockname(), 30)
            server, _ = listener.accept()
        server.setblocking(False)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # a client that does not read is noticed soon
        self.posted: list[bytes] = []
        self.returned = 0
        self.channel = TLSChannel(server, pair.session, self.posted.append, self._take_back)

    def _take_back(self) -> None:
        self.returned += 1

    def send_soon(self, *pieces: bytes) -> threading.Thread:
        """Send from a thread: more than a socket holds."""

        def send() -> None:
            for piece in pieces:
                self.client.sendall(piece)

        thread = threading.Thread(target=send)
        thread.start()
        return thread


@pytest.fixture
def line(issued: Authority) -> Iterator[Line]:
    line = Line(Pair(issued))
    yield line
    line.channel.close()
    line.client.close()


@pytest.mark.parametrize("view_size", [1000, 16384, 100_000, 1 << 20])
@pytest.mark.parametrize("message", [1, 999, 16384, 1 << 20])
def test_a_channel_gives_every_byte_in_order(line: Line, view_size: int, message: int) -> None:
    size = min(SIZE, message * 5000)
    data = random.Random(view_size).randbytes(size)
    raw = line.pair.send(*(data[at : at + message] for at in range(0, size, message)), b"GET /next")
    early, late = 50_001, 50_001 + 20_000
    line.pair.session.feed(raw[:early])  # the loop had it before the channel was opened, not at a record's end
    line.pair.session.feed(raw[early:late])
    sender = line.send_soon(raw[late:])
    view = memoryview(bytearray(view_size))
    got = bytearray()
    while len(got) < size:
        room = min(view_size, size - len(got))
        count, outcome = line.channel.receive_into(view[:room], room)
        assert outcome is None
        assert 0 < count <= room
        got += view[:count]
    sender.join()
    assert got == data
    line.channel.rest()
    left = line.pair.session.read() if line.pair.session.has_input else b""
    while left != b"GET /next":  # of what follows a body, some may still be in the socket
        assert b"GET /next".startswith(left)
        line.pair.session.feed(os.read(line.channel.fileno(), 65536))
        left += line.pair.session.read()
    assert line.posted == []


def test_a_channel_does_not_wait_for_bytes_that_have_come(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing of a body may be shorter than what is missing of its last record."""
    monkeypatch.setattr(channels, "PARK_AFTER_MS", 20_000)
    raw = line.pair.send(b"x" * 16_000)
    line.client.sendall(raw[:15_000])
    set_low_water = channels.set_low_water

    def set_and_send(sock: socket.socket, size: int) -> None:
        set_low_water(sock, size)
        line.client.sendall(raw[15_000:])

    monkeypatch.setattr(channels, "set_low_water", set_and_send)
    began = time.monotonic()
    assert line.channel.receive_into(memoryview(bytearray(16_000)), 16_000) == (16_000, None)
    assert time.monotonic() - began < 10


def test_a_channel_does_not_hold_back_what_it_has(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "PARK_AFTER_MS", 20_000)
    line.client.sendall(line.pair.send(b"hello"))
    began = time.monotonic()
    assert line.channel.receive_into(memoryview(bytearray(100_000)), 100_000) == (5, None)
    assert time.monotonic() - began < 10


def test_a_channel_that_starves_says_so_and_goes_on(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "PARK_AFTER_MS", 20)
    raw = line.pair.send(b"hello")
    view = memoryview(bytearray(100))
    line.client.sendall(raw[:-1])
    assert line.channel.receive_into(view, 100) == (0, Outcome.STARVED)
    line.channel.rest()
    assert line.channel.receive_into(view, 100) == (0, Outcome.STARVED)
    line.client.sendall(raw[-1:])
    wait_until(lambda: line.channel.receive_into(view, 100) == (5, None), "the record is whole")
    assert bytes(view[:5]) == b"hello"


@pytest.mark.parametrize("how", ["close_notify", "end", "broken"])
def test_a_channel_gives_what_came_before_the_end(line: Line, how: str) -> None:
    raw = line.pair.send(b"all there is")
    if how == "close_notify":
        raw += line.pair.close_notify()
    elif how == "broken":
        raw += b"\x17\x03\x03\x00\x20" + bytes(32)
    line.client.sendall(raw)
    if how == "end":
        line.client.shutdown(socket.SHUT_WR)
    view = memoryview(bytearray(1000))
    got = b""
    while True:
        count, outcome = line.channel.receive_into(view, 1000)
        got += view[:count]
        if outcome is not None:
            break
    assert (got, outcome) == (b"all there is", Outcome.GONE)
    assert len(line.posted) == (how == "broken"), "the alert"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(random.Random(3).randbytes(SIZE))
    return path


def _send(line: Line, path: Path, offset: int, length: int, senders: Senders) -> None:
    body = FileBody(FileReader(os.open(path, os.O_RDONLY)), offset, length)
    try:
        asyncio.run(line.channel.send(HEAD, body, senders))
    finally:
        body.reader.close()


class Reader(threading.Thread):
    """Decrypts until so many bytes have come, once it may begin."""

    def __init__(self, line: Line, size: int) -> None:
        super().__init__()
        self._line, self._size = line, size
        self.hash = hashlib.sha256()
        self.may_begin = threading.Event()

    def run(self) -> None:
        self.may_begin.wait(30)
        got = 0
        while got < self._size and (raw := self._line.client.recv(65536)):
            data = self._line.pair.hear(raw)
            self.hash.update(data)
            got += len(data)


@pytest.mark.parametrize(("offset", "length"), [(0, SIZE), (4097, SIZE - 5000), (7, 1), (0, 0)])
def test_a_file_arrives_whole(line: Line, path: Path, offset: int, length: int) -> None:
    senders, reader = Senders(), Reader(line, len(HEAD) + length)
    reader.may_begin.set()
    reader.start()
    _send(line, path, offset, length, senders)
    reader.join()
    assert reader.hash.digest() == hashlib.sha256(HEAD + path.read_bytes()[offset : offset + length]).digest()
    assert senders.active == 0


def test_a_client_that_reads_nothing_holds_no_thread(line: Line, path: Path) -> None:
    senders, reader = Senders(), Reader(line, len(HEAD) + SIZE)

    async def send() -> None:
        body = FileBody(FileReader(os.open(path, os.O_RDONLY)), 0, SIZE)
        sending = asyncio.create_task(line.channel.send(HEAD, body, senders))
        idle = 0
        while idle < 20:  # it parks again and again while the kernel still finds room
            await asyncio.sleep(0.02)
            assert not sending.done()
            idle = 0 if senders.relaying.borrowed_tokens else idle + 1
        reader.may_begin.set()
        await sending
        body.reader.close()

    reader.start()
    asyncio.run(send())
    reader.join()
    assert reader.hash.digest() == hashlib.sha256(HEAD + path.read_bytes()).digest()


def test_downloads_take_turns(issued: Authority, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are fewer threads than downloads, a short one need not wait for a long one's end."""
    monkeypatch.setattr(relaying, "TURN", 64 * 1024)
    lines = [Line(Pair(issued)) for _ in range(2)]
    senders = Senders()
    senders.relaying.total_tokens = 1
    lengths = [SIZE, 100_000]
    readers = [Reader(line, len(HEAD) + length) for line, length in zip(lines, lengths, strict=True)]
    done: list[int] = []

    async def send(number: int) -> None:
        body = FileBody(FileReader(os.open(path, os.O_RDONLY)), 0, lengths[number])
        await lines[number].channel.send(HEAD, body, senders)
        body.reader.close()
        done.append(number)

    async def send_both() -> None:
        await asyncio.gather(send(0), send(1))

    for reader in readers:
        reader.may_begin.set()
        reader.start()
    asyncio.run(send_both())
    for reader, line in zip(readers, lines, strict=True):
        reader.join()
        line.channel.close()
        line.client.close()
    assert done == [1, 0]


def test_a_file_that_ends_early_is_said_so(line: Line, path: Path) -> None:
    reader = Reader(line, len(HEAD) + SIZE)
    reader.may_begin.set()
    reader.start()
    with pytest.raises(SendFailed, match="portside check"):
        _send(line, path, 0, SIZE + 5, Senders())
    reader.join()


def test_a_file_that_cannot_be_read_is_said_so(line: Line, tmp_path: Path) -> None:
    body = FileBody(FileReader(os.open(tmp_path, os.O_RDONLY)), 0, SIZE)
    with pytest.raises(SendFailed, match="cannot be read: Is a directory"):
        asyncio.run(line.channel.send(HEAD, body, Senders()))
    body.reader.close()


def test_a_client_that_goes_away_ends_the_download(line: Line, path: Path) -> None:
    line.client.close()
    senders = Senders()
    with pytest.raises(SendFailed, match="closed the connection"):
        _send(line, path, 0, SIZE, senders)
    assert senders.active == 0


def test_closing_gives_the_session_back_once(issued: Authority) -> None:
    line = Line(Pair(issued))
    line.channel.close()
    assert line.returned == 1
    line.client.close()


def test_nothing_of_a_long_record_is_lost(line: Line) -> None:
    """A header may announce up to `RECORD_MAX`; what announces more is no record."""
    assert RECORD_MAX == 5 + 16384 + 2048
    line.client.sendall(b"\x17\x03\x03" + (RECORD_MAX - 4).to_bytes(2, "big") + b"x")
    view = memoryview(bytearray(100))
    assert line.channel.receive_into(view, 1) == (0, Outcome.GONE)
    assert line.pair.session.failure


# -- connections


def test_a_client_that_asks_and_does_not_listen_is_cut(issued: Authority, tmp_path: Path) -> None:
    """By hand, what `openssl s_client` cannot be made to do: ask to renegotiate without end and read no answer."""

    class Certificates:
        def context(self) -> ssl.SSLContext:
            return _server_context(issued)

        def refresh(self) -> None:
            raise NotImplementedError

    class Connected(TLSConnection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            made.set_result(self)

    async def run() -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Connected(service, handshakes, cast(Config, None), ServerState(), {}, loop), "127.0.0.1", 0
        )
        posted = 0
        with socket.create_connection(server.sockets[0].getsockname(), 30):
            connection = await made
            while not connection._is_closed and posted < 64 << 20:
                connection._post(bytes(1 << 16))
                posted += 1 << 16
                await asyncio.sleep(0)
            assert connection._is_closed
        server.close()
        await server.wait_closed()
        return posted

    with (tmp_path / "log").open("w+") as stream:
        log = AccessLog(stream, False)
        service, handshakes = Service(cast(Any, None), log, 1.0, "https"), Handshakes(Certificates(), log)
        with asyncio.Runner() as runner:
            made: asyncio.Future[TLSConnection] = runner.get_loop().create_future()
            posted = runner.run(run())
        log.write(log.take())
        stream.seek(0)
        assert "the client does not read what it asks for" in stream.read()
    assert posted < 32 << 20, "what the kernel takes, and a little more"
