"""``/api/v1``: administration over HTTP, by the table of `registry.operations`. A starlette application, made when first asked for.

Who asks has been identified before. Bodies are ``application/json`` and nothing else: a web page of another origin cannot send that without
asking first (Fetch Standard, CORS-safelisted request-header), and there are no cookies.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

from auth.administration import NO_ACCOUNTS, Administration, KeyRing
from auth.audit import Trail
from auth.authenticator import WrongCredentials
from auth.desk import AdministrationError, Conflict, Invalid, NotFound, People
from auth.identity import Identity
from oci.errors import ErrorCode
from oci.strictjson import InvalidJSON, parse_object
from registry.errors import RequestError, error_body, error_response, is_expected, too_busy
from registry.messages import Request, Response, with_body, without_body
from registry.openapi import describe
from registry.operations import BASE, NONE, OPERATIONS, Operation, Who
from registry.threads import Disk
from registry.values import InvalidValue, read, read_texts, write

if TYPE_CHECKING:
    from starlette.requests import Request as Asked
    from starlette.responses import Response as Answer

    from auth.authenticator import Login
    from registry.asgi import Application

logger = logging.getLogger("portside.registry")

BODY_MAX = 64 * 1024
CHALLENGE = (b"www-authenticate", b'Basic realm="portside"')
NO_STORE = (b"cache-control", b"no-store")
_REFUSALS: Mapping[type[AdministrationError], tuple[int, str]] = {
    Invalid: (400, ErrorCode.REQUEST_INVALID.name),
    NotFound: (404, ErrorCode.NOT_FOUND.name),
    Conflict: (409, "CONFLICT"),
}


class Passwords(Protocol):
    """What verifies the present password of who wants another one (a token does not do: it could lock its user out)."""

    def begin(self, name: str, secret: str, address: str) -> Future[Login]: ...


def administration(
    people: People, keys: Callable[[], KeyRing], passwords: Passwords, trail: Trail, disk: Disk
) -> Application:
    """The application, to be mounted at `BASE`. It finds the request in ``scope["portside.request"]``."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    handlers = Handlers(people, keys, passwords, trail, disk)
    document = json.dumps(describe(OPERATIONS, BASE)).encode("ascii")

    async def description(asked: Asked) -> Answer:
        return _answer(with_body(200, "application/json", document))

    async def nowhere(asked: Asked, error: Exception) -> Answer:
        """404 and 405, in our words."""
        assert isinstance(error, HTTPException)
        code = ErrorCode.UNSUPPORTED if error.status_code == 405 else ErrorCode.NOT_FOUND
        message = (
            f"nothing is at {asked.url.path[:300]}"
            if code is ErrorCode.NOT_FOUND
            else "the method is not for this path"
        )
        headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
        refusal = RequestError(code, f"{message}: {BASE}/openapi.json says what there is", headers=headers)
        return _answer(error_response(refusal, _request(asked).id))

    def route(path: str, operations: Mapping[str, Operation[Any, Any]]) -> Route:
        async def endpoint(asked: Asked) -> Answer:
            operation = operations["GET" if asked.method == "HEAD" else asked.method]
            return _answer(await handlers.respond(operation, asked))

        return Route(path, endpoint, methods=list(operations))

    by_path: dict[str, dict[str, Operation[Any, Any]]] = {}
    for operation in OPERATIONS:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    routes = [route(path, operations) for path, operations in by_path.items()]
    application = Starlette(
        routes=[Route("/openapi.json", description), *routes], exception_handlers={HTTPException: nowhere}
    )
    application.router.redirect_slashes = False
    return application


