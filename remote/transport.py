"""One registry over HTTP: where it is, who we are to it, and what to do when it says no for now.

A request goes out at most ``Policy.attempts`` times, with growing, jittered pauses (or those that Retry-After asks for), and only where
repeating it cannot do harm. A redirect to another host loses its Authorization. Whatever is read into memory is bounded.
"""

from __future__ import annotations

import email.utils
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from oci.reference import DEFAULT_HOST
from oci.strictjson import InvalidJSON, parse_object
from remote.challenge import InvalidChallenge, parse_challenges
from remote.connections import URL, Body, Connections, Response
from remote.credentials import Credential, find_credential
from remote.errors import Cancelled, RegistryError, RemoteError
from remote.proxies import is_loopback
from remote.tokens import Authorizer

ERROR_MAX = 64 * 1024
"""How much of an error's body is read, in bytes."""
REDIRECTS_MAX = 5
DOCKER_HUB = "registry-1.docker.io"
"""Where docker.io's registry really is."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE", "POST"})
"""POST only ever starts an upload here: done twice, it leaves an empty upload behind that the registry expires. PATCH is missing."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient a client is. All times in seconds."""

    attempts: int = 6
    pause: float = 0.5
    pause_max: float = 60.0
    connect_timeout: float = 20.0
    read_timeout: float = 60.0


class Attempts:
    """The tries of one operation."""

    def __init__(self, policy: Policy, stopped: threading.Event) -> None:
        self._policy, self._stopped = policy, stopped
        self._made = 1

    def progress(self) -> None:
        """Something was achieved since the last failure: it is not the same failure again and again."""
        self._made = 1

    def wait(self, error: RemoteError, *, may_pass: bool | None = None) -> None:
        """Pause after a failure that may pass (by default: one that is transient), or raise it."""
        if self._stopped.is_set():
            raise Cancelled from error
        is_passing = error.transient if may_pass is None else may_pass
        asked = error.retry_after
        if not is_passing or self._made >= self._policy.attempts or (asked or 0) > self._policy.pause_max:
            raise error
        pause = min(self._policy.pause * 2 ** (self._made - 1), self._policy.pause_max) * random.uniform(0.5, 1.0)  # nosec B311
        self._made += 1
        if self._stopped.wait(pause if asked is None else asked):
            raise Cancelled from error


