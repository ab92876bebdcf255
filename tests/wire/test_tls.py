"""TLS on the wire; and the tables of plain HTTP once more, over TLS 1.3: nothing above the records may notice them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
import ssl
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.images import OCI_MANIFEST
from tests.secure import Records, SecureConnection, SecureServer, secure_portside
from tests.servers import wait_until
from tests.tools import tool
from tests.wire import client, content, test_blobs, test_http, test_manifests, test_uploads

TABLES = (test_http, test_blobs, test_uploads, test_manifests)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServer]:
    with secure_portside(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture(autouse=True)
def over_tls(hub: SecureServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection that the tables make begins with a handshake."""
    context: ssl.SSLContext = hub.authority.context()

    class Secure(SecureConnection):
        def __init__(self, address: str, seconds: float = client.SECONDS) -> None:
            super().__init__(address, seconds, context)

    for module in (client, content, *TABLES):
        if hasattr(module, "Connection"):
            monkeypatch.setattr(module, "Connection", Secure)


@pytest.fixture
def wire(hub: SecureServer) -> Iterator[SecureConnection]:
    with hub.connect() as connection:
        yield connection


def _lines(server: SecureServer) -> list[dict[str, object]]:
    """The log's lines."""
    return [json.loads(line) for line in server.log.read_text().splitlines()]


def _await_line(server: SecureServer, text: str) -> dict[str, object]:
    """The first line whose message has a text; it is written within a fraction of a second."""

    def found() -> list[dict[str, object]]:
        return [line for line in _lines(server) if text in str(line.get("message", ""))]

    wait_until(lambda: bool(found()), f"the log says {text!r}", 10)
    return found()[0]


# -- handshakes


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_are_spoken(hub: SecureServer, maximum: ssl.TLSVersion) -> None:
    context = hub.authority.context(maximum)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with hub.connect(context=context) as connection:
        assert connection.sock.version() == maximum.name.replace("_", ".")
        assert connection.sock.selected_alpn_protocol() == "http/1.1"
        assert connection.request("GET", "/v2/").status == 200


def test_older_versions_are_refused_with_an_alert(hub: SecureServer) -> None:
    context = hub.authority.context()
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        hub.connect(context=context)
    assert _await_line(hub, "unsupported protocol")["status"] == 400


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed(hub: SecureServer, maximum: ssl.TLSVersion) -> None:
    context = hub.authority.context(maximum)
    with hub.connect(context=context) as connection:
        assert connection.request("GET", "/v2/").status == 200  # a ticket of TLS 1.3 comes with what is read
        session = connection.sock.session
    sock = socket.create_connection(("127.0.0.1", hub.port), 30)
    with context.wrap_socket(sock, server_hostname="127.0.0.1", session=session) as again:
        assert again.session_reused
        again.sendall(client.head("GET", "/v2/", "h"))
        assert again.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_handshake_byte_by_byte(hub: SecureServer) -> None:
    with Records(hub) as records:
        for byte in records.hello():
            records.send(bytes([byte]))
        for byte in records.finish() + records.encrypt(client.head("GET", "/v2/", "h")):
            records.send(bytes([byte]))
        assert records.read_until(b"{}").startswith(b"HTTP/1.1 200 ")


def test_a_request_in_the_same_segment_as_the_handshake(hub: SecureServer) -> None:
    """With a body that is longer than a handshake may be."""
    with hub.connect() as connection:
        location = content.start_upload(connection, "tls/early")
    data = content.blob("early", 150_000)
    with Records(hub) as records:
        target = f"{location}?{content.query(digest=content.digest_of(data))}"
        last = records.shake()
        records.send(last + records.encrypt(client.head("PUT", target, "h", length=len(data)) + data))
        assert records.read_until(b"\r\n\r\n").startswith(b"HTTP/1.1 201 ")


