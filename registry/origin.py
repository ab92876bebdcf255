"""Where a request came from and by which address the client knows us, also behind reverse proxies."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from registry.messages import Request

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_AUTHORITY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253})|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")


class Origin:
    """What the server was told of its own address. ``external_url`` beats all, forwarded headers count only from ``proxies``."""

    def __init__(self, scheme: str = "http", external_url: str = "", proxies: Sequence[Network] = ()) -> None:
        self._scheme = scheme
        self._external_url = external_url.rstrip("/")
        self._proxies = proxies

    def client(self, request: Request) -> str:
        """The address of the client: of X-Forwarded-For the last that is no proxy of ours (each adds the one that it saw)."""
        address = request.client.rpartition(":")[0] or request.client
        if not self._proxies or not self._is_proxy(address):
            return address
        hops = [hop.strip() for value in _all(request, b"x-forwarded-for") for hop in value.split(",")]
        for hop in reversed(hops):
            if _parse(hop) is None:
                break
            address = hop
            if not self._is_proxy(hop):
                break
        return address

    def base_url(self, request: Request) -> str:
        """Scheme and authority by which the client reaches us, without a final slash: what realms are made of."""
        if self._external_url:
            return self._external_url
        scheme, authority = self._scheme, request.header(b"host") or ""
        if self._proxies and self._is_proxy(request.client.rpartition(":")[0]):
            forwarded = _last(request, b"x-forwarded-proto").lower()
            scheme = forwarded if forwarded in ("http", "https") else scheme
            authority = _last(request, b"x-forwarded-host") or authority
        return f"{scheme}://{authority if _AUTHORITY.match(authority) else 'localhost'}"

    def _is_proxy(self, address: str) -> bool:
        parsed = _parse(address)
        return parsed is not None and any(parsed in network for network in self._proxies)


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        parsed = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


def _all(request: Request, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in request.headers if key == name]


def _last(request: Request, name: bytes) -> str:
    """What the nearest proxy said: the last word of a header that each may have added to."""
    values = _all(request, name)
    return values[-1].rpartition(",")[2].strip() if values else ""
