import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci.digest import Digest
from oci.reference import InvalidReference, Reference, is_repository_name, is_tag

D = str(Digest.of(b"x"))


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1", "docker.io/library/busybox:1", "busybox:1"),
        ("user/app", "docker.io/user/app:latest", "user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
        ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest", "127.0.0.1:5000/a:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"),
        (f"host.example/a@{D}", f"host.example/a@{D}", f"host.example/a@{D}"),
        (f"host.example/a:1@{D}", f"host.example/a:1@{D}", f"host.example/a:1@{D}"),
    ],
)
def test_names_as_people_type_them(text: str, full: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == full
    assert reference.familiar == familiar
    assert Reference.parse(str(reference)) == reference


def test_a_digest_decides_over_a_tag() -> None:
    assert Reference.parse(f"a:1@{D}").target == D
    assert Reference.parse("a:1").target == "1"
    assert str(Reference.parse("h.example/a:1").with_digest(Digest.parse(D))) == f"h.example/a@{D}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A",
        "a:",
        "a:b c",
        "a@",
        "a@sha256:1",
        "/a",
        "a/",
        "a//b",
        "a/../b",
        "-a",
        "h.example:99999999/a",
        "a" * 2000,
        "a:" + "t" * 129,
    ],
)
def test_what_names_no_image(text: str) -> None:
    with pytest.raises(InvalidReference):
        Reference.parse(text)


@pytest.mark.parametrize("name", ["a", "a/b", "a.b", "a_b", "a__b", "a---b", "0/1/2", "a" * 255])
def test_repository_names(name: str) -> None:
    assert is_repository_name(name)


@pytest.mark.parametrize("name", ["", "A", "a___b", "a..b", "a/", "/a", "a b", ".a", "a-", "a\n", "a" * 256, "\u00e4"])
def test_what_is_no_repository_name(name: str) -> None:
    assert not is_repository_name(name)


def test_tags() -> None:
    assert is_tag("v1.0_x-Y")
    assert is_tag("_")
    assert not is_tag(".a")
    assert not is_tag("a\n")
    assert not is_tag("a" * 129)


@given(st.text(max_size=300))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReference:
        return
    assert is_repository_name(reference.repository)
    assert reference.tag is not None or reference.digest is not None
