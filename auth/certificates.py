"""The certificates that servers show: read at the start, and again when they change, without a connection being dropped.

What a context holds stays as it is; a new one is made beside it and the next handshake takes that.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from auth.authority import Authority, now
from auth.fingerprint import Fingerprint
from auth.hosts import ServerName
from auth.pem import CertificateError, Pair, names_of, read_pair

logger = logging.getLogger("portside.auth")

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; those of 1.3 are OpenSSL's own."""
SETTLED = 0.1
"""Seconds: a file that changed less than this ago may still be written, and may change again without another time stamp."""
RETRY = 60.0
"""Seconds between two attempts to renew."""


def server_context(pair: Pair, path: Path) -> ssl.SSLContext:
    """TLS 1.2 and later, for HTTP/1.1; CertificateError names ``path`` where OpenSSL does not take the pair (a weak key, say)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 1
    context.options |= ssl.OP_NO_RENEGOTIATION  # that there is no compression is Python's own default
    # All that is offered is sound, so the client chooses: with AES in its processor it names AES-128-GCM first, which costs a seventh less.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    # Python gives OpenSSL no certificate but by a file's name: one in memory, so that what is used is what was checked.
    fd = os.memfd_create("portside-tls", os.MFD_CLOEXEC)
    try:
        os.write(fd, pair.pem)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    except ssl.SSLError as error:
        raise CertificateError(path, f"OpenSSL does not take it ({error.reason or 'no reason given'})") from error
    finally:
        os.close(fd)
    return context


class CertificateFiles:
    """A certificate and key that somebody else keeps. CertificateError at the start; later the last good ones stay in use."""

    def __init__(self, certificate: Path, key: Path, clock: Callable[[], datetime] = now) -> None:
        self._certificate, self._key, self._clock = certificate, key, clock
        self._files = _Files(certificate, key)
        self._complaint = _Complaint()
        self._load()

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Of the authority at the end of the chain; None when the chain ends before it, as those of public authorities do."""
        return self._pair.fingerprint

    def context(self) -> ssl.SSLContext:
        """For the next handshake."""
        return self._context

    def refresh(self) -> None:
        """Read the files again if they have changed. Blocking; call it once a second."""
        if not self._files.have_changed():
            return
        try:
            self._load()
        except (CertificateError, OSError) as error:
            self._complaint.utter(error)
        else:
            self._complaint.end()
            logger.info(
                "TLS: read %s again, until %s", self._certificate, f"{self._pair.leaf.not_valid_after_utc:%Y-%m-%d}"
            )

    def _load(self) -> None:
        pair = read_pair(self._certificate, self._key)
        self._context, self._pair = server_context(pair, self._certificate), pair
        moment = self._clock()
        if not pair.leaf.not_valid_before_utc <= moment < pair.leaf.not_valid_after_utc:
            logger.warning(
                "TLS: %s is valid from %s to %s only, and this machine's clock says %s: clients will refuse it",
                self._certificate,
                *(
                    f"{at:%Y-%m-%d %H:%M}"
                    for at in (pair.leaf.not_valid_before_utc, pair.leaf.not_valid_after_utc, moment)
                ),
            )


class AutoCertificate:
    """The certificate of a root's own authority, made at the start where it has to be, and renewed before it ends.

    Raises CertificateError at the start; ``new_ca`` as `Authority.ensure`'s ``may_replace``.
    """

    def __init__(
        self, root: Path, names: Sequence[ServerName], new_ca: bool = False, clock: Callable[[], datetime] = now
    ) -> None:
        self._authority = Authority(root, names, clock)
        self._complaint = _Complaint()
        self._next_attempt = 0.0
        try:
            pair = self._authority.ensure(may_replace=new_ca)
        except OSError as error:
            reason = f"it cannot be used ({error.strerror}: {error.filename})"
            raise CertificateError(self._authority.directory, reason) from error
        self._files = _Files(self._authority.chain_file, self._authority.key_file)
        self._take(pair)

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The authority's, which clients are told to trust."""
        return self._pair.fingerprint

    def context(self) -> ssl.SSLContext:
        """For the next handshake."""
        return self._context

    def refresh(self) -> None:
        """Take what another process has made, or make a new certificate when it is time. Blocking; call it once a second."""
        try:
            if self._files.have_changed():
                self._take(self._authority.read())
            if self._authority.is_due(self._pair) and time.monotonic() >= self._next_attempt:
                self._next_attempt = time.monotonic() + RETRY
                self._take(self._authority.ensure())
        except (CertificateError, OSError) as error:
            self._complaint.utter(error)

    def _take(self, pair: Pair) -> None:
        missing = set(self._authority.names) - names_of(pair.leaf)
        if missing:
            listed = ", ".join(sorted(map(str, missing)))
            reason = f"it is not for {listed}: another server of this root was started with other names"
            raise CertificateError(self._authority.chain_file, reason)
        self._context, self._pair = server_context(pair, self._authority.chain_file), pair
        self._complaint.end()


class _Complaint:
    """What is wrong, said once for as long as it is the same."""

    def __init__(self) -> None:
        self._said = ""

    def utter(self, error: Exception) -> None:
        """Say it, if it was not the last thing said."""
        if str(error) != self._said:
            logger.error("TLS: %s; the certificate from before stays in use", error)
        self._said = str(error)

    def end(self) -> None:
        """It is well again: the same would be news."""
        self._said = ""


class _Files:
    """Files that are looked at for changes; links are followed, so that turning one to another file is a change."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._noted: list[tuple[int, int, int, int]] | None = None
        self.have_changed()

    def have_changed(self) -> bool:
        """Whether they differ from the last time, and nobody is writing them at this moment."""
        seen = [_look(path) for path in self._paths]
        if seen == self._noted or any(abs(time.time() - mtime / 1e9) < SETTLED for *_, mtime in seen):
            return False
        self._noted = seen
        return True


def _look(path: Path) -> tuple[int, int, int, int]:
    """What changes when a file does."""
    try:
        at = path.stat()
    except OSError:
        return 0, 0, 0, 0
    return at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns
