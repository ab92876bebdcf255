"""A certificate with its chain and its key, as PEM files: read with bounds, checked to belong together, written so that they stay."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from auth.fingerprint import Fingerprint
from auth.hosts import InvalidHost, ServerName
from storage.paths import PRIVATE_MODE, sync_directory

PEM_MAX = 1024 * 1024
"""Bytes of one file that are read."""


class CertificateError(Exception):
    """Certificates that cannot be used. ``path`` is the file or directory that is at fault; the message says what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(f"{path}: {reason}")


@dataclass(frozen=True, slots=True)
class Pair:
    """A server's certificate, those above it, and its key. ``pem`` holds all of them, for OpenSSL."""

    chain: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes = field(repr=False)
    pem: bytes = field(repr=False)

    @property
    def leaf(self) -> x509.Certificate:
        """The server's own certificate."""
        return self.chain[0]

    @property
    def authority(self) -> x509.Certificate | None:
        """The self-signed authority at the chain's end, where the chain goes so far."""
        last = self.chain[-1]
        return last if is_authority(last) and last.issuer == last.subject else None

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The authority's, by which a client may find it in a handshake."""
        return None if self.authority is None else fingerprint(self.authority)


def read_pair(certificate: Path, key: Path) -> Pair:
    """Read a chain, the server's certificate first, and its key; CertificateError names the file that is not as it has to be."""
    chain_pem, key_pem = read_file(certificate), read_file(key)
    try:
        chain = tuple(x509.load_pem_x509_certificates(chain_pem))
    except ValueError as error:
        raise CertificateError(certificate, "it holds no certificate in PEM that can be read") from error
    loaded = load_key(key, key_pem)
    try:
        belongs = chain[0].public_key() == loaded.public_key()
    except (ValueError, UnsupportedAlgorithm):  # a curve or a kind of key that nobody uses
        belongs = False
    if not belongs:
        reason = f"its first certificate does not belong to the key in {key}; the server's own certificate comes first, then the chain"
        raise CertificateError(certificate, reason)
    return Pair(chain, loaded, key_pem_of(loaded) + pem_of(*chain))


def pem_of(*certificates: x509.Certificate) -> bytes:
    """Certificates in PEM."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def key_pem_of(key: PrivateKeyTypes) -> bytes:
    """A private key in PEM, in the clear."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(path: Path, pem: bytes) -> PrivateKeyTypes:
    """The private key in what was read from ``path``; CertificateError. Nothing of the key is in the message."""
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:
        reason = "the key is encrypted and nobody is there to type its password; store it without one: openssl pkey -in KEY -out PLAIN-KEY"
        raise CertificateError(path, reason) from None
    except (ValueError, UnsupportedAlgorithm):  # from None: they may quote what they read
        raise CertificateError(path, "it holds no private key in PEM that can be read") from None


def read_file(path: Path) -> bytes:
    """At most `PEM_MAX` bytes; CertificateError."""
    try:
        with path.open("rb") as file:
            data = file.read(PEM_MAX + 1)
    except OSError as error:
        raise CertificateError(path, f"it cannot be read ({error.strerror})") from error
    if len(data) > PEM_MAX:
        raise CertificateError(path, f"it is larger than {PEM_MAX} bytes: this is no certificate")
    return data


def write_file(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 so that it is there whole or as it was, after a crash too; OSError. One writer at a time."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, PRIVATE_MODE)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def fingerprint(certificate: x509.Certificate) -> Fingerprint:
    """Of a certificate."""
    return Fingerprint.of(certificate.public_bytes(Encoding.DER))


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether a certificate says that it may sign others (RFC 5280 section 4.2.1.9)."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def names_of(certificate: x509.Certificate) -> frozenset[ServerName]:
    """The DNS names and addresses that a certificate is for. What is no `ServerName`, a wildcard for instance, is left out."""
    try:
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return frozenset()
    return frozenset(_names([*held.get_values_for_type(x509.DNSName), *held.get_values_for_type(x509.IPAddress)]))


def permitted_names(authority: x509.Certificate) -> tuple[ServerName, ...]:
    """The names and addresses that an authority is constrained to; none for one that is not constrained as ours are."""
    try:
        held = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return tuple(_names(subtree.value for subtree in held.permitted_subtrees or ()))


def general_name(name: ServerName, *, is_constraint: bool = False) -> x509.GeneralName:
    """A name as certificates hold it; addresses as a network of one where it is a constraint."""
    if name.address is None:
        return x509.DNSName(name.text)
    return x509.IPAddress(ipaddress.ip_network(name.address) if is_constraint else name.address)


def _names(values: Iterable[object]) -> Iterator[ServerName]:
    """What certificates hold as names: text, addresses, networks of one address."""
    for value in values:
        with contextlib.suppress(InvalidHost):
            yield ServerName.parse(str(value).removesuffix("/32").removesuffix("/128"))
