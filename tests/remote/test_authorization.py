"""Who we are to a registry, and how that stays between the two of us: challenges, tokens, TLS."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from remote import connections
from remote.connections import Body
from remote.credentials import Credential
from remote.errors import RegistryError, RemoteError, Unreachable
from remote.transport import Registry
from tests.remote.faulty import Answer, Faulty, Request, refusal
from tests.remote.talking import CREDENTIAL, QUICK, client, endless, fine, read

# Who we are


class TokenServer:
    """A registry and its token server in one; the token is good for the scopes that were asked for."""

    def __init__(self, challenge: str, lifetime: object = 300) -> None:
        self.challenge, self.lifetime = challenge, lifetime
        self.asked: list[Request] = []
        self.host = ""

    def __call__(self, request: Request) -> Answer:
        if request.path == "/token":
            self.asked.append(request)
            token = f"token-{len(self.asked)}"
            return Answer(200, [], json.dumps({"token": token, "expires_in": self.lifetime}).encode())
        if request.headers.get("authorization") == f"Bearer token-{len(self.asked)}":
            return fine(request)
        value = self.challenge.replace("HOST", self.host)
        return refusal(401, "UNAUTHORIZED", "who are you", [("WWW-Authenticate", value)])


def tokens(challenge: str, lifetime: object = 300) -> Iterator[tuple[Faulty, TokenServer]]:
    answering = TokenServer(challenge, lifetime)
    with Faulty(answering) as server:
        answering.host = server.host
        yield server, answering


ODD = 'bearer  REALM="http://HOST/token?a=\\"b\\"" ,service = hub.example , scope="repository:a/b:pull"'


@pytest.fixture
def hub() -> Iterator[tuple[Faulty, TokenServer]]:
    yield from tokens(ODD)


@pytest.fixture
def brief_hub() -> Iterator[tuple[Faulty, TokenServer]]:
    yield from tokens(ODD, 0.0001)


def test_a_bearer_token_is_fetched_once_for_a_scope(hub: tuple[Faulty, TokenServer]) -> None:
    server, answering = hub
    with client(server, CREDENTIAL) as registry:
        for _ in range(3):
            assert read(registry, scope=("repository:a/b:pull,push",)) == b"fine"
    assert len(answering.asked) == 1
    query = parse_qs(urlsplit(answering.asked[0].target).query)
    assert query == {
        "a": ['"b"'],
        "service": ["hub.example"],
        "scope": ["repository:a/b:pull,push", "repository:a/b:pull"],
    }
    assert answering.asked[0].headers["authorization"] == "Basic " + base64.b64encode(b"me:geheim").decode()


def test_nobody_asks_without_credentials(hub: tuple[Faulty, TokenServer]) -> None:
    server, answering = hub
    with client(server) as registry:
        assert read(registry, scope=("repository:a/b:pull",)) == b"fine"
    assert "authorization" not in answering.asked[0].headers


def test_an_identity_token_is_exchanged(hub: tuple[Faulty, TokenServer]) -> None:
    server, answering = hub
    with client(server, Credential("", "", "refresh+me")) as registry:
        assert read(registry, scope=("repository:a/b:pull",)) == b"fine"
    request = answering.asked[0]
    assert request.method == "POST"
    form = parse_qs(request.body.decode())
    assert form["grant_type"] == ["refresh_token"]
    assert form["refresh_token"] == ["refresh+me"]
    assert form["scope"] == ["repository:a/b:pull"]


def test_a_token_that_expires_is_replaced(brief_hub: tuple[Faulty, TokenServer]) -> None:
    server, answering = brief_hub
    with client(server, CREDENTIAL) as registry:
        for _ in range(3):
            assert read(registry, scope=("repository:a/b:pull",)) == b"fine"
    assert len(answering.asked) == 3


def test_threads_that_are_refused_together_fetch_one_token(hub: tuple[Faulty, TokenServer]) -> None:
    server, answering = hub
    with client(server, CREDENTIAL) as registry:
        threads = [threading.Thread(target=read, args=(registry, "/v2/", ("repository:a/b:pull",))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answering.asked) == 1


def test_a_streamed_body_is_sent_anew_after_a_challenge(hub: tuple[Faulty, TokenServer]) -> None:
    server, _ = hub
    body = Body(6, lambda: iter([b"abc", b"def"]))
    with client(server, CREDENTIAL) as registry:
        registry.request("PUT", "/v2/x", body=body, scope=("repository:a/b:push",)).close()
    assert [one.body for one in server.seen("PUT")] == [b"abcdef", b"abcdef"]


def test_basic_is_sent_after_the_challenge_only() -> None:
    def basic(request: Request) -> Answer:
        if request.headers.get("authorization") == "Basic " + base64.b64encode(b"me:geheim").decode():
            return fine(request)
        return refusal(401, "UNAUTHORIZED", "who", [("WWW-Authenticate", 'Negotiate, Basic realm="the \\"hub\\""')])

    with Faulty(basic) as server, client(server, CREDENTIAL) as registry:
        assert read(registry) == b"fine"
        assert read(registry) == b"fine"
        assert ["authorization" in one.headers for one in server.requests] == [False, True, True]
    with Faulty(basic) as server, client(server, Credential("me", "wrong")) as registry:
        with pytest.raises(RegistryError, match=r"401.*docker login"):
            read(registry)
        assert len(server.requests) == 2
    with Faulty(basic) as server, client(server) as registry, pytest.raises(RegistryError, match="401"):
        read(registry)


def test_a_challenge_that_cannot_be_read() -> None:
    answer = refusal(401, "UNAUTHORIZED", "who", [("WWW-Authenticate", 'Bearer realm="open')])
    with (
        Faulty(lambda request: answer) as server,
        client(server, CREDENTIAL) as registry,
        pytest.raises(RemoteError, match="asks for a log-in in a way that cannot be read"),
    ):
        read(registry)


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"<html>", b'{"token":5}', b'{"token":"a b"}', b'{"token":"a\\r\\nX: y"}', b'{"token":""}']
)
def test_a_token_answer_that_is_none(body: bytes) -> None:
    def answering(request: Request) -> Answer:
        if request.path == "/token":
            return Answer(200, [], body)
        return refusal(401, "UNAUTHORIZED", "who", [("WWW-Authenticate", f'Bearer realm="http://{server.host}/token"')])

    with Faulty(answering) as server, client(server) as registry, pytest.raises(RemoteError, match="the token server"):
        read(registry)


def test_an_endless_token_answer() -> None:
    def answering(request: Request) -> Answer:
        if request.path == "/token":
            return Answer(200, [], pieces=endless())
        return refusal(401, "UNAUTHORIZED", "who", [("WWW-Authenticate", f'Bearer realm="http://{server.host}/token"')])

    with Faulty(answering) as server, client(server) as registry, pytest.raises(RemoteError, match="1048576 bytes"):
        read(registry)


# TLS


@pytest.fixture
def tls() -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate for 127.0.0.1 that no authority signed."""
    path = Path(__file__).parent / "certificate.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, path


