"""Tokens from strangers: confusion of algorithms, keys, issuers and times, broken forms, and whatever else can be generated."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from auth.tokens import ACCESS_MAX, TOKEN_MAX, InvalidToken, VerifiedToken
from tests.auth.forging import b64, forge, pack, public_jwk, unb64
from tests.auth.hubs import ABSENT, HUB, NOW, Hub, issue, make_hub, refusal

QUIET = settings(max_examples=400, deadline=None, database=None)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Hub:
    return make_hub(tmp_path_factory.mktemp("hub"))


SIGNATURE = "signature is wrong"
ALGORITHM = "algorithm that its key is not for"
NO_KEY = "key that this hub does not have"
FORM = "this is no token"
UNREADABLE = "cannot be read"


def keyed(hub: Hub, secret: bytes, **header: Any) -> str:
    """HS256 with something public as the secret: what a verifier that lets the header choose would accept."""
    signed = f"{pack(hub.header(alg='HS256', **header))}.{pack(hub.claims())}"
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def unsigned(hub: Hub, algorithm: str, signature: str) -> str:
    return f"{pack(hub.header(alg=algorithm))}.{pack(hub.claims())}.{signature}"


def by_stranger(hub: Hub, **header: Any) -> str:
    return forge(hub.header(**header), hub.claims(), hub.stranger)


def resigned(hub: Hub, change: Callable[[bytes], bytes]) -> str:
    head, _, signature = hub.token().rpartition(".")
    return f"{head}.{b64(change(unb64(signature)))}"


def raw_claims(hub: Hub, old: str, new: str) -> str:
    """The claims as text with one place replaced, rightly signed."""
    whole = json.dumps(hub.claims())
    assert old in whole
    return hub.sign(hub.header(), whole.replace(old, new).encode())


def bits_behind_the_end(text: str) -> str:
    """Other text that a lax reader decodes to the same signature: the last of its characters holds two bits, and four that do not count."""
    assert text[-1] in "AQgw"
    return text[:-1] + chr(ord(text[-1]) + 1)


def header_twice(hub: Hub) -> str:
    kid = hub.keys.signing().kid
    return hub.sign(f'{{"alg":"none","alg":"ES256","kid":"{kid}"}}'.encode(), hub.claims())


def stranger_jwk(hub: Hub) -> dict[str, Any]:
    return public_jwk(hub.stranger, hub.keys.signing().kid)


HOSTILE: dict[str, tuple[Callable[[Hub], str], str]] = {
    # whose algorithm?
    "alg none": (lambda h: unsigned(h, "none", ""), FORM),
    "alg none with a signature": (lambda h: unsigned(h, "none", h.token().split(".")[2]), ALGORITHM),
    "alg None": (lambda h: unsigned(h, "None", b64(b"x")), ALGORITHM),
    "alg empty": (lambda h: unsigned(h, "", b64(b"x")), ALGORITHM),
    "alg absent": (lambda h: h.sign({"kid": h.keys.signing().kid}, h.claims()), "how it is signed"),
    "alg a list": (lambda h: h.headed(alg=["ES256"]), "how it is signed"),
    "alg null": (lambda h: h.headed(alg=None), "how it is signed"),
    "HS256 with the public key in PEM": (lambda h: keyed(h, h.public(Encoding.PEM)), ALGORITHM),
    "HS256 with the public key in DER": (lambda h: keyed(h, h.public(Encoding.DER)), ALGORITHM),
    "HS256 with the JWK": (lambda h: keyed(h, json.dumps(h.keys.jwks()["keys"][0]).encode()), ALGORITHM),
    "HS256 with the kid": (lambda h: keyed(h, h.keys.signing().kid.encode()), ALGORITHM),
    "HS256 with nothing": (lambda h: keyed(h, b""), ALGORITHM),
    "ES384 said, ES256 done": (lambda h: h.headed(alg="ES384"), ALGORITHM),
    "ES256K": (lambda h: h.headed(alg="ES256K"), ALGORITHM),
    "RS256": (lambda h: h.headed(alg="RS256"), ALGORITHM),
    "es256 in small letters": (lambda h: h.headed(alg="es256"), ALGORITHM),
    # whose key?
    "a stranger's key under our kid": (by_stranger, SIGNATURE),
    "a stranger's key offered as jwk": (lambda h: by_stranger(h, jwk=stranger_jwk(h)), SIGNATURE),
    "a stranger's key offered as x5c": (lambda h: by_stranger(h, x5c=[b64(b"cert")]), SIGNATURE),
    "an embedded key without a kid": (lambda h: by_stranger(h, jwk=stranger_jwk(h), kid=None), "does not name the key"),
    "a foreign issuer's kid": (lambda h: by_stranger(h, kid="theirs"), NO_KEY),
    "an unknown kid": (lambda h: h.headed(kid="0" * 43), NO_KEY),
    "kid as a path": (lambda h: h.headed(kid=f"../keys/{h.path.name}"), NO_KEY),
    "kid as an absolute path": (lambda h: h.headed(kid=str(h.path)), NO_KEY),
    "kid /dev/null": (lambda h: keyed(h, b"", kid="/dev/null"), NO_KEY),
    "kid as SQL": (lambda h: h.headed(kid="x' UNION SELECT 'key'--"), NO_KEY),
    "kid with NUL": (lambda h: h.headed(kid="\0"), NO_KEY),
    "kid a number": (lambda h: h.headed(kid=1), "does not name the key"),
    "kid a list": (lambda h: h.headed(kid=[h.keys.signing().kid]), "does not name the key"),
    "kid absent": (lambda h: h.sign({"alg": "ES256"}, h.claims()), "does not name the key"),
    # extensions
    "crit": (lambda h: h.headed(crit=["exp"], exp=1), "extension"),
    "crit empty": (lambda h: h.headed(crit=[]), "extension"),
    "b64 false": (lambda h: h.headed(b64=False), "extension"),
    "b64 false, and said so": (lambda h: h.headed(b64=False, crit=["b64"]), "extension"),
    # the signature
    "no signature": (lambda h: h.token().rpartition(".")[0] + ".", FORM),
    "a short signature": (lambda h: resigned(h, lambda s: s[:-1]), SIGNATURE),
    "a long signature": (lambda h: resigned(h, lambda s: s + b"\0"), SIGNATURE),
    "a signature of zeros": (lambda h: resigned(h, lambda s: bytes(64)), SIGNATURE),
    "one bit": (lambda h: resigned(h, lambda s: bytes([s[0] ^ 1]) + s[1:]), SIGNATURE),
    "halves exchanged": (lambda h: resigned(h, lambda s: s[32:] + s[:32]), SIGNATURE),
    "another token's signature": (lambda h: h.token(sub="bob").rpartition(".")[0] + "." + h.token().split(".")[2], SIGNATURE),
    # when?
    "expired": (lambda h: h.token(exp=NOW - 60), "has expired; log in again"),
    "expired long ago": (lambda h: h.token(exp=0), "has expired"),
    "never expires": (lambda h: h.token(exp=ABSENT), "does not say when it expires"),
    "not yet valid": (lambda h: h.token(nbf=NOW + 61), "not valid yet"),
    "issued in the future": (lambda h: h.token(iat=NOW + 61), "not valid yet"),
    "exp as text": (lambda h: h.token(exp=str(NOW + 300)), "no date"),
    "exp true": (lambda h: h.token(exp=True), "no date"),
    "exp null": (lambda h: h.token(exp=None), "no date"),
    "exp a list": (lambda h: h.token(exp=[NOW + 300]), "no date"),
    "exp negative": (lambda h: h.token(exp=-1), "no date"),
    "exp beyond any date": (lambda h: h.token(exp=10**400), "no date"),
    "exp of 5,000 digits": (lambda h: raw_claims(h, '"exp": 1760000300.0', '"exp": ' + "9" * 5000), UNREADABLE),
    "exp infinite": (lambda h: raw_claims(h, '"exp": 1760000300.0', '"exp": 1e999'), "no date"),
    "exp Infinity": (lambda h: raw_claims(h, '"exp": 1760000300.0', '"exp": Infinity'), UNREADABLE),
    "exp NaN": (lambda h: raw_claims(h, '"exp": 1760000300.0', '"exp": NaN'), UNREADABLE),
    "nbf as text": (lambda h: h.token(nbf="0"), "no date"),
    "iat null": (lambda h: h.token(iat=None), "no date"),
    # for whom, of whom?
    "another audience": (lambda h: h.token(aud="other.lan"), f"for another service, not for {HUB}"),
    "another audience's prefix": (lambda h: h.token(aud=HUB + "0"), "for another service"),
    "the foreign audience": (lambda h: h.token(aud="registry.hub.lan"), "for another service"),
    "other audiences": (lambda h: h.token(aud=["a", "b"]), "for another service"),
    "no audiences": (lambda h: h.token(aud=[]), "for another service"),
    "aud absent": (lambda h: h.token(aud=ABSENT), "whom it is meant for"),
    "aud an object": (lambda h: h.token(aud={HUB: 1}), "whom it is meant for"),
    "aud mixed": (lambda h: h.token(aud=[HUB, 1]), "whom it is meant for"),
    "another issuer": (lambda h: h.token(iss="https://evil.example"), "issuer that is not trusted"),
    "iss empty": (lambda h: h.token(iss=""), "issuer that is not trusted"),
    "iss absent": (lambda h: h.token(iss=ABSENT), "who issued it"),
    "iss a list": (lambda h: h.token(iss=[HUB]), "who issued it"),
    "our key for the foreign issuer": (lambda h: h.token(iss="https://ci.example"), "does not publish"),
    "our claims by the foreign issuer": (lambda h: by_stranger(h, kid="theirs"), NO_KEY),
    "sub absent": (lambda h: h.token(sub=ABSENT), "whom it was issued to"),
    "sub a number": (lambda h: h.token(sub=0), "whom it was issued to"),
    # what cuts it off
    "without our claim": (lambda h: h.token(portside=ABSENT), "lacks what this hub's own tokens have"),
    "our claim a list": (lambda h: h.token(portside=[3, 7]), "lacks"),
    "epoch absent": (lambda h: h.token(portside={"credential": 7}), "lacks"),
    "epoch true": (lambda h: h.token(portside={"epoch": True, "credential": 7}), "lacks"),
    "epoch a fraction": (lambda h: h.token(portside={"epoch": 3.0, "credential": 7}), "lacks"),
    "epoch negative": (lambda h: h.token(portside={"epoch": -1, "credential": 7}), "lacks"),
    "credential as text": (lambda h: h.token(portside={"epoch": 3, "credential": "7"}), "lacks"),
    "credential huge": (lambda h: h.token(portside={"epoch": 3, "credential": 2**64}), "lacks"),
    # what for?
    "access an object": (lambda h: h.token(access={"type": "repository"}), "no list"),
    "access text": (lambda h: h.token(access="repository:a:pull"), "no list"),
    "too many entries": (lambda h: h.token(access=[1] * (ACCESS_MAX + 1)), "no list of at most 1000"),
    "an entry that is text": (lambda h: h.token(access=["repository:a:pull"]), "an entry"),
    "an entry null": (lambda h: h.token(access=[None]), "an entry"),
    "an entry without a name": (lambda h: h.token(access=[{"type": "repository", "actions": []}]), "an entry"),
    "a name that is a list": (lambda h: h.token(access=[{"type": "repository", "name": ["a"], "actions": []}]), "an entry"),
    "actions as text": (lambda h: h.token(access=[{"type": "a", "name": "b", "actions": "pull"}]), "an entry"),
    "an action that is a number": (lambda h: h.token(access=[{"type": "a", "name": "b", "actions": [1]}]), "an entry"),
    # form
    "nothing": (lambda h: "", FORM),
    "dots": (lambda h: "..", FORM),
    "one part": (lambda h: h.token().split(".")[0], FORM),
    "two parts": (lambda h: h.token().rpartition(".")[0], FORM),
    "four parts": (lambda h: h.token() + ".x", FORM),
    "five parts, as an encrypted one": (lambda h: h.token() + ".x.x", FORM),
    "huge": (lambda h: h.token(jti="x" * TOKEN_MAX), "longer than 16384"),
    "a million dots": (lambda h: "." * 1_000_000, "longer than 16384"),
    "white space behind": (lambda h: h.token() + "\n", FORM),
    "white space before": (lambda h: " " + h.token(), FORM),
    "a comma and another": (lambda h: h.token() + "," + h.token(), FORM),
    "padding": (lambda h: h.token() + "==", FORM),
    "not ASCII": (lambda h: "é" + h.token(), FORM),
    "a lone surrogate": (lambda h: "\ud800" + h.token(), FORM),
    "the other base64": (lambda h: "+/+/" + h.token(), FORM),
    "one character too many": (lambda h: h.token() + "A", SIGNATURE),
    "a part of no whole bytes": (lambda h: h.token() + "AAA", FORM),
    "bits behind the end": (lambda h: bits_behind_the_end(h.token()), FORM),
    "header no object": (lambda h: h.sign(["ES256"], h.claims()), "header cannot be read"),
    "header no JSON": (lambda h: h.sign(b"alg: ES256", h.claims()), "header cannot be read"),
    "header twice": (header_twice, "header cannot be read"),
    "claims no object": (lambda h: h.sign(h.header(), [h.claims()]), "claims cannot be read"),
    "claims no UTF-8": (lambda h: h.sign(h.header(), b'{"iss":"\xff"}'), "claims cannot be read"),
    "claims empty": (lambda h: h.sign(h.header(), {}), "who issued it"),
    "a claim twice": (lambda h: raw_claims(h, '"sub": "alice"', '"sub": "alice", "sub": "root"'), "claims cannot be read"),
    "a claim twice, escaped": (lambda h: raw_claims(h, '"sub": "alice"', '"sub": "alice", "s\\u0075b": "root"'), "claims cannot be read"),
    "a token in a token": (lambda h: h.sign(h.header(cty="JWT"), h.token().encode()), "claims cannot be read"),
    "nested 100 deep": (lambda h: raw_claims(h, '"x"', "[" * 100 + "]" * 100), "claims cannot be read"),
    "nested 5,000 deep": (lambda h: raw_claims(h, '"x"', "[" * 5000 + "]" * 5000), "claims cannot be read"),
    "a header nested 5,000 deep": (lambda h: h.sign(b'{"a":' * 1500 + b"1" + b"}" * 1500, h.claims()), "header cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_token_is_refused(hub: Hub, case: str) -> None:
    make, reason = HOSTILE[case]
    assert reason in refusal(hub, make(hub))


def test_what_the_hostile_tokens_are_made_from_is_good(hub: Hub) -> None:
    assert hub.verifier.verify(hub.token(), NOW).subject == "alice"
    assert hub.verifier.verify(hub.headed(), NOW).subject == "alice"
    assert hub.verifier.verify(raw_claims(hub, '"x"', '"y"'), NOW).subject == "alice"
    assert hub.verifier.verify(resigned(hub, lambda s: s), NOW).subject == "alice"


# -- whatever the text


def value_of(hub: Hub, text: str) -> VerifiedToken | None:
    """What a text is verified as, None where it is refused. Any exception but InvalidToken is the test's failure."""
    try:
        return hub.verifier.verify(text, NOW)
    except InvalidToken as error:
        reason = str(error)
    assert 0 < len(reason) < 300
    return None