class Handlers:
    """From a request to its answer."""

    def __init__(
        self, people: People, keys: Callable[[], KeyRing], passwords: Passwords, trail: Trail, disk: Disk
    ) -> None:
        self._people = people
        self._keys = keys
        self._passwords = passwords
        self._trail = trail
        self._disk = disk

    async def respond(self, operation: Operation[Any, Any], asked: Asked) -> Response:
        """Any operation; every error has become its response."""
        request = _request(asked)
        try:
            return await self._respond(operation, asked, request)
        except AdministrationError as error:
            status, code = _REFUSALS[type(error)]
            return error_body(status, code, str(error), {"request_id": request.id})
        except (InvalidValue, InvalidJSON) as error:
            return error_body(400, ErrorCode.REQUEST_INVALID.name, str(error), {"request_id": request.id})
        except Exception as error:
            if not is_expected(error):
                logger.error("request %s failed: %s", request.id, error, exc_info=error)
            return error_response(error, request.id)

    async def _respond(self, operation: Operation[Any, Any], asked: Asked, request: Request) -> Response:
        self._check(operation, request, asked.path_params)
        question = read(operation.question, await _read_fields(operation, asked))
        if operation.proof is not None:
            await self._verify(operation.proof(question), request)
        on = Administration(self._people, self._keys, request.actor_or(request.identity.name))
        answer = await self._disk.run(operation.run, on, question)
        if operation.answer is NONE:
            return without_body(operation.status, [NO_STORE])
        body = json.dumps(write(answer), ensure_ascii=False).encode("utf-8", "backslashreplace")
        return with_body(operation.status, "application/json", body, [NO_STORE])

    def _check(self, operation: Operation[Any, Any], request: Request, path: Mapping[str, str]) -> None:
        """May they ask this? Conflict on a hub without accounts, RequestError."""
        identity = request.identity
        if identity.is_open:
            raise Conflict(NO_ACCOUNTS)
        if not identity.name:
            raise RequestError(ErrorCode.UNAUTHORIZED, "log in to administer this hub", headers=[CHALLENGE])
        if identity.claims is not None:
            message = "access tokens are for images: show a password or a personal token to administer this hub"
            raise RequestError(ErrorCode.UNAUTHORIZED, message, headers=[CHALLENGE])
        if not _may(operation.who, identity, path):
            self._trail.note("denied", request.actor_or(identity.name), f"{operation.method} {request.path}", False)
            raise RequestError(ErrorCode.DENIED, f"{identity.name} may not do this: it is for {operation.who.value}")

    async def _verify(self, password: str, request: Request) -> None:
        """Whether the password is the present one of who asks; RequestError."""
        name = request.identity.name
        try:
            await asyncio.wrap_future(self._passwords.begin(name, password, request.address))
        except WrongCredentials:
            message = "the present password is wrong"
            self._trail.note("login", request.actor_or(name), f"user:{name}", False, message)
            raise RequestError(ErrorCode.DENIED, message) from None
        except Exception as error:
            raise (too_busy(error) or error) from None


def _may(who: Who, identity: Identity, path: Mapping[str, str]) -> bool:
    """A credential that is limited to some repositories administers nothing, not even its own account: it could lift its limits."""
    if identity.rights is not None and identity.rights.is_limited:
        return False
    if identity.is_admin or who is Who.ANYBODY:
        return True
    return who is Who.OWNER and path["user"] == identity.name


async def _read_fields(operation: Operation[Any, Any], asked: Asked) -> Mapping[str, Any]:
    """What the path, and the query or the body, say; InvalidValue, InvalidJSON, RequestError."""
    pairs = asked.query_params.multi_items()
    query = dict(pairs)
    if len(query) != len(pairs):
        raise InvalidValue("", "a parameter of the query stands twice, once is allowed")
    fields = read_texts(operation.question, asked.path_params)
    if operation.has_body:
        if query:
            raise InvalidValue("", "this takes no query: the fields stand in the body")
        more: Mapping[str, Any] = await _read_body(asked)
    else:
        more = read_texts(operation.question, query)
    if both := fields.keys() & more.keys():
        raise InvalidValue(min(both), "it stands in the path already")
    return {**fields, **more}


async def _read_body(asked: Asked) -> Mapping[str, Any]:
    media_type = asked.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise InvalidValue("", "what changes something is sent with Content-Type: application/json")
    raw = b""
    async for part in asked.stream():
        raw += part
        if len(raw) > BODY_MAX:
            raise InvalidValue("", f"the body is longer than {BODY_MAX} bytes")
    return parse_object(raw or b"{}", BODY_MAX)


def _request(asked: Asked) -> Request:
    request = asked.scope["portside.request"]
    assert isinstance(request, Request)
    return request


def _answer(response: Response) -> Answer:
    """The same as starlette sends it."""
    from starlette.responses import Response as Answer

    assert isinstance(response.body, bytes)
    answer = Answer(response.body, response.status)
    answer.raw_headers = response.headers
    return answer
