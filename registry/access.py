"""May this request be answered? Identity and route in, permission or the right refusal out.

A refusal tells a stranger nothing: whether a repository is there or not, who may not see it gets the same answer. An account that may not
pull gets the answers of a repository that does not exist, nobody gets a challenge, and only who may see it is told ``denied``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import Future

from auth.audit import Trail
from auth.authenticator import WrongCredentials
from auth.gate import Gate, NotIdentified
from auth.identity import Identity, Verdict
from auth.policy import DELETE, PULL, PUSH
from oci.errors import ErrorCode
from oci.reference import is_repository_name
from registry.errors import RequestError, too_busy
from registry.messages import API_VERSION, Request
from registry.origin import Origin
from registry.routes import Endpoint, Route
from storage.people import Credential

_WRITING = {b"PUT": PUSH, b"POST": PUSH, b"PATCH": PUSH, b"DELETE": DELETE}


def needed(method: bytes, endpoint: Endpoint) -> str:
    """The action that a request is. Everything about an upload, its end too, is pushing."""
    if endpoint in (Endpoint.UPLOADS, Endpoint.UPLOAD):
        return PUSH
    return _WRITING.get(method, PULL)


class Access:
    """Who asks, and may they. ``service`` is what tokens for this registry are made out to."""

    def __init__(self, gate: Gate, origin: Origin, trail: Trail, service: str, realm: str = "") -> None:
        """``realm``: the token service of another issuer, "" for our own."""
        self._gate = gate
        self._origin = origin
        self._trail = trail
        self._service = service
        self._realm = realm

    def locate(self, request: Request) -> None:
        """Note the client's own address in the request, where it came by a proxy that is trusted."""
        address = self._origin.client(request)
        if address != request.address:
            request.address = request.client = address

    def identify(self, request: Request) -> Identity | Awaitable[Identity]:
        """Who sent the request; RequestError UNAUTHORIZED, TOOMANYREQUESTS."""
        try:
            found = self._gate.identify(
                _authorization(request),
                request.address,
                lambda who, credential: self._note_login(request, who, credential),
            )
        except Exception as error:
            raise self.refusal(error, request) from None
        return self._wait(found, request) if isinstance(found, Future) else found

    def _note_login(self, request: Request, who: Identity, credential: Credential | None) -> None:
        if credential is not None:
            self._trail.note_use(credential)
        self._trail.note("login", request.actor_or(who.name), f"user:{who.name}", True, "without a token")

    async def _wait(self, found: Future[Identity], request: Request) -> Identity:
        try:
            return await asyncio.wrap_future(found)
        except Exception as error:
            raise self.refusal(error, request) from None

    def refusal(self, error: Exception, request: Request) -> Exception:
        """What a failed identification is answered with; an error that is none of those is a fault of ours and stays itself."""
        if (busy := too_busy(error)) is not None:
            if busy.code is ErrorCode.TOOMANYREQUESTS:
                self._trail.note("login", request.actor_or(""), "", False, str(error))
            return busy
        if isinstance(error, (NotIdentified, WrongCredentials)):
            if isinstance(error, WrongCredentials):
                self._trail.note("login", request.actor_or(error.name), f"user:{error.name}", False, str(error))
            return self._challenge(request, (), str(error), "invalid_token")
        return error

    def check(self, identity: Identity, request: Request, route: Route) -> bool:
        """Whether the repository may be seen by who asks (False: answer as if it did not exist); RequestError UNAUTHORIZED or DENIED."""
        if identity.is_open:
            return True
        if route.endpoint is Endpoint.PING:
            if not identity.name and identity.claims is None:
                raise self._challenge(request, (), "log in to use this registry")
            return True
        if route.endpoint is Endpoint.CATALOG:
            if identity.claims is not None and not identity.can_list:
                raise self._challenge(
                    request, ("registry:catalog:*",), "the token is not for the catalogue", "insufficient_scope"
                )
            if not identity.name and identity.claims is None:
                # Nobody may list what is public, by a token. Clients that are logged in say so only when they are asked.
                raise self._challenge(request, ("registry:catalog:*",), "get a token to list the repositories")
            return True
        action = needed(request.method, route.endpoint)
        verdict = identity.verdict(action, route.repository)
        if verdict is Verdict.ALLOWED:
            if route.endpoint is Endpoint.UPLOADS:
                self._check_source(identity, request, route)
            return True
        scopes = self._scopes(action, request, route)
        if verdict is Verdict.NOT_IN_TOKEN:
            message = f"the token does not allow {action} in {route.repository}"
            raise self._challenge(request, scopes, message, "insufficient_scope")
        if not identity.name:
            error = "insufficient_scope" if identity.claims is not None else ""
            raise self._challenge(request, scopes, f"log in to {action} in {route.repository}", error)
        self._trail.note("denied", request.actor_or(identity.name), f"{action} {route.repository}", False)
        if action == PUSH or identity.may_see(route.repository):
            raise RequestError(
                ErrorCode.DENIED,
                f"{identity.name} may not {action} in {route.repository}: ask an administrator of this hub, "
                f"who can see why with `portside access {identity.name} {route.repository}`",
                headers=[self._authenticate(request, scopes)],
            )
        return False

    def _check_source(self, identity: Identity, request: Request, route: Route) -> None:
        """A mount whose source the account may pull from, and only the token does not say so: ask for one that does; RequestError.

        One whose source it may not pull from is no error: the blob is to be pushed (distribution-spec, end-11).
        """
        source = request.parameter("from")
        if identity.rights is None or not source or not is_repository_name(source):
            return
        if request.parameter("mount") is not None and identity.verdict(PULL, source) is Verdict.NOT_IN_TOKEN:
            message = f"the token does not allow {PULL} in {source}"
            raise self._challenge(request, self._scopes(PUSH, request, route), message, "insufficient_scope")

    def _scopes(self, action: str, request: Request, route: Route) -> tuple[str, ...]:
        # Who asks whether a blob is there is about to push it, and oras-py goes on with the token that it gets for this.
        is_pushing = action == PUSH or (request.method == b"HEAD" and route.endpoint is Endpoint.BLOB)
        wanted = f"repository:{route.repository}:{'pull,push' if is_pushing else action}"
        source = request.parameter("from") if route.endpoint is Endpoint.UPLOADS else None
        return (wanted, f"repository:{source}:pull") if source and _is_plain(source) else (wanted,)

    def _challenge(self, request: Request, scopes: tuple[str, ...], message: str, error: str = "") -> RequestError:
        """401 with where to get a token, for what."""
        headers = [self._authenticate(request, scopes, error), API_VERSION]
        return RequestError(ErrorCode.UNAUTHORIZED, message, headers=headers)

    def _authenticate(self, request: Request, scopes: tuple[str, ...], error: str = "") -> tuple[bytes, bytes]:
        """Where to get a token, for what (RFC 6750 section 3, distribution's token spec).

        Also of a 403, where another account's might do (RFC 9110 section 11.6.1): oras-py takes one without it for a failure of the
        network, and tries again for two minutes.
        """
        realm = self._realm or f"{self._origin.base_url(request)}/auth/token"
        value = f'Bearer realm="{realm}",service="{self._service}"'
        if scopes:
            value += f',scope="{" ".join(scopes)}"'
        if error:
            value += f',error="{error}"'
        return b"www-authenticate", value.encode("ascii")


def _authorization(request: Request) -> bytes | None:
    """The header as sent; RequestError where there are two: which one a proxy in front of us looked at is not known."""
    found = None
    for name, value in request.headers:
        if name == b"authorization":
            if found is not None:
                raise NotIdentified("the request has two Authorization headers")
            found = value
    return found


def _is_plain(name: str) -> bool:
    return name.isascii() and name.isprintable() and '"' not in name and "\\" not in name and " " not in name
