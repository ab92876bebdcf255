"""Clients that may fall back to plain HTTP try TLS first, and wait for what the server says to that."""

from __future__ import annotations

import socket
import ssl
import time

import pytest

from tests.clients.hubs import Hub


@pytest.mark.parametrize("hub", ["open"], indirect=True)
def test_a_tls_hello_is_refused_at_once(hub: Hub) -> None:
    """podman, skopeo and docker do this at each start: waiting for the end of an HTTP head would cost them as long."""
    context = ssl.create_default_context()
    host, _, port = hub.address.rpartition(":")
    begin = time.monotonic()
    with (
        socket.create_connection((host, int(port)), timeout=30) as connection,
        pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"),
    ):
        context.wrap_socket(connection, server_hostname="127.0.0.1")
    assert time.monotonic() - begin < 5
