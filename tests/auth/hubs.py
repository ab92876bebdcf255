"""A hub as far as tokens go: its keys, what issues and what verifies, and every token, right or wrong, that it could have signed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auth.foreign import ForeignIssuer
from auth.key_files import KeyFiles
from auth.keys import KeyRing
from auth.tokens import Access, InvalidToken, TokenIssuer, TokenVerifier
from tests.auth.forging import forge, key_set, public_jwk

NOW = 1_760_000_000.0
HUB = "hub.lan:5000"
ACCESS = (Access("repository", "team/app", ("pull", "push")),)
ABSENT = object()


@dataclass(frozen=True)
class Hub:
    """A hub's keys, what issues and what verifies; and a foreign issuer with a key of its own."""

    keys: KeyRing
    path: Path
    issuer: TokenIssuer
    verifier: TokenVerifier
    stranger: ec.EllipticCurvePrivateKey

    def header(self, **more: Any) -> dict[str, Any]:
        return {"alg": "ES256", "typ": "JWT", "kid": self.keys.signing().kid, **more}

    def claims(self, **more: Any) -> dict[str, Any]:
        """Lawful claims, with what is given put in, or (`ABSENT`) left out."""
        whole = {
            "iss": HUB,
            "sub": "alice",
            "aud": HUB,
            "exp": NOW + 300,
            "nbf": NOW,
            "iat": NOW,
            "jti": "x",
            "access": [{"type": "repository", "name": "team/app", "actions": ["pull", "push"]}],
            "portside": {"epoch": 3, "credential": 7},
        } | more
        return {name: value for name, value in whole.items() if value is not ABSENT}

    def sign(self, header: object, claims: object) -> str:
        return forge(header, claims, self.keys.signing().key)

    def token(self, **claims: Any) -> str:
        """Rightly signed, with claims that may be wrong."""
        return self.sign(self.header(), self.claims(**claims))

    def headed(self, **header: Any) -> str:
        """Rightly signed, with a header that may be wrong."""
        return self.sign(self.header(**header), self.claims())

    def public(self, encoding: Encoding) -> bytes:
        form = PublicFormat.SubjectPublicKeyInfo
        return self.keys.signing().key.public_key().public_bytes(encoding, form)


def make_hub(root: Path) -> Hub:
    """One with a key, which trusts a foreign issuer whose keys are in a file."""
    keys = KeyRing(KeyFiles(root / "auth/keys"), 300)
    stranger = ec.generate_private_key(ec.SECP256R1())
    published = root / "jwks.json"
    published.write_bytes(key_set(public_jwk(stranger, "theirs")))
    foreign = ForeignIssuer("https://ci.example", "registry.hub.lan", str(published))
    verifier = TokenVerifier(keys, HUB, HUB, [foreign])
    [path] = (root / "auth/keys").glob("*.pem")
    return Hub(keys, path, TokenIssuer(keys, HUB), verifier, stranger)


def issue(hub: Hub, **more: Any) -> str:
    """A token as the hub issues it."""
    whole: dict[str, Any] = {
        "subject": "alice",
        "audience": HUB,
        "access": ACCESS,
        "epoch": 3,
        "credential": 7,
        "now": NOW,
    } | more
    return hub.issuer.issue(**whole).text


def refusal(hub: Hub, text: str, now: float = NOW) -> str:
    """Why a token is refused, and that the reason holds nothing of it."""
    with pytest.raises(InvalidToken) as caught:
        hub.verifier.verify(text, now)
    reason = str(caught.value)
    assert reason == caught.value.reason
    assert 0 < len(reason) < 300
    for segment in text.split("."):
        assert len(segment) < 8 or segment not in reason
    return reason
