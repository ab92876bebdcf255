"""Through a proxy that the environment names. The proxy is the test's own: only it can know hosts that nobody else resolves."""

from __future__ import annotations

import contextlib
import gc
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from remote import connections
from remote.errors import RemoteError, Unreachable
from remote.proxies import Proxy, proxy_for
from remote.transport import Registry
from tests.remote.faulty import Answer, Faulty
from tests.remote.talking import QUICK, fine, read
from tests.servers import free_port, portside, run
from tests.tools import tool
from tests.wire.client import Connection
from tests.wire.content import blob, push_image

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class ForwardProxy(ThreadingHTTPServer):
    """Forwards absolute-form requests and CONNECT (RFC 9110 sections 7.3.2 and 9.3.6), all of them to one port of the loopback."""

    daemon_threads = True

    def __init__(self, to: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.to = to
        self.lines: list[str] = []
        self.credentials: list[str | None] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ForwardProxy

    def log_message(self, *_: object) -> None:
        pass

    def _note(self) -> None:
        self.server.lines.append(f"{self.command} {self.path}")
        self.server.credentials.append(self.headers["Proxy-Authorization"])

    def do_CONNECT(self) -> None:
        self._note()
        with socket.create_connection(("127.0.0.1", self.server.to)) as onward:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_relay, args=(onward, self.connection), daemon=True)
            back.start()
            _relay(self.connection, onward)
            back.join(10)
        self.close_connection = True

    def _forward(self) -> None:
        self._note()
        assert self.path.startswith("http://"), self.path
        target = "/" + self.path.removeprefix("http://").partition("/")[2]
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        onward = http.client.HTTPConnection("127.0.0.1", self.server.to, timeout=30)
        headers = {name: value for name, value in self.headers.items() if not name.lower().startswith("proxy-")}
        onward.request(self.command, target, body, headers)
        answer = onward.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("date", "server", "connection"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        onward.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _forward


def _relay(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def forward_proxy(to: int) -> Iterator[ForwardProxy]:
    with ForwardProxy(to) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(10)


def test_a_pull_and_a_push_of_plain_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with portside(tmp_path / "root") as hub, forward_proxy(hub.port) as proxy:
        with Connection(hub.address) as connection:
            raw = push_image(connection, "a/app", "1", blob("layer", 300_000).hex())
        monkeypatch.setenv("HTTP_PROXY", f"http://me:p%40ss@{proxy.host}")
        command = [str(tool("portside")), "copy", "--plain-http", "hub.test:5000/a/app:1", "hub.test:5000/b/app:2"]
        run(command)
        with Connection(hub.address) as connection:
            assert connection.request("GET", "/v2/b/app/manifests/2").body == raw
        assert proxy.lines
        assert all(" http://hub.test:5000/v2/" in line for line in proxy.lines), proxy.lines
        assert set(proxy.credentials) == {"Basic bWU6cEBzcw=="}


def test_tls_goes_through_a_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem = tmp_path / "hub.pem"
    subject = ["-subj", "/CN=hub.test", "-addext", "subjectAltName=DNS:hub.test", "-days", "2"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(pem)]
    run(["openssl", "req", "-x509", *key, "-out", str(tmp_path / "crt"), *subject])
    pem.write_bytes(pem.read_bytes() + (tmp_path / "crt").read_bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    (tmp_path / "hub.test").mkdir()
    (tmp_path / "crt").rename(tmp_path / "hub.test" / "ca.crt")
    monkeypatch.setattr(connections, "_CERTIFICATES", tmp_path)
    with Faulty(fine, context) as server, forward_proxy(server.port) as proxy:
        monkeypatch.setenv("https_proxy", f"me:geheim@{proxy.host}")
        with Registry("hub.test", policy=QUICK) as registry:
            assert read(registry) == b"fine"
            assert read(registry) == b"fine"
        assert proxy.lines == ["CONNECT hub.test:443"]
        assert proxy.credentials == ["Basic bWU6Z2VoZWlt"]
        assert [request.target for request in server.requests] == ["/v2/", "/v2/"]
        assert not any("proxy-authorization" in request.headers for request in server.requests)


def test_a_proxy_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("all_proxy", f"http://me:geheim@{gone}")
    for plain in (True, False):
        with (
            Registry("hub.test:5000", plain_http=plain, policy=QUICK) as registry,
            pytest.raises(Unreachable, match=rf"Connection refused \(through the proxy {gone} of") as raised,
        ):
            read(registry)
        assert "geheim" not in str(raised.value)


# http.client of Python before 3.11.4 leaves the closing of a refused tunnel's socket to the collector, which says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_tunnel_that_is_refused_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with Faulty(lambda request: Answer(407)) as proxy, Registry("hub.test", policy=QUICK) as registry:
        monkeypatch.setenv("https_proxy", proxy.host)
        with pytest.raises(Unreachable, match=r"407.*through the proxy"):
            read(registry)
    gc.collect()


@pytest.mark.parametrize(
    ("variables", "scheme", "host", "expected"),
    [
        ({}, "http", "hub.test", None),
        ({"http_proxy": "http://p:3128"}, "http", "hub.test", ("p", 3128)),
        ({"http_proxy": "p:3128"}, "http", "hub.test", ("p", 3128)),
        ({"http_proxy": "http://p"}, "http", "hub.test", ("p", 80)),
        ({"http_proxy": "http://p"}, "https", "hub.test", None),
        ({"HTTPS_PROXY": "http://p"}, "https", "hub.test", ("p", 80)),
        ({"ALL_PROXY": "http://p"}, "https", "hub.test", ("p", 80)),
        ({"all_proxy": "http://q", "https_proxy": "http://p"}, "https", "hub.test", ("p", 80)),
        ({"HTTP_PROXY": "http://p", "REQUEST_METHOD": "GET"}, "http", "hub.test", None),
        ({"http_proxy": "http://p"}, "http", "localhost", None),
        ({"http_proxy": "http://p"}, "http", "127.0.0.9", None),
        ({"http_proxy": "http://p", "no_proxy": "a, hub.test"}, "http", "hub.test", None),
        ({"http_proxy": "http://p", "no_proxy": ".test"}, "http", "hub.test", None),
        ({"http_proxy": "http://p", "no_proxy": "hub.test:5000"}, "http", "hub.test", None),
        ({"http_proxy": "http://p", "no_proxy": "ub.test"}, "http", "hub.test", ("p", 80)),
        ({"http_proxy": "http://p", "NO_PROXY": "*"}, "http", "hub.test", None),
    ],
)
def test_which_proxy(
    variables: dict[str, str], scheme: str, host: str, expected: tuple[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(scheme, host) == (None if expected is None else Proxy(*expected))


@pytest.mark.parametrize("value", ["socks5://me:geheim@p:1080", "https://me:geheim@p", "http://", "http://p:x"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", value)
    with pytest.raises(RemoteError, match="the proxy of the environment") as raised:
        proxy_for("https", "hub.test")
    assert "geheim" not in str(raised.value)
