"""The certificates that servers show, at the start and when they change."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from auth import certificates
from auth.authority import Authority
from auth.certificates import AutoCertificate, CertificateFiles
from auth.hosts import HostPort, ServerName
from auth.pem import CertificateError, Pair, read_pair
from auth.trust import fetch_chain
from tests.auth.handshaking import connected, echoes, serving, shown, trusting
from tests.servers import free_port, wait_until
from tests.tools import tool

NAMES = [ServerName.parse("hub.lan")]


class Clock:
    """The machine's clock, and days that a test adds."""

    def __init__(self) -> None:
        self.days = 0.0

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(days=self.days)


def authority_of(root: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate((root / "tls/ca.pem").read_bytes())


def make(directory: Path, authority: trustme.CA, *names: str, days: int = 30) -> tuple[Path, Path]:
    """A certificate of somebody else's, as two files."""
    directory.mkdir(exist_ok=True)
    issued = authority.issue_cert(*(names or ("localhost",)), not_after=datetime.now(UTC) + timedelta(days=days))
    chain, key = directory / "cert.pem", directory / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    settle(chain, key)
    return chain, key


def settle(*paths: Path) -> None:
    """Make files look as if they had been written a while ago, and differently from any that were there before."""
    for path in paths:
        at = path.stat().st_mtime_ns - 10_000_000_000
        os.utime(path, ns=(at, at))


def takes(certificate: CertificateFiles | AutoCertificate, is_so: Callable[[], bool]) -> None:
    """Call ``refresh`` as a server does, until it is so."""

    def refreshed() -> bool:
        certificate.refresh()
        return is_so()

    wait_until(refreshed, "the certificate is taken", 20)


def client_of(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


# What a context allows


@pytest.fixture(scope="module")
def auto(tmp_path_factory: pytest.TempPathFactory) -> AutoCertificate:
    return AutoCertificate(tmp_path_factory.mktemp("root"), NAMES)


def openssl_client(port: int, *options: str, say: str = "") -> str:
    """What openssl says of a handshake."""
    command = [str(tool("openssl")), "s_client", "-connect", f"127.0.0.1:{port}", *options]
    done = subprocess.run(command, input=say, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_versions_ciphers_and_protocols(auto: AutoCertificate) -> None:
    assert auto.context().minimum_version == ssl.TLSVersion.TLSv1_2
    with serving(auto.context) as port:
        for version, suite in (("-tls1_2", "ECDHE-ECDSA-AES256-GCM-SHA384"), ("-tls1_3", "TLS_AES_256_GCM_SHA384")):
            said = openssl_client(port, version, "-alpn", "h2,http/1.1")
            assert f"Cipher is {suite}" in said
            assert "ALPN protocol: http/1.1" in said
            assert "Compression: NONE" in said
        for refused in (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"]):
            assert "Cipher is (NONE)" in openssl_client(port, *refused)
        chacha = ["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"]
        assert "Cipher is ECDHE-ECDSA-CHACHA20-POLY1305" in openssl_client(port, *chacha)


def test_one_ticket(auto: AutoCertificate) -> None:
    with serving(auto.context) as port:
        command = [str(tool("openssl")), "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-msg"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(b"hello\n")
            client.stdin.flush()
            said: list[bytes] = []
            while not said or said[-1] != b"hello\n":  # what the server sent on its own came before this
                said.append(client.stdout.readline())
                assert said[-1], b"".join(said)
            client.communicate(timeout=60)
        assert b"".join(said).count(b"NewSessionTicket") == 1


def test_no_renegotiation(auto: AutoCertificate) -> None:
    assert auto.context().options & ssl.OP_NO_RENEGOTIATION, "OpenSSL 1.1.1 allows it otherwise"
    with serving(auto.context) as port:
        assert "no renegotiation" in openssl_client(port, "-tls1_2", say="R\n")  # R asks for one


# The hub's own


def test_a_renewal_is_seen_by_the_next_handshake_and_drops_no_connection(tmp_path: Path) -> None:
    clock = Clock()
    clock.days = -61
    certificate = AutoCertificate(tmp_path, NAMES, clock=clock)
    client = trusting(authority_of(tmp_path))
    with serving(certificate.context) as port, connected(port, client, "hub.lan") as old:
        first = shown(port, client, "hub.lan")
        certificate.refresh()
        assert shown(port, client, "hub.lan") == first
        clock.days = 0
        certificate.refresh()
        second = shown(port, client, "hub.lan")
        assert second.not_valid_after_utc > first.not_valid_after_utc + timedelta(days=60)
        assert echoes(old)


def test_what_another_process_renewed_is_taken(tmp_path: Path) -> None:
    """Two servers of one root: one renews, the other reads, and neither renews again."""
    clock = Clock()
    clock.days = -61
    one, two = (AutoCertificate(tmp_path, NAMES, clock=clock) for _ in range(2))
    clock.days = 0
    one.refresh()
    made = Authority(tmp_path, NAMES).read().leaf
    client = trusting(authority_of(tmp_path))
    with serving(two.context) as port:
        assert shown(port, client) != made
        takes(two, lambda: shown(port, client) == made)
    assert Authority(tmp_path, NAMES).read().leaf == made


def test_a_renewal_that_fails_is_said_once_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    certificate = AutoCertificate(tmp_path, NAMES, clock=clock)
    context = certificate.context()
    key = tmp_path / "tls/ca.key"
    key.rename(tmp_path / "away")
    clock.days = 61
    monkeypatch.setattr(certificates, "RETRY", 0.0)
    for _ in range(5):
        certificate.refresh()
    assert [record.levelname for record in caplog.records if "ca.key: it cannot be read" in record.message] == ["ERROR"]
    assert certificate.context() is context
    (tmp_path / "away").rename(key)
    certificate.refresh()
    assert certificate.context() is not context


def test_a_renewal_that_fails_is_not_tried_each_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    certificate = AutoCertificate(tmp_path, NAMES, clock=clock)
    (tmp_path / "tls/ca.key").unlink()
    clock.days = 61
    tries = 0
    ensure = Authority.ensure

    def counted(authority: Authority) -> Pair:
        nonlocal tries
        tries += 1
        return ensure(authority)

    monkeypatch.setattr(Authority, "ensure", counted)
    for _ in range(5):
        certificate.refresh()
    assert tries == 1


def test_a_server_with_other_names_does_not_take_away_mine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    AutoCertificate(tmp_path, [*NAMES, ServerName.parse("other.lan")])
    mine = AutoCertificate(tmp_path, NAMES)
    context = mine.context()
    AutoCertificate(tmp_path, [ServerName.parse("other.lan")])
    takes(mine, lambda: "it is not for hub.lan: another server of this root" in caplog.text)
    assert mine.context() is context


def test_files_that_vanish_change_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    certificate = AutoCertificate(tmp_path, NAMES)
    context = certificate.context()
    shutil.rmtree(tmp_path / "tls")
    takes(certificate, lambda: "stays in use" in caplog.text)
    for _ in range(3):
        certificate.refresh()
    assert caplog.text.count("stays in use") == 1
    assert certificate.context() is context
    assert not (tmp_path / "tls/ca.pem").exists(), "nobody trusts another authority, so none is made in passing"


def test_a_root_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CertificateError, match="cannot be used"):
        AutoCertificate(tmp_path / "file", NAMES)
    (tmp_path / "root").mkdir()
    (tmp_path / "root/tls").write_text("")
    with pytest.raises(CertificateError, match="cannot be used"):
        AutoCertificate(tmp_path / "root", NAMES)


# One's own


def test_files_are_read_again_when_they_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ca = trustme.CA()
    chain, key = make(tmp_path, ca)
    certificate = CertificateFiles(chain, key)
    client = client_of(ca)
    with serving(certificate.context) as port, connected(port, client) as old:
        first = shown(port, client)
        context = certificate.context()
        certificate.refresh()
        assert certificate.context() is context, "unchanged files are not read"
        make(tmp_path, ca)
        certificate.refresh()
        assert shown(port, client) != first
        assert f"read {chain} again" in caplog.text
        assert echoes(old)


def test_links_that_are_turned(tmp_path: Path) -> None:
    """As Kubernetes does it: the link to the file stays, one on its way is turned."""
    ca = trustme.CA()
    for name in ("one", "two"):
        make(tmp_path / name, ca)
    (tmp_path / "data").symlink_to("one")
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).symlink_to(f"data/{name}")
    certificate = CertificateFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "data")
    certificate.refresh()
    with serving(certificate.context) as port:
        assert shown(port, client_of(ca)) == read_pair(tmp_path / "two/cert.pem", tmp_path / "two/key.pem").leaf


def test_a_broken_pair_keeps_the_old_one_and_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ca = trustme.CA()
    chain, key = make(tmp_path, ca)
    certificate = CertificateFiles(chain, key)
    context = certificate.context()
    make(tmp_path / "new", ca)
    shutil.copy(tmp_path / "new/cert.pem", chain)
    settle(chain)
    for _ in range(5):
        certificate.refresh()
    said = [record.message for record in caplog.records]
    assert len(said) == 1
    assert "does not belong to the key" in said[0]
    assert certificate.context() is context
    shutil.copy(tmp_path / "new/key.pem", key)
    settle(key)
    certificate.refresh()
    assert certificate.context() is not context
    make(tmp_path / "newer", ca)
    shutil.copy(tmp_path / "newer/cert.pem", chain)
    settle(chain)
    certificate.refresh()
    again = [record.message for record in caplog.records]
    assert again == [*said, *said], "it was well in between: this is news"


def test_a_file_that_is_being_written_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ca = trustme.CA()
    chain, key = make(tmp_path, ca)
    certificate = CertificateFiles(chain, key)
    whole = chain.read_bytes()
    chain.write_bytes(whole[:100])
    certificate.refresh()
    assert not caplog.records
    chain.write_bytes(whole)
    context = certificate.context()
    takes(certificate, lambda: certificate.context() is not context)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def pkcs8_encrypted(key: Path) -> None:
    command = [str(tool("openssl")), "pkcs8", "-topk8", "-passout", "pass:secret"]
    key.write_bytes(subprocess.run(command, input=key.read_bytes(), check=True, capture_output=True).stdout)


def weak(chain: Path, key: Path) -> None:
    command = [str(tool("openssl")), "req", "-x509", "-newkey", "rsa:512", "-nodes", "-subj", "/CN=weak"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(chain)], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda chain, key: chain.unlink(), r"cert\.pem: it cannot be read \(No such file"),
        (lambda chain, key: key.unlink(), r"key\.pem: it cannot be read \(No such file"),
        (lambda chain, key: (chain.unlink(), chain.mkdir()), r"cert\.pem: it cannot be read \(Is a directory"),
        (lambda chain, key: chain.write_bytes(b""), r"cert\.pem: it holds no certificate"),
        (lambda chain, key: shutil.copy(key, chain), r"cert\.pem: it holds no certificate"),
        (lambda chain, key: shutil.copy(chain, key), r"key\.pem: it holds no private key"),
        (lambda chain, key: key.write_bytes(os.urandom(3000)), r"key\.pem: it holds no private key"),
        (lambda chain, key: chain.write_bytes(bytes(2**20 + 1)), r"cert\.pem: it is larger"),
        (lambda chain, key: pkcs8_encrypted(key), r"key\.pem: the key is encrypted"),
        (
            lambda chain, key: key.write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes()),
            "does not belong to",
        ),
        (weak, r"cert\.pem: OpenSSL does not take it \(EE_KEY_TOO_SMALL\)"),
    ],
)
def test_what_cannot_be_used_is_said_at_the_start(
    tmp_path: Path, spoil: Callable[[Path, Path], object], why: str
) -> None:
    chain, key = make(tmp_path, trustme.CA())
    spoil(chain, key)
    with pytest.raises(CertificateError, match=why):
        CertificateFiles(chain, key)


