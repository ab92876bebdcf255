"""Foreign issuers: their keys by file and by address, when these change, are hostile, slow, or down."""

from __future__ import annotations

import gzip
import os
import select
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import auth.foreign
from auth.foreign import KEPT, PAUSE_AFTER_FAILURE, PAUSE_AFTER_SUCCESS, ForeignIssuer, InvalidIssuer
from auth.jwks import KEY_SET_MAX
from auth.key_files import KeyFiles
from auth.keys import KeyRing
from auth.tokens import InvalidToken, KeyUnknown, TokenVerifier, VerifiedToken
from tests.auth.forging import PrivateKey, forge, key_set, public_jwk
from tests.auth.publishing import Publisher, send
from tests.servers import free_port, wait_until

ISSUER = "https://ci.example"
AUDIENCE = "hub.lan"
NOW = 1_760_000_000.0

P256, P384, P521 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()))
OTHER = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher().running() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing(KeyFiles(tmp_path_factory.mktemp("hub") / "auth/keys"), 300)


def token(key: PrivateKey, kid: str, algorithm: str = "ES256", said: str | None = None, **header: Any) -> str:
    """A lawful token of the issuer."""
    claims = {"iss": ISSUER, "sub": "job", "aud": AUDIENCE, "exp": NOW + 300}
    return forge({"alg": said or algorithm, "kid": kid, **header}, claims, key, algorithm)


def verify(ring: KeyRing, issuer: ForeignIssuer, text: str) -> VerifiedToken:
    """As a server does it: keys that are not known are fetched once."""
    verifier = TokenVerifier(ring, "hub", "hub", [issuer])
    try:
        return verifier.verify(text, NOW)
    except KeyUnknown as error:
        named = error.foreign_issuer
    assert named is issuer
    named.refresh()
    return verifier.verify(text, NOW)


def refusal(ring: KeyRing, issuer: ForeignIssuer, text: str) -> str:
    with pytest.raises(InvalidToken) as caught:
        verify(ring, issuer, text)
    assert not isinstance(caught.value, KeyUnknown), "one more fetch would follow"
    return str(caught.value)


def test_a_key_decides_what_its_tokens_are_signed_by(tmp_path: Path, ring: KeyRing) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(public_jwk(RSA, "rs", alg="RS256"), public_jwk(P384, "p384")))
    issuer = ForeignIssuer(ISSUER, AUDIENCE, str(path))
    assert verify(ring, issuer, token(RSA, "rs", "RS256")).is_foreign
    assert verify(ring, issuer, token(P384, "p384", "ES384")).subject == "job"
    for text in (
        token(RSA, "rs", "PS256"),
        token(RSA, "rs", "RS256", said="RS512"),
        token(P256, "p384", "ES256"),
        token(P384, "p384", "ES384", said="none"),
    ):
        assert "algorithm that its key is not for" in refusal(ring, issuer, text)
    assert "signature is wrong" in refusal(ring, issuer, token(P521, "p384", "ES512", said="ES384"))


# -- by file


def test_a_file_is_read_again_when_it_has_changed(
    tmp_path: Path, ring: KeyRing, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(public_jwk(P256, "one")))
    issuer = ForeignIssuer(ISSUER, AUDIENCE, str(path), clock=clock)
    assert verify(ring, issuer, token(P256, "one")).audience == AUDIENCE
    assert "does not publish" in refusal(ring, issuer, token(P384, "two", "ES384"))

    path.write_bytes(key_set(public_jwk(P384, "two")))
    clock.now += 0.9
    assert issuer.find("two") is None
    clock.now += 0.1
    assert verify(ring, issuer, token(P384, "two", "ES384")).subject == "job"
    assert "does not publish" in refusal(ring, issuer, token(P256, "one")), "it was taken back"
    assert caplog.records == []


def test_a_file_that_has_not_changed_is_looked_at_once_a_second_and_not_read(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(public_jwk(P256, "one")))
    issuer = ForeignIssuer(ISSUER, AUDIENCE, str(path), clock=clock)
    before = issuer.find("one")
    looks: list[object] = []
    real = os.stat

    def counting(at: Any, **more: Any) -> os.stat_result:
        looks.append(at)
        return real(at, **more)

    monkeypatch.setattr(os, "stat", counting)
    for _ in range(3):
        clock.now += 1
        for _ in range(100):
            assert issuer.find("one") is before
            assert issuer.find("hostile") is None
    assert looks.count(path) == 3