def secure(server: Faulty) -> Registry:
    return Registry(server.host, credential=lambda host: CREDENTIAL, plain_http=False, policy=QUICK)


def test_an_untrusted_certificate_is_explained(tls: tuple[ssl.SSLContext, Path]) -> None:
    with Faulty(fine, tls[0]) as server, secure(server) as registry:
        with pytest.raises(
            Unreachable, match=r"certificate is not trusted .*/etc/docker/certs\.d/127\.0\.0\.1:\d+/ca\.crt"
        ):
            registry.request("GET", "/v2/")
        assert server.requests == []


def test_a_certificate_in_dockers_place_is_trusted(
    tls: tuple[ssl.SSLContext, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_CERTIFICATES", tmp_path)
    with Faulty(fine, tls[0]) as server, secure(server) as registry:
        folder = tmp_path / server.host
        folder.mkdir()
        (folder / "ca.crt").write_bytes(tls[1].read_bytes())
        response = registry.request("GET", "/v2/")
        assert response.read(10, "it") == b"fine"
        response.close()


def test_plain_http_where_tls_is_expected_is_explained() -> None:
    with Faulty(fine) as server, secure(server) as registry, pytest.raises(Unreachable, match="--plain-http"):
        registry.request("GET", "/v2/")


def test_tls_is_never_left_for_plain_http(
    tls: tuple[ssl.SSLContext, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_CERTIFICATES", tmp_path)
    with Faulty(fine) as plain:

        def answering(request: Request) -> Answer:
            if "token" in request.target:
                value = f'Bearer realm="http://{plain.host}/token"'
                return refusal(401, "UNAUTHORIZED", "who", [("WWW-Authenticate", value)])
            return Answer(307, [("Location", f"http://{plain.host}/")])

        with Faulty(answering, tls[0]) as server, secure(server) as registry:
            folder = tmp_path / server.host
            folder.mkdir()
            (folder / "ca.crt").write_bytes(tls[1].read_bytes())
            with pytest.raises(RemoteError, match=r"plain HTTP .*X-Forwarded-Proto"):
                registry.request("GET", "/v2/")
            with pytest.raises(RemoteError, match="fetch a token over plain HTTP"):
                registry.request("GET", "/token")
        assert plain.requests == []
