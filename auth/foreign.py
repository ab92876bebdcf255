"""Issuers of tokens other than this hub, whose public keys come from a file or from an address of theirs (RFC 7517).

Keys are found in memory. They are read again now and then, so that one that its issuer took back stops verifying, and at once where a
token names one that is not known; while they cannot be read, those that are known stay in use.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import ssl
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import SplitResult, urlsplit

from auth.jwks import KEY_SET_MAX, InvalidKeySet, VerifyingKey, parse_key_set

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("portside.auth")

TIMEOUT = 5.0
"""Seconds of one fetch, from the look-up of the name to the last byte."""
PAUSE_AFTER_SUCCESS = 30.0
PAUSE_AFTER_FAILURE = 10.0
"""Seconds without another fetch, whatever keys tokens name."""
KEPT = 300.0
"""Seconds after which keys are fetched again though none was missed."""
LOOK_INTERVAL = 1.0
"""Seconds between two looks at whether a file has changed."""
REDIRECTS_MAX = 3

_Keys = Mapping[str, VerifyingKey]
_EMPTY = "there is no key that can be used here"


class InvalidIssuer(ValueError):
    """An issuer that cannot be used as it was described; the message says why."""


class KeysUnavailable(Exception):
    """A key set that could not be had; the message says why."""


class Source(Protocol):
    """Where an issuer's keys come from. ``failure``: why they could not be read the last time, "" where they could."""

    failure: str

    def keys(self) -> _Keys:
        """What is known, at once."""
        ...

    def can_refresh(self) -> bool: ...
    def refresh(self) -> None: ...


