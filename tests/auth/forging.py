"""Tokens made by hand, right and wrong in every part, and the keys to sign them."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def b64(data: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def pack(value: object) -> str:
    """A segment: of bytes as they are, of anything else as JSON."""
    return b64(value if isinstance(value, bytes) else json.dumps(value).encode())


def forge(header: object, claims: object, key: PrivateKey, algorithm: str = "ES256") -> str:
    """Any header and claims, rightly signed; ``algorithm`` is the one that is used, whatever the header says."""
    signed = f"{pack(header)}.{pack(claims)}"
    return f"{signed}.{b64(jwt.get_algorithm_by_name(algorithm).sign(signed.encode(), key))}"


def public_jwk(key: PrivateKey, kid: str, **more: Any) -> dict[str, Any]:
    """The public half of a key as an issuer publishes it."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        found = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, rsa.RSAPrivateKey):
        found = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        found = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**found, "kid": kid, **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()
