"""What people are called, and the secrets that they show: the forms of both, and how new ones are made."""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib

from oci.reference import is_repository_name
from storage.people import EVERYONE, Purpose

NAME_MAX = 64
RESERVED = frozenset({EVERYONE, "local", "group"})
"""Names that rules and the audit trail use for something else (`storage.people`)."""
PASSWORD_MIN = 8
PASSWORD_MAX = 1024
"""Characters."""

_PREFIXES = {Purpose.PERSONAL: "psp_", Purpose.ROBOT: "psb_", Purpose.REFRESH: "psr_"}
_PURPOSES = {prefix: purpose for purpose, prefix in _PREFIXES.items()}
_SECRET_BYTES = 32
_SECRET_DIGITS = 43
_CHECK_DIGITS = 6
"""Digits of base 62 that 32 bytes and 32 bits take."""
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET = re.compile(rf"ps[pbr]_[0-9A-Za-z]{{{_SECRET_DIGITS + _CHECK_DIGITS}}}\Z")
_ANY_SECRET = re.compile(r"(ps[pbr]_)[0-9A-Za-z]{40,}")

_PASSWORD_LETTERS = "23456789abcdefghijkmnpqrstuvwxyz"
"""What is read aloud and typed without doubt: 5 bits each."""


class InvalidName(ValueError):
    """A name that no account or group can have; the message is for the person who chose it."""


class InvalidPassword(InvalidName):
    """A password that no account can have; the message says why and does not repeat it."""


def parse_name(text: str) -> str:
    """A name for a user, a robot or a group, which also is the first part of a repository's name; InvalidName."""
    if text in RESERVED:
        raise InvalidName(f"the name {text} means something else here: choose another")
    if not is_name(text):
        raise InvalidName(
            f"{text[:80]!r} cannot be a name: 1 to {NAME_MAX} lower-case letters and digits, between them also '.', '_', '__' and '-'"
        )
    return text


def is_name(text: str) -> bool:
    """Whether an account or a group can be called so."""
    return len(text) <= NAME_MAX and "/" not in text and is_repository_name(text) and text not in RESERVED


def parse_password(text: str) -> str:
    """A password that somebody chose; InvalidPassword."""
    if len(text) < PASSWORD_MIN:
        raise InvalidPassword(f"the password is too short: it has {len(text)} characters, {PASSWORD_MIN} is the least")
    if len(text) > PASSWORD_MAX:
        raise InvalidPassword(f"the password is too long: it has {len(text)} characters, {PASSWORD_MAX} is the most")
    if "\0" in text:
        raise InvalidPassword("the password holds a NUL character, which many clients cannot send")
    if not _is_utf8(text):
        raise InvalidPassword("the password holds what is no character of Unicode, and cannot be sent as UTF-8")
    if is_secret(text):
        raise InvalidPassword(
            "this is a token that was made here: it works by itself, choose something else as password"
        )
    return text


def is_password(text: str) -> bool:
    """Whether it can be somebody's password, by its form."""
    try:
        parse_password(text)
    except InvalidPassword:
        return False
    return True


def new_password() -> str:
    """A password of 100 bits, in groups that can be read to somebody."""
    groups = ("".join(secrets.choice(_PASSWORD_LETTERS) for _ in range(5)) for _ in range(4))
    return "-".join(groups)


def new_secret(purpose: Purpose) -> str:
    """A new secret: what it is for, 256 random bits, and a checksum, so that scanners know ours from random text without asking us."""
    number = int.from_bytes(secrets.token_bytes(_SECRET_BYTES), "big")
    body = _PREFIXES[purpose] + _base62(number, _SECRET_DIGITS)
    return body + _checksum(body)


def secret_purpose(text: str) -> Purpose | None:
    """What a secret of ours was made for, by its form; None where it is none, or was mistyped."""
    if not _SECRET.match(text) or _checksum(text[:-_CHECK_DIGITS]) != text[-_CHECK_DIGITS:]:
        return None
    return _PURPOSES[text[:4]]


def is_secret(text: str) -> bool:
    """Whether it has the form of a secret of ours."""
    return secret_purpose(text) is not None


def hide_secrets(text: str) -> str:
    """A stranger's words for a log, without the secrets of ours that stand in them: people show them as names, or in URLs."""
    return _ANY_SECRET.sub(r"\1***", text) if "_" in text else text


def secret_hash(text: str) -> str:
    """How a secret is kept: its SHA-256, in hex. Nothing slower is needed: nobody guesses 256 random bits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode("ascii")), _CHECK_DIGITS)


def _base62(number: int, digits: int) -> str:
    out = []
    for _ in range(digits):
        number, digit = divmod(number, 62)
        out.append(_BASE62[digit])
    return "".join(reversed(out))


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