@pytest.mark.parametrize("days", [-1, 30])
def test_a_certificate_that_has_ended_is_served_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int
) -> None:
    chain, key = make(tmp_path, trustme.CA(), days=days)
    CertificateFiles(chain, key)
    assert ("clients will refuse it" in caplog.text) is (days < 0)


def test_forms_of_keys_and_files(tmp_path: Path) -> None:
    """Certificate and key in one file, and a key as ``openssl ecparam -genkey`` writes it."""
    ca = trustme.CA()
    chain, key = make(tmp_path, ca)
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + b"some words\r\n" + chain.read_bytes().replace(b"\n", b"\r\n"))
    with serving(CertificateFiles(both, both).context) as port:
        assert echoes_to(port, client_of(ca))
        assert len(fetch_chain(HostPort(ServerName.parse("localhost"), port))) == 1
    made = subprocess.run(
        [str(tool("openssl")), "ecparam", "-name", "prime256v1", "-genkey"], check=True, capture_output=True
    )
    (tmp_path / "ec.key").write_bytes(made.stdout)
    command = [str(tool("openssl")), "req", "-x509", "-key", str(tmp_path / "ec.key"), "-subj", "/CN=own"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-out", str(tmp_path / "ec.pem")]
    subprocess.run(command, check=True, capture_output=True)
    own = CertificateFiles(tmp_path / "ec.pem", tmp_path / "ec.key")
    with serving(own.context) as port:
        assert echoes_to(port, trusting(x509.load_pem_x509_certificate((tmp_path / "ec.pem").read_bytes())))


def echoes_to(port: int, client: ssl.SSLContext) -> bool:
    with connected(port, client) as connection:
        return echoes(connection)


def test_the_fingerprint_is_that_of_an_authority_in_the_chain(tmp_path: Path) -> None:
    ca = trustme.CA()
    chain, key = make(tmp_path, ca)
    assert CertificateFiles(chain, key).fingerprint is None
    chain.write_bytes(chain.read_bytes() + ca.cert_pem.bytes())
    command = [str(tool("openssl")), "x509", "-noout", "-fingerprint", "-sha256"]
    said = subprocess.run(command, input=ca.cert_pem.bytes(), check=True, capture_output=True).stdout.decode()
    expected = said.partition("=")[2].strip().replace(":", "").lower()
    assert str(CertificateFiles(chain, key).fingerprint) == f"SHA256:{expected}"


# In a server


def test_every_process_of_a_server_takes_a_renewed_certificate(tmp_path: Path) -> None:
    """Whoever renewed it; and a connection from before goes on."""
    made = Authority(tmp_path / "root", NAMES)
    first = made.ensure().leaf
    client = trusting(authority_of(tmp_path / "root"))
    port = free_port()
    command = [str(tool("portside")), "serve", "--root", str(tmp_path / "root"), "--listen", f"127.0.0.1:{port}"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen([*command, "--tls", "auto", "--name", "hub.lan", "--workers", "2"], stderr=log)

    def shows(expected: x509.Certificate) -> bool:
        assert server.poll() is None, (tmp_path / "log").read_text()
        with contextlib.suppress(ConnectionError):
            return all(shown(port, client, "hub.lan") == expected for _ in range(10))
        return False

    try:
        wait_until(lambda: shows(first), "the server shows its certificate")
        with connected(port, client, "hub.lan") as old:
            made.key_file.unlink()
            second = made.ensure().leaf
            assert second != first
            wait_until(lambda: shows(second), "all processes show the new certificate", 20)
            old.sendall(b"GET /v2/ HTTP/1.1\r\nHost: hub.lan\r\nConnection: close\r\n\r\n")
            assert old.recv(1000).startswith(b"HTTP/1.1 200 ")
    finally:
        server.terminate()
        assert server.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
