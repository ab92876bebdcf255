import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.framing import CHUNK_LINE_MAX, TRAILER_LINES_MAX, Chunked, Counted, Framing
from registry.messages import BadRequest


def decode(framing: Framing, pieces: list[bytes], room: int = 64) -> tuple[bytes, bytes]:
    """Feed pieces through a buffer as a pump does: the payload, and what is left behind its end."""
    payload = b""
    left = b""
    for piece in pieces:
        buffer = bytearray(left + piece) + bytearray(room)
        w, r = framing.decode(buffer, 0, 0, len(left) + len(piece))
        payload += bytes(buffer[:w])
        left = bytes(buffer[r : len(left) + len(piece)])
    return payload, left


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x" % len(data) + extension + b"\r\n" + data + b"\r\n"


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(st.lists(st.binary(min_size=1, max_size=40)), st.lists(st.integers(0, 400)), st.binary(max_size=9))
def test_a_chunked_body_is_the_same_however_it_is_cut(parts: list[bytes], cuts: list[int], after: bytes) -> None:
    wire = b"".join(chunk(part, b";x=y") for part in parts) + b"0\r\nTrailer: 1\r\n\r\n"
    framing = Chunked()
    assert decode(framing, split(wire + after, cuts)) == (b"".join(parts), after)
    assert framing.complete


@given(st.binary(max_size=99), st.lists(st.integers(0, 120)), st.binary(max_size=9))
def test_a_counted_body_ends_where_it_says(data: bytes, cuts: list[int], after: bytes) -> None:
    framing = Counted(len(data))
    pieces = split(data + after, cuts)
    assert decode(framing, pieces) == (data, after)
    assert framing.complete
    assert framing.receivable(10) == 0


@pytest.mark.parametrize(
    "wire",
    [
        b"x\r\n",
        b"-1\r\n",
        b"0x1\r\n",
        b"\r\n",
        b" 1\r\n",
        b"1 1\r\n",
        b"1\nabc",
        b"1\r\naXX",
        b"1" * 16 + b"\r\n",
        b"1;\x01\r\n",
        b"1" + b";" * CHUNK_LINE_MAX,
        b"0\r\n" + b"a: b\r\n" * (TRAILER_LINES_MAX + 1),
    ],
)
def test_a_malformed_chunked_body_is_refused(wire: bytes) -> None:
    framing = Chunked()
    with pytest.raises(BadRequest):
        decode(framing, [wire, b"\r\n\r\n", b"x" * CHUNK_LINE_MAX])


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_any_bytes_are_decoded_or_refused(wire: bytes, cuts: list[int]) -> None:
    framing = Chunked()
    try:
        payload, left = decode(framing, split(wire, cuts))
    except BadRequest:
        return
    assert len(payload) + len(left) <= len(wire)
