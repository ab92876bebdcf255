"""The token service: ``/auth/token`` and ``/auth/jwks.json`` (distribution, docs/content/spec/auth/{token,oauth}.md).

Missing rights are never an error here: the token holds what is both asked for and allowed, and the registry refuses what it does not hold.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import time
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl

from auth.audit import Trail
from auth.authenticator import WrongCredentials
from auth.gate import Gate, NotIdentified, parse_basic
from auth.identity import CATALOG, Identity
from auth.names import hide_secrets
from auth.policy import ACTIONS
from auth.scope import InvalidScope, Scope, parse_scopes
from oci.errors import ErrorCode
from oci.reference import is_repository_name
from registry.errors import RequestError, error_body, too_busy
from registry.messages import BadRequest, Request, Response, with_body
from registry.threads import Disk, Lookups
from storage.people import Actor, Credential, PeopleUnknown, Purpose

if TYPE_CHECKING:
    from auth.authenticator import Authenticator, Login
    from auth.tokens import Access as Entry
    from auth.tokens import TokenIssuer

FORM_MAX = 64 * 1024
REFRESH_SECONDS = 90 * 24 * 3600.0
"""How long a client's log-in lasts that keeps a refresh token."""


class KeyRing(Protocol):
    """The public half of the keys."""

    def jwks(self) -> object: ...


