"""The benchmark's clients in C, against servers of the tests' own: what they send, what they count, and what they refuse."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bench.sampling import compile_client
from bench.setups import Material, make_material
from bench.wire import gets, message

FIVE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
SECONDS = 30

Answer = Callable[[bytes], bytes]


@dataclass(slots=True)
class Server:
    """Answers each request by its head. ``requests`` are whole, ``addresses`` those of the connections."""

    port: int
    requests: Counter[bytes] = field(default_factory=Counter)
    addresses: list[str] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)


@contextlib.contextmanager
def serving(answer: Answer, material: Material | None = None) -> Iterator[Server]:
    """A server, over TLS where material is given, with a thread for each connection. None of them may fail."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    server = Server(listener.getsockname()[1])
    context = None
    if material is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(material.certificate, material.key)

    def serve(raw: socket.socket) -> None:
        try:
            raw.settimeout(SECONDS)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with raw if context is None else context.wrap_socket(raw, server_side=True) as connection:
                while request := _read(connection):
                    server.requests[request] += 1
                    reply = answer(request)
                    for piece in _halves(reply):
                        connection.sendall(piece)
                    if b"Connection: close" in reply:
                        return
        except (ConnectionError, ssl.SSLEOFError):  # the client has counted enough
            pass
        except Exception as error:
            server.failures.append(error)

    def accept() -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            while True:
                raw, (address, _) = listener.accept()
                server.addresses.append(address)
                thread = threading.Thread(target=serve, args=(raw,))
                thread.start()
                stack.callback(thread.join)

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
    assert not server.failures


def _read(connection: socket.socket) -> bytes:
    """A whole request, b"" at the end."""
    request = b""
    while b"\r\n\r\n" not in request:
        part = connection.recv(65536)
        if not part:
            return b""
        request += part
    head, _, body = request.partition(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b": ")
        if name == b"Content-Length":
            while len(body) < int(value):
                body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def _halves(answer: bytes) -> tuple[bytes, bytes]:
    return answer[: len(answer) // 2], answer[len(answer) // 2 :]


def _run(name: str, *arguments: str, input: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [str(compile_client(name)), *arguments]
    return subprocess.run(command, input=input, capture_output=True, check=False, timeout=SECONDS)


def load(server: Server, *arguments: str, requests: list[bytes]) -> dict[str, Any]:
    """Run the load generator, whose arguments are its flags, connections, seconds and rate."""
    *flags, connections, seconds, rate = arguments
    text = b"".join(request + b"\0" for request in requests)
    done = _run("load", *flags, str(server.port), connections, seconds, rate, input=text)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return make_material(tmp_path_factory.mktemp("bench") / "material")


@pytest.mark.parametrize("rate", ["0", "400"])
@pytest.mark.parametrize("is_tls", [False, True])
def test_requests_are_sent_in_turn_and_their_answers_counted(rate: str, is_tls: bool, material: Material) -> None:
    post = message("POST", "/b", "h", {"Content-Length": "3"}, b"x=y")
    requests = [*gets(["/a"], "t", "Basic Og=="), post]
    with serving(lambda request: CHUNKED if b"/b" in request else FIVE, material if is_tls else None) as server:
        report = load(server, *(["-t"] if is_tls else []), "2", "0.3", rate, requests=requests)
    assert requests[0] == b"GET /a HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: t\r\nAuthorization: Basic Og==\r\n\r\n"
    assert set(server.requests) == set(requests)
    assert abs(server.requests[requests[0]] - server.requests[post]) <= 1
    assert report["requests"] == server.requests.total() > 10
    assert report["statuses"] == {"200": report["requests"]}
    assert len(server.addresses) == 2
    assert 0 < report["p50_us"] <= report["p99_us"] <= report["max_us"]
    assert report["tls"].startswith("TLSv1.3 TLS_AES_") == is_tls
    if rate != "0":
        assert report["requests"] == 120


@pytest.mark.parametrize("is_tls", [False, True])
def test_each_request_can_have_a_connection_and_an_address_of_its_own(is_tls: bool, material: Material) -> None:
    with serving(lambda request: FIVE, material if is_tls else None) as server:
        flags = ["-c", "-s", *(["-t"] if is_tls else [])]
        report = load(server, *flags, "8", "0.3", "100", requests=gets(["/"]))
    assert report["requests"] == len(server.addresses) == len(set(server.addresses)) == 30
    assert server.addresses[0] == "127.0.0.2"


def test_any_status_is_an_answer_where_that_is_asked_for() -> None:
    with serving(lambda request: BUSY if b"/b" in request else FIVE) as server:
        report = load(server, "-a", "1", "0.2", "100", requests=gets(["/a", "/b"]))
    assert report["statuses"] == {"200": 10, "429": 10}


def test_requests_are_due_whoever_waits_and_the_end_does_not_wait() -> None:
    """Every second request hangs: the others go on by the connections that are left, at the rate."""
    asked = threading.Event()

    def answer(request: bytes) -> bytes:
        if b"/hang" in request:
            asked.wait(SECONDS)
        return FIVE

    with serving(answer) as server:
        try:
            report = load(server, "-c", "-e", "32", "0.4", "100", requests=gets(["/", "/hang"]))
        finally:
            asked.set()
    assert report["requests"] + report["unanswered"] == 40
    assert 20 <= report["unanswered"] < 40


def test_handshakes_are_full_and_end_when_the_server_has_closed(material: Material) -> None:
    with serving(lambda request: FIVE, material) as server:
        report = load(server, "-h", "2", "0.3", "0", requests=[])
    assert report["requests"] == len(server.addresses) > 10
    assert not server.requests


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b"the answer is not a 200: HTTP/1.1 404"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"the answer has no length"),
        (FIVE + b"more", b"bytes after the answer: more"),
    ],
)
def test_an_answer_that_cannot_be_counted_ends_the_measurement(answer: bytes, complaint: bytes) -> None:
    with serving(lambda request: answer) as server:
        done = _run("load", str(server.port), "1", "0.2", "0", input=gets(["/a"])[0] + b"\0")
    assert done.returncode == 1
    assert complaint in done.stderr