def test_plain_http_is_told_where_it_is(hub: SecureServer) -> None:
    with socket.create_connection(("127.0.0.1", hub.port), 30) as sock:
        sock.sendall(b"GET /v2/ HTTP/1.1\r\nHost: hub.lan:5000\r\n\r\n")
        answer = b""
        while part := sock.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nconnection: close" in head
    (error,) = json.loads(body)["errors"]
    assert (error["code"], error["message"]) == (
        "REQUEST_INVALID",
        "this port speaks TLS: use https://hub.lan:5000/",
    )
    assert _await_line(hub, "this port speaks TLS")["status"] == 400


@pytest.mark.parametrize("raw", [b"G", b'GET / HTTP/1.1\r\nHost: "<script>\r\n\r\n', b"GET / HTTP/1.0\r\n\r\n"])
def test_plain_http_without_a_name_of_ours(hub: SecureServer, raw: bytes) -> None:
    with socket.create_connection(("127.0.0.1", hub.port), 30) as sock:
        sock.sendall(raw)
        answer = sock.recv(65536)
    assert b'"this port speaks TLS: use https"' in answer


def test_a_client_that_distrusts_us_is_named_in_the_log(hub: SecureServer) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        hub.connect(context=ssl.create_default_context())
    line = _await_line(hub, "unknown ca")
    assert line["message"] == (
        "TLS handshake failed: unknown ca (the client does not trust this server's certificate: see `portside trust`)"
    )
    assert str(line["client"]).startswith("127.0.0.1:")


def test_a_client_is_known_by_its_address(hub: SecureServer) -> None:
    with hub.connect() as connection:
        connection.request("GET", "/v2/tls/address/manifests/none")
        host, port = connection.sock.getsockname()
    wait_until(
        lambda: any(line.get("client") == f"{host}:{port}" for line in _lines(hub)), "the log has the address", 10
    )


def test_a_new_certificate_is_used_without_dropping_a_connection(tmp_path: Path) -> None:
    data = content.blob("renewed", 2_000_000)
    with secure_portside(tmp_path) as server, server.connect() as old:
        before = old.sock.getpeercert(True)
        location = content.start_upload(old, "tls/renewed")
        old.send(client.head("PATCH", location, "h", length=len(data)) + data[:1_000_000])
        server.authority.issue()

        def is_renewed() -> bool:
            with server.connect() as fresh:
                assert fresh.request("GET", "/v2/").status == 200
                return fresh.sock.getpeercert(True) != before

        wait_until(is_renewed, "new connections get the new certificate", 10)
        old.send(data[1_000_000:])
        assert old.read().status == 202
        target = f"{location}?{content.query(digest=content.digest_of(data))}"
        assert old.request("PUT", target, body=b"").status == 201
        assert old.request("GET", f"/v2/tls/renewed/blobs/{content.digest_of(data)}").body == data


# -- bodies


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [300_000, 2_000_000])
def test_a_request_after_a_large_body_in_the_same_records(hub: SecureServer, chunked: bool, size: int) -> None:
    data = content.blob(f"followed {size} {chunked}", size)
    with hub.connect() as connection:
        location = content.start_upload(connection, "tls/followed")
        target = f"{location}?{content.query(digest=content.digest_of(data))}"
        framed = client.chunk(data) + b"0\r\n\r\n" if chunked else data
        head = client.head("PUT", target, "h", length=None if chunked else size, chunked=chunked)
        ping = client.head("GET", "/v2/", "h")
        connection.send(head + framed + ping + ping)
        assert connection.read().status == 201
        assert connection.read().body == b"{}"
        assert connection.read().body == b"{}"
        assert connection.request("GET", f"/v2/tls/followed/blobs/{content.digest_of(data)}").body == data


def test_requests_that_wait_while_a_blob_is_sent(hub: SecureServer) -> None:
    data = content.blob("sent meanwhile", 5_000_000)
    with hub.connect() as connection:
        digest = content.push_blob(connection, "tls/meanwhile", data)
        get = client.head("GET", f"/v2/tls/meanwhile/blobs/{digest}", "h")
        connection.send(get + get + client.head("GET", "/v2/", "h"))
        assert connection.read().body == data
        connection.send(get)
        assert connection.read().body == data
        assert connection.read().body == b"{}"
        assert connection.read().body == data