def test_a_file_that_was_away_is_read_when_it_is_back(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(public_jwk(P256, "one")))
    issuer = ForeignIssuer(ISSUER, AUDIENCE, str(path), clock=clock)
    failures = []
    for here, there in (("jwks.json", "away"), ("away", "jwks.json")):
        (tmp_path / here).rename(tmp_path / there)
        clock.now += 1
        assert issuer.find("one") is not None
        failures.append(issuer.failure)
    assert failures == ["No such file or directory", ""]


@pytest.mark.parametrize("damage", ["removed", "broken", "a directory", "large", "not readable"])
def test_known_keys_verify_on_when_the_file_is_damaged(
    tmp_path: Path, ring: KeyRing, clock: Clock, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "jwks.json"
    good = key_set(public_jwk(P256, "one"))
    path.write_bytes(good)
    issuer = ForeignIssuer(ISSUER, AUDIENCE, str(path), clock=clock)
    if damage in ("removed", "a directory", "not readable"):
        path.unlink()
        if damage == "a directory":
            path.mkdir()
        elif damage == "not readable":
            path.symlink_to(path)
    else:
        path.write_bytes(b"{" if damage == "broken" else good + b" " * KEY_SET_MAX)
    for _ in range(3):
        clock.now += 1
        assert verify(ring, issuer, token(P256, "one")).subject == "job"
        assert "could not be fetched" in refusal(ring, issuer, token(P384, "two", "ES384"))
    [record] = caplog.records
    assert f"issuer {ISSUER} cannot be read from {path}: " in record.getMessage()
    if damage == "a directory":
        path.rmdir()
    path.unlink(missing_ok=True)
    path.write_bytes(key_set(public_jwk(P256, "one"), public_jwk(P384, "two")))
    clock.now += 1
    assert verify(ring, issuer, token(P384, "two", "ES384")).subject == "job"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_an_emptied_file_takes_the_keys_back(tmp_path: Path, ring: KeyRing, clock: Clock) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(key_set(public_jwk(P256, "one")))
    issuer = ForeignIssuer(ISSUER, AUDIENCE, str(path), clock=clock)
    path.write_bytes(key_set())
    clock.now += 1
    assert refusal(ring, issuer, token(P256, "one"))
    assert issuer.failure == "there is no key that can be used here"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "not JSON"),
        (key_set(), "no key that can be used"),
        (key_set(public_jwk(P256, "a", use="enc")), "no key that can be used"),
    ],
)
def test_a_file_without_keys_is_refused_at_the_start(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "jwks.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidIssuer, match=f"issuer {ISSUER} cannot be read from {path}: .*{reason}"):
        ForeignIssuer(ISSUER, AUDIENCE, str(path))


def test_a_pipe_in_the_place_of_the_file_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    os.mkfifo(path)
    with pytest.raises(InvalidIssuer, match="it is no file"):
        ForeignIssuer(ISSUER, AUDIENCE, str(path))


# -- by address


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://ci.example/jwks.json", "over plain HTTP from ci.example"),
        ("http://192.168.1.10/jwks.json", "over plain HTTP"),
        ("http://127.0.0.1.evil.example/", "over plain HTTP"),
        ("http://localhost.evil.example/", "over plain HTTP"),
        ("http://[fe80::1]/", "over plain HTTP"),
        ("ftp://ci.example/jwks.json", "a file or from an https:// address"),
        ("file:///etc/jwks.json", "a file or from an https:// address"),
        ("https://", "a file or from an https:// address"),
        ("https:///jwks.json", "a file or from an https:// address"),
        ("https://[::1/", "not a URL"),
        ("https://ci.example:99999/", "not a URL"),
        ("https://user:secret@ci.example/", "at ci.example holds a user or a password"),
    ],
)
def test_addresses_that_are_refused(url: str, reason: str) -> None:
    with pytest.raises(InvalidIssuer, match=reason) as caught:
        ForeignIssuer(ISSUER, AUDIENCE, url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["https://ci.example/jwks.json", "http://localhost:1/", "http://127.9.9.9/", "http://[::1]:80/k"]
)
def test_addresses_that_are_taken_fetch_nothing_yet(url: str) -> None:
    issuer = ForeignIssuer(ISSUER, AUDIENCE, url)
    assert issuer.failure == ""


