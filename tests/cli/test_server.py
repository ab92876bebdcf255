"""`--server`: TLS, tokens, and servers that are none."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from cli import api
from tests.cli.running import call

SECRET = "psp_0000"
TOKEN = {"PORTSIDE_TOKEN": SECRET}
USERS = {
    "users": [{"name": "ann", "kind": "user", "is_admin": True, "is_disabled": False, "groups": [], "created_at": 0.0}]
}


def http(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass
class Canned:
    """A server that gives one answer to everything, and what it was sent."""

    listening: socket.socket
    answer: bytes
    context: ssl.SSLContext | None
    came: list[bytes] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    def serve(self) -> None:
        while True:
            try:
                sock, _ = self.listening.accept()
            except OSError:
                return
            with sock:
                try:
                    self._exchange(self.context.wrap_socket(sock, server_side=True) if self.context else sock)
                except OSError:  # a client that does not trust us, or has read enough
                    continue

    def _exchange(self, sock: socket.socket) -> None:
        with sock:
            self.came.append(sock.recv(65536))
            sock.sendall(self.answer)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass


@contextmanager
def serving(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[Canned]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        canned = Canned(listening, answer, context)
        thread = threading.Thread(target=canned.serve)
        thread.start()
        try:
            yield canned
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate for localhost, and its authority in a file."""

    context: ssl.SSLContext
    authority: Path


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    authority = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return Issued(context, path)


ANSWER = http("200 OK", json.dumps(USERS).encode(), "Content-Type: application/json")


def test_over_tls_by_an_authority_that_is_named(issued: Issued) -> None:
    with serving(ANSWER, issued.context) as server:
        url = f"https://localhost:{server.port}"
        done = call("user", "ls", "--server", url, "--ca", issued.authority, env=TOKEN)
        assert done.rows[1][:3] == ["ann", "admin", "active"]
        (request,) = server.came
        assert request.startswith(b"GET /api/v1/users HTTP/1.1\r\n")
        assert f"Authorization: Bearer {SECRET}\r\n".encode() in request


def test_over_tls_by_an_authority_that_is_kept(issued: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "CERTIFICATES", (tmp_path / "docker", tmp_path / "containers"))
    with serving(ANSWER, issued.context) as server:
        url = f"https://localhost:{server.port}"
        refused = call("user", "ls", "--server", url, env=TOKEN, code=1)
        assert f"portside trust localhost:{server.port} --fingerprint" in refused.stderr
        assert server.came == [], "a server that is not trusted learns no token"
        for folder in ("docker", "containers"):
            kept = tmp_path / folder / f"localhost:{server.port}"
            kept.mkdir(parents=True)
            (kept / "ca.crt").write_bytes(issued.authority.read_bytes())
            assert call("user", "ls", "--server", url, env=TOKEN).rows[1][0] == "ann"
            (kept / "ca.crt").unlink()
        assert len(server.came) == 2


def test_an_authority_that_is_named_is_the_only_one(
    issued: Issued, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(issued.authority))
    with serving(ANSWER, issued.context) as server:
        url = f"https://localhost:{server.port}"
        assert call("user", "ls", "--server", url, env=TOKEN).rows[1][0] == "ann"
        refused = call("user", "ls", "--server", url, "--ca", tmp_path / "other.pem", env=TOKEN, code=1)
        assert "is not trusted" in refused.stderr
        assert len(server.came) == 1


def test_a_certificate_for_another_name(issued: Issued) -> None:
    with serving(ANSWER, issued.context) as server:
        url = f"https://127.0.0.1:{server.port}"
        assert (
            "is not trusted" in call("user", "ls", "--server", url, "--ca", issued.authority, env=TOKEN, code=1).stderr
        )
        assert server.came == []


def test_files_that_hold_no_authority(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    for path in (tmp_path / "no.pem", tmp_path / "gone.pem"):
        done = call("user", "ls", "--server", "https://localhost:1", "--ca", path, env=TOKEN, code=1)
        assert f"{path} cannot be read" in done.stderr


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("http://hub.lan:5000", "by https:// only"),
        ("http://192.0.2.1", "by https:// only"),
        ("ftp://localhost", "'ftp' is not spoken"),
        ("https://", "it is empty"),
        ("https://hub.lan:99999", "is not a port"),
        ("https://hub.lan/api/v1", "as https://hub.lan:5000"),
        ("https://hub.lan?x", "as https://hub.lan:5000"),
        ("https://hub lan", "as https://hub.lan:5000"),
        ("https://hub\nlan", "as https://hub.lan:5000"),
        ("https://ann:geheim@hub.lan", "takes no name or password"),
        ("https://[::1", "as https://hub.lan:5000"),
    ],
)
def test_urls_that_are_refused(server: str, said: str) -> None:
    done = call("user", "ls", "--server", server, env=TOKEN, code=2)
    assert said in done.stderr
    assert "geheim" not in done.stderr


