"""Durations as people write them."""

from __future__ import annotations

import math

import pytest

from auth.durations import InvalidDuration, end_of, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45s", 45),
        ("30m", 1800),
        ("12h", 43_200),
        ("90d", 7_776_000),
        ("2w", 1_209_600),
        ("1y", 31_536_000),
        ("100y", 3_153_600_000),
        ("never", math.inf),
    ],
)
def test_a_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "90", "d", "0d", "-1d", "1.5d", "1 d", "1D", "90dd", "101y", "9999999999d", "٣d", "Never", "d" * 5000]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidDuration, match=r"use a number and s, m, h, d, w or y") as caught:
        parse_duration(text)
    assert len(str(caught.value)) < 200


def test_its_end() -> None:
    assert end_of(60.0, 1000.0) == 1060.0
    assert end_of(math.inf, 1000.0) is None
