"""What may be the name of a server, and what a fingerprint looks like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.fingerprint import Fingerprint, InvalidFingerprint
from auth.hosts import HostPort, InvalidHost, ServerName

HEX = "1cda5f0e149fd3ae353800353ea31a5d5338b8aea99f573874433c42ee878c8f"


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("hub.lan", "hub.lan"),
        ("HUB.Lan.", "hub.lan"),
        ("hub", "hub"),
        ("1.hub-2.example", "1.hub-2.example"),
        ("Bücher.lan", "xn--bcher-kva.lan"),
        ("faß.lan", "xn--fa-hia.lan"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER B}Ücher.lan", "xn--bcher-kva.lan"),
        ("192.168.1.10", "192.168.1.10"),
        ("FD00:0::5", "fd00::5"),
        ("[fd00::5]", "fd00::5"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        (f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}", f"{'a' * 63}.{'b' * 63}.{'c' * 63}.{'d' * 61}"),
    ],
)
def test_names(typed: str, text: str) -> None:
    assert ServerName.parse(typed).text == text


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("", "empty"),
        ("*.lan", "wildcard"),
        ("*", "wildcard"),
        ("hub.lan:5000", "port"),
        ("192.168.1.10:5000", "port"),
        ("[fd00::5]:5000", "port"),
        ("https://hub.lan", "not a URL"),
        ("hub.lan/team", "not a URL"),
        ("hub..lan", "'' may hold"),
        (".", "may hold"),
        ("-hub.lan", "may hold"),
        ("hub-.lan", "may hold"),
        ("my_hub.lan", "may hold"),
        ("hub lan", "may hold"),
        ("hub.lan\n", "may hold"),
        ("hub.lan\0", "may hold"),
        ("'; reboot #", "may hold"),
        ("$(reboot).lan", "may hold"),
        (f"{'a' * 64}.lan", "at most 63"),
        ("a" * 254, "longer"),
        (".".join("a" * 60 for _ in range(5)), "longer"),
        ("192.168.1.256", "no IP address"),
        ("10.0.0.01", "no IP address"),
        ("12345", "no IP address"),
        (".".join(f"üä{'a' * 35}" for _ in range(6)), "DNS name .*too long"),
        ("0.0.0.0", "many addresses"),
        ("::", "many addresses"),
        ("ff02::1", "many addresses"),
        ("fe80::1%eth0", "zone"),
        ("[hub.lan]", "no such address"),
        ("\N{ZERO WIDTH SPACE}.lan", "DNS"),
        ("\N{SNOWMAN}\N{COMBINING ENCLOSING KEYCAP}.lan", "DNS"),
    ],
)
def test_what_is_no_name(typed: str, why: str) -> None:
    with pytest.raises(InvalidHost, match=why) as caught:
        ServerName.parse(typed)
    assert len(str(caught.value)) < 700


@given(st.text(max_size=80))
def test_any_text_is_a_name_of_harmless_characters_or_refused(text: str) -> None:
    try:
        name = ServerName.parse(text)
    except InvalidHost:
        return
    assert set(name.text) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-:")
    assert ServerName.parse(name.text) == name


@pytest.mark.parametrize(
    ("constraint", "name", "is_permitted"),
    [
        ("hub.lan", "hub.lan", True),
        ("hub.lan", "a.hub.lan", True),
        ("hub.lan", "xhub.lan", False),
        ("a.hub.lan", "hub.lan", False),
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.10", False),
        ("10.0.0.1", "hub.10.0.0.1.lan", False),
        ("fd00::5", "fd00:0:0::5", True),
    ],
)
def test_a_constraint_permits_its_name_and_what_is_below(constraint: str, name: str, is_permitted: bool) -> None:
    assert ServerName.parse(constraint).permits(ServerName.parse(name)) is is_permitted


@pytest.mark.parametrize(
    ("typed", "text", "port"),
    [
        ("hub.lan:5000", "hub.lan:5000", 5000),
        ("HUB.lan", "hub.lan", 443),
        ("192.168.1.10:443", "192.168.1.10:443", 443),
        ("[FD00::5]:5000", "[fd00::5]:5000", 5000),
        ("[fd00::5]", "[fd00::5]", 443),
    ],
)
def test_servers(typed: str, text: str, port: int) -> None:
    server = HostPort.parse(typed)
    assert (str(server), server.connect_port) == (text, port)


@pytest.mark.parametrize(
    "port", ["", "0", "65536", "\N{ARABIC-INDIC DIGIT FIVE}", "5000/x", "5000 ", "+5", "5000\n", "1;id"]
)
def test_what_is_no_port(port: str) -> None:
    with pytest.raises(InvalidHost, match=r"not a port|not a URL"):
        HostPort.parse(f"hub.lan:{port}")


@pytest.mark.parametrize(
    "typed", ["", ":5000", "fd00::5", "fd00::5:5000", "a:b:5000", "../..:5000", "$(id):1", "`id`:1", "a'b:1"]
)
def test_what_is_no_server(typed: str) -> None:
    with pytest.raises(InvalidHost):
        HostPort.parse(typed)


@pytest.mark.parametrize(
    "typed",
    [
        f"SHA256:{HEX}",
        f"sha256:{HEX.upper()}",
        HEX,
        "sha256 Fingerprint=" + ":".join(HEX[at : at + 2] for at in range(0, 64, 2)).upper(),
        f" SHA256:{HEX}\n",
    ],
)
def test_fingerprints(typed: str) -> None:
    assert str(Fingerprint.parse(typed)) == f"SHA256:{HEX}"


@pytest.mark.parametrize(
    "typed", ["", "SHA256:", HEX[:-1], HEX + "0", f"SHA1:{HEX}", f"SHA256:{HEX[:-1]}g", "x" * 10_000]
)
def test_what_is_no_fingerprint(typed: str) -> None:
    with pytest.raises(InvalidFingerprint):
        Fingerprint.parse(typed)