@pytest.mark.parametrize(("issuer", "audience"), [("", AUDIENCE), (ISSUER, "")])
def test_an_issuer_without_a_name_or_an_audience(issuer: str, audience: str) -> None:
    with pytest.raises(InvalidIssuer, match="a name and an audience"):
        ForeignIssuer(issuer, audience, "https://ci.example/jwks.json")


def test_keys_are_fetched_when_a_token_needs_them(publisher: Publisher, ring: KeyRing, clock: Clock) -> None:
    publisher.publish(public_jwk(P256, "one"))
    issuer = ForeignIssuer(ISSUER, AUDIENCE, publisher.url, clock=clock)
    assert publisher.paths == []
    assert verify(ring, issuer, token(P256, "one")).subject == "job"
    assert verify(ring, issuer, token(P256, "one")).subject == "job"
    assert publisher.paths == ["/jwks.json"]
    assert publisher.headers["Accept-Encoding"] == "identity"

    # a new key, within the pause: the token is refused, and nothing is fetched however often it is shown
    publisher.publish(public_jwk(P256, "one"), public_jwk(P384, "two"))
    clock.now += PAUSE_AFTER_SUCCESS - 1
    for _ in range(20):
        assert "does not publish" in refusal(ring, issuer, token(P384, "two", "ES384"))
    issuer.refresh()
    assert len(publisher.paths) == 1
    clock.now += 1
    assert verify(ring, issuer, token(P384, "two", "ES384")).subject == "job"
    assert len(publisher.paths) == 2


def test_callers_at_once_share_one_fetch(publisher: Publisher, ring: KeyRing, clock: Clock) -> None:
    released = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        released.wait(30)
        send(handler, key_set(public_jwk(P256, "one")))

    publisher.answer = answer
    issuer = ForeignIssuer(ISSUER, AUDIENCE, publisher.url, clock=clock)
    found: list[VerifiedToken] = []
    threads = [
        threading.Thread(target=lambda: found.append(verify(ring, issuer, token(P256, "one")))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: publisher.paths != [], "the fetch is under way", 10)
    assert issuer.can_refresh()
    assert issuer.find("one") is None, "whoever only looks does not wait"
    released.set()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert publisher.paths == ["/jwks.json"]


def test_a_key_that_was_taken_back_stops_verifying(publisher: Publisher, ring: KeyRing, clock: Clock) -> None:
    publisher.publish(public_jwk(P256, "one"))
    issuer = ForeignIssuer(ISSUER, AUDIENCE, publisher.url, clock=clock)
    assert verify(ring, issuer, token(P256, "one")).subject == "job"
    publisher.publish(public_jwk(P384, "two"))
    clock.now += KEPT - 1
    assert issuer.find("one") is not None
    for thread in threading.enumerate():
        assert thread.name != "foreign-keys", "too early"
    clock.now += 1
    wait_until(lambda: issuer.find("one") is None, "the keys are fetched again, though none was missed", 10)
    assert len(publisher.paths) == 2


def test_known_keys_verify_on_when_the_address_is_down(
    ring: KeyRing, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "portside.auth")
    with Publisher().running() as publisher:
        publisher.publish(public_jwk(P256, "one"))
        issuer = ForeignIssuer(ISSUER, AUDIENCE, publisher.url, clock=clock)
        assert verify(ring, issuer, token(P256, "one")).subject == "job"
    for _ in range(3):
        clock.now += PAUSE_AFTER_SUCCESS
        reason = refusal(ring, issuer, token(P384, "two", "ES384"))
        assert reason == (
            f"the keys of the token's issuer, {ISSUER}, could not be fetched, and this one is not known; try again later"
        )
        assert verify(ring, issuer, token(P256, "one")).subject == "job"
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert publisher.url in record.getMessage()
    clock.now += KEPT
    assert verify(ring, issuer, token(P256, "one")).subject == "job"


def test_an_address_that_was_down_is_asked_again_after_a_pause(
    publisher: Publisher, ring: KeyRing, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "portside.auth")
    publisher.answer = lambda handler: send(handler, b"no", 503)
    issuer = ForeignIssuer(ISSUER, AUDIENCE, publisher.url, clock=clock)
    assert "could not be fetched" in refusal(ring, issuer, token(P256, "one"))
    publisher.publish(public_jwk(P256, "one"))
    clock.now += PAUSE_AFTER_FAILURE - 1
    for _ in range(20):
        assert "could not be fetched" in refusal(ring, issuer, token(P256, "one"))
    assert len(publisher.paths) == 1
    clock.now += 1
    assert verify(ring, issuer, token(P256, "one")).subject == "job"
    assert len(publisher.paths) == 2
    assert issuer.failure == ""
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" " * 65536)


