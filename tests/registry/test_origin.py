"""Where a request came from, behind proxies that are trusted and others that are not."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from registry.messages import Headers, Request
from registry.origin import Origin

PROXIES = [ip_network("10.0.0.0/24"), ip_network("127.0.0.1/32"), ip_network("fd00::/64")]


def request(client: str, *headers: tuple[str, str]) -> Request:
    encoded: Headers = [(name.encode(), value.encode()) for name, value in headers]
    return Request(b"GET", b"/v2/", encoded, client=client, keep_alive=True, started=0.0, request_id="1")


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("127.0.0.1:9", [], "127.0.0.1"),
        ("127.0.0.1:9", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.3:9", ["192.0.2.7, 10.0.0.9"], "192.0.2.7"),
        ("10.0.0.3:9", ["6.6.6.6, 192.0.2.7", "10.0.0.9"], "192.0.2.7"),
        ("192.0.2.1:9", ["6.6.6.6"], "192.0.2.1"),
        ("10.0.0.3:9", ["rubbish"], "10.0.0.3"),
        ("10.0.0.3:9", ["192.0.2.7, rubbish"], "10.0.0.3"),
        ("10.0.0.3:9", ["10.0.0.8"], "10.0.0.8"),
        ("fd00::1:9", ["2001:db8::5"], "2001:db8::5"),
        ("::ffff:127.0.0.1:9", ["192.0.2.7"], "192.0.2.7"),
    ],
)
def test_the_clients_address(client: str, forwarded: list[str], address: str) -> None:
    asked = request(client, *(("x-forwarded-for", value) for value in forwarded))
    assert Origin("http", "", PROXIES).client(asked) == address
    assert Origin("http", "", []).client(asked) == client.rpartition(":")[0]


@pytest.mark.parametrize(
    ("client", "headers", "url"),
    [
        ("192.0.2.1:9", {"host": "hub.lan:5000"}, "http://hub.lan:5000"),
        (
            "192.0.2.1:9",
            {"host": "hub.lan", "x-forwarded-proto": "https", "x-forwarded-host": "evil"},
            "http://hub.lan",
        ),
        (
            "127.0.0.1:9",
            {"host": "inside", "x-forwarded-proto": "https", "x-forwarded-host": "hub.lan"},
            "https://hub.lan",
        ),
        ("127.0.0.1:9", {"host": "inside", "x-forwarded-proto": "javascript"}, "http://inside"),
        ("127.0.0.1:9", {"host": "inside", "x-forwarded-host": "evil, hub.lan:8443"}, "http://hub.lan:8443"),
        ("127.0.0.1:9", {"host": "inside", "x-forwarded-host": 'a"b'}, "http://localhost"),
        ("192.0.2.1:9", {"host": "[2001:db8::1]:5000"}, "http://[2001:db8::1]:5000"),
        ("192.0.2.1:9", {"host": 'x",error="y'}, "http://localhost"),
        ("192.0.2.1:9", {}, "http://localhost"),
    ],
)
def test_the_url_that_the_client_used(client: str, headers: dict[str, str], url: str) -> None:
    asked = request(client, *headers.items())
    assert Origin("http", "", PROXIES).base_url(asked) == url
    assert Origin("http", "https://hub.example/", PROXIES).base_url(asked) == "https://hub.example"