CHARACTERS = st.one_of(
    st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=.+/ \n\0"),
    st.characters(),
)
EDITS = st.lists(
    st.tuples(st.sampled_from(["replace", "insert", "delete", "swap", "double", "cut"]), st.integers(0, 10_000), CHARACTERS),
    min_size=1,
    max_size=4,
)  # fmt: skip


def edit(text: str, edits: list[tuple[str, int, str]]) -> str:
    for kind, number, character in edits:
        at = number % max(1, len(text))
        before, here, after = text[:at], text[at : at + 1], text[at + 1 :]
        text = {
            "replace": before + character + after,
            "insert": before + character + here + after,
            "delete": before + after,
            "swap": before + after[:1] + here + after[1:],
            "double": before + here + here + after,
            "cut": before,
        }[kind]
    return text


@QUIET
@given(edits=EDITS)
def test_a_token_that_was_changed_is_never_verified(hub: Hub, edits: list[tuple[str, int, str]]) -> None:
    token = issue(hub)
    changed = edit(token, edits)
    assert (value_of(hub, changed) is not None) == (changed == token)


@QUIET
@given(
    text=st.one_of(
        st.text(max_size=300), st.lists(st.text(alphabet="AQgwey.-_", max_size=30), max_size=4).map(".".join)
    )
)
def test_any_text_is_refused(hub: Hub, text: str) -> None:
    assert value_of(hub, text) is None


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.just(HUB), st.just(NOW)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
ENTRIES = st.one_of(
    st.lists(st.fixed_dictionaries({"type": JSON, "name": JSON, "actions": st.one_of(JSON, st.lists(st.text()))})), JSON
)
CLAIMS = st.fixed_dictionaries(
    {},
    optional={name: JSON for name in ("iss", "sub", "aud", "exp", "nbf", "iat", "portside", "x")} | {"access": ENTRIES},
)
HEADERS = st.fixed_dictionaries(
    {}, optional={name: JSON for name in ("alg", "kid", "typ", "crit", "b64", "jwk", "jku")}
)


@QUIET
@given(claims=CLAIMS, header=st.one_of(st.just({}), HEADERS))
def test_whatever_is_signed_is_read_or_refused(hub: Hub, claims: dict[str, Any], header: dict[str, Any]) -> None:
    found = value_of(hub, hub.sign(hub.header(**header), hub.claims(**claims)))
    if found is None:
        return
    assert found.issuer == found.audience == HUB
    assert isinstance(found.subject, str)
    assert isinstance(found.epoch, int)
    assert found.expires_at > NOW - 60
    for entry in found.access:
        assert all(isinstance(text, str) for text in (entry.type, entry.name, *entry.actions))