class Registry:
    """A registry by its host as references name it. Safe for several threads.

    Plain HTTP is spoken where ``plain_http`` says so; where it says nothing (None), to loopback hosts alone.
    """

    def __init__(
        self,
        host: str,
        *,
        credential: Callable[[str], Credential | None] = find_credential,
        plain_http: bool | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.host = host
        self.policy = policy or Policy()
        self.stopped = threading.Event()
        base = URL.parse(f"https://{DOCKER_HUB if host == DEFAULT_HOST else host}/")
        self._is_plain = is_loopback(base.origin.host) if plain_http is None else plain_http
        self._base = URL.parse(f"http://{host}/") if self._is_plain else base
        self.origin = self._base.origin
        self._connections = Connections(self.policy.connect_timeout, self.policy.read_timeout)
        self._authorizer = Authorizer(self.origin, lambda: credential(host), self._fetch_token)

    def request(
        self,
        method: str,
        target: str | URL,
        *,
        scope: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        expect: Sequence[int] = (200,),
    ) -> Response:
        """Ask for ``target`` (a path below the registry, or a URL that it gave) until an answer of an expected status comes.

        RegistryError for any other status, Unreachable where no answer comes, RemoteError for an answer that cannot be followed.
        """
        url = target if isinstance(target, URL) else URL.parse(target, self._base)
        is_repeatable = method in _REPEATABLE and not isinstance(body, Body)
        attempts = self.attempts()
        while True:
            try:
                response = self._authorized(method, url, tuple(scope), dict(headers or {}), body)
                if response.status in expect:
                    return response
                raise _refusal(method, response)
            except RemoteError as error:
                if not is_repeatable:
                    raise
                attempts.wait(error)

    def attempts(self) -> Attempts:
        """The count of tries for an operation of several requests."""
        return Attempts(self.policy, self.stopped)

    def locate(self, response: Response) -> URL:
        """The Location of an answer, absolute; RemoteError where there is none that may be followed."""
        location = response.headers.get("Location")
        if not location:
            raise RemoteError(f"{response.url.origin.authority} answered {response.status} without a Location")
        url = URL.parse(location, response.url)
        if url.origin.scheme == "http" and not self._is_plain:
            raise RemoteError(
                f"{self.host} sends its client to plain HTTP ({url.origin}): refused; if it stands behind a TLS proxy, "
                "let the proxy set X-Forwarded-Proto"
            )
        return url

    def stop(self) -> None:
        """End all transfers of this client at once, from any thread."""
        self.stopped.set()
        self._connections.stop()

    def close(self) -> None:
        """Close the idle connections."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _authorized(
        self, method: str, url: URL, scope: tuple[str, ...], headers: dict[str, str], body: bytes | Body | None
    ) -> Response:
        authorization = self._authorizer.header(scope)
        response = self._follow(method, url, headers, authorization, body)
        if response.status != 401 or response.url.origin != self.origin:
            return response
        try:
            challenges = parse_challenges(response.headers.get_all("WWW-Authenticate", []))
        except InvalidChallenge as error:
            response.close()
            raise RemoteError(f"{self.host} asks for a log-in in a way that cannot be read: {error}") from error
        refusal = _refusal(method, response)
        better = self._authorizer.answer(challenges, scope, authorization)
        if better is None:
            raise refusal
        return self._follow(method, url, headers, better, body)

    def _follow(
        self, method: str, url: URL, headers: Mapping[str, str], authorization: str | None, body: bytes | Body | None
    ) -> Response:
        for _ in range(REDIRECTS_MAX + 1):
            sent = {"User-Agent": "portside", **headers}
            if authorization is not None and url.origin == self.origin:
                sent["Authorization"] = authorization
            response = self._connections.exchange(method, url, sent, body)
            if response.status not in _REDIRECTS or method not in ("GET", "HEAD"):
                return response
            try:
                url = self.locate(response)
            finally:
                response.close()
        raise RemoteError(f"{self.host} redirects more than {REDIRECTS_MAX} times, at last to {url.origin}")

    def _fetch_token(self, method: str, url: URL, headers: dict[str, str], body: bytes | None) -> Response:
        """Ask a token server. It may be another host than the registry's: that is the protocol, and it is asked by TLS only."""
        credentials = headers.pop("Authorization", None)
        start = url.origin
        for _ in range(REDIRECTS_MAX + 1):
            sent = {"User-Agent": "portside", **headers}
            if credentials is not None and url.origin == start:
                sent["Authorization"] = credentials
            response = self._connections.exchange(method, url, sent, body)
            if response.status == 200:
                return response
            if response.status not in _REDIRECTS or method != "GET":
                raise _refusal(method, response)
            try:
                url = self.locate(response)
            finally:
                response.close()
        raise RemoteError(f"the token server {start.authority} redirects more than {REDIRECTS_MAX} times")


def _refusal(method: str, response: Response) -> RegistryError:
    """An answer as the error it is; reads what it has to say, and closes it."""
    codes: list[str] = []
    messages: list[str] = []
    try:
        raw = b"" if method == "HEAD" else response.read(ERROR_MAX, "an error's body")
        errors = parse_object(raw, ERROR_MAX).get("errors") if raw else None
        for item in errors if isinstance(errors, list) else ():
            if isinstance(item, dict):
                codes.append(_printable(item.get("code"), 64))
                messages.append(_printable(item.get("message"), 500))
    except (InvalidJSON, RemoteError):
        codes = []  # a proxy's page, or a body that never ends: the status says enough
    finally:
        response.close()
    # The query is left out: an upload's state and signed storage URLs are nobody's business in a log.
    request = f"{method} {response.url.origin}{response.url.target.partition('?')[0]}"
    said = "; ".join(message for message in messages[:5] if message)
    return RegistryError(
        response.status,
        _printable(response.reason, 100),
        [code for code in codes[:5] if code],
        said,
        request,
        retry_after(response.headers.get("Retry-After")),
    )


def retry_after(text: str | None) -> float | None:
    """Seconds to wait by a Retry-After field (RFC 9110 section 10.2.3): a number, or a date; None where it says nothing usable."""
    if text is None:
        return None
    if text.strip().isascii() and text.strip().isdigit():
        return float(text.strip()[:9])
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def _printable(value: object, limit: int) -> str:
    """Another machine's text, fit for a terminal: no control characters, not without end."""
    text = value if isinstance(value, str) else ""
    return "".join(character if character.isprintable() else " " for character in text[:limit]).strip()
