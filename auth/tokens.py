"""Access tokens: JSON Web Tokens (RFC 7519) with the claims of distribution's token authentication (docs/content/spec/auth/jwt.md).

A token is text from a stranger until its signature is right. What it is checked with is ours to say: the issuer that it names selects whose
keys count, its ``kid`` one of those, and the key the algorithms. Headers that offer a key (``jwk``, ``x5c``) or an address of one (``jku``,
``x5u``) are not looked at.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oci.strictjson import InvalidJSON, parse_object

if TYPE_CHECKING:  # importing what they need takes a tenth of a second, which a server without accounts does not spend
    from auth.foreign import ForeignIssuer
    from auth.jwks import VerifyingKey
    from auth.keys import KeyRing

TOKEN_MAX = 16 * 1024
"""Characters of a token: it is sent in one header field."""
ACCESS_MAX = 1000
"""Entries of a token's ``access``."""
LEEWAY = 60.0
"""Seconds by which the clocks of issuer and verifier may differ."""
PRIVATE_CLAIM = "portside"
"""The claim that only this hub's own tokens bear, and only it reads: what cuts a token off before it expires."""

_NOT_OURS = "the token lacks what this hub's own tokens have; log in again"
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+\Z")
_NUMBER_MAX = 2**53
"""Of dates and ids: what every JSON reader takes exactly (RFC 8259 section 6)."""


class InvalidToken(Exception):
    """A token that is not accepted. ``reason`` is a sentence for whoever sent it, without anything out of the token."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class KeyUnknown(InvalidToken):
    """A token of a foreign issuer by a key that may be new: after ``foreign_issuer.refresh()``, which blocks, it is worth one more try."""

    def __init__(self, foreign_issuer: ForeignIssuer, reason: str) -> None:
        self.foreign_issuer = foreign_issuer
        super().__init__(reason)


class TokenTooLarge(Exception):
    """More access than fits into a token. ``size`` in characters."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(
            f"the token would have {size} characters, and {TOKEN_MAX} are allowed: ask for fewer scopes at once"
        )


@dataclass(frozen=True, slots=True)
class Access:
    """One entry of the ``access`` claim: what may be done with one resource."""

    type: str
    name: str
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token. ``expires_in`` in seconds, ``issued_at`` in seconds of the Unix clock."""

    text: str = field(repr=False)
    expires_in: int
    issued_at: int


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """What a genuine token says. ``audience``: the one of its audiences that is us. ``expires_at`` in seconds of the Unix clock.

    ``epoch`` and ``credential`` are those that the hub gave to its own token; None in a foreign one.
    """

    subject: str
    issuer: str
    audience: str
    access: tuple[Access, ...]
    expires_at: float
    epoch: int | None
    credential: int | None
    is_foreign: bool


class TokenIssuer:
    """Makes this hub's tokens. ``issuer``: its name for itself. ``lifetime`` in whole seconds; the specification wants 60 at least."""

    def __init__(self, keys: KeyRing, issuer: str, lifetime: float = 300) -> None:
        self._keys = keys
        self._issuer = issuer
        self._lifetime = int(lifetime)

    def issue(
        self,
        *,
        subject: str,
        audience: str,
        access: Sequence[Access],
        epoch: int,
        credential: int | None,
        now: float,
    ) -> IssuedToken:
        """A token for an account ("" for nobody) and a service; TokenTooLarge. About 40 µs."""
        issued_at = int(now)
        text = self._keys.signing().sign(
            {
                "iss": self._issuer,
                "sub": subject,
                "aud": audience,
                "exp": issued_at + self._lifetime,
                "nbf": issued_at,
                "iat": issued_at,
                "jti": secrets.token_urlsafe(12),
                "access": [{"type": one.type, "name": one.name, "actions": one.actions} for one in access],
                PRIVATE_CLAIM: {"epoch": epoch, "credential": credential},
            }
        )
        if len(text) > TOKEN_MAX:
            raise TokenTooLarge(len(text))
        return IssuedToken(text, self._lifetime, issued_at)


