"""One registry over HTTP, against servers that refuse, redirect, stall and lie."""

from __future__ import annotations

import email.utils
import gc
import json
import socket
import threading
import time

import pytest

from remote.connections import URL, Body
from remote.errors import Cancelled, Interrupted, RegistryError, RemoteError, Unreachable
from remote.proxies import is_loopback
from remote.transport import Policy, Registry, retry_after
from tests.remote.faulty import Answer, Faulty, Request, refusal
from tests.remote.talking import CREDENTIAL, QUICK, after, client, endless, fine, read

# Where a registry is


@pytest.mark.parametrize(
    ("host", "plain", "base"),
    [
        ("localhost:5443", False, "https://localhost:5443"),
        ("localhost:5000", None, "http://localhost:5000"),
        ("127.3.2.1", None, "http://127.3.2.1"),
        ("[::1]:5000", None, "http://[::1]:5000"),
        ("hub.localhost:5000", None, "http://hub.localhost:5000"),
        ("127.evil.example", None, "https://127.evil.example"),
        ("localhost.evil.example", None, "https://localhost.evil.example"),
        ("hub.example.com", None, "https://hub.example.com"),
        ("hub.example.com:5000", True, "http://hub.example.com:5000"),
        ("10.0.0.1:5000", None, "https://10.0.0.1:5000"),
        ("docker.io", None, "https://registry-1.docker.io"),
    ],
)
def test_plain_http_is_for_loopback_or_when_asked(host: str, plain: bool | None, base: str) -> None:
    assert str(Registry(host, plain_http=plain).origin) == base


@pytest.mark.parametrize(
    "host", ["127.0.0.1.example.com", "1270.0.0.1", "127.0.0.256", "::2", "example.com", "127.0.0.x"]
)
def test_what_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://a/",
        "http:///x",
        "http://u:p@a/",
        "http://a:99999/",
        "http://a/\r\nX: y",
        "http://a/ b",
        "/x",
        "http://[a/",
    ],
)
def test_urls_that_may_not_be_followed(text: str) -> None:
    with pytest.raises(RemoteError):
        URL.parse(text)


# Tries


@pytest.mark.parametrize("status", [408, 429, 499, 500, 502, 503, 504])
def test_a_passing_refusal_is_tried_again(status: int) -> None:
    with (
        Faulty(after(2, lambda request: refusal(status, "UNKNOWN", "later"), fine)) as server,
        client(server) as registry,
    ):
        assert read(registry) == b"fine"
        assert len(server.requests) == 3


def test_a_refusal_that_stays_is_raised_after_the_last_try() -> None:
    with Faulty(lambda request: refusal(503, "UNAVAILABLE", "overloaded")) as server, client(server) as registry:
        with pytest.raises(RegistryError, match=r"answered 503 .*UNAVAILABLE: overloaded"):
            read(registry)
        assert len(server.requests) == QUICK.attempts


@pytest.mark.parametrize("status", [400, 403, 404, 405, 416, 507])
def test_a_lasting_refusal_is_raised_at_once(status: int) -> None:
    with Faulty(lambda request: refusal(status, "DENIED", "no")) as server, client(server) as registry:
        with pytest.raises(RegistryError) as caught:
            read(registry, "/v2/a/manifests/b?secret=1")
        assert len(server.requests) == 1
        assert (caught.value.status, caught.value.codes, caught.value.message) == (status, ("DENIED",), "no")
        assert caught.value.request == f"GET http://{server.host}/v2/a/manifests/b"


def test_retry_after_is_obeyed() -> None:
    answering = after(1, lambda request: refusal(429, "TOOMANYREQUESTS", "slow", [("Retry-After", "1")]), fine)
    with Faulty(answering) as server, client(server) as registry:
        start = time.monotonic()
        assert read(registry) == b"fine"
        assert time.monotonic() - start >= 1.0


def test_a_retry_after_beyond_patience_ends_it() -> None:
    answering = after(1, lambda request: refusal(429, "TOOMANYREQUESTS", "slow", [("Retry-After", "3600")]), fine)
    with Faulty(answering) as server, client(server) as registry:
        with pytest.raises(RegistryError, match="limits how often") as caught:
            read(registry)
        assert caught.value.retry_after == 3600
        assert len(server.requests) == 1


