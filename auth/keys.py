"""The keys that sign access tokens, shared by all server processes of a hub.

The newest key signs. The ones before it go on verifying until the last token that they signed has expired: a key signed for the last time
when the next one was made. Then they go. A new key is durable before it signs, and every process looks each time it is asked for a key
whether there may be another one: what one has signed, all can verify.

Where the keys are is a `KeySource`'s matter: files of a root (`auth.key_files`), or rows of a database that many machines share
(`auth.key_rows`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

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
from storage.errors import StorageError

logger = logging.getLogger("portside.auth")

ALGORITHM = "ES256"
LOOK_INTERVAL = 1.0
"""Seconds between two looks for what came or went without being told of."""
RETIREMENT_MARGIN = 90.0
"""Seconds that a key verifies beyond its last token's end: the 60 of clocks that differ, and 30 for a disk that is slow to take the next
key, while which this one signs on."""


class KeysUnusable(Exception):
    """The keys of a hub cannot be read or made; the message says what to do. ``place``: which file, directory or database."""

    def __init__(self, place: object, reason: str) -> None:
        self.place = place
        super().__init__(f"the signing keys cannot be used: {place}: {reason}")


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key where it is kept. ``created_at`` in seconds of the Unix clock. ``load`` gives None where it has gone; KeysUnusable."""

    number: int
    created_at: float
    load: Callable[[], ec.EllipticCurvePrivateKey | None] = field(repr=False)


class KeySource(Protocol):
    """Where keys are kept. Safe for threads, and for any number of processes. (Eight members: two of them are facts about the place.)"""

    @property
    def place(self) -> object:
        """What a message names."""
        ...

    @property
    def seconds_to_spread(self) -> float:
        """How long other processes may take to hear of a new key: so long it does not sign."""
        ...

    def generation(self) -> int:
        """A number that changes with each new key; costs nothing."""
        ...

    def stamp(self) -> object:
        """What changes when a key is put there or taken away by hand; costs little."""
        ...

    def list(self) -> Sequence[StoredKey]:
        """All keys, in any order; OSError, StorageError."""
        ...

    def add(self, pem: bytes, created_at: float, *, is_first: bool) -> None:
        """Keep a key under the next number, durably, and tell all processes; the first only where there is none. OSError, StorageError."""
        ...

    def remove(self, key: StoredKey) -> None:
        """Drop a key that has retired, unless that was done already."""
        ...

    def close(self) -> None: ...


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
    """The keys as they were at one look. ``changes_at``: when the next one goes, or begins to sign, in seconds of the Unix clock."""

    signing: SigningKey
    verifying: Mapping[str, VerifyingKey]
    published: tuple[Mapping[str, str], ...]
    changes_at: float
    generation: int
    stamp: object


