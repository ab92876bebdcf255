"""A hub's own certificate authority, and the certificate that it gives the hub's servers, below ``ROOT/tls``.

::

    ROOT/tls/                    0700
        ca.pem ca.key            the authority: ten years, for exactly the names that it was made with (RFC 5280 section 4.2.1.10)
        server.pem server.key    the server's certificate with the authority behind it: 90 days, made anew when 30 are left
        lock                     locked with flock(2) by whoever writes the others, or reads a pair of them

All files 0600. Clients trust ``ca.pem`` once, and its constraints bound what they risk: it can vouch for servers of these names and for
nothing else. The key of each pair is written before the certificate: a crash between the two leaves a pair that does not match, which
is made anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from auth.hosts import ServerName
from auth.pem import (
    CertificateError,
    Pair,
    fingerprint,
    general_name,
    key_pem_of,
    load_key,
    names_of,
    pem_of,
    permitted_names,
    read_file,
    read_pair,
    write_file,
)
from storage.errors import StoreUnusable
from storage.paths import DIRECTORY_MODE, PRIVATE_MODE, make_directory, prepare, sync_directory

logger = logging.getLogger("portside.auth")

AUTHORITY_LIFE = timedelta(days=3652)
SERVER_LIFE = timedelta(days=90)
RENEWAL = timedelta(days=30)
"""A server's certificate with less than this left is made anew."""
AUTHORITY_RENEWAL = timedelta(days=365)
"""An authority with less than this left may be replaced, and says so."""
SKEW = timedelta(hours=1)
"""How far clients' clocks may be behind."""
ALWAYS = (ServerName.parse("localhost"), ServerName.parse("127.0.0.1"), ServerName.parse("::1"))
"""Names that every hub has."""
CLOCK_MIN = datetime(2025, 1, 1, tzinfo=UTC)
"""A clock before this has not been set since the machine started; what is made by it would be of the past when it is."""


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


