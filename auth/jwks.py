"""Public keys that verify, and how an issuer publishes them: a JSON Web Key Set (RFC 7517, its algorithms RFC 7518 and RFC 8037)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from oci.strictjson import InvalidJSON, parse_object

KEY_SET_MAX = 1024 * 1024
"""Bytes of a key set."""
KEYS_MAX = 100
"""Keys in one set."""
RSA_MIN, RSA_MAX = 2048, 8192
"""Bits of an RSA key: the least that RFC 7518 section 3.3 allows, and the most that is worth its time here."""

PublicKey = EllipticCurvePublicKey | RSAPublicKey | Ed25519PublicKey

_BY_CURVE = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",)}
_BY_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_BY_ED25519 = ("EdDSA", "Ed25519")
_IMPLEMENTED_BY = {"Ed25519": "EdDSA"}
"""Names that PyJWT has no algorithm for: RFC 9864 gave EdDSA with this curve a name of its own."""
_PUBLIC_MEMBERS = {"EC": ("crv", "x", "y"), "RSA": ("n", "e"), "OKP": ("crv", "x")}


class InvalidKeySet(ValueError):
    """A document that is no key set; the message says why."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key, and the algorithms (JWA names) that it may be used with."""

    kid: str
    key: PublicKey = field(repr=False)
    algorithms: tuple[str, ...]

    def verify(self, algorithm: str, data: bytes, signature: bytes) -> bool:
        """Whether the signature is right. False for an algorithm that is not of this key: a token cannot choose another one."""
        if algorithm not in self.algorithms:
            return False
        return jwt.get_algorithm_by_name(_IMPLEMENTED_BY.get(algorithm, algorithm)).verify(data, self.key, signature)


def parse_key_set(raw: bytes) -> Mapping[str, VerifyingKey]:
    """The keys of a set that can be used here, by their ids; InvalidKeySet.

    Others are passed over (RFC 7517 section 5): symmetric ones, those for encryption, without an id, too weak, not of their curve. Of two
    with one id the first counts.
    """
    try:
        entries = parse_object(raw, KEY_SET_MAX).get("keys")
    except InvalidJSON as error:
        raise InvalidKeySet(str(error)) from error
    if not isinstance(entries, list):
        raise InvalidKeySet("it has no list of keys")
    if len(entries) > KEYS_MAX:
        raise InvalidKeySet(f"it has {len(entries)} keys, more than the {KEYS_MAX} that are allowed")
    keys: dict[str, VerifyingKey] = {}
    for entry in entries:
        key = _read(entry) if isinstance(entry, dict) else None
        if key is not None:
            keys.setdefault(key.kid, key)
    return keys


def _read(entry: Mapping[str, Any]) -> VerifyingKey | None:
    kid, kind, bound_to = entry.get("kid"), entry.get("kty"), entry.get("alg")
    names = _PUBLIC_MEMBERS.get(kind) if isinstance(kind, str) else None
    if names is None or not isinstance(kid, str) or not _is_for_signatures(entry):
        return None
    members = {name: entry.get(name) for name in names}
    if not all(isinstance(value, str) for value in members.values()):
        return None
    try:
        # Only the public members: whoever publishes a private key by mistake is still verified by its public half.
        built = _build({"kty": kind, **members})
    except (jwt.InvalidKeyError, ValueError):
        return None
    if built is None:
        return None
    key, algorithms = built
    if bound_to is not None:
        algorithms = tuple(name for name in algorithms if name == bound_to)
    return VerifyingKey(kid, key, algorithms) if algorithms else None


def _is_for_signatures(entry: Mapping[str, Any]) -> bool:
    """RFC 7517 sections 4.2 and 4.3."""
    operations = entry.get("key_ops")
    return entry.get("use", "sig") == "sig" and (
        operations is None or (isinstance(operations, list) and "verify" in operations)
    )


def _build(members: dict[str, Any]) -> tuple[PublicKey, tuple[str, ...]] | None:
    """The key, and every algorithm that belongs to it; None for one that is not to be used. InvalidKeyError, ValueError."""
    if members["kty"] == "EC":
        point = ECAlgorithm.from_jwk(members)
        if isinstance(point, EllipticCurvePublicKey) and members["crv"] in _BY_CURVE:
            return point, _BY_CURVE[members["crv"]]
    elif members["kty"] == "RSA":
        modulus = RSAAlgorithm.from_jwk(members)
        if isinstance(modulus, RSAPublicKey) and RSA_MIN <= modulus.key_size <= RSA_MAX:
            return modulus, _BY_RSA
    else:
        edwards = OKPAlgorithm.from_jwk(members)
        if isinstance(edwards, Ed25519PublicKey):
            return edwards, _BY_ED25519
    return None
