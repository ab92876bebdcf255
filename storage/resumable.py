"""SHA-256 whose state can be written down: what lets the digest of an upload outlive the server that began it.

`hashlib` cannot do that. libcrypto can: the context of its SHA256_Init, SHA256_Update and SHA256_Final is a plain structure, the same in
every OpenSSL since 0.9.8 (man 3 SHA256_Init)::

    typedef struct { uint32 h[8]; uint32 Nl, Nh; uint32 data[16]; unsigned num, md_len; } SHA256_CTX;

It is taken from the library that Python itself hashes with, and tried on a known answer before it is used. Where there is none, or it
does not do as it should, `is_available` is false: then an upload that has changed hands is read back before it is published.

A saved state is ``1``, ``l`` or ``B`` for the byte order, and the structure.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
import sys
from collections.abc import Callable, Iterator

_CONTEXT_SIZE = 112
_HEADER = b"1" + (b"l" if sys.byteorder == "little" else b"B")
_BITS_AT = 32
_PIECE = 1024 * 1024
"""Bytes of a read-only view that are copied at a time: ctypes has no address of those."""


class SHA256:
    """A SHA-256 in the making, as `oci.digest.Hasher`. Not safe for threads. Only where `is_available`."""

    __slots__ = ("_context",)

    def __init__(self) -> None:
        self._context = bytearray(_CONTEXT_SIZE)
        _functions()[0](_address(self._context))

    @classmethod
    def load(cls, saved: bytes) -> SHA256 | None:
        """Go on from what `save` gave; None where it is not of this version or another kind of machine wrote it."""
        if len(saved) != len(_HEADER) + _CONTEXT_SIZE or not saved.startswith(_HEADER):
            return None
        state = cls.__new__(cls)
        state._context = bytearray(saved[len(_HEADER) :])
        return state

    def save(self) -> bytes:
        """The state as it is now."""
        return _HEADER + bytes(self._context)

    @property
    def length(self) -> int:
        """How many bytes it has taken."""
        low, high = struct.unpack_from("=II", self._context, _BITS_AT)
        return int(high << 32 | low) // 8

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take more bytes; the GIL is free meanwhile."""
        update = _functions()[1]
        for piece in _addressable(data):
            update(_address(self._context), _address(piece), len(piece))

    def digest(self) -> bytes:
        """The hash of what came so far; more may come."""
        out = bytearray(32)
        _functions()[2](_address(out), _address(bytearray(self._context)))
        return bytes(out)

    def hexdigest(self) -> str:
        return self.digest().hex()


def is_available() -> bool:
    """Whether this machine has a libcrypto that it works with."""
    return _loaded is not None


_Buffer = bytes | bytearray | memoryview


def _addressable(data: _Buffer) -> Iterator[_Buffer]:
    """The bytes in pieces that `_address` takes; none for none."""
    if isinstance(data, memoryview) and (data.readonly or not data.contiguous):
        for start in range(0, len(data), _PIECE):
            yield bytes(data[start : start + _PIECE])
    elif len(data):
        yield data


def _address(data: _Buffer) -> object:
    return data if isinstance(data, bytes) else ctypes.byref(ctypes.c_char.from_buffer(data))


_Function = Callable[..., object]
_Functions = tuple[_Function, _Function, _Function]
"""Init, Update and Final."""


def _functions() -> _Functions:
    assert _loaded is not None, "ask is_available first"
    return _loaded


def _libraries() -> Iterator[str]:
    """Python's own extension first: a look-up in it finds what it is linked with (man 3 dlsym)."""
    extension = getattr(sys.modules.get("_hashlib"), "__file__", None)
    if extension:
        yield extension
    yield from ("libcrypto.so.3", "libcrypto.so.1.1")


def _load() -> _Functions | None:
    for name in _libraries():
        try:
            library = ctypes.CDLL(name)
            begin, update, finish = library.SHA256_Init, library.SHA256_Update, library.SHA256_Final
        except (OSError, AttributeError):
            continue
        begin.argtypes = [ctypes.c_void_p]
        update.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        finish.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        functions = (begin, update, finish)
        if _is_right(functions):
            return functions
    return None


def _is_right(functions: _Functions) -> bool:
    """Whether a state that is moved in the middle gives the hash, and its structure is the one that is known.

    The room is more than it should need: whatever it does, it does there.
    """
    words = bytes(range(200))
    context, moved, out = bytearray(1024), bytearray(1024), bytearray(32)
    functions[0](_address(context))
    functions[1](_address(context), words[:77], 77)
    moved[:_CONTEXT_SIZE] = context[:_CONTEXT_SIZE]
    functions[1](_address(moved), words[77:], 123)
    counted = struct.unpack_from("=II", moved, _BITS_AT) == (8 * len(words), 0)
    functions[2](_address(out), _address(moved))
    return counted and not any(moved[_CONTEXT_SIZE:]) and out == hashlib.sha256(words).digest()


_loaded = _load()
