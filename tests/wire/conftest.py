"""A connection to the shared server, and a repository that only one test uses."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.servers import Server
from tests.wire.client import Connection


@pytest.fixture
def wire(hub: Server) -> Iterator[Connection]:
    with Connection(hub.address) as connection:
        yield connection


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A name from the test's own: nothing is there before it, and a run with several processes has no clashes."""
    return f"wire/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}"
