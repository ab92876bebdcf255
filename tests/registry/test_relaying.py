"""Bodies that are no files, on a real socket. (Over TLS: tests/registry/test_tls.py, whose files pass through the same.)"""

from __future__ import annotations

import asyncio
import random
import socket
import threading

import pytest

from registry.channels import PlainChannel
from registry.messages import StreamBody
from registry.sending import Senders, SendFailed
from storage.errors import StorageError

SIZE = 5_000_003
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
DATA = random.Random(5).randbytes(SIZE)


class Pieces:
    """A stream that gives what it likes at a time, and may break."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.offset = 0
        self.ends_at = SIZE
        self._breaks_at = breaks_at
        self._sizes = random.Random(7)

    def readinto(self, buffer: memoryview, /) -> int:
        if self._breaks_at is not None and self.offset >= self._breaks_at:
            raise StorageError("the service is down")
        size = min(len(buffer), self._sizes.randrange(1, 200_000), self.ends_at - self.offset)
        buffer[:size] = DATA[self.offset : self.offset + size]
        self.offset += size
        return size

    def close(self) -> None:
        pass


class Reader(threading.Thread):
    """Reads until the end, once it may begin."""

    def __init__(self, client: socket.socket) -> None:
        super().__init__()
        self.got = bytearray()
        self.may_begin = threading.Event()
        self._client = client

    def run(self) -> None:
        self.may_begin.wait(30)
        while part := self._client.recv(65536):
            self.got += part


def send(pair: tuple[socket.socket, socket.socket], pieces: Pieces, senders: Senders) -> None:
    try:
        asyncio.run(PlainChannel(pair[0]).send(HEAD, StreamBody(pieces, SIZE), senders))
    finally:
        pair[0].close()


@pytest.mark.parametrize("others", [0, 1])
def test_a_stream_arrives_whole(pair: tuple[socket.socket, socket.socket], others: int) -> None:
    senders, reader = Senders(), Reader(pair[1])
    senders.active = others
    reader.may_begin.set()
    reader.start()
    send(pair, Pieces(), senders)
    reader.join()
    assert bytes(reader.got) == HEAD + DATA
    assert senders.active == others


def test_a_client_that_reads_late_holds_no_thread_and_loses_nothing(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    senders, reader, pieces = Senders(), Reader(pair[1]), Pieces()
    reader.start()

    async def sending() -> None:
        task = asyncio.create_task(PlainChannel(pair[0]).send(HEAD, StreamBody(pieces, SIZE), senders))
        while not pieces.offset or senders.relaying.borrowed_tokens:  # noqa: ASYNC110 - the thread has to come and go
            await asyncio.sleep(0.01)
        assert 0 < pieces.offset < SIZE
        reader.may_begin.set()
        await task
        pair[0].close()

    asyncio.run(sending())
    reader.join()
    assert bytes(reader.got) == HEAD + DATA


def test_what_cannot_be_read_on_ends_the_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    senders, reader = Senders(), Reader(pair[1])
    reader.may_begin.set()
    reader.start()
    with pytest.raises(SendFailed, match="the service is down"):
        send(pair, Pieces(breaks_at=1_000_000), senders)
    reader.join()
    assert HEAD + DATA[:1_000_000] == bytes(reader.got)[: len(HEAD) + 1_000_000]
    assert len(reader.got) < len(HEAD) + SIZE
    assert senders.active == 0


def test_a_stream_that_ends_early_is_said_so(pair: tuple[socket.socket, socket.socket]) -> None:
    pieces, reader = Pieces(), Reader(pair[1])
    pieces.ends_at = 777
    reader.may_begin.set()
    reader.start()
    with pytest.raises(SendFailed, match="portside check"):
        send(pair, pieces, Senders())
    reader.join()


def test_a_client_that_goes_away_ends_it(pair: tuple[socket.socket, socket.socket]) -> None:
    senders = Senders()
    pair[1].close()
    with pytest.raises(SendFailed, match="closed the connection"):
        send(pair, Pieces(), senders)
    assert senders.active == 0
