"""Each test of a client runs twice: against a hub that is open to all, and against one with TLS and accounts.

What every client does, push, pull, list and delete, is done against many servers, too (``@EVERY_HUB``).

What does not need that (cut and resumed transfers) takes ``@pytest.mark.parametrize("hub", ["open"], indirect=True)``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import servers
from tests.accounts import PASSWORD
from tests.clients import hubs
from tests.clients.hubs import Hub
from tests.clients.wire import Witness
from tests.postgres import Postgres
from tests.servers import Containers, Docker, Server


@pytest.fixture(scope="session")
def secure_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The one with TLS and accounts; each test takes repositories of its own."""
    with hubs.secure_hub(tmp_path_factory.mktemp("secure-hub")) as hub:
        yield hub


@pytest.fixture(scope="session")
def secure_docker(secure_hub: Hub) -> Iterator[Docker]:
    """A Docker daemon on its machine, and a user who is logged in."""
    with servers.dockerd(inside=secure_hub.inside) as docker:
        docker("login", secure_hub.address, "-u", hubs.USER, "--password-stdin", stdin=PASSWORD.encode())
        yield docker


@pytest.fixture(scope="session")
def secure_containers(secure_hub: Hub) -> Iterator[Containers]:
    """podman, buildah and skopeo there, and a user who is logged in."""
    with servers.containers(inside=secure_hub.inside) as containers:
        log_in = ("login", "-u", hubs.USER, "--password-stdin", secure_hub.address)
        containers("podman", *log_in, stdin=PASSWORD.encode())
        yield containers


@pytest.fixture(scope="session")
def scaled_hub(tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres) -> Iterator[Hub]:
    """The one of many servers."""
    with hubs.scaled_hub(tmp_path_factory.mktemp("scaled-hub"), postgres_server) as hub:
        yield hub


@pytest.fixture(scope="session")
def scaled_docker(scaled_hub: Hub, docker: Docker) -> Docker:
    """The Docker daemon of all tests, and a user who is logged in."""
    docker("login", scaled_hub.address, "-u", hubs.USER, "--password-stdin", stdin=PASSWORD.encode())
    return docker


@pytest.fixture(scope="session")
def scaled_containers(scaled_hub: Hub) -> Iterator[Containers]:
    """podman, buildah and skopeo that trust it, and a user who is logged in."""
    with servers.containers(trusting=scaled_hub.authority) as containers:
        log_in = ("login", "-u", hubs.USER, "--password-stdin", "--tls-verify=true", scaled_hub.address)
        containers("podman", *log_in, stdin=PASSWORD.encode())
        yield containers


@pytest.fixture(params=["open", "secure"])
def hub(request: pytest.FixtureRequest, hub: Server) -> Hub:
    """The hub of a client's test."""
    if request.param == "open":
        return Hub(hub.address, Witness(hub.address))
    found: Hub = request.getfixturevalue(f"{request.param}_hub")
    return found


@pytest.fixture
def docker(request: pytest.FixtureRequest, hub: Hub) -> Docker:
    """The Docker daemon that reaches the test's hub."""
    found: Docker = request.getfixturevalue(_of(hub, "docker"))
    return found


@pytest.fixture
def containers(request: pytest.FixtureRequest) -> Containers:
    """podman, buildah and skopeo, where they reach the test's hub if it has one."""
    has_hub = "hub" in request.fixturenames
    name = _of(request.getfixturevalue("hub"), "containers") if has_hub else "containers"
    found: Containers = request.getfixturevalue(name)
    return found


def _of(hub: Hub, clients: str) -> str:
    """The fixture of the clients that reach a hub."""
    if hub.authority is None:
        return clients
    return f"secure_{clients}" if hub.inside else f"scaled_{clients}"