class KeyRing:
    """The keys of one source. Safe for threads. Asking costs about a microsecond.

    ``token_lifetime``: seconds, of the longest-lived token that any process signs with these keys.
    """

    def __init__(self, source: KeySource, token_lifetime: float, *, clock: Callable[[], float] = time.time) -> None:
        """Read the keys, making the first where there is none; KeysUnusable."""
        self._source = source
        self._verified_for = token_lifetime + RETIREMENT_MARGIN
        self._clock = clock
        self._mutex = threading.Lock()
        self._next_look = 0.0
        self._complaint = ""
        try:
            self._ring = self._read()
        except (OSError, StorageError) as error:
            raise KeysUnusable(source.place, _reason(error)) from error

    def signing(self) -> SigningKey:
        """The newest key that all processes know of."""
        return self._current().signing

    def find(self, kid: str) -> VerifyingKey | None:
        """The public key of an id, None for one that is unknown or has retired."""
        return self._current().verifying.get(kid)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys as a key set (RFC 7517 section 5), the newest first."""
        return {"keys": [dict(entry) for entry in self._current().published]}

    def rotate(self) -> str:
        """Make a new key, which signs from now on in every process, or as soon as all know it; its id. Blocking; KeysUnusable."""
        try:
            kid = self._make(is_first=False)
        except (OSError, StorageError) as error:
            raise KeysUnusable(self._source.place, _reason(error)) from error
        self._current()
        return kid

    def close(self) -> None:
        """Let go of the source."""
        self._source.close()

    def _current(self) -> _Ring:
        ring, now = self._ring, time.monotonic()
        if self._source.generation() == ring.generation and now < self._next_look:
            return ring
        with self._mutex:
            ring = self._ring
            self._next_look = now + LOOK_INTERVAL
            generation = self._source.generation()
            is_same = generation == ring.generation and self._source.stamp() == ring.stamp
            if not is_same or self._clock() >= ring.changes_at:
                self._ring = self._read_again(ring, generation)
            return self._ring

    def _read_again(self, ring: _Ring, generation: int) -> _Ring:
        """The keys as they are now. Where they cannot be read, those that are known stay, and reading is tried again each second."""
        try:
            ring = self._read()
        except (OSError, StorageError, KeysUnusable) as error:
            complaint = str(error)
            if complaint != self._complaint:
                logger.error("%s; the keys that were read before stay in use", complaint)
            self._complaint = complaint
            return replace(ring, generation=generation)
        self._complaint = ""
        return ring

    def _read(self) -> _Ring:
        """Read every key; make the first where there is none. Those that have retired are removed. OSError, StorageError, KeysUnusable."""
        source = self._source
        generation, stamp = source.generation(), source.stamp()  # first: what changes from here on is read next time
        found = source.list()
        if not found:
            self._make(is_first=True)
            generation, stamp, found = source.generation(), source.stamp(), source.list()
        now = self._clock()
        keys: list[tuple[SigningKey, dict[str, str]]] = []
        signing: SigningKey | None = None
        changes_at, superseded_at = float("inf"), float("inf")
        for stored in sorted(found, key=lambda stored: stored.number, reverse=True):
            ends_at = superseded_at + self._verified_for
            signs_at = stored.created_at + source.seconds_to_spread
            superseded_at = signs_at
            if ends_at <= now:
                source.remove(stored)
                continue
            loaded = stored.load()
            if loaded is None:  # another process found that it has retired
                continue
            published = _published(loaded)
            key = SigningKey(published["kid"], loaded)
            keys.append((key, published))
            changes_at = min(changes_at, ends_at)
            if signing is None and now >= signs_at:
                signing = key
            elif signing is None:
                changes_at = min(changes_at, signs_at)
        if not keys:
            raise KeysUnusable(source.place, "the keys were removed while they were read")
        verifying = {key.kid: VerifyingKey(key.kid, key.key.public_key(), (ALGORITHM,)) for key, _ in keys}
        # Where none is old enough, the oldest is the hub's first: there is nothing else to sign with.
        return _Ring(
            signing or keys[-1][0], verifying, tuple(entry for _, entry in keys), changes_at, generation, stamp
        )

    def _make(self, *, is_first: bool) -> str:
        key = ec.generate_private_key(ec.SECP256R1())
        self._source.add(private_pem(key), self._clock(), is_first=is_first)
        return _published(key)["kid"]


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """What `parse_private_key` reads."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def parse_private_key(pem: bytes) -> ec.EllipticCurvePrivateKey | None:
    """An unencrypted P-256 private key in PEM form, None where it is no such."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):  # never their text: it may quote what was read
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1) else None


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _published(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """The public half as a JSON Web Key (RFC 7517 section 4, RFC 7518 section 6.2.1)."""
    found = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    members = {name: found[name] for name in ("crv", "kty", "x", "y")}
    canonical = json.dumps(members, sort_keys=True, separators=(",", ":")).encode("ascii")  # RFC 7638 section 3
    kid = base64.urlsafe_b64encode(hashlib.sha256(canonical).digest()).rstrip(b"=").decode("ascii")
    return {**members, "kid": kid, "use": "sig", "alg": ALGORITHM}