def drip(handler: BaseHTTPRequestHandler, start: bytes, drop: bytes) -> None:
    """A little at a time, until the client has gone."""
    handler.wfile.write(start)
    while not select.select([handler.connection], [], [], 0.1)[0]:
        handler.wfile.write(drop)


def silent(handler: BaseHTTPRequestHandler) -> None:
    select.select([handler.connection], [], [], 30)


FAILURES: dict[str, tuple[Callable[[BaseHTTPRequestHandler], object], str]] = {
    "not found": (lambda h: send(h, b"", 404), "answers with status 404"),
    "broken": (lambda h: send(h, b"", 500), "answers with status 500"),
    "partial": (lambda h: send(h, key_set(public_jwk(P256, "one")), 206), "answers with status 206"),
    "a page": (lambda h: send(h, b"<html>secret</html>"), "no key set"),
    "no usable key": (lambda h: send(h, key_set(public_jwk(P256, "one", use="enc"))), "no key that can be used here"),
    "large": (lambda h: send(h, b" " * (KEY_SET_MAX + 1)), "more than 1048576 bytes"),
    "endless": (endless, "more than 1048576 bytes"),
    "compressed": (lambda h: send(h, gzip.compress(key_set()), Content_Encoding="gzip"), "content coding"),
    "cut off": (lambda h: h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), "closed"),
    "not HTTP": (lambda h: h.wfile.write(b"SSH-2.0-x\r\n\r\n"), "illegal status line"),
    "a redirect to another port": (lambda h: send(h, b"", 302, Location="http://127.0.0.1:1/"), "another host"),
    "a redirect to another name": (lambda h: send(h, b"", 307, Location=f"http://localhost:{h.headers['Host'][10:]}/"), "another host"),
    "a redirect to a file": (lambda h: send(h, b"", 302, Location="file:///etc/passwd"), "another host"),
    "a redirect to nowhere": (lambda h: send(h, b"", 302, Location="http://[::1"), "nvalid"),
    "redirects in a ring": (lambda h: send(h, b"", 302, Location="/again"), "more than 3 times"),
    "silence": (silent, "no answer in 1 s"),
    "a head in drops": (lambda h: drip(h, b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"), "no answer in 1 s"),
    "a body in drops": (lambda h: drip(h, b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" "), "no answer in 1 s"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_an_address_that_answers_badly(
    publisher: Publisher, ring: KeyRing, clock: Clock, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.answer, reason = FAILURES[case]
    if reason == "no answer in 1 s":
        monkeypatch.setattr(auth.foreign, "TIMEOUT", 1.0)
    issuer = ForeignIssuer(ISSUER, AUDIENCE, publisher.url, clock=clock)
    start = time.monotonic()
    assert "could not be fetched" in refusal(ring, issuer, token(P256, "one"))
    assert time.monotonic() - start < 4.0
    assert reason in issuer.failure
    assert "secret" not in issuer.failure


def test_whoever_waits_for_an_address_without_an_answer_waits_a_bounded_time(
    publisher: Publisher, ring: KeyRing, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look-up of a name cannot be broken off: the fetch may outlast its time, and nobody waits for it then."""
    released = threading.Event()

    async def stuck(url: object) -> bytes:
        released.wait(30)
        return key_set(public_jwk(P256, "one"))

    monkeypatch.setattr(auth.foreign, "TIMEOUT", -0.9)  # a tenth of a second, with the one that is given on top
    monkeypatch.setattr(auth.foreign, "_download", stuck)
    issuer = ForeignIssuer(ISSUER, AUDIENCE, publisher.url, clock=clock)
    start = time.monotonic()
    assert "could not be fetched" in refusal(ring, issuer, token(P256, "one"))
    clock.now += PAUSE_AFTER_FAILURE
    assert "could not be fetched" in refusal(ring, issuer, token(P256, "one")), "no second fetch begins beside it"
    assert time.monotonic() - start < 2
    released.set()
    wait_until(lambda: issuer.find("one") is not None, "what came late is taken", 10)


def test_a_redirect_on_the_same_host_is_followed(publisher: Publisher, ring: KeyRing) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/jwks.json":
            send(handler, b"", 301, Location="/new/keys")
        else:
            send(handler, key_set(public_jwk(P256, "one")))

    publisher.answer = answer
    assert verify(ring, ForeignIssuer(ISSUER, AUDIENCE, publisher.url), token(P256, "one")).subject == "job"
    assert publisher.paths == ["/jwks.json", "/new/keys"]


def test_headers_that_offer_keys_are_not_followed(publisher: Publisher, ring: KeyRing) -> None:
    """The issuer's keys are at one path, what the token offers at others of the same server: nobody asks for these."""
    publisher.publish(public_jwk(P256, "one"))
    issuer = ForeignIssuer(ISSUER, AUDIENCE, publisher.url)
    base = publisher.url.removesuffix("/jwks.json")
    offers: dict[str, Any] = {
        "jku": f"{base}/evil",
        "x5u": f"{base}/evil.pem",
        "jwk": public_jwk(OTHER, "one"),
        "x5c": ["MIIB"],
    }
    assert "signature is wrong" in refusal(ring, issuer, token(OTHER, "one", **offers))
    assert "does not publish" in refusal(ring, issuer, token(OTHER, "evil", **offers))
    own = forge(
        {"alg": "ES256", "kid": "x", **offers}, {"iss": "hub", "aud": "hub", "exp": NOW + 300, "sub": "root"}, OTHER
    )
    assert "does not have" in refusal(ring, issuer, own)
    assert set(publisher.paths) == {"/jwks.json"}
    assert verify(ring, issuer, token(P256, "one", **offers)).subject == "job", "they do no harm either"


def test_proxies_of_the_environment_are_not_for_the_loopback(
    publisher: Publisher, ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    publisher.publish(public_jwk(P256, "one"))
    assert verify(ring, ForeignIssuer(ISSUER, AUDIENCE, publisher.url), token(P256, "one")).subject == "job"


def test_a_query_is_in_no_message(publisher: Publisher, ring: KeyRing, caplog: pytest.LogCaptureFixture) -> None:
    publisher.answer = lambda handler: send(handler, b"", 403)
    issuer = ForeignIssuer(ISSUER, AUDIENCE, publisher.url + "?key=secret")
    reason = refusal(ring, issuer, token(P256, "one"))
    assert publisher.paths == ["/jwks.json?key=secret"]
    shown = [record.getMessage() for record in caplog.records if record.name == "portside.auth"]
    assert len(shown) == 1
    assert "secret" not in reason + issuer.failure + shown[0]


# -- by TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[Publisher]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Publisher(context).running() as running:
        running.publish(public_jwk(P256, "one"))
        yield running


def test_an_authority_that_the_system_trusts_is_trusted(
    secure: Publisher, ring: KeyRing, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    assert verify(ring, ForeignIssuer(ISSUER, AUDIENCE, secure.url), token(P256, "one")).subject == "job"


def test_another_authority_is_not(secure: Publisher, ring: KeyRing) -> None:
    issuer = ForeignIssuer(ISSUER, AUDIENCE, secure.url)
    assert "could not be fetched" in refusal(ring, issuer, token(P256, "one"))
    assert "CERTIFICATE_VERIFY_FAILED" in issuer.failure
    assert secure.paths == []


def test_another_name_is_not(
    secure: Publisher, ring: KeyRing, authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    issuer = ForeignIssuer(ISSUER, AUDIENCE, secure.url.replace("127.0.0.1", "localhost"))
    assert "could not be fetched" in refusal(ring, issuer, token(P256, "one"))
    assert "CERTIFICATE_VERIFY_FAILED" in issuer.failure