def test_retry_after_as_number_date_and_nonsense() -> None:
    assert retry_after(" 7 ") == 7.0
    assert retry_after(None) is None
    assert retry_after("soon") is None
    assert retry_after("-5") is None
    assert retry_after("٣") is None
    assert retry_after("9" * 400) == 999_999_999.0
    later = retry_after(email.utils.formatdate(time.time() + 100, usegmt=True))
    assert later is not None
    assert 90 < later <= 100
    assert retry_after(email.utils.formatdate(0, usegmt=True)) == 0.0


def test_a_patch_is_never_repeated() -> None:
    with Faulty(lambda request: refusal(503, "UNAVAILABLE", "no")) as server, client(server) as registry:
        with pytest.raises(RegistryError):
            registry.request("PATCH", "/v2/a/blobs/uploads/1", body=b"abc")
        body = Body(3, lambda: iter([b"abc"]))
        with pytest.raises(RegistryError):
            registry.request("PUT", "/v2/a/blobs/uploads/1", body=body)
        assert [one.method for one in server.requests] == ["PATCH", "PUT"]


def test_a_broken_connection_is_tried_again() -> None:
    with Faulty(after(2, lambda request: Answer(raw=b""), fine)) as server, client(server) as registry:
        assert read(registry) == b"fine"
        assert len(server.requests) == 3


def test_nobody_there() -> None:
    with Faulty(fine) as server:
        host = server.host
    patient = Policy(attempts=5, pause=30.0, pause_max=60.0)
    with Registry(host, policy=patient) as registry:
        start = time.monotonic()
        with pytest.raises(Unreachable, match="connection refused: nobody listens there"):
            read(registry)
        assert time.monotonic() - start < 10, "nobody ever answered: it is not waited for"


def test_who_has_answered_before_may_come_back() -> None:
    with Faulty(fine) as server:
        registry = client(server)
        assert read(registry) == b"fine"
    with registry, pytest.raises(Unreachable) as caught:
        read(registry)
    assert caught.value.transient


def test_a_name_that_does_not_resolve() -> None:
    with (
        Registry("name.invalid", policy=QUICK) as registry,
        pytest.raises(Unreachable, match=r"name\.invalid does not answer"),
    ):
        read(registry)


def test_a_stalled_server_times_out() -> None:
    policy = Policy(attempts=1, read_timeout=0.2)
    with (
        Faulty(lambda request: Answer(200, [], b"x", length=10, stall=True)) as server,
        client(server, policy=policy) as registry,
        pytest.raises(Interrupted, match="no byte came in time"),
    ):
        read(registry)


def test_stop_ends_a_transfer_that_waits() -> None:
    with Faulty(lambda request: Answer(200, [], b"x", length=10, stall=True)) as server, client(server) as registry:
        response = registry.request("GET", "/v2/")
        buffer = memoryview(bytearray(10))
        assert response.readinto(buffer) == 1
        threading.Timer(0.05, registry.stop).start()
        with pytest.raises(Interrupted):
            response.readinto(buffer)
        response.close()
        with pytest.raises(Cancelled):
            read(registry)


def test_stop_ends_a_pause_between_tries() -> None:
    patient = Policy(attempts=3, pause=60.0, pause_max=60.0)
    with (
        Faulty(lambda request: refusal(503, "UNAVAILABLE", "no")) as server,
        client(server, policy=patient) as registry,
    ):
        threading.Timer(0.05, registry.stop).start()
        start = time.monotonic()
        with pytest.raises(Cancelled):
            read(registry)
        assert time.monotonic() - start < 20


# Connections


def test_one_connection_serves_many_requests() -> None:
    with Faulty(fine) as server, client(server) as registry:
        for _ in range(20):
            assert read(registry) == b"fine"
        assert server.connections == 1


def test_a_kept_connection_that_was_closed_is_replaced() -> None:
    with Faulty(lambda request: Answer(200, [], b"fine", close=True)) as server:
        policy = Policy(attempts=1)
        with client(server, policy=policy) as registry:
            for _ in range(5):
                assert read(registry) == b"fine"
        assert server.connections == 5


def test_a_body_left_unread_does_not_spoil_the_next_answer() -> None:
    with Faulty(after(1, lambda request: Answer(200, [], b"x" * 500_000), fine)) as server, client(server) as registry:
        registry.request("GET", "/v2/").close()
        assert read(registry) == b"fine"


