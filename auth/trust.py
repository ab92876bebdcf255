"""How a client machine comes to trust a hub's own authority: by its fingerprint, out of the hub's TLS handshake.

A hub sends its authority along in each handshake, so nothing else has to be fetched. Whoever answers can send what it likes: only the
certificate of which a person brought the fingerprint is taken, and only where the server that answers proves to be of that authority.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from auth.fingerprint import Fingerprint
from auth.hosts import HostPort
from auth.pem import is_authority

TIMEOUT = 15.0
"""Seconds for each step of a connection."""
SHOWN_MAX = 8
"""Certificates of a chain that are looked at."""


class TrustError(Exception):
    """A server whose authority is not to be trusted, or that could not be asked. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A certificate that a server showed. ``subject`` in words, safe to print."""

    der: bytes
    fingerprint: Fingerprint
    subject: str
    is_authority: bool


def fetch_authority(server: HostPort, expected: Fingerprint) -> Shown:
    """The authority with that fingerprint, shown by a server that has a certificate of it for its name; TrustError."""
    shown = [_describe(der) for der in fetch_chain(server)]
    found = next((one for one in shown if one.fingerprint == expected), None)
    if found is None:
        listed = "".join(f"\n  {one.fingerprint}  {one.subject}" for one in shown)
        raise TrustError(
            f"{server} does not show {expected}. It shows{listed or ' nothing'}\n"
            "A wrong server may be answering, or the hub has a new authority: ask whoever runs it for the fingerprint."
        )
    if not found.is_authority:
        raise TrustError(
            f"{expected} is {found.subject}, which is no certificate authority: trust the one that signed it"
        )
    _handshake(server, _trusting(found))
    return found


def fetch_chain(server: HostPort) -> list[bytes]:
    """The certificates that a server shows, its own first, as DER and unverified; TrustError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _handshake(server, context)


def _trusting(authority: Shown) -> ssl.SSLContext:
    """What a client is that trusts this authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.der)
    return context


def _handshake(server: HostPort, context: ssl.SSLContext) -> list[bytes]:
    try:
        with (
            socket.create_connection((server.name.text, server.connect_port), TIMEOUT) as connection,
            context.wrap_socket(connection, server_hostname=server.name.text) as secured,
        ):
            return _chain(secured)[:SHOWN_MAX]
    except ssl.SSLCertVerificationError as error:
        raise TrustError(
            f"{server} shows the authority, but its own certificate is not good: {error.verify_message}. "
            "A wrong server may be answering; or the hub needs --name for this name, or one of the clocks is wrong."
        ) from error
    except ssl.SSLError as error:
        if "WRONG_VERSION_NUMBER" in str(error):
            raise TrustError(f"{server} does not speak TLS: was it started with --tls auto?") from error
        raise TrustError(f"{server} and this client cannot agree on TLS ({error.reason or error})") from error
    except TimeoutError as error:
        raise TrustError(
            f"{server} did not answer within {TIMEOUT:.0f} s: is the address right, and no firewall between?"
        ) from error
    except socket.gaierror as error:
        raise TrustError(
            f"{server}: the name cannot be resolved ({error.strerror}); is it in the DNS or in /etc/hosts?"
        ) from error
    except OSError as error:
        raise TrustError(
            f"{server} cannot be reached ({error.strerror or error}): is the hub running there?"
        ) from error


def _chain(secured: ssl.SSLSocket) -> list[bytes]:
    """What the server sent. Public from Python 3.13 on; before that the object underneath has it, which pip relies on too."""
    if hasattr(secured, "get_unverified_chain"):
        chain: list[bytes] = secured.get_unverified_chain()
        return chain
    inner: Any = secured._sslobj  # type: ignore[attr-defined]
    return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in inner.get_unverified_chain() or ()]


def _describe(der: bytes) -> Shown:
    try:
        certificate = x509.load_der_x509_certificate(der)
        subject, is_ca = certificate.subject.rfc4514_string(), is_authority(certificate)
    except ValueError:
        subject, is_ca = "a certificate that cannot be read", False
    printable = "".join(character if character.isprintable() else "?" for character in subject)
    return Shown(der, Fingerprint.of(der), printable[:120] or "(no name)", is_ca)