@pytest.mark.parametrize("secret", ["two words", "gehe\x07im", "schlüssel", "a\tb"])
def test_tokens_that_are_none(secret: str) -> None:
    done = call("user", "ls", "--server", "http://127.0.0.1:1", env={"PORTSIDE_TOKEN": secret}, code=2)
    assert "that is no token" in done.stderr
    assert secret not in done.stderr


def test_without_a_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PORTSIDE_TOKEN", raising=False)
    for options in ((), ("--token-stdin",)):
        done = call("user", "ls", "--server", "http://127.0.0.1:1", *options, code=2)
        assert "set PORTSIDE_TOKEN" in done.stderr
    assert "go with --server" in call("user", "ls", "--root", tmp_path, "--token-stdin", code=2).stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http("404 Not Found", b"<html>nothing</html>"), "status 404; is that a Portside server?"),
        (http("200 OK", b"<html>hello</html>"), "answers what cannot be understood"),
        (http("200 OK", b'{"users": [{"name": 1}]}'), "answers what cannot be understood"),
        (http("200 OK", b"{}"), "answers what cannot be understood"),
        (http("302 Found", b"", "Location: http://127.0.0.1:1/"), "status 302"),
        (http("403 Forbidden", b'{"errors": [{"message": "\\u001b[2Jno"}]}'), "portside: ?[2Jno"),
        (http("403 Forbidden", b'{"errors": []}'), "status 403"),
        (http("403 Forbidden", b'{"errors": {"message": "no"}}'), "status 403"),
        (http("401 Unauthorized", b'{"errors": [{"message": "revoked"}]}'), "does not accept the token"),
        (b"SSH-2.0-OpenSSH\r\n", "does not answer"),
        (b"", "does not answer"),
    ],
)
def test_answers_that_are_none(answer: bytes, said: str) -> None:
    with serving(answer) as server:
        done = call("user", "ls", "--server", f"127.0.0.1:{server.port}", env=TOKEN, code=1)
        assert said in done.stderr
        assert done.stdout == ""
        assert SECRET not in done.stderr
        assert len(server.came) == 1


def test_an_answer_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "ANSWER_MAX", 1_000_000)
    with serving(http("200 OK", b" " * 3_000_000)) as server:
        done = call("user", "ls", "--server", f"127.0.0.1:{server.port}", env=TOKEN, code=1)
    assert "answers with more than 1000000 bytes" in done.stderr


def test_a_newer_server_may_say_more() -> None:
    users = {"users": [{**USERS["users"][0], "shoe_size": 42}], "more": True}
    with serving(http("200 OK", json.dumps(users).encode())) as server:
        assert call("user", "ls", "--server", f"127.0.0.1:{server.port}", env=TOKEN).rows[1][0] == "ann"


def test_nobody_listens() -> None:
    done = call("user", "ls", "--server", "http://127.0.0.1:1", env=TOKEN, code=1)
    assert "127.0.0.1:1 does not answer" in done.stderr


def test_no_proxy_stands_between_this_machine_and_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(http("502 Bad Gateway", b"")) as proxy, serving(ANSWER) as server:
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        assert call("user", "ls", "--server", f"127.0.0.1:{server.port}", env=TOKEN).rows[1][0] == "ann"
        assert proxy.came == []


def test_names_stay_in_their_part_of_the_path() -> None:
    with serving(http("404 Not Found", b"")) as server:
        call("user", "rm", "../keys?x#y", "--server", f"127.0.0.1:{server.port}", env=TOKEN, code=1)
        assert server.came[0].startswith(b"DELETE /api/v1/users/..%2Fkeys%3Fx%23y HTTP/1.1\r\n")


def test_a_root_that_is_none(tmp_path: Path) -> None:
    done = call("user", "ls", "--root", tmp_path, code=1)
    assert "is no root of a hub" in done.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "metadata.db").write_text("this is no database")
    assert "cannot be used" in call("user", "ls", "--root", tmp_path, code=1).stderr


def test_keys_that_others_can_read(tmp_path: Path) -> None:
    call("init", "--root", tmp_path, "--admin", "ann")
    call("key", "rotate", "--root", tmp_path)
    for path in (tmp_path / "auth/keys").glob("*.pem"):
        path.chmod(0o644)
    assert "chmod 600" in call("key", "ls", "--root", tmp_path, code=1).stderr
