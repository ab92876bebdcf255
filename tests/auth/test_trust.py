"""``portside trust``: what it takes from a server, what it refuses, and what it writes."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from auth import trust
from auth.certificates import AutoCertificate, CertificateFiles
from auth.fingerprint import Fingerprint
from auth.hosts import HostPort, ServerName
from auth.pem import fingerprint, read_pair
from auth.trust import TrustError, fetch_authority
from tests.auth.handshaking import serving
from tests.tools import tool

NOBODY = Fingerprint("0" * 64)


def server(port: int, name: str = "localhost") -> HostPort:
    return HostPort(ServerName.parse(name), port)


def of(certificate: trustme.CA | bytes) -> Fingerprint:
    pem = certificate if isinstance(certificate, bytes) else certificate.cert_pem.bytes()
    return Fingerprint.of(ssl.PEM_cert_to_DER_cert(pem.decode()))


def files(directory: Path, key: bytes, *chain: bytes) -> CertificateFiles:
    """A server's certificate from PEM."""
    (directory / "key.pem").write_bytes(key)
    (directory / "chain.pem").write_bytes(b"".join(chain))
    return CertificateFiles(directory / "chain.pem", directory / "key.pem")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[int, Fingerprint]]:
    """The port and fingerprint of a hub that is localhost."""
    certificate = AutoCertificate(tmp_path / "root", [])
    assert certificate.fingerprint is not None
    with serving(certificate.context) as port:
        yield port, certificate.fingerprint


# What is taken