def test_large_bodies_go_down_over_tls(material: Material) -> None:
    body = bytes(range(256)) * 10_000
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with serving(lambda request: head + body, material) as server:
        done = _run("bulk", "get", str(server.port), "3", input=gets(["/large"])[0])
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["bytes"] == 3 * len(body)
    assert server.requests == {gets(["/large"])[0]: 3}
    assert len(server.addresses) == 1


def test_a_large_body_that_ends_early_is_an_error(material: Material) -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhel"
    with serving(lambda request: cut, material) as server:
        done = _run("bulk", "get", str(server.port), "1", input=gets(["/large"])[0])
    assert done.returncode == 1
    assert b"the answer ended early" in done.stderr


@pytest.mark.parametrize(("status", "code"), [("201 Created", 0), ("400 Bad Request", 1)])
def test_large_bodies_go_up_over_tls(material: Material, tmp_path: Path, status: str, code: int) -> None:
    file, tail = tmp_path / "body", bytes(range(32))
    file.write_bytes(bytes(range(256)) * 10_000 + b"beyond")
    head = message("PUT", "/large", "h", {"Content-Length": str(2_560_000 + len(tail))})
    with serving(lambda request: f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode(), material) as server:
        done = _run("bulk", "put", str(server.port), str(file), "2560000", tail.hex(), input=head)
    assert done.returncode == code
    assert list(server.requests) == [head + bytes(range(256)) * 10_000 + tail]
    if code == 0:
        assert json.loads(done.stdout)["bytes"] == 2_560_032
    else:
        assert b"the answer is not the one expected: HTTP/1.1 400" in done.stderr
