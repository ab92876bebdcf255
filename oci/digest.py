"""Content digests: ``algorithm:hex`` (image-spec descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Protocol

HEX_LENGTH = {"sha256": 64, "sha512": 128}
"""The registered algorithms and the length of their encoded part, in characters."""

_HEX = re.compile(r"[0-9a-f]+\Z")


class InvalidDigest(ValueError):
    """A string that is no digest of a registered algorithm. ``text`` is what was given, cut to a printable length."""

    def __init__(self, text: str, reason: str) -> None:
        self.text = text[:140]
        super().__init__(f"{self.text!r} is not a digest: {reason}")


class Hasher(Protocol):
    """The part of a :mod:`hashlib` object that is used here."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def hasher(algorithm: str = "sha256") -> Hasher:
    """A new, empty hash of a registered algorithm; ValueError for any other name."""
    if algorithm not in HEX_LENGTH:
        raise ValueError(f"unregistered digest algorithm {algorithm!r}")
    return hashlib.new(algorithm, usedforsecurity=False)


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A verified-by-form digest; ``str()`` gives the wire form."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:…`` or ``sha512:…`` in lower case; InvalidDigest otherwise."""
        algorithm, colon, encoded = text.partition(":")
        if not colon:
            raise InvalidDigest(text, "it has no colon")
        length = HEX_LENGTH.get(algorithm)
        if length is None:
            raise InvalidDigest(text, f"the algorithm must be one of {', '.join(HEX_LENGTH)}")
        if len(encoded) != length or not _HEX.match(encoded):
            raise InvalidDigest(text, f"{algorithm} needs {length} lower-case hexadecimal digits")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes | bytearray | memoryview, algorithm: str = "sha256") -> Digest:
        """The digest of bytes in memory."""
        h = hasher(algorithm)
        h.update(data)
        return cls(algorithm, h.hexdigest())

    @classmethod
    def from_hasher(cls, algorithm: str, state: Hasher) -> Digest:
        """The digest that a hash, made by :func:`hasher` of that algorithm, stands at."""
        return cls(algorithm, state.hexdigest())

    def hasher(self) -> Hasher:
        """A new, empty hash of this digest's algorithm."""
        return hasher(self.algorithm)

    def matches(self, data: bytes | bytearray | memoryview) -> bool:
        """Whether bytes in memory have this digest."""
        return hmac.compare_digest(Digest.of(data, self.algorithm).hex, self.hex)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"
