import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci.digest import HEX_LENGTH, Digest, InvalidDigest, hasher

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_the_digest_of_nothing() -> None:
    assert str(Digest.of(b"")) == EMPTY
    assert Digest.parse(EMPTY).matches(b"")
    assert not Digest.parse(EMPTY).matches(b"x")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        "sha256:baddigeststring",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        EMPTY.upper(),
        "SHA256:" + EMPTY[7:],
        EMPTY + "0",
        EMPTY[:-1],
        EMPTY + "\n",
        EMPTY[:-1] + "\N{ARABIC-INDIC DIGIT ONE}",
        "sha512:" + EMPTY[7:],
        " " + EMPTY,
    ],
)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidDigest):
        Digest.parse(text)


@given(st.binary(max_size=4096), st.sampled_from(sorted(HEX_LENGTH)))
def test_a_digest_survives_its_text(data: bytes, algorithm: str) -> None:
    digest = Digest.of(data, algorithm)
    assert digest == Digest.parse(str(digest))
    assert digest.hex == hashlib.new(algorithm, data).hexdigest()
    state = digest.hasher()
    state.update(data)
    assert Digest.from_hasher(algorithm, state) == digest


@given(st.text(max_size=200))
def test_any_text_is_a_digest_or_refused(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except InvalidDigest:
        return
    assert str(digest) == text


def test_an_unregistered_algorithm_has_no_hash() -> None:
    with pytest.raises(ValueError, match="md5"):
        hasher("md5")
