"""Large bodies on a real socket: whole, whoever reads them and however; lent by sendfile or copied, as `registry.sending` says."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import sending
from registry.messages import FileBody
from registry.sending import Senders, SendFailed, send_file
from storage.filesystem import FileReader

SIZE = 12_345_678
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.fixture
def data() -> bytes:
    return random.Random(3).randbytes(SIZE)


@pytest.fixture
def path(tmp_path: Path, data: bytes) -> Path:
    """A file of the data."""
    path = tmp_path / "blob"
    path.write_bytes(data)
    return path


class Reader(threading.Thread):
    """Reads until the end, and rests for some milliseconds after each 256 KiB."""

    def __init__(self, client: socket.socket, rest_ms: float) -> None:
        super().__init__()
        self.got = bytearray()
        self._client = client
        self._rest = rest_ms / 1000

    def run(self) -> None:
        until = 256 * 1024
        while part := self._client.recv(65536):
            self.got += part
            if len(self.got) >= until:
                until += 256 * 1024
                time.sleep(self._rest)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was copied."""
    sizes: list[int] = []
    copy: Callable[[socket.socket, int, int, int], int] = sending._copy

    def spy(sock: socket.socket, fd: int, offset: int, size: int) -> int:
        sizes.append(sent := copy(sock, fd, offset, size))
        return sent

    monkeypatch.setattr(sending, "_copy", spy)
    return sizes


def _send(pair: tuple[socket.socket, socket.socket], path: Path, offset: int, length: int, senders: Senders) -> None:
    body = FileBody(FileReader(os.open(path, os.O_RDONLY)), offset, length)
    try:
        asyncio.run(send_file(pair[0], HEAD, body, senders))
    finally:
        pair[0].close()
        body.reader.close()


@pytest.mark.parametrize("offset", [0, 4097])
@pytest.mark.parametrize("others", [0, 1])
def test_a_slow_client_gets_every_byte(
    pair: tuple[socket.socket, socket.socket], path: Path, data: bytes, copies: list[int], others: int, offset: int
) -> None:
    senders, reader = Senders(), Reader(pair[1], 5)
    senders.active = others
    reader.start()
    _send(pair, path, offset, SIZE - offset - 1, senders)
    reader.join()
    assert bytes(reader.got) == HEAD + data[offset:-1]
    assert senders.active == others
    if others:
        assert not copies, "where other downloads are under way, the processor is theirs"
    else:
        assert sum(copies) > SIZE // 4, "a lone client that is behind is sent copies"


@pytest.mark.parametrize("others", [0, 1])
def test_a_file_that_ends_early_is_said_so(
    pair: tuple[socket.socket, socket.socket], path: Path, data: bytes, others: int
) -> None:
    senders, reader = Senders(), Reader(pair[1], 5)
    senders.active = others
    reader.start()
    with pytest.raises(SendFailed, match="portside check"):
        _send(pair, path, 0, SIZE + 5, senders)
    reader.join()
    assert bytes(reader.got) == HEAD + data
    assert senders.active == others


def test_a_client_that_goes_away_ends_the_download(pair: tuple[socket.socket, socket.socket], path: Path) -> None:
    senders = Senders()
    pair[1].close()
    with pytest.raises(SendFailed, match="closed the connection"):
        _send(pair, path, 0, SIZE, senders)
    assert senders.active == 0


def test_a_copy_that_is_taken_in_part_counts_that_part(path: Path, data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, path.open("rb") as file:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        sent = sending._copy(ours, file.fileno(), 7, 100_000)
        ours.close()
        got = b""
        while part := theirs.recv(65536):
            got += part
    assert sent % sending.COPY, "the last piece was taken in part"
    assert got == data[7 : 7 + sent]
