"""The fingerprint of a certificate: what a person compares, or pastes, to know a hub by."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_FORM = re.compile(r"(?:sha-?256(?::| fingerprint=))?\s*([0-9a-f]{2}(?::?[0-9a-f]{2}){31})\Z", re.IGNORECASE)


class InvalidFingerprint(ValueError):
    """A string that is no SHA-256 fingerprint."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text[:120]!r} is not a fingerprint: SHA256: and 64 hexadecimal digits, as the hub prints it when it starts"
        )


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The SHA-256 of a certificate's DER. ``hex``: 64 lower-case digits."""

    hex: str

    @classmethod
    def parse(cls, text: str) -> Fingerprint:
        """Read ``SHA256:…`` or what openssl prints (``sha256 Fingerprint=AB:CD:…``); InvalidFingerprint."""
        found = _FORM.match(text.strip()) if len(text) <= 200 else None
        if found is None:
            raise InvalidFingerprint(text)
        return cls(found[1].replace(":", "").lower())

    @classmethod
    def of(cls, der: bytes) -> Fingerprint:
        """Of a certificate."""
        return cls(hashlib.sha256(der).hexdigest())

    def __str__(self) -> str:
        return f"SHA256:{self.hex}"
