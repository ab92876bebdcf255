"""What the tests themselves stand on: a missing program is an error, a cut is a cut, a server that complained is seen."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest

from tests.clients.cutting import cutting
from tests.servers import ServerError, portside, run
from tests.tools import MissingToolError, tool


def test_a_missing_program_is_named() -> None:
    with pytest.raises(MissingToolError, match="no-such-program is not on this machine"):
        tool("no-such-program")


def test_a_go_tool_that_is_not_built_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PORTSIDE_TOOLS", raising=False)
    with pytest.raises(MissingToolError, match=r"python3 scripts/gotools\.py crane"):
        tool.__wrapped__("crane")


def test_what_a_failed_command_said_is_shown() -> None:
    with pytest.raises(ServerError, match=r"(?s)ended with 3.*to stderr"):
        run(["/bin/sh", "-c", "echo to stderr >&2; exit 3"])


def test_a_command_that_hangs_is_ended() -> None:
    with pytest.raises(ServerError, match="took more than"):
        run(["/bin/sh", "-c", "sleep 60 & wait"], seconds=0.2)


def test_a_traceback_in_the_log_is_an_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(ServerError, match="a traceback in the server's log"), portside(tmp_path / "root", log=log):
        log.write_text("Traceback (most recent call last):\n")


@pytest.mark.parametrize("is_reset", [True, False])
def test_a_cut_is_a_cut(is_reset: bool) -> None:
    """An echo server behind the proxy: the first connection breaks past the mark, the second one lives."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo() -> None:
            for _ in range(2):
                peer, _ = listener.accept()
                with peer, contextlib.suppress(OSError):
                    while data := peer.recv(65536):
                        peer.sendall(data)

        thread = threading.Thread(target=echo)
        thread.start()
        with cutting(f"127.0.0.1:{listener.getsockname()[1]}", "down", 100_000, is_reset=is_reset) as proxy:
            got = [talk(proxy.address, bytes(300_000)) for _ in range(2)]
        thread.join(30)
    assert proxy.cuts == 1
    assert got[0] <= 100_000
    assert got[1] == 300_000


def talk(address: str, data: bytes) -> int:
    """Send, and count what comes back until the other side ends or resets."""
    host, _, port = address.rpartition(":")
    count = 0
    with socket.create_connection((host, int(port)), timeout=30) as sock, contextlib.suppress(ConnectionError):
        for start in range(0, len(data), 10_000):
            sock.sendall(data[start : start + 10_000])
            while count < min(start + 10_000, len(data)):
                received = sock.recv(65536)
                if not received:
                    return count
                count += len(received)
    return count
