"""What people type as a source or a destination."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.errors import InvalidLocation, RemoteError
from remote.locations import ArchiveLocation, LayoutLocation, RegistryLocation, parse_location


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci:dir", LayoutLocation(Path("dir"), None)),
        ("oci:/a/b:1.0", LayoutLocation(Path("/a/b"), "1.0")),
        ("oci:/a:b/c", LayoutLocation(Path("/a:b/c"), None)),
        ("archive:/a/b.tar", ArchiveLocation(Path("/a/b.tar"), None)),
        ("archive:b.tar:demo/app:1", ArchiveLocation(Path("b.tar"), "demo/app:1")),
        ("archive:b.tar:localhost:5000/app:1", ArchiveLocation(Path("b.tar"), "localhost:5000/app:1")),
    ],
)
def test_places(text: str, expected: object) -> None:
    assert parse_location(text) == expected


def test_a_registry_place() -> None:
    found = parse_location("localhost:5000/a/b:1")
    assert isinstance(found, RegistryLocation)
    assert str(found.reference) == "localhost:5000/a/b:1"


@pytest.mark.parametrize(
    "text", ["", "oci:", "archive:", "archive:a.tar:", "oci:dir:", "oci:dir:a b", "hub.example/UPPER:1", "a/b:ü"]
)
def test_places_that_are_none(text: str) -> None:
    with pytest.raises(InvalidLocation):
        parse_location(text)


@given(st.text(max_size=60))
def test_any_text_is_a_place_or_refused(text: str) -> None:
    with contextlib.suppress(RemoteError):
        parse_location(text)
        parse_location("archive:" + text)
        parse_location("oci:" + text)