class Credentials(Protocol):
    """Where refresh tokens are kept."""

    def add_credential(
        self, credential: Credential, secret_hash: str, by: Actor, *, epoch: int | None = None
    ) -> Credential: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a token, parsed. ``given``: a refresh token that was shown, to be given back."""

    audience: str
    scopes: Sequence[Scope]
    wants_refresh: bool
    is_post: bool
    client_id: str
    given: str = ""


class TokenHandlers:
    """The end-points below ``/auth/``."""

    def __init__(
        self,
        gate: Gate,
        authenticator: Authenticator,
        issuer: Callable[[], TokenIssuer],
        keys: Callable[[], KeyRing],
        credentials: Credentials,
        trail: Trail,
        disk: Disk,
        lookups: Lookups,
        service: str,
        audiences: Collection[str] = (),
    ) -> None:
        """``audiences``: other registries' services that tokens are issued for. ``issuer`` and ``keys`` are asked for when first needed."""
        self._gate = gate
        self._authenticator = authenticator
        self._issuer = issuer
        self._keys = keys
        self._credentials = credentials
        self._trail = trail
        self._disk = disk
        self._lookups = lookups
        self._service = service
        self._audiences = {service, *audiences}

    def respond(self, request: Request) -> Response | Awaitable[Response]:
        """Any request below ``/auth/``; RequestError, BadRequest."""
        path, method = request.path, request.method
        if self._gate.is_open():
            raise RequestError(
                ErrorCode.NOT_FOUND, "this hub has no accounts: nothing to log in to (`portside init` makes the first)"
            )
        if path == "/auth/token":
            if method in (b"GET", b"HEAD"):
                return self._get(request)
            if method == b"POST":
                return self._post(request)
            raise RequestError(
                ErrorCode.UNSUPPORTED, "/auth/token takes GET and POST", headers=[(b"allow", b"GET, POST")]
            )
        if path == "/auth/jwks.json" and method in (b"GET", b"HEAD"):
            body = json.dumps(self._keys().jwks()).encode("ascii")
            return with_body(200, "application/json", body, [(b"cache-control", b"max-age=60")])
        raise RequestError(ErrorCode.NOT_FOUND, f"nothing is at {path[:300]}: /auth/token and /auth/jwks.json are")

    # -- what is asked

    def _get(self, request: Request) -> Response | Awaitable[Response]:
        asked = self._asked(
            request.query("service"),
            request.query("scope"),
            (request.parameter("offline_token") or "").lower() in ("true", "1"),
            client_id=(request.query("client_id") or [""])[0],
        )
        header = request.header(b"authorization")
        if header is None:
            return self._token(self._gate.nobody(), None, asked)
        scheme, _, value = header.partition(" ")
        if scheme.lower() != "basic":
            raise RequestError(ErrorCode.UNAUTHORIZED, "a token is given for Basic credentials, or for none")
        try:
            name, secret = parse_basic(value.encode("latin-1"))
        except NotIdentified as error:
            raise RequestError(ErrorCode.UNAUTHORIZED, str(error)) from None
        return self._with_password(request, name, secret, asked)

    async def _post(self, request: Request) -> Response:
        media_type = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
        if media_type != "application/x-www-form-urlencoded":
            raise BadRequest("POST /auth/token takes a form, application/x-www-form-urlencoded")
        raw = await request.body.read(FORM_MAX) if request.body is not None else b""
        form = _form(raw)
        asked = self._asked(
            [form["service"]] if "service" in form else [],
            [form.get("scope", "")],
            form.get("access_type") == "offline",
            is_post=True,
            client_id=form.get("client_id", ""),
            given=form.get("refresh_token", ""),
        )
        grant = form.get("grant_type")
        if grant == "refresh_token":
            return await self._lookups.run(self._with_refresh, request, asked)
        if grant != "password":
            raise BadRequest("grant_type is password or refresh_token")
        name, password = form.get("username", ""), form.get("password", "")
        answer = await self._lookups.run(self._with_password, request, name, password, asked)
        return answer if isinstance(answer, Response) else await answer

    def _asked(
        self,
        services: Sequence[str],
        scopes: Sequence[str],
        wants_refresh: bool,
        *,
        is_post: bool = False,
        client_id: str = "",
        given: str = "",
    ) -> Asked:
        service = services[0] if services and services[0] else self._service
        if service not in self._audiences:
            # Not quoted: where a client makes its query up wrongly, secrets get there.
            raise BadRequest(f"tokens for that service are not issued here, for {self._service!r} they are")
        try:
            parsed = parse_scopes(scopes)
        except InvalidScope as error:
            raise BadRequest(str(error)) from None
        return Asked(service, parsed, wants_refresh, is_post, _plain(client_id), given)

    # -- who asks

    def _with_password(self, request: Request, name: str, secret: str, asked: Asked) -> Response | Awaitable[Response]:
        login = self._authenticator.known(name, secret, request.address)
        if login is None:
            return self._verified(request, name, secret, asked)
        return self._welcome(request, login, asked)

    async def _verified(self, request: Request, name: str, secret: str, asked: Asked) -> Response:
        try:
            future = await self._lookups.run(self._authenticator.begin, name, secret, request.address)
            login = await asyncio.wrap_future(future)
        except Exception as error:
            return self._refused(error, request, name)
        answer = await self._lookups.run(self._welcome, request, login, asked)
        return answer if isinstance(answer, Response) else await answer

    def _with_refresh(self, request: Request, asked: Asked) -> Response:
        try:
            login = self._authenticator.refresh(asked.given, request.address)
        except Exception as error:
            return self._refused(error, request, "")
        self._trail.note("token", request.actor_or(login.account.name), asked.audience, True, _said(asked))
        if login.credential is not None:
            self._trail.note_use(login.credential)
        refresh = asked.given if asked.wants_refresh else ""
        return self._token(self._gate.identity(login), login, asked, refresh)

    def _welcome(self, request: Request, login: Login, asked: Asked) -> Response | Awaitable[Response]:
        by = request.actor_or(login.account.name)
        self._trail.note("login", by, f"user:{login.account.name}", True, _said(asked))
        if login.credential is not None:
            self._trail.note_use(login.credential)
        # Who showed a secret of ours keeps that one, which can be revoked: one made from it would outlive it.
        if asked.wants_refresh and login.credential is None:
            return self._with_new_refresh(request, login, asked, by)
        return self._token(self._gate.identity(login), login, asked)

    async def _with_new_refresh(self, request: Request, login: Login, asked: Asked, by: Actor) -> Response:
        from auth.names import new_secret, secret_hash

        account, secret, now = login.account, new_secret(Purpose.REFRESH), time()
        ends = min(now + REFRESH_SECONDS, account.expires_at or now + REFRESH_SECONDS)
        credential = Credential(0, account.name, Purpose.REFRESH, asked.client_id, now, ends, None)
        add = functools.partial(
            self._credentials.add_credential, credential, secret_hash(secret), by, epoch=account.epoch
        )
        try:
            await self._disk.run(add)
        except PeopleUnknown:  # cut off, or given another password, since the password was verified
            return self._refused(WrongCredentials(account.name), request, account.name)
        identity = await self._lookups.run(self._gate.identity, login)
        return self._token(identity, login, asked, secret)

    # -- what they get

    def _token(self, who: Identity, login: Login | None, asked: Asked, refresh: str = "") -> Response:
        from auth.tokens import TokenTooLarge

        access = self._granted(who, asked)
        try:
            issued = self._issuer().issue(
                subject=who.name,
                audience=asked.audience,
                access=access,
                epoch=login.account.epoch if login is not None else 0,
                credential=login.credential.id if login is not None and login.credential is not None else None,
                now=time(),
            )
        except TokenTooLarge as error:
            raise BadRequest(str(error)) from None
        answer: dict[str, object] = {
            "token": issued.text,
            "access_token": issued.text,
            "expires_in": int(issued.expires_in),
            "issued_at": datetime.fromtimestamp(issued.issued_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if asked.is_post:
            answer["scope"] = " ".join(f"{entry.type}:{entry.name}:{','.join(entry.actions)}" for entry in access)
        if refresh:
            answer["refresh_token"] = refresh
        return with_body(200, "application/json", json.dumps(answer).encode("ascii"), [(b"cache-control", b"no-store")])

    def _granted(self, who: Identity, asked: Asked) -> list[Entry]:
        """What is both asked for and allowed. A hub's catalogue shows each what they may pull; another registry's shows all, to admins."""
        from auth.tokens import Access as Entry

        granted = []
        for scope in asked.scopes:
            if scope.type == "repository" and is_repository_name(scope.name):
                allowed = who.rights.of(scope.name) if who.rights is not None else frozenset()
                wanted = ACTIONS if "*" in scope.actions else scope.actions
                actions = tuple(action for action in wanted if action in allowed)
                if actions:
                    granted.append(Entry("repository", scope.name, actions))
            elif (
                scope.type == "registry" and scope.name == CATALOG and (asked.audience == self._service or who.is_admin)
            ):
                granted.append(Entry("registry", CATALOG, ("*",)))
        return granted

    def _refused(self, error: Exception, request: Request, name: str) -> Response:
        """A log-in that failed, in the form of both kinds of clients: OAuth's (RFC 6749 section 5.2) and Docker's."""
        refusal = too_busy(error)
        if isinstance(error, WrongCredentials):
            headers = [(b"www-authenticate", b'Basic realm="portside"')]
            refusal = RequestError(ErrorCode.UNAUTHORIZED, str(error), headers=headers)
        if refusal is None:
            raise error
        if refusal.code is ErrorCode.UNAVAILABLE:
            raise refusal from error
        subject = f"user:{_plain(name)}" if name else "refresh token"
        self._trail.note("login", request.actor_or(_plain(name)), subject, False, str(error))
        oauth = {"error": "invalid_grant", "error_description": str(error)}
        code, detail = refusal.code, {"request_id": request.id}
        return error_body(code.status, code.name, str(error), detail, refusal.headers, oauth)


def _form(raw: bytes) -> dict[str, str]:
    """A form's fields, each once; BadRequest."""
    try:
        pairs = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, strict_parsing=bool(raw), errors="strict", max_num_fields=20
        )
    except (ValueError, UnicodeDecodeError):
        raise BadRequest("the form cannot be read: it is to be application/x-www-form-urlencoded, UTF-8") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise BadRequest("a field of the form is given twice, once is allowed")
    return form


def _said(asked: Asked) -> str:
    return " ".join(str(scope) for scope in asked.scopes)[:1000]


def _plain(text: str) -> str:
    """A stranger's word as the audit trail may hold it."""
    return hide_secrets("".join(c if c.isprintable() else "?" for c in text[:64]))
