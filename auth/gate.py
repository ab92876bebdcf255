"""An Authorization header becomes an identity: `Gate.identify`, which every request passes.

What a header has become is kept until it expires or until anything about people changes, whichever process changed it: so a right that is
taken away, a disabled account and a dropped credential are felt by the next request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import time
from typing import TYPE_CHECKING, Protocol

from auth.identity import OPEN, Identity, claims_of
from auth.policy import Rights
from auth.rights import rights_of
from storage.people import EVERYONE, Account, Credential, PeopleFacts, Purpose

if TYPE_CHECKING:
    from auth.authenticator import Authenticator, Login
    from auth.tokens import TokenVerifier, VerifiedToken

ACCOUNTS_SETTING = "accounts"
"""The setting that says, when it is there, that the hub has accounts."""
KEPT_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of headers and, roughly, of identities that are kept."""
IDENTITY_BYTES = 1024
IDENTITIES_MAX = 4096
"""Accounts, each with the credential that it used, whose identities are kept."""
FETCHES_MAX = 64
"""Tokens of other issuers that wait until it is known whether there are new keys."""
BASIC_SECONDS = 30.0
"""How long a name and a password that were right are taken as right without being looked at."""


OnLogin = Callable[[Identity, Credential | None], None]
"""Told of a name or a secret that was right just now, and of the credential if it was one."""


class NotIdentified(Exception):
    """Credentials that are not good; the message says why, as far as a stranger may know."""


class People(PeopleFacts, Protocol):
    """What the gate asks of the facts."""

    def list_credentials(self, account: str) -> Sequence[Credential]: ...


