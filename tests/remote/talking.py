"""What the tests of the transport share."""

from __future__ import annotations

from collections.abc import Iterator

from remote.credentials import Credential
from remote.transport import Policy, Registry
from tests.remote.faulty import Answer, Answering, Faulty, Request

QUICK = Policy(attempts=4, pause=0.001, pause_max=5.0, connect_timeout=5.0, read_timeout=5.0)
CREDENTIAL = Credential("me", "geheim")


def client(server: Faulty, credential: Credential | None = None, policy: Policy = QUICK) -> Registry:
    return Registry(server.host, credential=lambda host: credential, policy=policy)


def read(registry: Registry, path: str = "/v2/", scope: tuple[str, ...] = ()) -> bytes:
    response = registry.request("GET", path, scope=scope)
    try:
        return response.read(1 << 20, "the answer")
    finally:
        response.close()


def after(count: int, first: Answering, then: Answering) -> Answering:
    """The first ``count`` requests go to one, the others to another."""
    seen = iter(range(count))
    return lambda request: then(request) if next(seen, None) is None else first(request)


def fine(request: Request) -> Answer:
    return Answer(200, [], b"fine")


def endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 65536