class ForeignIssuer:
    """One issuer that is trusted. ``audience``: what its tokens for this hub name as theirs. ``jwks``: a path, or a URL.

    Safe for threads.
    """

    def __init__(self, issuer: str, audience: str, jwks: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """InvalidIssuer: a file that cannot be read, a URL that is not safe. Nothing is fetched before a token needs it."""
        if not issuer or not audience:
            raise InvalidIssuer("a foreign issuer needs a name and an audience, as its tokens have them (iss, aud)")
        self.issuer = issuer
        self.audience = audience
        self._source: Source = KeyEndpoint(jwks, issuer, clock) if "://" in jwks else KeyFile(Path(jwks), issuer, clock)

    @property
    def failure(self) -> str:
        """Why its keys could not be read the last time, "" where they could."""
        return self._source.failure

    def find(self, kid: str) -> VerifyingKey | None:
        """The key of an id, at once."""
        return self._source.keys().get(kid)

    def can_refresh(self) -> bool:
        """Whether `refresh` may bring news: a fetch is under way, or the last one is long enough ago."""
        return self._source.can_refresh()

    def refresh(self) -> None:
        """Fetch the keys, or wait for whoever does. Blocking, for `TIMEOUT` at most. Where it fails, `failure` says why."""
        self._source.refresh()


class KeyFile:
    """A key set in a file, which is read again when it has changed."""

    def __init__(self, path: Path, issuer: str, clock: Callable[[], float]) -> None:
        self._path, self._issuer, self._clock = path, issuer, clock
        self._keys: _Keys = {}
        self._stamp: tuple[int, int, int] | None = None
        self._next_look = clock() + LOOK_INTERVAL
        self.failure = ""
        if wrong := self._look():
            raise InvalidIssuer(f"the keys of the token issuer {issuer} cannot be read from {path}: {wrong}")

    def keys(self) -> _Keys:
        """What is in the file, looked at once in `LOOK_INTERVAL`."""
        if self._clock() >= self._next_look:
            self.refresh()
        return self._keys

    def can_refresh(self) -> bool:
        """Never: `keys` has looked already."""
        return False

    def refresh(self) -> None:
        """Look now."""
        self._next_look = self._clock() + LOOK_INTERVAL
        self.failure = _note(self.failure, self._look(), self._issuer, str(self._path))

    def _look(self) -> str:
        """Read the file where it has changed; what is wrong with it, "" for nothing."""
        try:
            found = os.stat(self._path)
            stamp = found.st_ino, found.st_mtime_ns, found.st_size
            if stamp == self._stamp:
                return self.failure
            if not stat.S_ISREG(found.st_mode):
                return "it is no file"
            with self._path.open("rb") as file:
                raw = file.read(KEY_SET_MAX + 1)
        except OSError as error:
            self._stamp = None  # a change of its mode is none of its stamp
            return error.strerror or str(error)
        self._stamp = stamp
        try:
            self._keys = parse_key_set(raw)
        except InvalidKeySet as error:
            return f"what is there is no key set: {error}"
        return "" if self._keys else _EMPTY


@dataclass(slots=True)
class _Fetch:
    """One that is under way. ``deadline`` by the clock that is not set."""

    deadline: float
    done: threading.Event = field(default_factory=threading.Event)


class KeyEndpoint:
    """A key set at a URL. Fetched by a thread of its own, so that nobody waits who need not, and never by two at once."""

    def __init__(self, url: str, issuer: str, clock: Callable[[], float]) -> None:
        self._url, self._issuer, self._clock = _parse_url(url), issuer, clock
        self._keys: _Keys = {}
        self._lock = threading.Lock()
        self._fetch: _Fetch | None = None
        self._due_at = self._stale_at = clock()
        self.failure = ""

    def keys(self) -> _Keys:
        """What was fetched last; where that is long ago, a fetch begins."""
        if self._clock() >= self._stale_at:
            self._begin()
        return self._keys

    def can_refresh(self) -> bool:
        """Whether a fetch is under way, or may begin."""
        fetch = self._fetch
        return time.monotonic() < fetch.deadline if fetch is not None else self._clock() >= self._due_at

    def refresh(self) -> None:
        """Fetch, unless that was done a short while ago, and wait for the end of it."""
        fetch = self._begin()
        if fetch is not None and not fetch.done.wait(max(0.0, fetch.deadline - time.monotonic())):
            self.failure = self.failure or "no answer in time"

    def _begin(self) -> _Fetch | None:
        """The fetch that is under way, a new one where it is time for one, else None."""
        with self._lock:
            if self._fetch is None and self._clock() >= self._due_at:
                self._fetch = _Fetch(time.monotonic() + TIMEOUT + 1)  # a second for the thread to say what was wrong
                threading.Thread(target=self._run, args=[self._fetch], name="foreign-keys", daemon=True).start()
            return self._fetch

    def _run(self, fetch: _Fetch) -> None:
        failure = "the fetch was broken off"
        try:
            self._keys = parse_key_set(asyncio.run(_download(self._url)))
            failure = "" if self._keys else _EMPTY
        except KeysUnavailable as error:
            failure = str(error)
        except InvalidKeySet as error:
            failure = f"what is there is no key set: {error}"
        finally:
            self.failure = _note(self.failure, failure, self._issuer, _shown(self._url))
            now = self._clock()
            self._due_at = now + (PAUSE_AFTER_FAILURE if failure else PAUSE_AFTER_SUCCESS)
            self._stale_at = now + (PAUSE_AFTER_FAILURE if failure else KEPT)
            with self._lock:
                self._fetch = None
            fetch.done.set()


def _note(before: str, failure: str, issuer: str, place: str) -> str:
    """Log a failure when it begins, and its end; not each time. The failure."""
    if failure and failure != before:
        logger.warning("the keys of the token issuer %s cannot be read from %s: %s", issuer, place, failure)
    elif before and not failure:
        logger.info("the keys of the token issuer %s are read from %s again", issuer, place)
    return failure


# -- by HTTP


async def _download(url: SplitResult) -> bytes:
    """The document; KeysUnavailable.

    A task of its own loop, because httpx's time-outs are those of single reads, and a server that sends a byte now and then meets all of
    them.
    """
    import httpx

    try:
        async with (
            asyncio.timeout(TIMEOUT),
            httpx.AsyncClient(
                verify=ssl.create_default_context(),  # the system's authorities, a LAN's own among them, and not certifi's
                timeout=TIMEOUT,
                trust_env=not _is_loopback(url.hostname or ""),  # proxies are for what is elsewhere
                headers={"User-Agent": "portside", "Accept": "application/json", "Accept-Encoding": "identity"},
            ) as client,
        ):
            request = client.build_request("GET", url.geturl())
            for _ in range(REDIRECTS_MAX + 1):
                response = await client.send(request, stream=True)
                try:
                    if response.next_request is None:
                        return await _read_body(response)
                    here, there = request.url, response.next_request.url
                    if (there.scheme, there.host, there.port) != (here.scheme, here.host, here.port):
                        raise KeysUnavailable(
                            "it sends us on to another host; give that address if it is the right one"
                        )
                    request = response.next_request
                finally:
                    await response.aclose()
            raise KeysUnavailable(f"it sends us on more than {REDIRECTS_MAX} times")
    except TimeoutError:
        raise KeysUnavailable(f"no answer in {TIMEOUT:.0f} s") from None
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise KeysUnavailable(str(error)[:300] or type(error).__name__) from error


async def _read_body(response: httpx.Response) -> bytes:
    """At most `KEY_SET_MAX` bytes; KeysUnavailable."""
    if response.status_code != 200:
        raise KeysUnavailable(f"it answers with status {response.status_code}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise KeysUnavailable("it answers in a content coding that was not asked for")
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > KEY_SET_MAX:
            raise KeysUnavailable(f"it answers with more than {KEY_SET_MAX} bytes")
    return bytes(body)


def _parse_url(text: str) -> SplitResult:
    """An address that keys may come from; InvalidIssuer. Over plain HTTP anybody on the way could put in a key of theirs."""
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError as error:
        raise InvalidIssuer(f"the address of a token issuer's keys is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not host:
        raise InvalidIssuer("the keys of a token issuer come from a file or from an https:// address")
    if url.username is not None or url.password is not None:
        raise InvalidIssuer(
            f"the address of a token issuer's keys at {host} holds a user or a password: public keys need none"
        )
    if url.scheme == "http" and not _is_loopback(host):
        raise InvalidIssuer(
            f"the keys of a token issuer would come over plain HTTP from {host}: give an https:// address"
        )
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(url: SplitResult) -> str:
    """An address for messages: a query may hold a secret."""
    return f"{url.scheme}://{url.netloc}{url.path}"
