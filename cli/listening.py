"""Where a server listens, and whether that is safe."""

from __future__ import annotations

import ipaddress
import socket

from cli.options import Failure
from cli.place import Place
from registry.origin import Network


def bind(listen: str) -> socket.socket:
    """A listening socket of HOST:PORT; Failure."""
    host, colon, port_text = listen.rpartition(":")
    host = host.strip("[]")
    if not colon or not port_text.isdigit() or int(port_text) > 65535:
        raise Failure(f"--listen {listen!r} is not HOST:PORT, for example 127.0.0.1:5000", 2)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host or "0.0.0.0", int(port_text)))  # nosec B104
        sock.listen(4096)
    except (OSError, UnicodeError) as error:
        raise Failure(
            f"cannot listen on {listen}: {error}. Is another server running there? Try another --listen."
        ) from error
    return sock


def spell(sock: socket.socket) -> str:
    """Where a socket listens, HOST:PORT as it is typed."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def refuse_exposure(sock: socket.socket, place: Place, *, has_tls: bool, has_accounts: bool) -> None:
    """Refuse to serve others than this machine where they could read along, or do what they like; Failure."""
    host, port = sock.getsockname()[:2]
    if ipaddress.ip_address(host).is_loopback or (has_tls and has_accounts):
        return
    missing = (
        [] if has_accounts else ["no accounts: anybody who reaches it could read, overwrite and delete everything"]
    )
    missing += [] if has_tls else ["no TLS: passwords and images would travel for all to read and change"]
    where, listen = place.options(), spell(sock)
    safe = [] if has_accounts else [f"portside init {where} --admin NAME"]
    safe += (
        ["this command again"]
        if has_tls
        else [f"portside serve {where} --listen {listen} --tls auto --name THIS-HOSTS-NAME"]
    )
    raise Failure(
        f"{listen} can be reached from other machines, and this hub has {', and '.join(missing)}.\n"
        "Three ways forward:\n"
        f"  1. {', then '.join(safe)}\n"
        f"  2. --listen 127.0.0.1:{port}, behind a reverse proxy that speaks TLS: --external-url https://NAME --trusted-proxy 127.0.0.1\n"
        "  3. --insecure-open, where everybody on the network may do and see everything, as on a test network of one's own"
    )


def parse_networks(texts: list[str]) -> list[Network]:
    """Addresses and networks of proxies; Failure."""
    try:
        return [ipaddress.ip_network(text, strict=False) for text in texts]
    except ValueError as error:
        raise Failure(
            f"--trusted-proxy: {error}; give an address or a network, as 127.0.0.1 or 10.0.0.0/24", 2
        ) from error