class TokenVerifier:
    """Tells what a token is worth. Costs about 100 µs: remember what it says until ``expires_at``.

    ``issuer``, ``audience``: of the tokens that this hub issues to be shown to itself; a foreign issuer's tokens name the audience that was
    agreed with it. ``leeway`` in seconds.
    """

    def __init__(
        self, keys: KeyRing, issuer: str, audience: str, foreign: Sequence[ForeignIssuer] = (), leeway: float = LEEWAY
    ) -> None:
        """ValueError where two issuers bear one name."""
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._foreign = {one.issuer: one for one in foreign}
        self._leeway = leeway
        if issuer in self._foreign or len(self._foreign) < len(foreign):
            raise ValueError("two token issuers have the same name: each name must be one issuer's own")

    def verify(self, text: str, now: float) -> VerifiedToken:
        """What the token says; ``now`` in seconds of the Unix clock. InvalidToken; KeyUnknown where the issuer may have a newer key."""
        header, claims, signed, signature = _parse(text)
        issuer, algorithm = claims.get("iss"), header.get("alg")
        if not isinstance(issuer, str) or not isinstance(algorithm, str):
            raise InvalidToken("the token does not say who issued it and how it is signed")
        foreign = self._foreign.get(issuer)
        if foreign is None and issuer != self._issuer:
            raise InvalidToken("the token is of an issuer that is not trusted here; log in again")
        key = self._find_key(header, foreign)
        if algorithm not in key.algorithms:
            raise InvalidToken("the token is signed by an algorithm that its key is not for")
        if not key.verify(algorithm, signed, signature):
            raise InvalidToken("the token's signature is wrong; log in again")
        expires_at = self._check_times(claims, now)
        audience = _check_audience(claims, self._audience if foreign is None else foreign.audience)
        subject = claims.get("sub")
        if not isinstance(subject, str):
            raise InvalidToken("the token does not say whom it was issued to")
        epoch, credential = _read_private(claims) if foreign is None else (None, None)
        access = _read_access(claims)
        return VerifiedToken(subject, issuer, audience, access, expires_at, epoch, credential, foreign is not None)

    def _find_key(self, header: Mapping[str, Any], foreign: ForeignIssuer | None) -> VerifyingKey:
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise InvalidToken("the token does not name the key that it is signed by")
        key = self._keys.find(kid) if foreign is None else foreign.find(kid)
        if key is not None:
            return key
        if foreign is None:
            raise InvalidToken("the token is signed by a key that this hub does not have, or no longer; log in again")
        if foreign.failure:
            reason = f"the keys of the token's issuer, {foreign.issuer}, could not be fetched, and this one is not known; try again later"
        else:
            reason = f"the token is signed by a key that its issuer, {foreign.issuer}, does not publish; log in again"
        if foreign.can_refresh():
            raise KeyUnknown(foreign, reason)
        if (key := foreign.find(kid)) is not None:  # a fetch ended since it was looked for
            return key
        raise InvalidToken(reason)

    def _check_times(self, claims: Mapping[str, Any], now: float) -> float:
        """When the token expires (RFC 7519 sections 4.1.4 to 4.1.6)."""
        expires_at = _read_date(claims, "exp")
        if expires_at is None:
            raise InvalidToken("the token does not say when it expires")
        if now >= expires_at + self._leeway:
            raise InvalidToken("the token has expired; log in again")
        for name in ("nbf", "iat"):
            date = _read_date(claims, name)
            if date is not None and now + self._leeway < date:
                raise InvalidToken(
                    "the token is not valid yet: the clock here is behind its issuer's by more than is allowed"
                )
        return expires_at


def _parse(text: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Header, claims, what is signed, and the signature (RFC 7515 section 5.2); InvalidToken."""
    if len(text) > TOKEN_MAX:
        raise InvalidToken(f"the token is longer than {TOKEN_MAX} characters")
    segments = text.split(".")
    if len(segments) != 3:
        raise InvalidToken("this is no token: it does not have three parts")
    header = _parse_json(_decode(segments[0]), "header")
    if "crit" in header or header.get("b64", True) is not True:
        raise InvalidToken("the token asks for an extension that is not known here")
    claims = _parse_json(_decode(segments[1]), "claims")
    return header, claims, f"{segments[0]}.{segments[1]}".encode("ascii"), _decode(segments[2])


def _decode(segment: str) -> bytes:
    """Base64url without padding (RFC 7515 section 2), in the one form that encoding gives, so that no two texts are one token."""
    if _SEGMENT.match(segment):
        try:
            data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        except binascii.Error:
            data = b""
        if base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii") == segment:
            return data
    raise InvalidToken("this is no token: its parts are not base64url")


def _parse_json(data: bytes, what: str) -> dict[str, Any]:
    try:
        return parse_object(data, TOKEN_MAX)
    except InvalidJSON:  # its message may quote the token
        raise InvalidToken(f"the token's {what} cannot be read") from None


def _read_date(claims: Mapping[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 section 2), None where there is none."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _NUMBER_MAX:
        raise InvalidToken("one of the token's dates is no date")
    return float(value)


def _check_audience(claims: Mapping[str, Any], audience: str) -> str:
    """RFC 7519 section 4.1.3."""
    found = claims.get("aud")
    audiences = found if isinstance(found, list) else [found]
    if not all(isinstance(one, str) for one in audiences):
        raise InvalidToken("the token does not say whom it is meant for")
    if audience not in audiences:
        raise InvalidToken(f"the token is meant for another service, not for {audience}; log in again")
    return audience


def _read_private(claims: Mapping[str, Any]) -> tuple[int, int | None]:
    """The epoch and the credential of one of our own tokens."""
    private = claims.get(PRIVATE_CLAIM)
    if not isinstance(private, dict):
        raise InvalidToken(_NOT_OURS)
    credential = private.get("credential")
    return _read_id(private.get("epoch")), None if credential is None else _read_id(credential)


def _read_id(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _NUMBER_MAX:
        raise InvalidToken(_NOT_OURS)
    return value


def _read_access(claims: Mapping[str, Any]) -> tuple[Access, ...]:
    """The entries, of whatever type and actions. None is none: Go writes an empty list so."""
    entries = claims.get("access")
    if entries is None:
        return ()
    if not isinstance(entries, list) or len(entries) > ACCESS_MAX:
        raise InvalidToken(f"the token's access is no list of at most {ACCESS_MAX} entries")
    return tuple(_read_entry(entry) for entry in entries)


def _read_entry(entry: object) -> Access:
    if isinstance(entry, dict):
        kind, name, actions = entry.get("type"), entry.get("name"), entry.get("actions")
        if isinstance(kind, str) and isinstance(name, str) and isinstance(actions, list | None):
            actions = actions or []
            if all(isinstance(action, str) for action in actions):
                return Access(kind, name, tuple(actions))
    raise InvalidToken("an entry of the token's access is not a type, a name and a list of actions")