class Gate:
    """Who asks? One per process, for any of its threads."""

    def __init__(
        self,
        people: People,
        authenticator: Authenticator,
        verifier: Callable[[], TokenVerifier],
        clock: Callable[[], float] = time,
        has_foreign: bool = False,
    ) -> None:
        """``has_foreign``: another issuer's tokens are taken, so that the hub is not open even without accounts of its own."""
        self._people = people
        self._authenticator = authenticator
        self._verifier = verifier
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        """Held for what is kept, from here on: a look-up that began before a change must not be kept after it."""
        self._generation = -1
        self._is_open = True
        self._has_foreign = has_foreign
        self._known: dict[bytes, Identity] = {}
        self._kept_bytes = 0
        self._identities: dict[tuple[str, int | None], Identity] = {}
        self._nobody: Identity | None = None
        self._fetching = ThreadPoolExecutor(1, "foreign-keys")
        self._fetches: set[Future[Identity]] = set()

    def is_open(self) -> bool:
        """Whether the hub has no accounts: then everybody may do everything."""
        self._look()
        return self._is_open

    def identify(self, authorization: bytes | None, address: str, on_login: OnLogin) -> Identity | Future[Identity]:
        """Who sent this header: at once, or, where a password has to be hashed or a key fetched, later.

        ``on_login`` is told of names and secrets that were found right now, not of those that are kept as right; from any thread.

        NotIdentified, `auth.throttle.SlowDown`, `auth.passwords.TooManyLogins`; the future fails with the same.
        """
        generation = self._look()
        if self._is_open:
            return OPEN
        if authorization is None:
            return self.nobody()
        scheme, _, value = authorization.partition(b" ")
        scheme = scheme.lower()
        if scheme == b"bearer":
            known = self._known.get(authorization)
            if known is not None and known.expires_at > self._clock():
                return known
            return self._bearer(authorization, value, on_login, generation)
        if scheme == b"basic":
            return self._basic(value, address, on_login, generation)
        raise NotIdentified("only Bearer and Basic credentials are understood here")

    def close(self) -> None:
        """End the thread that fetches foreign keys."""
        self._fetching.shutdown(wait=False, cancel_futures=True)

    def nobody(self) -> Identity:
        """Who sent no credentials."""
        generation, known = self._look(), self._nobody
        if known is None:
            known = Identity("", rights=Rights(self._people.rules_of([EVERYONE])))
            with self._lock:
                if generation == self._generation:
                    self._nobody = known
        return known

    def identity(self, login: Login) -> Identity:
        """What an account may do, seen through the credential that it used."""
        generation = self._look()
        key = (login.account.name, None if login.credential is None else login.credential.id)
        known = self._identities.get(key)
        if known is None or known.expires_at <= self._clock():
            known = self._account(login.account, login.credential, BASIC_SECONDS)
            with self._lock:
                if generation == self._generation:
                    if len(self._identities) >= IDENTITIES_MAX:
                        self._identities.clear()
                    self._identities[key] = known
        return known

    def _account(self, account: Account, credential: Credential | None, seconds: float) -> Identity:
        rights = rights_of(self._people, account, credential.limits if credential is not None else ())
        is_admin = account.is_admin and not (credential is not None and credential.limits)
        ends = [self._clock() + seconds, account.expires_at, credential.expires_at if credential is not None else None]
        return Identity(account.name, is_admin, rights=rights, expires_at=min(end for end in ends if end is not None))

    def _look(self) -> int:
        """Forget everything where people have changed; while they are being changed nothing is kept. The generation that is now."""
        generation = self._people.people_generation()
        if generation == self._generation and not generation & 1:
            return generation
        is_open = not self._has_foreign and self._people.setting(ACCOUNTS_SETTING) is None
        with self._lock:
            self._known.clear()
            self._kept_bytes = 0
            self._identities.clear()
            self._nobody = None
            self._is_open = is_open
            self._generation = generation
        return generation

    def _keep(self, key: bytes, identity: Identity, generation: int) -> Identity:
        """Keep what was found out since ``generation``, unless another thread has met a change meanwhile."""
        with self._lock:
            if generation == self._generation:
                self._kept_bytes += len(key) + IDENTITY_BYTES
                if self._kept_bytes > KEPT_BYTES_MAX:
                    self._known.clear()
                    self._kept_bytes = len(key) + IDENTITY_BYTES
                self._known[key] = identity
        return identity

    # -- Basic (RFC 7617)

    def _basic(self, value: bytes, address: str, on_login: OnLogin, generation: int) -> Identity | Future[Identity]:
        key = hashlib.blake2b(value, key=self._key, digest_size=32).digest()
        known = self._known.get(key)
        if known is not None and known.expires_at > self._clock():
            return known
        name, secret = parse_basic(value)
        login = self._authenticator.known(name, secret, address)
        if login is not None:
            identity = self.identity(login)
            if login.credential is not None:  # of a password the log-in was told when it was verified
                on_login(identity, login.credential)
            return self._keep(key, identity, generation)
        found: Future[Identity] = Future()

        def done(verified: Future[Login]) -> None:
            if not found.set_running_or_notify_cancel():
                return
            try:
                login = verified.result()
                identity = self._account(login.account, login.credential, BASIC_SECONDS)  # in a thread: nothing is kept
                on_login(identity, login.credential)
            except BaseException as error:
                found.set_exception(error)
            else:
                found.set_result(identity)

        self._authenticator.begin(name, secret, address).add_done_callback(done)
        return found

    # -- Bearer (RFC 6750)

    def _bearer(self, header: bytes, value: bytes, on_login: OnLogin, generation: int) -> Identity | Future[Identity]:
        from auth.names import is_secret
        from auth.tokens import InvalidToken, KeyUnknown

        text = value.strip().decode("latin-1")
        if is_secret(text):
            identity, credential = self._by_secret(text)
            on_login(identity, credential)
            return self._keep(header, identity, generation)
        try:
            return self._keep(header, self._claimed(self._verifier().verify(text, self._clock())), generation)
        except KeyUnknown as error:
            with self._lock:
                if len(self._fetches) >= FETCHES_MAX:
                    raise NotIdentified(
                        "too many wait for the keys of the token's issuer: try again in a moment"
                    ) from None
                fetch = self._fetching.submit(self._verify_again, text, error.foreign_issuer.refresh)
                self._fetches.add(fetch)
            fetch.add_done_callback(self._fetches.discard)
            return fetch
        except InvalidToken as error:
            raise NotIdentified(str(error)) from None

    def _by_secret(self, text: str) -> tuple[Identity, Credential]:
        """A personal token or a robot's secret, sent as it is (RFC 6750 leaves open what a bearer token looks like)."""
        from auth.names import secret_hash

        credential, now = self._people.find_credential(secret_hash(text)), self._clock()
        if credential is None or credential.purpose is Purpose.REFRESH or (credential.expires_at or now + 1) <= now:
            raise NotIdentified("the token is not known here, was revoked or has expired")
        account = self._people.find_account(credential.account)
        if account is None or account.is_disabled or (account.expires_at or now + 1) <= now:
            raise NotIdentified("the token's account was cut off")
        return self._account(account, credential, BASIC_SECONDS), credential

    def _verify_again(self, text: str, refresh: Callable[[], object]) -> Identity:
        from auth.tokens import InvalidToken

        refresh()
        try:
            return self._claimed(self._verifier().verify(text, self._clock()))
        except InvalidToken as error:
            raise NotIdentified(str(error)) from None

    def _claimed(self, token: VerifiedToken) -> Identity:
        """The identity of a token that is genuine: its account must still be what it was when the token was issued."""
        claims = claims_of(token.access)
        can_list = any(entry.type == "registry" and entry.name == "catalog" for entry in token.access)
        if token.is_foreign:
            name = f"{token.issuer}|{token.subject}"
            return Identity(name, claims=claims, can_list=can_list, expires_at=token.expires_at)
        if not token.subject:
            rights = self.nobody().rights
            return Identity("", rights=rights, claims=claims, can_list=can_list, expires_at=token.expires_at)
        account = self._people.find_account(token.subject)
        now = self._clock()
        if (
            account is None
            or account.is_disabled
            or account.epoch != token.epoch
            or (account.expires_at or now + 1) <= now
        ):
            raise NotIdentified("the token's account was cut off or changed since it was issued: log in again")
        credential = self._credential(account, token.credential, now) if token.credential is not None else None
        found = self._account(account, credential, token.expires_at - now)
        return Identity(
            account.name,
            found.is_admin,
            rights=found.rights,
            claims=claims,
            can_list=can_list,
            expires_at=found.expires_at,
        )

    def _credential(self, account: Account, credential_id: int, now: float) -> Credential:
        for credential in self._people.list_credentials(account.name):
            if credential.id == credential_id and (credential.expires_at or now + 1) > now:
                return credential
        raise NotIdentified("the credential that the token was issued for was revoked or has expired: log in again")


def parse_basic(value: bytes) -> tuple[str, str]:
    """Name and secret out of Basic credentials (RFC 7617 section 2, in UTF-8); NotIdentified."""
    try:
        text = base64.b64decode(value.strip(), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        raise NotIdentified("the Basic credentials are not base64 of UTF-8") from None
    name, colon, secret = text.partition(":")
    if not colon or "\0" in text:
        raise NotIdentified("the Basic credentials are not NAME:PASSWORD")
    return name, secret