class Authority:
    """The certificates of one root. Any number of processes may use it at once; the first makes what is missing.

    ``names``: what clients call the servers; `ALWAYS` is added. Making one touches nothing.
    """

    def __init__(self, root: Path, names: Sequence[ServerName], clock: Callable[[], datetime] = now) -> None:
        self._root = root
        self.directory = Path(os.path.abspath(root)) / "tls"
        self.names = tuple(dict.fromkeys((*names, *ALWAYS)))
        self._clock = clock

    @property
    def chain_file(self) -> Path:
        """The server's certificate and the authority's."""
        return self.directory / "server.pem"

    @property
    def key_file(self) -> Path:
        """The key of the server's certificate."""
        return self.directory / "server.key"

    def read(self) -> Pair:
        """The server's pair as it is; CertificateError, OSError."""
        with self._locked(fcntl.LOCK_SH):
            return read_pair(self.chain_file, self.key_file)

    def ensure(self, *, may_replace: bool = False) -> Pair:
        """The server's pair: the one that is there where it is good for a while yet, else a new one.

        ``may_replace``: an authority that cannot go on (another name, its last year) is replaced; clients have to trust the new one then.
        CertificateError where that would be needed and is not allowed, or where files are not as they were made; OSError.
        """
        moment = self._clock()
        if moment < CLOCK_MIN:
            raise CertificateError(
                self.directory,
                f"this machine's clock says {moment:%Y-%m-%d}: set it before certificates are made by it",
            )
        try:
            prepare(self._root)
        except StoreUnusable as error:
            raise CertificateError(self.directory, str(error)) from error
        make_directory(self.directory)
        os.chmod(self.directory, DIRECTORY_MODE)
        with self._locked(fcntl.LOCK_EX):
            authority = self._authority(moment, may_replace)
            kept = self._kept(authority)
            return kept if kept is not None else self._issue(authority, moment)

    def is_due(self, pair: Pair) -> bool:
        """Whether a server's pair should be made anew by now, and can be: its end may be the authority's own."""
        moment, leaf = self._clock(), pair.leaf
        if not leaf.not_valid_before_utc <= moment:
            return True
        is_last = pair.authority is not None and leaf.not_valid_after_utc >= pair.authority.not_valid_after_utc
        return moment >= leaf.not_valid_after_utc - RENEWAL and not is_last

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)

    def _authority(self, moment: datetime, may_replace: bool) -> x509.Certificate:
        path = self.directory / "ca.pem"
        if not path.exists():
            return self._make_authority(moment)
        try:
            held = x509.load_pem_x509_certificate(read_file(path))
        except ValueError:
            fault: str | None = "it holds no certificate in PEM that can be read"
        else:
            fault = self._fault(held, moment, may_replace)
            if fault is None:
                return held
        if may_replace:
            logger.warning("TLS: the authority is replaced: %s", fault)
            return self._make_authority(moment)
        raise CertificateError(path, f"{fault}; {self._remedy()}")

    def _fault(self, held: x509.Certificate, moment: datetime, may_replace: bool) -> str | None:
        """Why an authority has to be replaced; None when it is good."""
        begin, end = held.not_valid_before_utc, held.not_valid_after_utc
        if moment < begin:
            reason = f"this authority begins on {begin:%Y-%m-%d}; this machine's clock says {moment:%Y-%m-%d}: set it"
            raise CertificateError(self.directory / "ca.pem", reason)
        permitted = permitted_names(held)
        missing = [name for name in self.names if not any(one.permits(name) for one in permitted)]
        if missing:
            return f"this authority may not vouch for {_listed(missing)}: it was made for {_listed(permitted)}"
        if moment >= end:
            return f"this authority ended on {end:%Y-%m-%d}"
        if moment >= end - AUTHORITY_RENEWAL:
            if may_replace:
                return f"this authority ends on {end:%Y-%m-%d}"
            logger.warning("TLS: the authority ends on %s: %s", f"{end:%Y-%m-%d}", self._remedy())
        return None

    def _remedy(self) -> str:
        options = "".join(f" --name {name}" for name in self.names if name not in ALWAYS)
        return (
            "a new one is made by starting once with --new-ca, and each client has to trust that then: "
            f"portside serve --tls auto{options} --new-ca"
        )

    def _make_authority(self, moment: datetime) -> x509.Certificate:
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key()
        short = hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()[:8]
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Portside CA {short}")])
        permitted = [general_name(one, is_constraint=True) for one in self.names]
        made = (
            _builder(name, name, public, moment - SKEW, moment + AUTHORITY_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.NameConstraints(permitted, None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(key, SHA256())
        )
        write_file(self.directory / "ca.key", key_pem_of(key))
        write_file(self.directory / "ca.pem", pem_of(made))
        sync_directory(self.directory.parent)  # whoever made the directory may have died before it did this
        logger.info("TLS: made an authority for %s: %s", _listed(self.names), fingerprint(made))
        return made

    def _kept(self, authority: x509.Certificate) -> Pair | None:
        """The pair on disk, where there is one that goes on being good."""
        try:
            pair = read_pair(self.chain_file, self.key_file)
            pair.leaf.verify_directly_issued_by(authority)
        except (CertificateError, ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return None
        is_good = pair.chain[1:] == (authority,) and names_of(pair.leaf) == frozenset(self.names)
        return pair if is_good and not self.is_due(pair) else None

    def _issue(self, authority: x509.Certificate, moment: datetime) -> Pair:
        path = self.directory / "ca.key"
        signer = load_key(path, read_file(path))
        if not isinstance(signer, ec.EllipticCurvePrivateKey) or signer.public_key() != authority.public_key():
            reason = f"it is not the key of ca.pem beside it; bring the right one back, or remove {self.directory} to begin anew"
            raise CertificateError(path, reason)
        key = ec.generate_private_key(ec.SECP256R1())
        begin = max(moment - SKEW, authority.not_valid_before_utc)
        end = min(moment + SERVER_LIFE, authority.not_valid_after_utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Portside")])
        signer_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        made = (
            _builder(subject, authority.subject, key.public_key(), begin, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([general_name(one) for one in self.names]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer_id), critical=False)
            .sign(signer, SHA256())
        )
        write_file(self.key_file, key_pem_of(key))
        write_file(self.chain_file, pem_of(made, authority))
        logger.info("TLS: made a server certificate for %s, until %s", _listed(self.names), f"{end:%Y-%m-%d}")
        return read_pair(self.chain_file, self.key_file)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _listed(names: Sequence[ServerName]) -> str:
    return ", ".join(map(str, names)) or "no names"
