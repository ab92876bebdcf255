"""Secrets, the forms in which each may lie somewhere, and the search for them in what a hub leaves behind."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

SHORTEST = 8
"""Bytes below which a secret would be found by chance."""


@dataclass(frozen=True, slots=True)
class Secret:
    """``what`` it is, for a person who reads of a leak. ``home``: the one place where it is meant to be."""

    what: str
    raw: bytes = field(repr=False)
    home: str | None = None


class Secrets:
    """Every secret that was used or made."""

    def __init__(self) -> None:
        self.all: list[Secret] = []

    def add(self, what: str, text: str) -> str:
        """Note one, and give it back for use."""
        raw = text.encode()
        assert len(raw) >= SHORTEST, what
        if raw not in (known.raw for known in self.all):
            self.all.append(Secret(what, raw))
        return text

    def add_token(self, what: str, text: str) -> str:
        """An access token, and its signature, which turns the rest into one."""
        self.add(f"signature of {what}", text.rpartition(".")[2])
        return self.add(what, text)

    def add_key(self, place: str, pem: bytes) -> None:
        """A private key of a file: its lines, and its number by itself."""
        key = load_pem_private_key(pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        number = key.private_numbers().private_value.to_bytes((key.key_size + 7) // 8, "big")
        lines = [line for line in pem.splitlines() if len(line) >= 4 * SHORTEST and not line.startswith(b"-----")]
        self.all += [Secret(f"key of {place}", part, place) for part in (number, *lines)]


def forms(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """How a secret may be written: as it is, and as programs encode it when they pass it on or quote it."""
    yield "plain", raw
    yield "hex", raw.hex().encode()
    yield "hex", raw.hex().upper().encode()
    for shift in range(3):  # alone, or behind other bytes: NAME:PASSWORD
        bits = 8 * (shift + len(raw))
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode)):
            yield name, encode(bytes(shift) + raw)[(8 * shift + 5) // 6 : bits // 6]
    for quoted in (quote(raw, safe=""), quote(raw), quote_plus(raw), "".join(f"%{byte:02X}" for byte in raw)):
        yield "percent-encoded", quoted.encode()
        yield "percent-encoded", re.sub("%..", lambda escape: escape[0].lower(), quoted).encode()
    yield "in Python", repr(raw)[2:-1].encode()
    for text in {raw.decode("utf-8", "replace"), raw.decode("latin-1")}:
        yield "in JSON", json.dumps(text)[1:-1].encode()
        yield "in JSON", json.dumps(text, ensure_ascii=False)[1:-1].encode()
        yield "in Python", repr(text)[1:-1].encode()


def leaks(secrets: Secrets, places: Mapping[str, bytes]) -> list[str]:
    """Each secret that lies where it is not meant to, with where and how."""
    found = []
    for secret in secrets.all:
        by_needle = {needle: form for form, needle in forms(secret.raw)}
        for place, content in places.items():
            if place.removeprefix("afterwards/") != secret.home:
                found += [
                    f"{secret.what}, {form}, in {place}" for needle, form in by_needle.items() if needle in content
                ]
    return sorted(set(found))


def files_below(root: Path) -> dict[str, bytes]:
    """What a root holds, by path in it."""
    return {f"root/{path.relative_to(root)}": path.read_bytes() for path in root.rglob("*") if path.is_file()}


def process(pid: int) -> dict[str, bytes]:
    """What all of the machine may see of a process, or its owner (man 5 proc)."""
    return {f"{name} of a server": Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")}
