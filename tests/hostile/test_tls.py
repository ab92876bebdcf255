"""Hostile TLS clients: cut within bounds of time and memory, a line for a few of them, and nobody else notices."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.handshakes import HANDSHAKE_MAX, HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, LINES_MAX
from tests.secure import Records, SecureServer, secure_portside
from tests.servers import wait_until
from tests.tools import tool
from tests.wire.client import head
from tests.wire.content import blob, digest_of, push_blob

MIB = 1024 * 1024
SLACK = 15.0
"""Seconds beyond a limit that a busy machine may take."""
HALF_OPEN_BYTES = 100_000
"""Memory that a handshake under way may cost."""

PARTIAL_BYTES = 10_000
"""And one whose first record is not whole."""

_MORE = re.compile(r"\(and ([0-9]+) more that were not logged\)")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServer]:
    with secure_portside(tmp_path_factory.mktemp("tls")) as server:
        yield server


def _dial(server: SecureServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 30)


def _is_cut(sock: socket.socket) -> bool:
    """Whether the server has ended a connection; what it had said before is dropped."""
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def _await_cut(sock: socket.socket, seconds: float = SLACK) -> None:
    wait_until(lambda: _is_cut(sock), "the server ends the connection", seconds)


def _serves(server: SecureServer) -> None:
    with server.connect() as connection:
        assert connection.request("GET", "/v2/").status == 200


def _descriptors(server: SecureServer) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def _messages(server: SecureServer) -> list[str]:
    return [str(json.loads(line).get("message", "")) for line in server.log.read_text().splitlines()]


def test_slow_handshakes_are_cut_in_time(tmp_path: Path) -> None:
    """Nothing sent, a hello byte by byte, and a hello after which nothing comes."""
    with secure_portside(tmp_path) as server, contextlib.ExitStack() as stack:
        began = time.monotonic()
        clients = [stack.enter_context(Records(server)) for _ in range(150)]
        silent, dripping, mute = clients[:50], clients[50:100], clients[100:]
        hellos = [client.hello() for client in dripping]
        for client in mute:
            client.send(client.hello())
        at = 0
        while not all(_is_cut(client.sock) for client in clients):
            assert time.monotonic() - began < HANDSHAKE_TIMEOUT + SLACK
            for client, hello in zip(dripping, hellos, strict=True):
                with contextlib.suppress(OSError):
                    client.sock.send(hello[at : at + 1])
            at += 1
            _serves(server)
            if time.monotonic() - began < HANDSHAKE_TIMEOUT - 2:
                assert not any(_is_cut(client.sock) for client in silent), "nobody is cut too early"
            threading.Event().wait(0.1)  # others use this machine
        assert at < len(hellos[0]), "no hello was whole"
        wait_until(lambda: any("was not done after 10 s" in text for text in _messages(server)), "the log says why", 5)


def test_a_thousand_half_open_handshakes_beside_a_pull(tmp_path: Path) -> None:
    data = blob("pulled", 32 * MIB)
    with secure_portside(tmp_path) as server, contextlib.ExitStack() as stack:
        with server.connect() as connection:
            digest = push_blob(connection, "a", data)
        target = f"/v2/a/blobs/{digest}"

        def pull() -> float:
            began = time.monotonic()
            with server.connect() as connection:
                assert connection.request("GET", target).body == data
            return time.monotonic() - began

        pull()
        alone = min(pull() for _ in range(3))
        before, opened = server.resident(), _descriptors(server)
        clients = [stack.enter_context(Records(server)) for _ in range(HANDSHAKES_MAX + 200)]
        for client in clients:
            client.send(client.hello())
        beside = min(pull() for _ in range(3))
        grown = server.resident() - before
        print(f"alone {alone:.2f} s, beside {beside:.2f} s; {grown / MIB:.1f} MiB for {len(clients)} handshakes")
        assert beside < 2 * alone + 0.5
        assert grown < HANDSHAKES_MAX * HALF_OPEN_BYTES
        _await_cut(clients[0].sock)
        assert _descriptors(server) <= opened + HANDSHAKES_MAX + 50
        stack.close()
        wait_until(lambda: _descriptors(server) <= opened + 5, "what is gone leaves nothing", 10)
        pull()
        texts = _messages(server)
        assert any("too many handshakes were under way" in text for text in texts)
        assert len(texts) < LINES_MAX + HANDSHAKE_TIMEOUT + SLACK + 20


def _record(body: bytes, kind: int = 22) -> bytes:
    return struct.pack(">BHH", kind, 0x0301, len(body)) + body


def _hello_of(size: int) -> bytes:
    """The beginning of a ClientHello that announces so many bytes, in records of 16 KiB."""
    message = b"\x01" + size.to_bytes(3, "big") + b"\x03\x03" + bytes(size - 2)
    return b"".join(_record(message[at : at + 16384]) for at in range(0, len(message), 16384))


GARBAGE = {
    "zeros": bytes(100),
    "bytes": bytes(range(128, 256)) * 10,
    "empty records": _record(b"") * 100,
    "an alert": _record(b"\x02\x28", 21),
    "data": _record(b"GET / HTTP/1.1\r\n\r\n", 23),
    "a long record": b"\x16\x03\x01\xff\xff" + bytes(70_000),
    "a record beyond the limit": b"\x16\x03\x01\x48\x01",
    "an unknown message": _record(b"\xee\x00\x00\x01x"),
    "a broken hello": _record(b"\x01\x00\x00\x30" + bytes(48)),
    "a long session id": _record(b"\x01\x00\x00\x50\x03\x03" + bytes(32) + b"\xff" + bytes(45)),
    "an endless hello": _hello_of(1_000_000),
    "SSLv2": b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + bytes(40),
    "a proxy's line": b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a" + bytes(100),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_is_cut_at_once(hub: SecureServer, kind: str) -> None:
    with _dial(hub) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(GARBAGE[kind])
        _await_cut(sock, HANDSHAKE_TIMEOUT - 2)
    _serves(hub)


def test_a_hello_in_small_records_that_never_ends(hub: SecureServer) -> None:
    """Within every limit of TLS; what is held of it is bounded."""
    message = b"\x01" + (120_000).to_bytes(3, "big") + b"\x03\x03" + bytes(200_000)
    with _dial(hub) as sock:
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < len(message):
                sock.sendall(_record(message[sent : sent + 1000]))
                sent += 1000
        _await_cut(sock, HANDSHAKE_TIMEOUT - 2)
    wait_until(
        lambda: any(f"longer than {HANDSHAKE_MAX} bytes" in text for text in _messages(hub)), "the log says why", 5
    )
    _serves(hub)


def test_half_a_hello_costs_next_to_nothing(tmp_path: Path) -> None:
    with secure_portside(tmp_path) as server, contextlib.ExitStack() as stack:
        _serves(server)
        before = server.resident()
        for _ in range(HANDSHAKES_MAX - 100):
            client = stack.enter_context(Records(server))
            client.send(client.hello()[:100])
        _serves(server)
        grown = server.resident() - before
        print(f"{grown / HANDSHAKES_MAX:.0f} bytes each")
        assert grown < HANDSHAKES_MAX * PARTIAL_BYTES


def test_a_client_that_vanishes_leaves_nothing(tmp_path: Path) -> None:
    with secure_portside(tmp_path) as server:
        _serves(server)
        before = _descriptors(server)
        for number in range(300):
            with Records(server) as client:
                if number % 3:
                    client.send(client.hello()[: 50 * number])
                if number % 2:  # a reset instead of an end
                    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: _descriptors(server) <= before, "every descriptor is back", 10)
        _serves(server)


AFTER = {
    "plain text": b"GET /v2/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "a long record": b"\x17\x03\x03\x48\x01" + bytes(100),
    "a forged record": b"\x17\x03\x03\x00\x30" + bytes(48),
    "a handshake": _record(b"\x01\x00\x00\x30" + bytes(48)),
    "empty records": b"\x17\x03\x03\x00\x00" * 50,
}


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", AFTER)
def test_what_is_no_record_ends_an_open_connection(hub: SecureServer, kind: str, maximum: ssl.TLSVersion) -> None:
    with Records(hub, hub.authority.context(maximum)) as client:
        client.send(client.shake() + client.encrypt(head("GET", "/v2/", "h")))
        client.read_until(b"{}")
        client.send(AFTER[kind])
        with pytest.raises(ssl.SSLError, match="ALERT"):
            client.read()
    _serves(hub)


@pytest.mark.parametrize("at", ["a small body", "a large body", "a head"])
@pytest.mark.parametrize("how", ["cut", "forged"])
def test_a_broken_record_in_a_request(hub: SecureServer, at: str, how: str) -> None:
    """What was whole is kept of an upload, and nothing of what was not."""
    sent, length = (10_000, 100_000) if at == "a small body" else (1_000_000, 3_000_000)
    data = blob(f"{at} {how}", length)
    with hub.connect() as connection:
        location = connection.request("POST", "/v2/hostile/broken/blobs/uploads/", body=b"").header("location") or ""
        request = head("PATCH", location, "h", length=length)
        with Records(hub) as client:
            if at == "a head":
                first, rest = client.shake(), request[:20]
            else:
                first, rest = client.shake() + client.encrypt(request + data[:sent]), data[sent : sent + 1000]
            record = client.encrypt(rest)
            client.send(first + (record[:-5] if how == "cut" else record[:-1] + bytes([record[-1] ^ 1])))
            if how == "cut":
                client.sock.shutdown(socket.SHUT_WR)
                _await_cut(client.sock)
            else:
                with pytest.raises(ssl.SSLError, match="ALERT_BAD_RECORD_MAC"):
                    client.read()

        def kept() -> int:
            return int((connection.request("GET", location).header("range") or "").partition("-")[2]) + 1

        expected = 1 if at != "a large body" else sent  # a small body is written when it is whole
        # The alert goes out when the record is met; what came before it is being written then.
        wait_until(lambda: kept() >= expected, "what was whole is kept")
        assert kept() == expected
    _serves(hub)


def test_renegotiation_is_refused(hub: SecureServer) -> None:
    """openssl's client asks for one on R (s_client(1))."""
    command = [
        str(tool("openssl")),
        "s_client",
        "-connect",
        hub.address,
        "-tls1_2",
        "-CAfile",
        str(hub.authority.trusted),
    ]
    done = subprocess.run(command, input=b"R\n", capture_output=True, timeout=60, check=False)
    assert b"RENEGOTIATING" in done.stdout + done.stderr
    assert b"no renegotiation" in done.stdout + done.stderr
    _serves(hub)