@pytest.mark.parametrize("maximum", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_authority_with_the_fingerprint(tmp_path: Path, maximum: ssl.TLSVersion) -> None:
    certificate = AutoCertificate(tmp_path, [])
    certificate.context().maximum_version = maximum
    assert certificate.fingerprint is not None
    with serving(certificate.context) as port:
        found = fetch_authority(server(port), certificate.fingerprint)
        by_address = fetch_authority(server(port, "127.0.0.1"), certificate.fingerprint)
    assert found.der == by_address.der == ssl.PEM_cert_to_DER_cert((tmp_path / "tls/ca.pem").read_text())
    assert found.subject.startswith("CN=Portside CA ")


def test_another_fingerprint(hub: tuple[int, Fingerprint]) -> None:
    port, own = hub
    with pytest.raises(TrustError) as caught:
        fetch_authority(server(port), NOBODY)
    assert f"localhost:{port} does not show {NOBODY}" in str(caught.value)
    assert f"  {own}  CN=Portside CA " in str(caught.value)
    assert "A wrong server may be answering" in str(caught.value)


def test_the_server_s_own_certificate_is_no_authority(tmp_path: Path) -> None:
    certificate = AutoCertificate(tmp_path, [])
    leaf = fingerprint(read_pair(tmp_path / "tls/server.pem", tmp_path / "tls/server.key").leaf)
    with (
        serving(certificate.context) as port,
        pytest.raises(TrustError, match="CN=Portside, which is no certificate auth"),
    ):
        fetch_authority(server(port), leaf)


def test_somebody_who_only_shows_the_authority(tmp_path: Path) -> None:
    """It is no secret: a man in the middle can send it along, with a certificate of his own."""
    ca, other = trustme.CA(), trustme.CA()
    issued = other.issue_cert("localhost")
    certificate = files(
        tmp_path, issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes(), ca.cert_pem.bytes()
    )
    with (
        serving(certificate.context) as port,
        pytest.raises(TrustError, match="its own certificate is not good: unable to"),
    ):
        fetch_authority(server(port), of(ca))


def test_a_certificate_for_another_name(tmp_path: Path) -> None:
    ca = trustme.CA()
    issued = ca.issue_cert("hub.lan")
    certificate = files(
        tmp_path, issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes(), ca.cert_pem.bytes()
    )
    with serving(certificate.context) as port, pytest.raises(TrustError, match=r"not valid for 'localhost'.*--name"):
        fetch_authority(server(port), of(ca))


def test_a_certificate_that_has_ended(tmp_path: Path) -> None:
    ca = trustme.CA()
    issued = ca.issue_cert("localhost", not_after=datetime.now(UTC) - timedelta(days=1))
    certificate = files(
        tmp_path, issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes(), ca.cert_pem.bytes()
    )
    with serving(certificate.context) as port, pytest.raises(TrustError, match=r"has expired.*clocks"):
        fetch_authority(server(port), of(ca))


def test_a_name_made_to_be_printed(tmp_path: Path) -> None:
    """A server chooses its subject: it may not speak to the terminal."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "\x1b[2J\rhub is trusted\n" + "x" * 40, _validate=False)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, datetime(2026, 1, 1), datetime(2099, 1, 1))
    pem = builder.sign(key, SHA256()).public_bytes(Encoding.PEM)
    certificate = files(tmp_path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), pem)
    with serving(certificate.context) as port, pytest.raises(TrustError) as caught:
        fetch_authority(server(port), NOBODY)
    listed = str(caught.value).splitlines()[1]
    assert listed.startswith(f"  {of(pem)}  CN=?[2J")
    assert listed.isprintable()


def test_a_long_chain_is_not_looked_through(tmp_path: Path) -> None:
    ca = trustme.CA()
    issued = ca.issue_cert("localhost")
    more = [trustme.CA().cert_pem.bytes() for _ in range(8)]
    certificate = files(
        tmp_path, issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes(), *more, ca.cert_pem.bytes()
    )
    with serving(certificate.context) as port, pytest.raises(TrustError) as caught:
        fetch_authority(server(port), of(ca))
    assert str(caught.value).count("\n  SHA256:") == 8


# Who does not answer


def test_nobody_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(TrustError, match=r"cannot be reached \(Connection refused\)"):
        fetch_authority(server(port, "127.0.0.1"), NOBODY)


def test_a_name_that_is_none() -> None:
    with pytest.raises(TrustError, match=r"no-such-host\.invalid:1: the name cannot be resolved"):
        fetch_authority(server(1, "no-such-host.invalid"), NOBODY)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak TLS"),
        (None, "did not answer within"),
        (b"", "cannot be reached|cannot agree on TLS"),
    ],
)
def test_a_server_that_speaks_no_tls(answer: bytes | None, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "TIMEOUT", 0.2)
    is_over = threading.Event()

    def answering(listening: socket.socket) -> None:
        with listening.accept()[0] as connection:
            connection.recv(4096)
            if answer is None:
                is_over.wait()
            else:
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answering, args=(listening,))
        thread.start()
        try:
            with pytest.raises(TrustError, match=why):
                fetch_authority(server(listening.getsockname()[1], "127.0.0.1"), NOBODY)
        finally:
            is_over.set()
            thread.join()


# The command, on a machine whose /etc is a directory of the test's


def portside(etc: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(tool("portside")), "trust", *map(str, arguments), "--etc", str(etc)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def tree(directory: Path) -> dict[str, str]:
    """Files below a directory, with their modes."""
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): oct(path.stat().st_mode & 0o7777) for path in found}


def test_written_once_kept_and_taken_away(hub: tuple[int, Fingerprint], tmp_path: Path) -> None:
    port, own = hub
    etc, host = tmp_path / "etc", f"localhost:{port}"
    places = [etc / f"{client}/certs.d/{host}/ca.crt" for client in ("docker", "containers")]
    first = portside(etc, host, "--fingerprint", own)
    assert (first.returncode, first.stderr) == (0, "")
    *lines, last = first.stdout.splitlines()
    assert lines == [f"wrote {path}" for path in places]
    assert last.startswith(f"{host} is trusted: CN=Portside CA ")
    assert last.endswith(f"{own}. Now: docker login {host}")
    assert tree(etc) == {str(path.relative_to(etc)): "0o644" for path in places}
    authority = (tmp_path / "root/tls/ca.pem").read_text()
    assert [ssl.PEM_cert_to_DER_cert(path.read_text()) for path in places] == [ssl.PEM_cert_to_DER_cert(authority)] * 2

    places[0].write_text("another")
    inode = places[1].stat().st_ino
    second = portside(etc, host, "--fingerprint", str(own).upper().replace("SHA256:", ""))
    assert second.stdout.splitlines()[:2] == [f"replaced {places[0]}", f"kept, as it was right already: {places[1]}"]
    assert places[1].stat().st_ino == inode
    assert places[0].read_bytes() == places[1].read_bytes()

    (places[1].parent / "client.cert").write_text("somebody's")
    third = portside(etc, host, "--remove")
    assert third.stdout.splitlines() == [*(f"removed {path}" for path in places), f"{host} is no longer trusted here."]
    assert list(tree(etc)) == [f"containers/certs.d/{host}/client.cert"]
    assert not places[0].parent.exists()
    assert "was not trusted here" in portside(etc, host, "--remove").stdout


def test_some_clients_only(hub: tuple[int, Fingerprint], tmp_path: Path) -> None:
    port, own = hub
    etc, host = tmp_path / "etc", f"localhost:{port}"
    done = portside(etc, host, "--fingerprint", own, "--no-docker", "--no-containers", "--containerd")
    assert done.returncode == 0
    place = f"containerd/certs.d/{host}"
    assert list(tree(etc)) == [f"{place}/ca.crt", f"{place}/hosts.toml"]
    hosts = (etc / place / "hosts.toml").read_text()
    assert f'[host."https://{host}"]\n  ca = "{etc / place}/ca.crt"\n' in hosts
    portside(etc, host, "--remove")
    assert tree(etc) == {}

    (etc / place).mkdir()
    (etc / place / "hosts.toml").write_text("# mine\n")
    refused = portside(etc, host, "--fingerprint", own, "--no-docker", "--no-containers", "--containerd")
    assert refused.returncode == 1
    assert "hosts.toml is not portside's: add the line" in refused.stderr
    portside(etc, host, "--remove")
    assert list(tree(etc)) == [f"{place}/hosts.toml"]
    assert (etc / place / "hosts.toml").read_text() == "# mine\n"


@pytest.mark.parametrize("option", ["--no-docker", "--no-containers"])
def test_without_one(hub: tuple[int, Fingerprint], tmp_path: Path, option: str) -> None:
    port, own = hub
    assert portside(tmp_path / "etc", f"localhost:{port}", "--fingerprint", own, option).returncode == 0
    assert [path.split("/")[0] for path in tree(tmp_path / "etc")] == [
        {"--no-docker": "containers", "--no-containers": "docker"}[option]
    ]


def test_a_refusal_writes_nothing(hub: tuple[int, Fingerprint], tmp_path: Path) -> None:
    done = portside(tmp_path / "etc", f"localhost:{hub[0]}", "--fingerprint", NOBODY)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"portside: nothing was written: localhost:{hub[0]} does not show SHA256:0000")
    assert not (tmp_path / "etc").exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["hub.lan:5000"], "--fingerprint is needed.*portside trust hub.lan:5000 --line"),
        (["hub.lan:5000", "--fingerprint", "SHA256:abc"], "'SHA256:abc' is not a fingerprint"),
        (
            ["https://hub.lan", "--fingerprint", str(NOBODY)],
            "not the name or address of a server.*not a port|not a URL",
        ),
        (["../../root:1", "--remove"], "not the name or address of a server"),
        (["*.lan", "--line"], "wildcard"),
    ],
)
def test_what_is_typed_wrong(tmp_path: Path, arguments: list[str], why: str) -> None:
    done = portside(tmp_path / "etc", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(why, done.stderr), done.stderr
    assert not (tmp_path / "etc").exists()


def test_a_place_that_cannot_be_written(hub: tuple[int, Fingerprint]) -> None:
    """`/proc` takes no directories, from root either."""
    done = portside(Path("/proc/portside"), f"localhost:{hub[0]}", "--fingerprint", hub[1])
    assert done.returncode == 1
    assert "/proc/portside/docker/certs.d" in done.stderr
    assert "Traceback" not in done.stderr


def test_somebody_who_is_not_root(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from auth.hosts import HostPort; from auth.stores import CertsDirectory\n"
        "os.setuid(65534)\n"
        "list(CertsDirectory(Path(sys.argv[1])).put(HostPort.parse('hub.lan:1'), b''))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "certs.d")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert "StoreError: no permission to write" in done.stderr
    assert "run this as root (sudo)" in done.stderr


def test_the_line_of_a_hub(hub: tuple[int, Fingerprint], tmp_path: Path) -> None:
    said = portside(tmp_path / "etc", "hub.lan:5000", "--line", "--root", tmp_path / "root")
    assert said.returncode == 0
    assert f"  portside trust hub.lan:5000 --fingerprint {hub[1]}\n" in said.stdout
    assert said.stdout.splitlines()[-1].startswith("  sh -c 'h=$1 ")
    none = portside(tmp_path / "etc", "hub.lan:5000", "--line", "--root", tmp_path / "no")
    assert none.returncode == 1
    assert "has no authority (portside serve --tls auto makes one)" in none.stderr
    assert not (tmp_path / "no").exists()
    shutil.copy(tmp_path / "root/tls/server.key", tmp_path / "root/tls/server.pem")
    assert (
        "server.pem: it holds no certificate"
        in portside(tmp_path / "etc", "hub.lan:5000", "--line", "--root", tmp_path / "root").stderr
    )
