from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import resumable
from storage.resumable import SHA256


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(0, 8))
def test_a_hash_goes_on_from_its_saved_state(pieces: list[bytes], cut: int) -> None:
    state = SHA256()
    for number, piece in enumerate(pieces):
        if number == cut:
            loaded = SHA256.load(state.save())
            assert loaded is not None
            state = loaded
        state.update(piece)
    whole = b"".join(pieces)
    assert state.hexdigest() == hashlib.sha256(whole).hexdigest()
    assert state.length == len(whole)
    state.update(b"more")
    assert state.digest() == hashlib.sha256(whole + b"more").digest(), "a digest ends nothing"


@pytest.mark.parametrize(
    "data",
    [b"abc" * 9000, bytearray(b"abc" * 9000), memoryview(b"abc" * 9000), memoryview(bytearray(b"abc" * 9000))],
    ids=["bytes", "bytearray", "read-only view", "view"],
)
def test_every_kind_of_buffer(data: bytes | bytearray | memoryview) -> None:
    state = SHA256()
    state.update(data)
    state.update(memoryview(data)[7:1000])
    state.update(data[:0])
    assert state.hexdigest() == hashlib.sha256(bytes(data) + bytes(data)[7:1000]).hexdigest()


def test_a_state_goes_on_in_another_process() -> None:
    state = SHA256()
    state.update(b"one ")
    code = (
        "import sys; from storage.resumable import SHA256\n"
        "state = SHA256.load(bytes.fromhex(sys.argv[1])); state.update(b'two'); print(state.hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code, state.save().hex()], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(b"one two").hexdigest()


def test_other_lengths_are_counted_right() -> None:
    """Beyond 512 MiB the count of bits has a second word."""
    state = SHA256()
    saved = bytearray(state.save())
    saved[-112 + 32 : -112 + 40] = (8 * 5 * 1024**4).to_bytes(8, sys.byteorder)
    loaded = SHA256.load(bytes(saved))
    assert loaded is not None
    assert loaded.length == 5 * 1024**4


@pytest.mark.parametrize("saved", [b"", b"1l", b"2l" + bytes(112), b"1?" + bytes(112), b"1l" + bytes(111)])
def test_what_is_no_state_is_refused(saved: bytes) -> None:
    assert SHA256.load(saved) is None


def test_a_library_that_does_it_otherwise_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resumable.is_available()
    monkeypatch.setattr(resumable, "_libraries", lambda: iter(("libc.so.6", "libnothing.so")))
    assert resumable._load() is None
    functions = resumable._functions()
    assert not resumable._is_right((functions[0], lambda *_: 1, functions[2]))