def test_chunked_and_unmeasured_bodies_are_read_to_their_end() -> None:
    chunked = Answer(200, [("Transfer-Encoding", "chunked")], b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    unmeasured = Answer(200, [], pieces=[b"abc", b"de"])
    with Faulty(after(1, lambda request: chunked, lambda request: unmeasured)) as server, client(server) as registry:
        assert read(registry) == b"abcde"
        assert read(registry) == b"abcde"


def test_a_cut_chunked_body_is_no_end() -> None:
    answer = Answer(200, [("Transfer-Encoding", "chunked")], b"5\r\nab", cut=5)
    with Faulty(lambda request: answer) as server, client(server) as registry, pytest.raises(Interrupted):
        read(registry)


@pytest.mark.parametrize("headers", [[("Connection", "close")], []], ids=["the last answer", "one of many"])
def test_a_cut_answer_leaves_no_socket_behind(headers: list[tuple[str, str]]) -> None:
    def sockets() -> set[int]:
        return {one.fileno() for one in gc.get_objects() if isinstance(one, socket.SocketType) and one.fileno() >= 0}

    with Faulty(lambda request: Answer(200, headers, b"abcde", cut=2)) as server, client(server) as registry:
        before = sockets()
        response = registry.request("GET", "x")
        ours = sockets() - before
        with pytest.raises(Interrupted) as caught:
            response.read(100, "it")
        response.close()
        assert not ours & sockets()
    assert caught.value.__traceback__ is not None, "it holds what the frames held, as it does for a caller"


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000 + b"\r\n\r\n",
        b"\x00" * 100,
    ],
)
def test_an_answer_that_is_no_http(raw: bytes) -> None:
    with Faulty(lambda request: Answer(raw=raw)) as server, client(server) as registry, pytest.raises(Unreachable):
        read(registry)


def test_what_is_read_into_memory_is_bounded() -> None:
    with (
        Faulty(lambda request: Answer(200, [], pieces=endless())) as server,
        client(server) as registry,
        pytest.raises(RemoteError, match="longer than the 1048576 bytes"),
    ):
        read(registry)
    with Faulty(lambda request: Answer(404, [], pieces=endless())) as server, client(server) as registry:
        with pytest.raises(RegistryError, match="404"):
            read(registry)
        assert server.served < 20 << 20


def test_an_error_body_is_fit_for_a_terminal() -> None:
    body = json.dumps({"errors": [{"code": "DENIED\x1b[31m", "message": "a\nb\x07" + "c" * 10_000}, 5, {"code": 7}]})
    with (
        Faulty(lambda request: Answer(400, [], body.encode())) as server,
        client(server) as registry,
        pytest.raises(RegistryError) as caught,
    ):
        read(registry)
    text = str(caught.value)
    assert text.isprintable()
    assert "DENIED" in text
    assert len(text) < 1000


@pytest.mark.parametrize("body", [b"<html>no</html>", b"[]", b'{"errors":5}', b"\xff", b""])
def test_an_error_body_of_another_kind_is_left_out(body: bytes) -> None:
    with (
        Faulty(lambda request: Answer(404, [], body)) as server,
        client(server) as registry,
        pytest.raises(RegistryError) as caught,
    ):
        read(registry)
    assert str(caught.value) == f"GET http://{server.host}/v2/ was answered 404 Said"


# Redirects


def test_a_redirect_to_another_host_loses_the_authorization() -> None:
    def challenge(request: Request) -> Answer:
        if "authorization" not in request.headers:
            return refusal(401, "UNAUTHORIZED", "who", [("WWW-Authenticate", "Basic realm=x")])
        if request.path == "/near":
            return fine(request)
        return Answer(307, [("Location", "/near" if "near" in request.target else f"http://{other.host}/far")])

    with Faulty(fine) as other, Faulty(challenge) as server, client(server, CREDENTIAL) as registry:
        assert read(registry, "/to?near") == b"fine"
        assert "authorization" in server.seen("GET", "/near")[0].headers
        assert read(registry, "/to?far") == b"fine"
        assert "authorization" not in other.requests[0].headers


def test_redirects_come_to_an_end() -> None:
    with Faulty(lambda request: Answer(302, [("Location", "/again")])) as server, client(server) as registry:
        with pytest.raises(RemoteError, match="redirects more than 5 times"):
            read(registry)
        assert len(server.requests) == 6


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://u:p@a/", "gopher://a/"])
def test_a_redirect_to_nowhere(location: str) -> None:
    with (
        Faulty(lambda request: Answer(302, [("Location", location)])) as server,
        client(server) as registry,
        pytest.raises(RemoteError, match="not an http or https URL"),
    ):
        read(registry)


def test_a_redirect_without_location() -> None:
    with (
        Faulty(lambda request: Answer(302)) as server,
        client(server) as registry,
        pytest.raises(RemoteError, match="302 without a Location"),
    ):
        read(registry)
