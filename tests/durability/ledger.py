"""What a registry acknowledged, kept by the clients that got the answers, and a way to ask whether it is still so."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tests.wire.client import Answer, Connection
from tests.wire.content import digest_of

AT_ONCE = 500
"""Requests on one connection: nginx ends each after a thousand."""


class NotNow(OSError):
    """An answer that says to try again, to clients much as if there had been none."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How clients reach a registry: by which connections, with which headers, and after which statuses they try again."""

    connect: Callable[[], Connection]
    headers: Mapping[str, str] = field(default_factory=dict)
    again: frozenset[int] = frozenset()

    def request(
        self,
        connection: Connection,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """The answer to one request; NotNow."""
        answer = connection.request(method, target, {**self.headers, **(headers or {})}, body)
        if answer.status in self.again:
            raise NotNow(f"{method} {target} is answered {answer.status}")
        return answer


def over(address: str) -> Reach:
    """Plain HTTP to one server, which may go away but makes no excuses."""
    return Reach(lambda: Connection(address))


@dataclass(slots=True)
class Ledger:
    """Acknowledged content by path. A tag whose write was cut may be what it was or what was asked for: ``tags`` holds both."""

    blobs: dict[str, int] = field(default_factory=dict)
    """Path of a blob -> its size."""
    manifests: dict[str, bytes] = field(default_factory=dict)
    """Path of a manifest by digest -> its bytes."""
    tags: dict[str, set[str | None]] = field(default_factory=dict)
    """Path of a tag -> the digests that it may have, None for a tag that is gone."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def blob(self, repository: str, digest: str, size: int) -> None:
        with self.lock:
            self.blobs[f"/v2/{repository}/blobs/{digest}"] = size

    def manifest(self, repository: str, raw: bytes) -> None:
        with self.lock:
            self.manifests[f"/v2/{repository}/manifests/{digest_of(raw)}"] = raw

    def try_tag(self, repository: str, tag: str, digest: str | None) -> None:
        """A write of a tag is about to be sent."""
        with self.lock:
            self.tags.setdefault(f"/v2/{repository}/manifests/{tag}", {None}).add(digest)

    def tag(self, repository: str, tag: str, digest: str | None) -> None:
        """That write was acknowledged."""
        with self.lock:
            self.tags[f"/v2/{repository}/manifests/{tag}"] = {digest}

    def __len__(self) -> int:
        with self.lock:
            return len(self.blobs) + len(self.manifests) + len(self.tags)

    def paths(self) -> list[str]:
        with self.lock:
            return [*self.blobs, *self.manifests, *self.tags]

    def verify(self, reach: Reach, paths: Iterable[str]) -> int:
        """Read so many paths back, each whole; how many. AssertionError names the first that is not what was acknowledged.

        Nothing may be written meanwhile to the tags among them.
        """
        known = list(paths)
        for begin in range(0, len(known), AT_ONCE):
            with reach.connect() as connection:
                for path in known[begin : begin + AT_ONCE]:
                    self._verify(path, reach.request(connection, "GET", path))
        return len(known)

    def _verify(self, path: str, answer: Answer) -> None:
        if path in self.tags:
            found = answer.header("docker-content-digest") if answer.status == 200 else None
            assert answer.status in (200, 404), (path, answer)
            assert found in self.tags[path], f"{path} is {found}, acknowledged was {self.tags[path]}"
        elif path in self.manifests:
            assert (answer.status, answer.body) == (200, self.manifests[path]), path
        else:
            assert answer.status == 200, f"{path} was answered 201 and is {answer.status} now: {answer.body!r}"
            algorithm, _, expected = path.rpartition("/")[2].partition(":")
            assert hashlib.new(algorithm, answer.body).hexdigest() == expected, f"{path} has other bytes"
            assert len(answer.body) == self.blobs[path], path
