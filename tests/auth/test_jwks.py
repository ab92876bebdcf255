"""Key sets: what verifies, by which algorithms, and what is passed over."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from auth.jwks import KEY_SET_MAX, KEYS_MAX, InvalidKeySet, parse_key_set
from tests.auth.forging import PrivateKey, b64, forge, key_set, public_jwk, unb64

P256, P384, P521 = (ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()))
RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()


@pytest.mark.parametrize(
    ("key", "algorithm", "said"),
    [
        (P256, "ES256", None),
        (P384, "ES384", None),
        (P521, "ES512", None),
        (RSA, "RS256", None),
        (RSA, "RS384", None),
        (RSA, "RS512", None),
        (RSA, "PS256", None),
        (RSA, "PS512", None),
        (ED25519, "EdDSA", None),
        (ED25519, "EdDSA", "Ed25519"),
    ],
)
@pytest.mark.parametrize("is_bound", [False, True])
def test_keys_verify_by_the_algorithms_that_belong_to_them(
    key: PrivateKey, algorithm: str, said: str | None, is_bound: bool
) -> None:
    more = {"alg": said or algorithm} if is_bound else {}
    found = parse_key_set(key_set(public_jwk(key, "a", **more)))["a"]
    head, _, signature = forge({}, {}, key, algorithm).rpartition(".")
    raw = unb64(signature)
    assert found.verify(said or algorithm, head.encode(), raw)
    assert not found.verify(said or algorithm, head.encode() + b"x", raw)
    for other in {"none", "HS256", "ES256", "ES384", "ES512", "RS256", "EdDSA", "Ed25519"} - set(found.algorithms):
        assert not found.verify(other, head.encode(), raw)
    if is_bound:
        assert found.algorithms == (said or algorithm,)
    assert "object at" not in repr(found)


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": b64(b"secret" * 8), "kid": "a"},
        {"kty": "oct", "k": b64(b"secret" * 8), "kid": "a", "alg": "ES256"},
        public_jwk(rsa.generate_private_key(65537, 1024), "a"),
        public_jwk(ec.generate_private_key(ec.SECP256K1()), "a"),
        {"kty": "OKP", "crv": "Ed448", "x": b64(ed448.Ed448PrivateKey.generate().public_key().public_bytes_raw()), "kid": "a"},
        {"kty": "OKP", "crv": "X25519", "x": b64(bytes(32)), "kid": "a"},
        {"kty": "OKP", "crv": "Ed25519", "x": b64(bytes(31)), "kid": "a"},
        public_jwk(P256, "a", use="enc"),
        public_jwk(P256, "a", key_ops=["encrypt"]),
        public_jwk(P256, "a", key_ops="verify"),
        public_jwk(P256, "a", alg="ES384"),
        public_jwk(P256, "a", alg="HS256"),
        public_jwk(P256, "a", alg=["ES256"]),
        public_jwk(P256, "a", crv="P-384"),
        public_jwk(P256, "a", crv=["P-256"]),
        public_jwk(P256, "a", kty="RSA"),
        public_jwk(P256, "a", kty=["EC"]),
        public_jwk(P256, "a", x=1),
        public_jwk(P256, "a", x=b64(bytes(32))),
        public_jwk(P256, "a", x="é"),
        public_jwk(P256, "a", y=None),
        {**public_jwk(RSA, "a"), "e": "AA"},
        {**public_jwk(RSA, "a"), "n": ""},
        {**public_jwk(RSA, "a"), "n": "_" * 1400},
        {**public_jwk(RSA, "a"), "n": "_" * 500_000},
        {**public_jwk(P256, "a"), "kid": 1},
        {name: value for name, value in public_jwk(P256, "a").items() if name != "kid"},
        "key",
        None,
        {},
    ],
)  # fmt: skip
def test_keys_that_are_passed_over(entry: Any) -> None:
    keys = parse_key_set(key_set(entry, public_jwk(P384, "good")))
    assert list(keys) == ["good"]


def test_a_private_key_that_was_published_verifies_by_its_public_half_alone() -> None:
    secret = b64(P256.private_numbers().private_value.to_bytes(32, "big"))
    key = parse_key_set(key_set(public_jwk(P256, "a", d=secret)))["a"].key
    assert isinstance(key, ec.EllipticCurvePublicKey)


def test_of_two_keys_with_one_id_the_first_counts() -> None:
    found = parse_key_set(key_set(public_jwk(P256, "a"), public_jwk(P384, "a")))
    assert found["a"].algorithms == ("ES256",)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no list of keys"),
        (b'{"keys": {}}', "no list of keys"),
        (b'{"keys": [], "keys": []}', "twice"),
        (b'{"keys": ' + b"[" * 100 + b"]" * 100 + b"}", "nested"),
        (b'{"keys": [' + b"1," * KEYS_MAX + b"1]}", "101 keys"),
        (b" " * (KEY_SET_MAX + 1), "1048577 bytes"),
    ],
)
def test_what_is_no_key_set(raw: bytes, reason: str) -> None:
    with pytest.raises(InvalidKeySet, match=reason):
        parse_key_set(raw)
