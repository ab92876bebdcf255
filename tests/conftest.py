"""Servers that many tests share: started at the first use, ended with the session."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests import servers
from tests.postgres import Postgres, postgres

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores ctrl-c, and so would every program that the tests start and interrupt (man 7 signal, execve).
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """Our registry, empty at first; each test takes repositories of its own."""
    with servers.portside(tmp_path_factory.mktemp("hub"), "--floor", "0") as server:
        yield server


@pytest.fixture(scope="session")
def docker() -> Iterator[servers.Docker]:
    """A Docker daemon of our own."""
    with servers.dockerd() as daemon:
        yield daemon


@pytest.fixture(scope="session")
def containers() -> Iterator[servers.Containers]:
    """The surroundings of podman, buildah and skopeo."""
    with servers.containers() as surroundings:
        yield surroundings


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL of our own."""
    with postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> str:
    """The URL of a fresh database with Portside's tables."""
    return postgres_server.database()