def test_stalled_downloads_hold_no_threads(tmp_path: Path) -> None:
    """More of them than there are threads."""
    data = blob("stalled", 16 * MIB)
    with secure_portside(tmp_path) as server, contextlib.ExitStack() as stack:
        with server.connect() as connection:
            digest = push_blob(connection, "a", data)
        request = head("GET", f"/v2/a/blobs/{digest}", "h")
        before = server.resident()
        stalled = [stack.enter_context(Records(server)) for _ in range(100)]
        for client in stalled:
            client.send(client.shake() + client.encrypt(request))
            assert client.read(), "the download has begun"
        with server.connect() as connection:
            assert digest_of(connection.request("GET", f"/v2/a/blobs/{digest}").body) == digest
        grown = server.resident() - before
        print(f"{len(stalled)} stalled downloads: {grown / MIB:.0f} MiB")
        assert grown < len(stalled) * MIB
        for client in stalled[:3]:
            parts = [client.read()]
            while not parts[-1].endswith(data[-100:]):
                parts.append(client.read())
            assert b"".join(parts).endswith(data), "nothing was lost while it stalled"


def test_a_client_that_sends_while_it_is_sent_to(hub: SecureServer) -> None:
    """What it sends waits in its own socket."""
    with hub.connect() as connection:
        digest = push_blob(connection, "hostile/both", blob("both", 16 * MIB))
    before = hub.resident()
    with Records(hub) as client:
        client.send(client.shake() + client.encrypt(head("GET", f"/v2/hostile/both/blobs/{digest}", "h")))
        assert client.read(), "the download has begun"
        client.sock.settimeout(2)
        with pytest.raises(TimeoutError):
            client.send(b"".join(client.encrypt(bytes(MIB)) for _ in range(100)))
        assert hub.resident() - before < 16 * MIB
    _serves(hub)


def test_lines_about_refused_handshakes_are_few(tmp_path: Path) -> None:
    with secure_portside(tmp_path) as server:
        began = time.monotonic()
        for _ in range(200):
            with _dial(server) as sock:
                sock.sendall(GARBAGE["zeros"])
                _await_cut(sock)
        took = time.monotonic() - began
        threading.Event().wait(1.2)  # by then there is a line to be had again
        with _dial(server) as sock:
            sock.sendall(GARBAGE["zeros"])
            _await_cut(sock)
        wait_until(lambda: _counted(server)[1] == 201, "the others are counted", 5)
        assert LINES_MAX <= _counted(server)[0] <= LINES_MAX + took + 3


def _counted(server: SecureServer) -> tuple[int, int]:
    """Lines about refused handshakes, and the handshakes that they are about."""
    lines = [text for text in _messages(server) if text.startswith("TLS handshake failed: ")]
    return len(lines), len(lines) + sum(int(found[1]) for text in lines if (found := _MORE.search(text)))