def test_a_blob_after_answers_that_were_not_read(hub: SecureServer) -> None:
    """Answers from memory wait in the transport, and a file is sent beside it: it has to wait for them."""
    raw = content.image(content.descriptor("application/octet-stream", b"{}"), [], annotations={"x": "y" * 3_000_000})
    data = content.blob("after answers", 5_000_000)
    with hub.connect() as connection:
        content.push_blob(connection, "tls/unread", b"{}")
        digest = content.push_blob(connection, "tls/unread", data)
        put = connection.request("PUT", "/v2/tls/unread/manifests/v1", {"Content-Type": OCI_MANIFEST}, raw)
        assert put.status == 201
        manifest = client.head("GET", "/v2/tls/unread/manifests/v1", "h")
        connection.send(manifest * 8 + client.head("GET", f"/v2/tls/unread/blobs/{digest}", "h"))
        seen = [(0, 0.0)]

        def is_at_rest() -> bool:
            """Whether some were answered, and no more for a second."""
            count = sum("/v2/tls/unread/" in str(line.get("target")) for line in _lines(hub))
            if count != seen[-1][0]:
                seen.append((count, time.monotonic()))
            return count > 4 and time.monotonic() - seen[-1][1] > 1

        wait_until(is_at_rest, "the server waits for the client", 20)
        for _ in range(8):
            assert connection.read().body == raw
        assert connection.read().body == data


