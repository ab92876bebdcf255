"""HTTP itself: framing, connections, targets, methods, the form of errors (RFC 9110, RFC 9112; distribution-spec end-1, "Error Codes")."""

from __future__ import annotations

import random
import socket

import pytest

from oci.errors import ErrorCode
from tests.servers import Server
from tests.wire.client import Connection, ask, chunk, head
from tests.wire.content import ERRORS, blob, digest_of, push_blob, push_image, query, start_upload


@pytest.mark.parametrize("target", ["/v2/", "/v2"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_ping(wire: Connection, method: str, target: str) -> None:
    answer = wire.request(method, target)
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    assert answer.header("docker-distribution-api-version") == "registry/2.0"
    assert answer.header("date")


METHODS = [
    ("/v2/", ("GET", "HEAD")),
    ("/v2/_catalog", ("GET", "HEAD")),
    ("/v2/a/manifests/b", ("GET", "HEAD", "PUT", "DELETE")),
    (f"/v2/a/blobs/{digest_of(b'')}", ("GET", "HEAD", "DELETE")),
    ("/v2/a/blobs/uploads/", ("POST",)),
    ("/v2/a/blobs/uploads/x", ("GET", "HEAD", "PATCH", "PUT", "DELETE")),
    ("/v2/a/tags/list", ("GET", "HEAD")),
    (f"/v2/a/referrers/{digest_of(b'')}", ("GET", "HEAD")),
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize(("target", "allowed"), METHODS, ids=[target for target, _ in METHODS])
def test_every_other_method_is_405_and_says_what_is_allowed(
    wire: Connection, method: str, target: str, allowed: tuple[str, ...]
) -> None:
    answer = wire.request(method, target, body=b"" if method in ("POST", "PUT", "PATCH") else None)
    if method in allowed:
        assert answer.status != 405
        return
    assert (answer.status, answer.header("allow")) == (405, ", ".join(allowed))
    if method != "HEAD":
        assert answer.error == "UNSUPPORTED"


def test_every_code_has_the_status_that_clients_expect() -> None:
    assert {code: ErrorCode[code].status for code in ERRORS} == ERRORS


@pytest.mark.parametrize(
    "name",
    [
        "UPPER",
        "a//b",
        "-a",
        "a-",
        ".a",
        "a..b",
        "a___b",
        "a/",
        "/a",
        "a%20b",
        "%C3%A4",
        "a" * 256,
        "..",
        "a/../b",
        "a%2F..%2Fb",
        "a%5Cb",
    ],
)
@pytest.mark.parametrize("rest", ["tags/list", "manifests/v1", "blobs/uploads/x", f"blobs/{digest_of(b'')}"])
def test_a_bad_name_is_refused_by_name(wire: Connection, name: str, rest: str) -> None:
    answer = wire.request("GET", f"/v2/{name}/{rest}")
    assert (answer.status, answer.error) in [(400, "NAME_INVALID"), (404, "NOT_FOUND")]


@pytest.mark.parametrize(
    "name",
    ["a", "0", "a/b", "a.b", "a_b", "a__b", "a--b", "blobs", "manifests/tags", "a/blobs/uploads", "v2", "a" * 255],
)
def test_a_lawful_name_is_taken(wire: Connection, name: str) -> None:
    raw = push_image(wire, name, "v1")
    assert wire.request("GET", f"/v2/{name}/manifests/v1").body == raw
    assert wire.request("GET", f"/v2/{name}/tags/list").json["name"] == name


NOWHERE = ["/v1/", "/v2x", "/v2/a", "/v2/a/", "/v2/a/b", "/v2/a/tags", "/v2/a/manifests", "/x", "/../../etc/passwd"]


@pytest.mark.parametrize("target", NOWHERE)
def test_what_is_nowhere_is_404(wire: Connection, target: str) -> None:
    assert wire.request("GET", target).status == 404
    assert wire.request("GET", "/v2/").status == 200


UNDECODABLE = [
    "/v2/a/tags/list?x=%",
    "/v2/%zz/tags/list",
    "/v2/%ff/tags/list",
    "/v2/a%00/tags/list",
    "/v2/a/tags/list?n=%00",
]


@pytest.mark.parametrize(
    "target",
    UNDECODABLE,
)
def test_a_target_that_cannot_be_decoded_is_400(wire: Connection, target: str) -> None:
    assert wire.request("GET", target).error == "REQUEST_INVALID"


def test_percent_encoding_names_the_same_thing(wire: Connection, repository: str) -> None:
    raw = push_image(wire, repository, "v1")
    encoded = "".join(f"%{byte:02x}" for byte in b"v1")
    for target in (
        f"/v2/{repository}/manifests/{encoded}",
        f"/v2/{repository.replace('/', '%2F')}/manifests/v1",
        f"/v2/{repository}/manifests/{digest_of(raw).replace(':', '%3A')}",
        f"http://hub.example/v2/{repository}/manifests/v1",
        f"HTTP://hub.example:5000/v2/{repository}/manifests/v1?unknown=1",
    ):
        answer = wire.request("GET", target)
        assert (answer.status, answer.body) == (200, raw), target


def test_the_request_id_differs_and_is_in_the_log(wire: Connection, repository: str) -> None:
    answers = [wire.request("GET", f"/v2/{repository}/manifests/none") for _ in range(2)]
    ids = [answer.json["errors"][0]["detail"]["request_id"] for answer in answers]
    assert ids[0] != ids[1]


def test_keep_alive_and_close(hub: Server) -> None:
    with Connection(hub.address) as connection:
        for _ in range(50):
            answer = connection.request("GET", "/v2/")
            assert (answer.status, answer.header("connection")) == (200, None)
        last = connection.request("GET", "/v2/", {"Connection": "close"})
        assert (last.status, last.header("connection")) == (200, "close")
        assert connection.is_closed()


def test_http_1_0_is_answered_and_closed(hub: Server) -> None:
    with Connection(hub.address) as connection:
        connection.send(b"GET /v2/ HTTP/1.0\r\n\r\n")
        assert connection.read().status == 200
        assert connection.is_closed()


def test_pipelined_requests_are_answered_in_order(hub: Server, repository: str) -> None:
    with Connection(hub.address) as connection:
        data = {push_blob(connection, repository, blob(f"{repository}{n}", 100_000 * n)): n for n in range(4)}
        location = start_upload(connection, repository)
        sent = [head("GET", f"/v2/{repository}/blobs/{digest}", hub.address) for digest in data]
        sent.append(head("HEAD", "/v2/", hub.address))
        sent.append(head("PUT", f"{location}?{query(digest=digest_of(b'pipelined'))}", "h", length=9) + b"pipelined")
        sent.append(head("GET", f"/v2/{repository}/blobs/{digest_of(b'pipelined')}", hub.address))
        connection.send(b"".join(sent))
        for digest, n in data.items():
            assert digest_of(connection.read().body) == digest, n
        assert connection.read("HEAD").status == 200
        assert connection.read().status == 201
        assert connection.read().body == b"pipelined"


def test_a_head_that_comes_byte_by_byte(hub: Server) -> None:
    with Connection(hub.address) as connection:
        for byte in head("GET", "/v2/", hub.address):
            connection.send(bytes([byte]))
        assert connection.read().status == 200


def test_empty_lines_before_a_request_are_ignored(hub: Server) -> None:
    with Connection(hub.address) as connection:
        connection.send(b"\r\n\r\n" + head("GET", "/v2/", hub.address))
        assert connection.read().status == 200


SPLITS = [1, 2, 3, 7, 100, 5000]


@pytest.mark.parametrize("size", SPLITS)
@pytest.mark.parametrize("step", SPLITS)
def test_a_chunked_body_may_be_split_anywhere(wire: Connection, repository: str, size: int, step: int) -> None:
    data = blob(repository, 301)
    framed = b"".join(chunk(data[at : at + size]) for at in range(0, len(data), size)) + b"0\r\n\r\n"
    location = start_upload(wire, repository)
    wire.send(head("PATCH", location, wire.address, chunked=True))
    for at in range(0, len(framed), step):
        wire.send(framed[at : at + step])
    assert wire.read().header("range") == "0-300"
    assert wire.request("PUT", f"{location}?{query(digest=digest_of(data))}", body=b"").status == 201


@pytest.mark.parametrize(
    "framed",
    [
        b"5;name=value\r\nhello\r\n0\r\n\r\n",
        b'5;a="b;c"\r\nhello\r\n0;last\r\n\r\n',
        b"00005\r\nhello\r\n000\r\n\r\n",
        b"5\r\nhello\r\n0\r\nTrailer: x\r\nAnother: y\r\n\r\n",
        b"2\r\nhe\r\n1\r\nl\r\n2\r\nlo\r\n0\r\n\r\n",
    ],
)
def test_extensions_and_trailers_are_no_part_of_the_body(wire: Connection, repository: str, framed: bytes) -> None:
    location = start_upload(wire, repository)
    wire.send(head("PUT", f"{location}?{query(digest=digest_of(b'hello'))}", wire.address, chunked=True) + framed)
    assert wire.read().status == 201
    assert wire.request("GET", f"/v2/{repository}/blobs/{digest_of(b'hello')}").body == b"hello"


BAD_CHUNKS = [
    b"x\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloo\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n" + b"\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffffff\r\nhello\r\n",
    b"5;" + b"x" * 5000 + b"\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n" + b"T: x\r\n" * 500 + b"\r\n",
]


@pytest.mark.parametrize("framed", BAD_CHUNKS, ids=lambda framed: repr(framed[:20]))
def test_a_broken_chunk_is_400_and_ends_the_connection(hub: Server, repository: str, framed: bytes) -> None:
    with Connection(hub.address) as connection:
        location = start_upload(connection, repository)
        target = f"{location}?{query(digest=digest_of(b'hello'))}"
        connection.send(head("PUT", target, hub.address, chunked=True) + framed)
        refused = connection.read()
        assert (refused.status, refused.error, refused.header("connection")) == (400, "REQUEST_INVALID", "close")
        connection.sock.shutdown(socket.SHUT_WR)
        assert connection.is_closed()
    assert ask(hub.address, "GET", f"/v2/{repository}/blobs/{digest_of(b'hello')}").status == 404
    assert ask(hub.address, "DELETE", location).status == 204


REFUSED_HEADS: dict[str, tuple[bytes, int]] = {
    "two lengths": (b"POST /v2/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
    "the same length twice": (b"POST /v2/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", 400),
    "a list of lengths": (b"POST /v2/ HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\nx", 400),
    "length and chunked": (
        b"POST /v2/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "chunked and length": (
        b"POST /v2/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        400,
    ),
    "gzip, chunked": (b"POST /v2/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "identity": (b"POST /v2/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n", 400),
    "chunked twice": (b"POST /v2/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "a negative length": (b"POST /v2/ HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
    "a length with a sign": (b"POST /v2/ HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\nx", 400),
    "an endless length": (b"POST /v2/ HTTP/1.1\r\nHost: h\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n", 400),
    "no host": (b"GET /v2/ HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "white space before the colon": (b"GET /v2/ HTTP/1.1\r\nHost: h\r\nContent-Length : 5\r\n\r\nhello", 400),
    "a folded header": (b"GET /v2/ HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400),
    "a NUL in a header": (b"GET /v2/ HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", 400),
    "no version": (b"GET /v2/\r\n\r\n", 400),
    "version 3": (b"GET /v2/ HTTP/3.0\r\nHost: h\r\n\r\n", 400),
    "no method": (b"/v2/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "another method": (b"BREW /v2/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(1, 60)) + b"\r\n\r\n", 400),
    "an expectation": (b"POST /v2/ HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n", 400),
    "a long target": (b"GET /v2/" + b"a" * 9000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 414),
    "a long header": (b"GET /v2/ HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    "a head without end": (b"GET /v2/ HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 10_000, 431),
    "many headers": (b"GET /v2/ HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
}


@pytest.mark.parametrize("kind", REFUSED_HEADS)
def test_what_is_no_lawful_request_is_refused_and_the_connection_ended(hub: Server, kind: str) -> None:
    raw, status = REFUSED_HEADS[kind]
    with Connection(hub.address) as connection:
        connection.send(raw)
        answer = connection.read()
        assert (answer.status, answer.error) == (status, "REQUEST_INVALID")
        assert answer.header("connection") == "close"
        assert connection.is_closed()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_expect_100_continue(hub: Server, repository: str, version: str) -> None:
    """Interim in 1.1; a 1.0 client is not sent what it cannot understand (RFC 9110 section 10.1.1)."""
    with Connection(hub.address) as connection:
        target = f"{start_upload(connection, repository)}?{query(digest=digest_of(b'hello'))}"
        raw = head("PUT", target, hub.address, {"Expect": "100-Continue"}, 5)
        connection.send(raw.replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
        if version == "1.1":
            assert connection.read().status == 100
        connection.send(b"hello")
        assert connection.read().status == 201


def test_a_refused_request_is_not_told_to_continue(hub: Server, repository: str) -> None:
    with Connection(hub.address) as connection:
        target = f"/v2/{repository}/blobs/uploads/none?{query(digest=digest_of(b'hello'))}"
        connection.send(head("PATCH", target, hub.address, {"Expect": "100-continue"}, 300_000))
        answer = connection.read()
        assert (answer.status, answer.error, answer.header("connection")) == (404, "BLOB_UPLOAD_UNKNOWN", "close")


def test_a_large_body_of_a_refused_request_does_not_hide_the_answer(hub: Server, repository: str) -> None:
    data = bytes(3_000_000)
    with Connection(hub.address) as connection:
        answer = connection.request("PATCH", f"/v2/{repository}/blobs/uploads/none", body=data)
        assert (answer.status, answer.error) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_a_small_body_of_a_refused_request_is_dropped_and_the_connection_goes_on(
    wire: Connection, repository: str
) -> None:
    for size in (1, 1000, 100_000):
        assert wire.request("GET", "/v2/", body=bytes(size)).status == 200
        assert wire.request("POST", f"/v2/{repository}/tags/list", body=bytes(size)).status == 405
    assert wire.request("GET", "/v2/").status == 200


def test_a_client_that_only_half_closes_gets_its_answer(hub: Server) -> None:
    with Connection(hub.address) as connection:
        connection.send(head("GET", "/v2/", hub.address))
        connection.sock.shutdown(socket.SHUT_WR)
        assert connection.read().status == 200


@pytest.mark.parametrize("size", [100, 200_000, 2_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_cut_upload_goes_on_where_it_stands(hub: Server, repository: str, size: int, chunked: bool) -> None:
    rng = random.Random(size)
    data = blob(repository, size)
    with Connection(hub.address) as connection:
        location = start_upload(connection, repository)
    offset = 0
    for _ in range(3):
        part = data[offset : offset + rng.randint(2, size // 3)]
        with Connection(hub.address) as connection:
            if chunked:
                connection.send(head("PATCH", location, hub.address, chunked=True) + chunk(part))
            else:
                connection.send(head("PATCH", location, hub.address, length=size) + part)
            connection.sock.shutdown(socket.SHUT_WR)
            while connection.sock.recv(1000):
                pass
        reported = (ask(hub.address, "GET", location).header("range") or "").partition("-")[2]
        kept = int(reported) + 1 if int(reported) else 0
        assert offset <= kept <= offset + len(part)
        offset = kept
    with Connection(hub.address) as connection:
        span = {"Content-Range": f"{offset}-{size - 1}"}
        assert connection.request("PATCH", location, span, data[offset:]).status == 202
        assert connection.request("PUT", f"{location}?{query(digest=digest_of(data))}", body=b"").status == 201
        assert connection.request("GET", f"/v2/{repository}/blobs/{digest_of(data)}").body == data
