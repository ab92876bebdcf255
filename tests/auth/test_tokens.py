"""Access tokens: what is issued, and what is accepted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
import pytest

from auth.foreign import ForeignIssuer
from auth.tokens import (
    ACCESS_MAX,
    TOKEN_MAX,
    Access,
    InvalidToken,
    KeyUnknown,
    TokenTooLarge,
    TokenVerifier,
    VerifiedToken,
)
from tests.auth.forging import forge, key_set, public_jwk, unb64
from tests.auth.hubs import ABSENT, ACCESS, HUB, NOW, Hub, issue, make_hub, refusal

HOME = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return make_hub(tmp_path_factory.mktemp("hub"))


# -- issued


def test_a_token_has_the_claims_of_the_specification_and_is_read_by_others(hub: Hub) -> None:
    issued = hub.issuer.issue(
        subject="alice", audience="other.lan", access=ACCESS, epoch=3, credential=None, now=NOW + 0.7
    )
    assert (issued.expires_in, issued.issued_at) == (300, NOW)
    [published] = hub.keys.jwks()["keys"]
    claims = jwt.decode(
        issued.text,
        jwt.PyJWK(published),
        algorithms=["ES256"],
        audience="other.lan",
        issuer=HUB,
        options={"verify_exp": False, "require": ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"]},
    )
    assert len(claims.pop("jti")) == 16
    assert claims == {
        "iss": HUB,
        "sub": "alice",
        "aud": "other.lan",
        "exp": NOW + 300,
        "nbf": NOW,
        "iat": NOW,
        "access": [{"type": "repository", "name": "team/app", "actions": ["pull", "push"]}],
        "portside": {"epoch": 3, "credential": None},
    }
    assert all(isinstance(claims[name], int) for name in ("exp", "nbf", "iat")), "Go's readers take no fractions"
    assert jwt.get_unverified_header(issued.text) == {"alg": "ES256", "typ": "JWT", "kid": published["kid"]}
    assert issued.text not in repr(issued)


def test_no_two_tokens_are_the_same(hub: Hub) -> None:
    assert len({json.loads(unb64(issue(hub).split(".")[1]))["jti"] for _ in range(1000)}) == 1000


def test_an_issued_token_is_verified(hub: Hub) -> None:
    access = (*ACCESS, Access("registry", "catalog", ("*",)), Access("repository", "host:5000/a", ()))
    assert hub.verifier.verify(issue(hub, access=access), NOW) == VerifiedToken(
        "alice", HUB, HUB, access, NOW + 300, epoch=3, credential=7, is_foreign=False
    )
    nobody = hub.verifier.verify(issue(hub, subject="", access=[], epoch=0, credential=None), NOW)
    assert (nobody.subject, nobody.access, nobody.epoch, nobody.credential) == ("", (), 0, None)


@pytest.mark.parametrize(
    "access", [[Access("repository", "a", ())] * ACCESS_MAX, [Access("repository", "a" * 100, ("pull",))] * 100]
)
def test_a_token_that_would_be_refused_is_not_issued(hub: Hub, access: list[Access]) -> None:
    with pytest.raises(TokenTooLarge, match="fewer scopes") as caught:
        issue(hub, access=access)
    assert caught.value.size > TOKEN_MAX


def test_importing_the_module_loads_no_cryptography() -> None:
    program = "import sys, auth.tokens; print(sorted({'jwt', 'cryptography', 'httpx', 'asyncio'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=HOME, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# -- accepted


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, {}),
        ({"aud": ["other", HUB]}, {}),
        ({"sub": ""}, {"subject": ""}),
        ({"nbf": ABSENT, "iat": ABSENT, "jti": ABSENT}, {}),
        ({"exp": NOW + 0.5}, {"expires_at": NOW + 0.5}),
        ({"access": ABSENT}, {"access": ()}),
        ({"access": None}, {"access": ()}),
        ({"access": []}, {"access": ()}),
        ({"access": [{"type": "x", "name": "y", "actions": None}]}, {"access": (Access("x", "y", ()),)}),
        ({"access": [{"type": "x", "name": "é", "actions": ["fly", "*"], "class": "z"}]}, {"access": (Access("x", "é", ("fly", "*")),)}),
        ({"access": [{"type": "a", "name": "b"}] * 400}, {"access": (Access("a", "b", ()),) * 400}),
        ({"portside": {"epoch": 0, "credential": None, "later": 1}}, {"epoch": 0, "credential": None}),
        ({"unheard-of": {"a": [1]}}, {}),
    ],
)  # fmt: skip
def test_lawful_claims(hub: Hub, claims: dict[str, Any], expected: dict[str, Any]) -> None:
    usual: dict[str, Any] = {
        "subject": "alice",
        "issuer": HUB,
        "audience": HUB,
        "access": ACCESS,
        "expires_at": NOW + 300,
        "epoch": 3,
        "credential": 7,
        "is_foreign": False,
    }
    assert hub.verifier.verify(hub.token(**claims), NOW) == VerifiedToken(**(usual | expected))


@pytest.mark.parametrize(
    ("claims", "now", "is_good"),
    [
        ({"exp": NOW}, NOW - 1, True),
        ({"exp": NOW}, NOW, True),
        ({"exp": NOW}, NOW + 59.9, True),
        ({"exp": NOW}, NOW + 60, False),
        ({"exp": NOW}, NOW + 1e9, False),
        ({"nbf": NOW}, NOW, True),
        ({"nbf": NOW}, NOW - 60, True),
        ({"nbf": NOW}, NOW - 60.1, False),
        ({"iat": NOW, "nbf": ABSENT}, NOW - 60, True),
        ({"iat": NOW, "nbf": ABSENT}, NOW - 60.1, False),
        ({"iat": 0, "nbf": 0}, NOW, True),
    ],
)
def test_clocks_may_differ_by_a_minute(hub: Hub, claims: dict[str, Any], now: float, is_good: bool) -> None:
    text = hub.token(**{"nbf": ABSENT, "iat": ABSENT, **claims})
    if is_good:
        assert hub.verifier.verify(text, now).subject == "alice"
    else:
        assert ("expired" if "exp" in claims else "not valid yet") in refusal(hub, text, now)


@pytest.mark.parametrize("leeway", [0.0, 10.0])
def test_the_leeway_can_be_narrower(hub: Hub, leeway: float) -> None:
    verifier = TokenVerifier(hub.keys, HUB, HUB, leeway=leeway)
    text = hub.token(exp=NOW, nbf=ABSENT, iat=ABSENT)
    assert verifier.verify(text, NOW + leeway - 0.5).subject == "alice"
    with pytest.raises(InvalidToken, match="expired"):
        verifier.verify(text, NOW + leeway)


# -- of foreign issuers


def theirs(hub: Hub, **more: Any) -> str:
    claims = {"iss": "https://ci.example", "aud": "registry.hub.lan", "portside": ABSENT} | more
    return forge(hub.header(kid="theirs"), hub.claims(**claims), hub.stranger)


def test_a_foreign_issuers_token_is_verified_by_its_key_and_audience(hub: Hub) -> None:
    assert hub.verifier.verify(theirs(hub), NOW) == VerifiedToken(
        "alice",
        "https://ci.example",
        "registry.hub.lan",
        ACCESS,
        NOW + 300,
        epoch=None,
        credential=None,
        is_foreign=True,
    )


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": HUB, "aud": HUB, "portside": {"epoch": 3, "credential": None}}, "key that this hub does not have"),
        ({"aud": HUB}, "for another service, not for registry.hub.lan"),
        ({"exp": NOW - 60}, "expired"),
        ({"exp": ABSENT}, "when it expires"),
        ({"nbf": NOW + 61}, "not valid yet"),
        ({"sub": ABSENT}, "whom it was issued to"),
        ({"access": 1}, "no list"),
    ],
)
def test_a_foreign_token_is_held_to_the_same_rules(hub: Hub, claims: dict[str, Any], reason: str) -> None:
    assert reason in refusal(hub, theirs(hub, **claims))


def test_a_foreign_token_cannot_speak_of_our_epochs(hub: Hub) -> None:
    verified = hub.verifier.verify(theirs(hub, portside={"epoch": 3, "credential": 7}), NOW)
    assert (verified.epoch, verified.credential, verified.is_foreign) == (None, None, True)


def test_an_unknown_foreign_kid_of_a_file_is_no_reason_to_fetch(hub: Hub) -> None:
    text = forge(hub.header(kid="new"), hub.claims(iss="https://ci.example"), hub.stranger)
    with pytest.raises(InvalidToken, match=r"its issuer, https://ci\.example, does not publish") as caught:
        hub.verifier.verify(text, NOW)
    assert not isinstance(caught.value, KeyUnknown)


def test_two_issuers_cannot_have_one_name(hub: Hub, tmp_path: Path) -> None:
    published = tmp_path / "jwks.json"
    published.write_bytes(key_set(public_jwk(hub.stranger, "theirs")))
    one, two = (ForeignIssuer("https://ci.example", audience, str(published)) for audience in ("a", "b"))
    with pytest.raises(ValueError, match="same name"):
        TokenVerifier(hub.keys, HUB, HUB, [one, two])
    with pytest.raises(ValueError, match="same name"):
        TokenVerifier(hub.keys, "https://ci.example", HUB, [one])
