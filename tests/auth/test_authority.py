"""A hub's own authority: what it makes, when it makes it anew, and what it refuses to make."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from auth import authority as authorities
from auth.authority import Authority
from auth.hosts import ServerName
from auth.pem import CertificateError, Pair, names_of, pem_of, permitted_names
from tests.tools import tool

NOW = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
NAMES = ["hub.lan", "192.168.1.10"]
ALWAYS = {"localhost", "127.0.0.1", "::1"}


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


def authority(root: Path, clock: Clock, *names: str) -> Authority:
    return Authority(root, [ServerName.parse(name) for name in names or NAMES], clock)


def ca_of(pair: Pair) -> x509.Certificate:
    assert pair.authority is not None
    return pair.authority


def listed(certificate: x509.Certificate) -> set[str]:
    return {name.text for name in names_of(certificate)}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_what_is_made(tmp_path: Path, clock: Clock) -> None:
    pair = authority(tmp_path, clock).ensure()
    ca, leaf = ca_of(pair), pair.leaf
    assert ca.subject.rfc4514_string().startswith("CN=Portside CA ")
    assert ca.not_valid_before_utc == leaf.not_valid_before_utc == NOW - timedelta(hours=1)
    assert ca.not_valid_after_utc == NOW + timedelta(days=3652)
    assert leaf.not_valid_after_utc == NOW + timedelta(days=90)
    basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert ca.extensions.get_extension_for_class(x509.NameConstraints).critical
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert (usage.critical, usage.value.key_cert_sign, usage.value.digital_signature) == (True, True, False)
    assert {name.text for name in permitted_names(ca)} == {*NAMES, *ALWAYS} == listed(leaf)
    for certificate in (ca, leaf):
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(uses) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert ca.serial_number != leaf.serial_number
    assert len(pair.chain) == 2


def test_files_are_the_owner_s_alone_whatever_the_umask(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "tls").mkdir(mode=0o755)
    old = os.umask(0)
    try:
        authority(tmp_path, clock).ensure()
    finally:
        os.umask(old)
    assert mode(tmp_path / "tls") == 0o700
    files = {path.name: mode(path) for path in (tmp_path / "tls").iterdir()}
    assert files == dict.fromkeys(["ca.pem", "ca.key", "server.pem", "server.key", "lock"], 0o600)


def test_openssl_verifies_it_by_the_letter_of_the_standard(tmp_path: Path) -> None:
    """``-x509_strict`` is what Python 3.13 asks for by default, too."""
    Authority(tmp_path, [ServerName.parse(name) for name in (*NAMES, "fd00::5")]).ensure()
    tls = tmp_path / "tls"
    verify = [str(tool("openssl")), "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(tls / "ca.pem")]
    for name in ("hub.lan", "localhost"):
        subprocess.run([*verify, "-verify_hostname", name, tls / "server.pem"], check=True, capture_output=True)
    for address in ("192.168.1.10", "127.0.0.1", "::1", "fd00::5"):
        subprocess.run([*verify, "-verify_ip", address, tls / "server.pem"], check=True, capture_output=True)
    for option, name in (("-verify_hostname", "other.lan"), ("-verify_ip", "192.168.1.11")):
        assert subprocess.run([*verify, option, name, tls / "server.pem"], capture_output=True).returncode != 0


def test_it_cannot_vouch_for_other_names(tmp_path: Path, clock: Clock) -> None:
    """Whoever steals the key of this authority is nobody else to those who trust it: shown with OpenSSL, on certificates by its own key."""
    clock.at = datetime.now(UTC)
    own = authority(tmp_path, clock)
    first = ca_of(own.ensure())
    verify = [str(tool("openssl")), "verify", "-CAfile", str(tmp_path / "tls/ca.pem"), str(own.chain_file)]
    for name, is_good in (("sub.hub.lan", True), ("example.com", False), ("192.168.1.11", False), ("fd00::1", False)):
        forged = authority(tmp_path, clock, name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(authorities, "ALWAYS", ())
            patch.setattr(forged, "_fault", lambda held, moment, may_replace: None)
            patch.setattr(forged, "names", (ServerName.parse(name),))
            assert ca_of(forged.ensure()) == first
        done = subprocess.run(verify, capture_output=True, text=True)
        assert (done.returncode == 0) is is_good, (name, done)
        assert is_good or "permitted subtree violation" in done.stderr


def test_what_is_good_is_kept(tmp_path: Path, clock: Clock) -> None:
    first = authority(tmp_path, clock).ensure()
    clock.at = NOW + timedelta(days=59, hours=23)
    assert authority(tmp_path, clock).ensure().chain == first.chain
    assert authority(tmp_path, clock, *reversed(NAMES), "HUB.lan").ensure().chain == first.chain


def test_a_server_certificate_with_less_than_30_days_is_made_anew_by_the_same_authority(
    tmp_path: Path, clock: Clock
) -> None:
    hub = authority(tmp_path, clock)
    first = hub.ensure()
    assert not hub.is_due(first)
    clock.at = NOW + timedelta(days=60, seconds=1)
    assert hub.is_due(first)
    second = hub.ensure()
    assert ca_of(second) == ca_of(first)
    assert second.leaf.serial_number != first.leaf.serial_number
    assert second.leaf.public_key() != first.leaf.public_key()
    assert second.leaf.not_valid_after_utc == clock.at + timedelta(days=90)
    assert not hub.is_due(second)
    clock.at = NOW - timedelta(minutes=30)
    assert hub.is_due(second), "the clock was set back: clients refuse a certificate of the future"


def test_fewer_names_and_names_below_need_no_new_authority(tmp_path: Path, clock: Clock) -> None:
    first = authority(tmp_path, clock).ensure()
    second = authority(tmp_path, clock, "a.hub.lan").ensure()
    assert ca_of(second) == ca_of(first)
    assert listed(second.leaf) == {"a.hub.lan", *ALWAYS}


def test_another_name_needs_a_new_authority_and_consent(tmp_path: Path, clock: Clock) -> None:
    first = authority(tmp_path, clock).ensure()
    other = authority(tmp_path, clock, "hub.lan", "hub.example")
    with pytest.raises(CertificateError) as caught:
        other.ensure()
    assert "may not vouch for hub.example: it was made for hub.lan, 192.168.1.10, localhost" in str(caught.value)
    assert "portside serve --tls auto --name hub.lan --name hub.example --new-ca" in str(caught.value)
    assert authority(tmp_path, clock).read().chain == first.chain, "a refusal changes nothing"
    second = other.ensure(may_replace=True)
    assert ca_of(second).subject != ca_of(first).subject
    assert second.leaf.issuer == ca_of(second).subject
    assert listed(second.leaf) == {"hub.lan", "hub.example", *ALWAYS}
    third = other.ensure(may_replace=True)
    assert third.chain == second.chain, (
        "consent replaces what cannot go on, not what is good: it may stay in a unit file"
    )


def test_the_last_year_of_an_authority(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    hub = authority(tmp_path, clock)
    first = hub.ensure()
    end = ca_of(first).not_valid_after_utc
    clock.at = end - timedelta(days=40)
    second = hub.ensure()
    assert second.leaf.not_valid_after_utc == end, "no longer than its authority"
    assert f"the authority ends on {end:%Y-%m-%d}" in caplog.text
    assert "--new-ca" in caplog.text
    clock.at = end - timedelta(days=5)
    assert not hub.is_due(second), "there is nothing longer to be had"
    assert ca_of(hub.ensure(may_replace=True)) != ca_of(first)


def test_an_authority_that_has_ended(tmp_path: Path, clock: Clock) -> None:
    hub = authority(tmp_path, clock)
    clock.at = ca_of(hub.ensure()).not_valid_after_utc
    with pytest.raises(CertificateError, match=r"ended on 2036-.*--new-ca"):
        hub.ensure()


@pytest.mark.parametrize(("at", "why"), [(1970, "set it before"), (2025, "begins on 2026-05-01.* says 2025-")])
def test_a_clock_that_is_wrong(tmp_path: Path, clock: Clock, at: int, why: str) -> None:
    """A small computer without a clock of its own starts in 1970."""
    hub = authority(tmp_path, clock)
    before = hub.ensure()
    clock.at = datetime(at, 4, 1, tzinfo=UTC)
    with pytest.raises(CertificateError, match=why):
        hub.ensure(may_replace=True)
    assert hub.read().chain == before.chain


@pytest.mark.parametrize("name", ["server.pem", "server.key"])
@pytest.mark.parametrize("damage", ["gone", "cut", "another"])
def test_a_damaged_server_pair_is_made_anew(tmp_path: Path, clock: Clock, name: str, damage: str) -> None:
    """Also what a crash between the two files leaves."""
    hub = authority(tmp_path, clock)
    first = hub.ensure()
    path = tmp_path / "tls" / name
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        authority(tmp_path / "other", clock).ensure()
        path.write_bytes((tmp_path / "other/tls" / name).read_bytes())
    second = hub.ensure()
    assert ca_of(second) == ca_of(first)
    assert second.leaf != first.leaf
    assert hub.read().chain == second.chain


def test_a_server_pair_of_another_authority_is_made_anew(tmp_path: Path, clock: Clock) -> None:
    """Though ours stands behind it in the file."""
    hub, other = authority(tmp_path, clock), authority(tmp_path / "other", clock)
    first, strange = hub.ensure(), other.ensure()
    hub.key_file.write_bytes(other.key_file.read_bytes())
    hub.chain_file.write_bytes(pem_of(strange.leaf, ca_of(first)))
    assert hub.ensure().leaf.issuer == ca_of(first).subject


def test_a_chain_without_its_authority_is_made_anew(tmp_path: Path, clock: Clock) -> None:
    """A client finds the authority there."""
    hub = authority(tmp_path, clock)
    first = hub.ensure()
    hub.chain_file.write_bytes(pem_of(first.leaf))
    assert ca_of(hub.ensure()) == ca_of(first)


def test_an_authority_without_its_key(tmp_path: Path, clock: Clock) -> None:
    """An administrator may keep it elsewhere: it is missed only when something has to be signed."""
    hub = authority(tmp_path, clock)
    first = hub.ensure()
    key = tmp_path / "tls/ca.key"
    kept = key.read_bytes()
    key.unlink()
    assert hub.ensure().chain == first.chain
    clock.at = NOW + timedelta(days=70)
    with pytest.raises(CertificateError, match=r"ca\.key: it cannot be read"):
        hub.ensure()
    authority(tmp_path / "other", clock).ensure()
    key.write_bytes((tmp_path / "other/tls/ca.key").read_bytes())
    with pytest.raises(CertificateError, match=r"ca\.key: it is not the key of ca\.pem"):
        hub.ensure()
    key.write_bytes(kept)
    assert ca_of(hub.ensure()) == ca_of(first)


def test_a_damaged_authority_is_not_replaced_without_consent(tmp_path: Path, clock: Clock) -> None:
    hub = authority(tmp_path, clock)
    hub.ensure()
    (tmp_path / "tls/ca.pem").write_text("not a certificate")
    with pytest.raises(CertificateError, match=r"ca\.pem: it holds no certificate"):
        hub.ensure()
    assert ca_of(hub.ensure(may_replace=True)) is not None


def test_a_write_that_fails_leaves_what_was(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = authority(tmp_path, clock)
    first = hub.ensure()
    before = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    clock.at = NOW + timedelta(days=70)

    def no_space(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(OSError, match="No space"):
            hub.ensure()
    assert {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()} == before
    assert ca_of(hub.ensure()) == ca_of(first)


def test_the_key_is_nowhere_in_what_is_printed(tmp_path: Path, clock: Clock) -> None:
    pair = authority(tmp_path, clock).ensure()
    body = (tmp_path / "tls/server.key").read_text().splitlines()[1]
    assert body in pair.pem.decode(), "or this test looks for the wrong thing"
    assert body not in repr(pair)
    assert "key" not in repr(pair)


def test_many_processes_make_one_authority(tmp_path: Path) -> None:
    """Eight at once, on a root that is not there yet: one authority, one server certificate, and all of them use it."""
    program = (
        "import sys; from pathlib import Path; from auth.authority import Authority; from auth.hosts import ServerName\n"
        "sys.stdin.read()\n"
        "pair = Authority(Path(sys.argv[1]), [ServerName.parse('hub.lan')]).ensure()\n"
        "print(pair.fingerprint, pair.leaf.serial_number)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "root")]
    started = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        for _ in range(8)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    said = [process.communicate(timeout=60)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 8
    assert len(set(said)) == 1
    assert said[0].startswith("SHA256:")
    ssl.create_default_context().load_verify_locations(tmp_path / "root/tls/ca.pem")
