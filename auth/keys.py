"""The keys that sign access tokens: files of one root, shared by all its server processes.

::

    ROOT/auth/keys/              0700
        lock                     flock(2): held by whoever makes a key
        generation               8 bytes that change with each new key, mapped by every process (storage.generation)
        000001-1760000000.pem    0600: a private key (PKCS #8); its number, and when it was made (Unix seconds)

The key with the highest number signs. The ones before it go on verifying until the last token that they signed has expired, which the names
tell: a key signed for the last time when the next one was made. Then their files go. A new key is durable before it signs, and every
process looks at the generation each time it is asked for a key: what one has signed, all can verify at once.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm

from auth.jwks import VerifyingKey
from storage.generation import Generation
from storage.paths import PRIVATE_MODE, make_directory, sync_directory

logger = logging.getLogger("portside.auth")

ALGORITHM = "ES256"
LOOK_INTERVAL = 1.0
"""Seconds between two looks at the directory, for what was put there or taken away by hand."""
RETIREMENT_MARGIN = 90.0
"""Seconds that a key verifies beyond its last token's end: the 60 of clocks that differ, and 30 for a disk that is slow to take the next
key, while which this one signs on."""
FILE_MAX = 16 * 1024

_NAME = re.compile(r"(?P<number>[0-9]{6,9})-(?P<created>[0-9]{1,12})\.pem\Z")
_UNFINISHED = ".new"


class KeysUnusable(Exception):
    """The keys of a root cannot be read or made; the message says what to do. ``path``: which file or directory."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(f"the signing keys cannot be used: {path}: {reason}")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key. ``kid``: its public half's thumbprint (RFC 7638)."""

    kid: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    def sign(self, claims: dict[str, Any]) -> str:
        """A JSON Web Token with these claims, in its compact form (RFC 7515 section 7.1)."""
        return jwt.encode(claims, self.key, ALGORITHM, {"kid": self.kid})


@dataclass(frozen=True, slots=True)
class _Ring:
    """The keys as they were at one look, the newest first. ``retires_at``: when the next one goes, in seconds of the Unix clock."""

    signing: SigningKey
    verifying: Mapping[str, VerifyingKey]
    published: tuple[Mapping[str, str], ...]
    retires_at: float
    generation: int
    stamp: tuple[int, int] | None


