"""Names of accounts and groups, passwords, and the secrets that are made here."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.names import (
    InvalidName,
    InvalidPassword,
    is_name,
    is_password,
    is_secret,
    new_password,
    new_secret,
    parse_name,
    parse_password,
    secret_hash,
    secret_purpose,
)
from oci.reference import is_repository_name
from storage.people import Purpose


@pytest.mark.parametrize("name", ["a", "7", "bob", "ci-bot", "a.b_c--d", "a__b", "0" * 64])
def test_a_name_that_can_be(name: str) -> None:
    assert parse_name(name) == name
    assert is_name(name)
    assert is_repository_name(f"{name}/app")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Bob",
        "bób",
        "a/b",
        "-a",
        "a-",
        ".a",
        "a.",
        "a..b",
        "a___b",
        "a._b",
        "a b",
        "a:b",
        "a\n",
        "a\0",
        "x" * 65,
        "<token>",
    ],
)
def test_a_name_that_cannot_be(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(InvalidName, match="cannot be a name: 1 to 64 lower-case letters") as caught:
        parse_name(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["everyone", "local", "group"])
def test_a_name_that_means_something_else(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(InvalidName, match=f"the name {name} means something else"):
        parse_name(name)


@given(st.text(st.sampled_from("ab0._-/A"), max_size=70))
def test_every_name_can_begin_a_repository(name: str) -> None:
    if is_name(name):
        assert is_repository_name(f"{name}/app")
        assert len(name) <= 64


@pytest.mark.parametrize("password", ["12345678", "p" * 1024, "señor Müller", "with\nnewline", "🔑" * 8, "a:b:c:d:e"])
def test_a_password_that_can_be(password: str) -> None:
    assert parse_password(password) == password
    assert is_password(password)


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("", "too short: it has 0 characters, 8 is the least"),
        ("7 chars", "too short: it has 7 characters"),
        ("p" * 1025, "too long: it has 1025 characters, 1024 is the most"),
        ("pass\0word", "NUL"),
        ("lone \ud800 surrogate", "UTF-8"),
        ("a token", "token that was made here"),
    ],
)
def test_a_password_that_cannot_be(password: str, why: str) -> None:
    if password == "a token":
        password = new_secret(Purpose.PERSONAL)
    assert not is_password(password)
    with pytest.raises(InvalidPassword, match=why) as caught:
        parse_password(password)
    assert not password or password not in str(caught.value)


def test_a_made_password_is_long_random_and_easy_to_type() -> None:
    made = {new_password() for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"(?:[2-9a-kmnp-z]{5}-){3}[2-9a-kmnp-z]{5}", password) for password in made)
    assert len(set("".join(made))) == 33, "32 letters and digits, and the hyphen: all are used"


@pytest.mark.parametrize(
    ("purpose", "prefix"), [(Purpose.PERSONAL, "psp_"), (Purpose.ROBOT, "psb_"), (Purpose.REFRESH, "psr_")]
)
def test_a_secret_says_what_it_is_for(purpose: Purpose, prefix: str) -> None:
    secret = new_secret(purpose)
    assert re.fullmatch(prefix + "[0-9A-Za-z]{49}", secret)
    assert is_secret(secret)
    assert secret_purpose(secret) is purpose
    assert new_secret(purpose) != secret


@given(st.sampled_from(Purpose), st.integers(0, 52), st.characters(codec="utf-8"))
def test_a_mistyped_secret_is_told_from_an_unknown_one(purpose: Purpose, at: int, letter: str) -> None:
    secret = new_secret(purpose)
    mistyped = secret[:at] + letter + secret[at + 1 :]
    assert is_secret(mistyped) == (mistyped == secret)


@pytest.mark.parametrize("change", ["cut", "longer", "newline", "swapped"])
def test_a_secret_that_was_copied_badly(change: str) -> None:
    secret = new_secret(Purpose.ROBOT)
    while secret[10] == secret[11]:
        secret = new_secret(Purpose.ROBOT)
    changed = {
        "cut": secret[:-1],
        "longer": secret + "0",
        "newline": secret + "\n",
        "swapped": secret[:10] + secret[11] + secret[10] + secret[12:],
    }
    assert not is_secret(changed[change])


def test_a_secret_is_kept_as_its_sha256() -> None:
    # The test vector of FIPS 180-2, appendix B.1.
    assert secret_hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(secret_hash("\ud800")) == 64, "what cannot be sent is nobody's, and no error either"
