"""What to put into Authorization: Basic, or tokens fetched as a Bearer challenge asks (distribution ``docs/content/spec/auth/token.md``).

Nothing is sent before a registry's first 401. A token is kept for the scope that it was asked for until shortly before it expires.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

from oci.strictjson import InvalidJSON, parse_object
from remote.challenge import Challenge
from remote.connections import URL, Origin, Response
from remote.credentials import Credential
from remote.errors import RemoteError

TOKEN_MAX = 1024 * 1024
"""The longest answer of a token server, in bytes."""
LIFETIME_DEFAULT = 60.0
"""Seconds a token lives where its server does not say (the specification's default)."""
CLIENT_ID = "portside"

Fetch = Callable[[str, URL, dict[str, str], bytes | None], Response]
"""(method, url, headers, body) -> an answer of status 200; RegistryError otherwise."""


class Authorizer:
    """The Authorization of one registry's requests, shared by threads: of several that are refused at once, one fetches the token."""

    def __init__(self, origin: Origin, credential: Callable[[], Credential | None], fetch: Fetch) -> None:
        self._origin, self._find, self._fetch = origin, credential, fetch
        self._lock = threading.Lock()
        self._credential: Credential | None = None
        self._is_credential_known = False
        self._basic: str | None = None
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}

    def header(self, scope: tuple[str, ...]) -> str | None:
        """What is known to be right for a scope, None before the first challenge."""
        if self._basic is not None:
            return self._basic
        token = self._tokens.get(scope)
        return token[0] if token is not None and time.monotonic() < token[1] else None

    def answer(self, challenges: Sequence[Challenge], scope: tuple[str, ...], refused: str | None) -> str | None:
        """What to send after a 401 that refused ``refused``; None where there is nothing better."""
        with self._lock:
            known = self.header(scope)
            if known is not None and known != refused:
                return known
            for challenge in challenges:
                if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                    return self._bearer(challenge, scope)
            if any(challenge.scheme == "basic" for challenge in challenges) and refused is None:
                return self._answer_basic()
        return None

    def _answer_basic(self) -> str | None:
        credential = self._own_credential()
        if credential is None or not credential.username:
            return None
        self._basic = credential.basic()
        return self._basic

    def _bearer(self, challenge: Challenge, scope: tuple[str, ...]) -> str:
        realm = URL.parse(challenge.parameters["realm"])
        credential = self._own_credential()
        if realm.origin.scheme == "http" and self._origin.scheme != "http":
            raise RemoteError(
                f"{self._origin.authority} asks to fetch a token over plain HTTP from {realm.origin.authority}: "
                "refused, it could be read on the way"
            )
        asked = list(dict.fromkeys([*scope, *challenge.parameters.get("scope", "").split()]))
        service = challenge.parameters.get("service", "")
        if credential is not None and credential.identity_token is not None:
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "client_id": CLIENT_ID,
                "scope": " ".join(asked),
                "refresh_token": credential.identity_token,
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            response = self._fetch("POST", URL(realm.origin, realm.target), headers, urlencode(form).encode())
        else:
            query = [("service", service)] if service else []
            query += [("scope", one) for one in asked]
            headers = {"Authorization": credential.basic()} if credential is not None and credential.username else {}
            response = self._fetch("GET", realm.with_query(urlencode(query)), headers, None)
        token, lifetime = _read_token(response, realm)
        header = f"Bearer {token}"
        # A tenth of its life early: clocks and transfers take time.
        self._tokens[scope] = (header, time.monotonic() + lifetime * 0.9)
        return header

    def _own_credential(self) -> Credential | None:
        if not self._is_credential_known:
            self._credential = self._find()
            self._is_credential_known = True
        return self._credential


def _read_token(response: Response, realm: URL) -> tuple[str, float]:
    """The token and its lifetime in seconds."""
    where = realm.origin.authority
    try:
        raw = response.read(TOKEN_MAX, "the token")
    finally:
        response.close()
    try:
        answer = parse_object(raw, TOKEN_MAX)
    except InvalidJSON as error:
        raise RemoteError(f"the token server {where} gave an answer that cannot be read: {error}") from error
    token = answer.get("token") or answer.get("access_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise RemoteError(f"the token server {where} gave an answer without a usable token")
    lifetime = answer.get("expires_in")
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not 0 < lifetime < 10**9:
        lifetime = LIFETIME_DEFAULT
    return token, float(lifetime)