def test_downloads_and_uploads_at_once(hub: SecureServer) -> None:
    wrong: list[str] = []

    def push_and_pull(number: int) -> None:
        try:
            data = content.blob(f"at once {number}", 3_000_000 + number)
            with hub.connect() as connection:
                digest = content.push_blob(connection, f"tls/once{number}", data)
                for _ in range(3):
                    if connection.request("GET", f"/v2/tls/once{number}/blobs/{digest}").body != data:
                        wrong.append(f"{number}: other bytes")
        except Exception as error:
            wrong.append(f"{number}: {error!r}")

    threads = [threading.Thread(target=push_and_pull, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_large_answer_from_memory(hub: SecureServer) -> None:
    raw = content.image(content.descriptor("application/octet-stream", b"{}"), [], annotations={"x": "y" * 3_000_000})
    with hub.connect() as connection:
        content.push_blob(connection, "tls/large", b"{}")
        put = connection.request("PUT", "/v2/tls/large/manifests/v1", {"Content-Type": OCI_MANIFEST}, raw)
        assert put.status == 201
        assert connection.request("GET", "/v2/tls/large/manifests/v1").body == raw


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_a_close_notify_in_a_body_keeps_what_came(hub: SecureServer, size: int) -> None:
    data = content.blob("ended", size)
    with hub.connect() as connection:
        location = content.start_upload(connection, "tls/ended")
        with Records(hub) as records:
            records.send(records.shake())
            records.send(records.encrypt(client.head("PATCH", location, "h", chunked=True) + client.chunk(data)))
            records.send(records.close_notify())
            while records.read():
                pass
        assert (connection.request("GET", location).header("range") or "") == f"0-{size - 1}"
        target = f"{location}?{content.query(digest=content.digest_of(data))}"
        assert connection.request("PUT", target, body=b"").status == 201


def test_a_close_notify_after_a_request_leaves_the_answer(hub: SecureServer) -> None:
    """RFC 8446 section 6.1: it ends one direction."""
    with Records(hub) as records:
        records.send(records.shake())
        records.send(records.encrypt(client.head("GET", "/v2/", "h")) + records.close_notify())
        assert records.read_until(b"{}").startswith(b"HTTP/1.1 200 ")
        assert records.read() == b""


def test_the_server_says_close_notify(hub: SecureServer) -> None:
    """A client must be able to tell an end from a cut."""
    with Records(hub) as records:
        records.send(records.shake() + records.encrypt(client.head("GET", "/v2/", "h", {"Connection": "close"})))
        records.read_until(b"{}")
        assert records.read() == b"", "an end without close_notify would raise SSLEOFError"


def test_new_keys_in_a_body_and_between_requests(hub: SecureServer) -> None:
    """openssl's client asks for new keys on K, at the beginning of what it reads (s_client(1))."""
    data = b"0123456789abcdef" * 65536
    with hub.connect() as connection:
        location = content.start_upload(connection, "tls/keys")
    target = f"{location}?{content.query(digest=content.digest_of(data))}"
    command = [str(tool("openssl")), "s_client", "-connect", hub.address, "-msg", "-CAfile", str(hub.authority.trusted)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for piece in (
            client.head("PUT", target, "h", length=len(data)) + data[:600_000],
            b"K\n",
            data[600_000:],
            b"K\n",
            client.head("GET", "/v2/", "h"),
            b"K\n",
            client.head("GET", "/v2/", "h", {"Connection": "close"}),
        ):
            process.stdin.write(piece)
            process.stdin.flush()
            wait_until(lambda: not _unread(process), "s_client has read it")
        said = process.stdout.read()
    assert said.count(b"HTTP/1.1 201 ") == 1, said[-3000:]
    assert said.count(b"HTTP/1.1 200 ") == 2
    assert said.count(b">>> TLS 1.3, Handshake [length 0005], KeyUpdate") == 3, "asked for"
    assert said.count(b"<<< TLS 1.3, Handshake [length 0005], KeyUpdate") == 3, "answered"


def _unread(process: subprocess.Popen[bytes]) -> int:
    """Bytes in the pipe to a process."""
    assert process.stdin is not None
    (count,) = struct.unpack("i", fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, bytes(4)))
    assert isinstance(count, int)
    return count


# -- the end


def test_sigterm_ends_idle_connections_and_lets_an_upload_end(tmp_path: Path) -> None:
    data = content.blob("ends", 3_000_000)
    with (
        secure_portside(tmp_path) as server,
        server.connect() as idle,
        server.connect() as busy,
        Records(server) as half,
    ):
        assert idle.request("GET", "/v2/").status == 200
        half.send(half.hello()[:100])
        location = content.start_upload(busy, "a")
        busy.send(client.head("PATCH", location, "h", length=len(data)) + data[:1_000_000])
        wait_until(lambda: any(f.stat().st_size for f in (server.root / "uploads").iterdir()), "bytes have arrived")
        server.process.terminate()
        assert idle.is_closed()
        with contextlib.suppress(ConnectionError):
            assert half.sock.recv(1) == b""
        busy.send(data[1_000_000:])
        answer = busy.read()
        assert (answer.status, answer.header("connection")) == (202, "close")
        assert busy.is_closed()
        assert server.process.wait(20) == 0


@pytest.mark.parametrize("flags", [[], ["--tls-max", "1.2"]])
def test_curl_pushes_and_pulls(hub: SecureServer, tmp_path: Path, flags: list[str]) -> None:
    data = content.blob("curl" + "".join(flags), 4_000_000)
    (tmp_path / "blob").write_bytes(data)
    with hub.connect() as connection:
        location = content.start_upload(connection, "tls/curl")
    curl = [str(tool("curl")), "-fsS", "--cacert", str(hub.authority.trusted), *flags]
    target = f"{hub.url}{location}?{content.query(digest=content.digest_of(data))}"
    subprocess.run([*curl, "-T", str(tmp_path / "blob"), target], check=True, timeout=60)
    blob = f"{hub.url}/v2/tls/curl/blobs/{content.digest_of(data)}"
    assert subprocess.run([*curl, blob], check=True, timeout=60, capture_output=True).stdout == data


# -- the tables


def _tests(module: ModuleType) -> dict[str, object]:
    return {name: test for name, test in vars(module).items() if name.startswith("test_")}


for table in TABLES:
    globals().update(_tests(table))