class KeyRing:
    """The keys in one directory. Safe for threads and, with others of its kind, for processes. Asking costs about a microsecond.

    ``token_lifetime``: seconds, of the longest-lived token that any process signs with these keys.
    """

    def __init__(self, directory: Path, token_lifetime: float, *, clock: Callable[[], float] = time.time) -> None:
        """Read the keys, making the directory and the first key where there are none; KeysUnusable."""
        self._directory = directory
        self._verified_for = token_lifetime + RETIREMENT_MARGIN
        self._clock = clock
        self._mutex = threading.Lock()
        self._next_look = 0.0
        self._complaint = ""
        try:
            _make_directories(directory)
            self._generation = Generation(directory / "generation")
            self._ring = self._read()
        except OSError as error:
            raise KeysUnusable(directory, error.strerror or str(error)) from error

    def signing(self) -> SigningKey:
        """The newest key."""
        return self._current().signing

    def find(self, kid: str) -> VerifyingKey | None:
        """The public key of an id, None for one that is unknown or has retired."""
        return self._current().verifying.get(kid)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys as a key set (RFC 7517 section 5), the one that signs first."""
        return {"keys": [dict(entry) for entry in self._current().published]}

    def rotate(self) -> str:
        """Make a new key, which signs from now on in every process; its id. Blocking; KeysUnusable."""
        try:
            with self._locked():
                kid = self._make(max((number for number, _, _ in self._list()), default=0) + 1)
        except OSError as error:
            raise KeysUnusable(self._directory, error.strerror or str(error)) from error
        self._current()
        return kid

    def close(self) -> None:
        """Let go of the files."""
        self._generation.close()

    # -- looking

    def _current(self) -> _Ring:
        ring, now = self._ring, time.monotonic()
        if self._generation.read() == ring.generation and now < self._next_look:
            return ring
        with self._mutex:
            ring = self._ring
            self._next_look = now + LOOK_INTERVAL
            generation = self._generation.read()
            is_same = generation == ring.generation and self._stamp() == ring.stamp
            if not is_same or self._clock() >= ring.retires_at:
                self._ring = self._read_again(ring, generation)
            return self._ring

    def _read_again(self, ring: _Ring, generation: int) -> _Ring:
        """The keys as they are now. Where they cannot be read, those that are known stay, and reading is tried again each second."""
        try:
            ring = self._read()
        except (OSError, KeysUnusable) as error:
            complaint = str(error)
            if complaint != self._complaint:
                logger.error("%s; the keys that were read before stay in use", complaint)
            self._complaint = complaint
            return replace(ring, generation=generation)
        self._complaint = ""
        return ring

    def _stamp(self) -> tuple[int, int] | None:
        """What changes when a file comes or goes."""
        try:
            found = os.stat(self._directory)
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def _read(self) -> _Ring:
        """Read every file; make the first where there is none. Those that have retired are removed. OSError, KeysUnusable."""
        generation, stamp = self._generation.read(), self._stamp()  # first: what changes from here on is read next time
        found = self._list()
        if not found:
            with self._locked():
                if not self._list():
                    self._make(1)
            generation, stamp, found = self._generation.read(), self._stamp(), self._list()
        now = self._clock()
        keys: list[tuple[SigningKey, dict[str, str]]] = []
        retires_at, superseded_at = float("inf"), float("inf")
        for _, created, path in sorted(found, reverse=True):
            ends_at = superseded_at + self._verified_for
            superseded_at = created
            if ends_at <= now:
                path.unlink(missing_ok=True)
                continue
            with contextlib.suppress(FileNotFoundError):  # another process found that it has retired
                key = _load(path)
                published = _published(key)
                keys.append((SigningKey(published["kid"], key), published))
                retires_at = min(retires_at, ends_at)
        if not keys:
            raise KeysUnusable(self._directory, "the keys were removed while they were read")
        verifying = {key.kid: VerifyingKey(key.kid, key.key.public_key(), (ALGORITHM,)) for key, _ in keys}
        return _Ring(keys[0][0], verifying, tuple(entry for _, entry in keys), retires_at, generation, stamp)

    def _list(self) -> list[tuple[int, int, Path]]:
        """(number, made at, path) of each key file."""
        names = [(name, _NAME.match(name)) for name in os.listdir(self._directory)]
        return [(int(m["number"]), int(m["created"]), self._directory / name) for name, m in names if m is not None]

    # -- making

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only process that makes a key. What one that died left unfinished is removed."""
        fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            for name in os.listdir(self._directory):
                if name.endswith(_UNFINISHED):
                    os.unlink(self._directory / name)
            yield
        finally:
            os.close(fd)  # the lock goes with it

    def _make(self, number: int) -> str:
        """Make a key durably, then tell the other processes; its id. Under the lock; OSError."""
        key = ec.generate_private_key(ec.SECP256R1())
        path = self._directory / f"{number:06}-{int(self._clock())}.pem"
        unfinished = path.with_suffix(_UNFINISHED)
        fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
        try:
            with open(fd, "wb") as file:
                os.fchmod(fd, PRIVATE_MODE)
                file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
                file.flush()
                os.fsync(fd)
            os.rename(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        sync_directory(self._directory)
        self._generation.begin()
        self._generation.end()
        return _published(key)["kid"]


def _make_directories(directory: Path) -> None:
    """Make what is missing of the path; KeysUnusable where others than its owner may write to the directory. OSError."""
    missing = [directory]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        make_directory(path)
    if directory.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeysUnusable(directory, f"others could put a key of theirs there. Run:  chmod 700 {directory}")


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a private key; KeysUnusable, also where others than its owner can read it. OSError."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeysUnusable(
                path,
                f"others can read this private key. Run:  chmod 600 {path}  (and rotate the keys if they did read it)",
            )
        raw = file.read(FILE_MAX)
    try:
        key = load_pem_private_key(raw, password=None)
    except (ValueError, TypeError):  # never their text: it may quote what was read
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeysUnusable(path, "this is no unencrypted P-256 private key in PEM form; move the file away")
    return key


def _published(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The public half as a JSON Web Key (RFC 7517 section 4, RFC 7518 section 6.2.1)."""
    found = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    members = {name: found[name] for name in ("crv", "kty", "x", "y")}
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode("ascii")  # RFC 7638 section 3
    kid = base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode("ascii")
    return {**members, "kid": kid, "use": "sig", "alg": ALGORITHM}
