"""What a hub is called: the names and addresses that a certificate may hold, and where clients reach it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

NAME_MAX = 253
"""Characters of a DNS name (RFC 1035 section 3.1, without the last dot)."""
HTTPS_PORT = 443

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")


class InvalidHost(ValueError):
    """A string that names no server. ``text`` is what was given, cut to a printable length."""

    def __init__(self, text: str, reason: str) -> None:
        self.text = text[:300]
        super().__init__(f"{self.text!r} is not the name or address of a server: {reason}")


@dataclass(frozen=True, slots=True)
class ServerName:
    """A DNS name in lower case, of A-labels (RFC 5890 section 2.3.2.1), or an IP address as `ipaddress` writes it."""

    text: str
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None

    @classmethod
    def parse(cls, text: str) -> ServerName:
        """Read a name as a person types it: ``hub.lan``, ``bücher.lan``, ``192.168.1.10``, ``fd00::5``; InvalidHost."""
        if not text or len(text) > NAME_MAX:
            raise InvalidHost(text, "it is empty" if not text else f"it is longer than {NAME_MAX} characters")
        if "://" in text or "/" in text:
            raise InvalidHost(text, "give the name alone, for example hub.lan, not a URL")
        if "*" in text:
            raise InvalidHost(text, "a wildcard stands for servers that are none; give each name by itself")
        bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        try:
            address = ipaddress.ip_address(bare)
        except ValueError:
            if bare is not text or ":" in text:
                reason = "no such address; a port is not part of a name, give the name without it"
                raise InvalidHost(text, reason) from None
            return cls(_dns_name(text))
        return cls._of_address(text, address)

    @classmethod
    def _of_address(cls, text: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ServerName:
        if isinstance(address, ipaddress.IPv6Address):
            if address.scope_id is not None:
                raise InvalidHost(text, "an address with a zone means something else on each machine")
            address = address.ipv4_mapped or address
        if address.is_unspecified or address.is_multicast:
            raise InvalidHost(text, "it stands for many addresses; give the one that clients use")
        return cls(str(address), address)

    def permits(self, other: ServerName) -> bool:
        """Whether a certificate authority that is constrained to this name may vouch for the other (RFC 5280 section 4.2.1.10)."""
        if self.address is not None or other.address is not None:
            return self == other
        return other.text == self.text or other.text.endswith(f".{self.text}")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class HostPort:
    """A server as the names of images hold it: ``hub.lan:5000``, ``[fd00::5]:5000``, or ``hub.lan`` alone for port 443."""

    name: ServerName
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Read ``HOST[:PORT]``; an IPv6 address stands in brackets. InvalidHost."""
        host, colon, digits = text.rpartition(":")
        if not colon or text.endswith("]"):
            return cls(ServerName.parse(text))
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise InvalidHost(text, "an IPv6 address stands in brackets, for example [fd00::5]:5000")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 0 < int(digits) <= 65535):
            raise InvalidHost(text, f"{digits[:20]!r} is not a port")
        return cls(ServerName.parse(host), int(digits))

    @property
    def connect_port(self) -> int:
        """The port to connect to."""
        return HTTPS_PORT if self.port is None else self.port

    def __str__(self) -> str:
        host = f"[{self.name}]" if ":" in self.name.text else self.name.text
        return host if self.port is None else f"{host}:{self.port}"


def _dns_name(text: str) -> str:
    """A DNS name as certificates hold it; InvalidHost."""
    name = text.removesuffix(".").lower()
    if not name.isascii():
        import idna  # non-transitional, as browsers and curl are; the standard library's codec writes ß as ss

        try:
            name = idna.encode(name, uts46=True).decode()
        except idna.IDNAError as error:
            raise InvalidHost(text, f"it cannot be a DNS name ({error})") from error
    labels = name.split(".")
    for label in labels:
        if not _LABEL.match(label):
            raise InvalidHost(text, f"{label[:80]!r} may hold only letters, digits and hyphens inside, at most 63")
    if labels[-1].isdigit():
        raise InvalidHost(text, "it is no IP address, and too much like one to be a DNS name")
    return name
