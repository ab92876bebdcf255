"""The proxy that the environment names for a request (curl's rules: https_proxy, http_proxy, all_proxy, no_proxy)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from remote.credentials import Credential
from remote.errors import RemoteError


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy listens, and what it is sent with each request or CONNECT (RFC 9110 section 11.7.2)."""

    host: str
    port: int
    headers: dict[str, str] = field(default_factory=dict)


def proxy_for(scheme: str, host: str) -> Proxy | None:
    """The proxy for a URL's scheme and host, None where it is reached directly; RemoteError where the variable names no proxy."""
    found = _variable(f"{scheme}_proxy") or _variable("all_proxy")
    if not found or is_loopback(host):
        return None
    for item in (_variable("no_proxy") or "").split(","):
        name = item.strip().lstrip(".").partition(":")[0].lower()
        if name and (name == "*" or host == name or host.endswith(f".{name}")):
            return None
    return _parse(found)


def _parse(text: str) -> Proxy:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        raise RemoteError(f"the proxy of the environment is not a URL: {error}") from error
    if parts.scheme != "http" or not host:  # never the whole text: it may hold a password
        raise RemoteError(
            f"the proxy of the environment is {parts.scheme}://{host or ''}, and only http:// proxies can be used; "
            "NO_PROXY=HOST goes around it"
        )
    if parts.username is None:
        return Proxy(host, port)
    credential = Credential(unquote(parts.username), unquote(parts.password or ""))
    return Proxy(host, port, {"Proxy-Authorization": credential.basic()})


def _variable(name: str) -> str | None:
    # HTTP_PROXY in capitals is not read where a CGI client could have set it, as curl does it.
    upper = None if name == "http_proxy" and "REQUEST_METHOD" in os.environ else os.environ.get(name.upper())
    return os.environ.get(name) or upper


def is_loopback(host: str) -> bool:
    """Whether a host, as a URL names it, is this machine: localhost, 127.0.0.0/8 or ::1."""
    if host in ("localhost", "::1", "[::1]") or host.endswith(".localhost"):
        return True
    parts = host.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() and int(part) < 256 for part in parts)
