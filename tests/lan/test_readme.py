"""The README's LAN, as it stands there: what is typed on the server, what the hub prints, and what is typed on a client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import images, servers
from tests.clients.machine import Machine
from tests.lan.network import Terminal, at_a_terminal, network
from tests.servers import Docker, ServerError
from tests.tools import SYSTEM_PATH, tool

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"^```sh (server|client)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class LAN:
    """The server's machine, and a client's with Docker. What is typed there is typed in one directory."""

    server: Machine
    client: Machine
    docker: Docker
    directory: Path

    def typed(self, machine: Machine, block: str) -> AbstractContextManager[Terminal]:
        """A shell at a terminal that runs these lines and ends at the first that fails."""
        environment = {**self.docker.environment(), "PATH": f"{tool('portside').parent}:{SYSTEM_PATH}"}
        shell = [str(tool("env")), "-C", str(self.directory), str(tool("bash")), "-euc", block]
        return at_a_terminal(*machine.inside, *shell, environment=environment)


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[LAN]:
    """It holds what ``make demo`` leaves."""
    place = tmp_path / ".build/demo"
    place.mkdir(parents=True)
    (place / "busybox.tar").write_bytes(images.docker_archive(images.busybox(), "demo.example/busybox:1"))
    with network() as (server, client, _), servers.dockerd(inside=client.inside) as docker:
        yield LAN(server, client, docker, tmp_path)


def test_the_lan(lan: LAN) -> None:
    (on_server, start), (on_client, work), (on_server_again, look) = BLOCKS
    assert (on_server, on_client, on_server_again) == ("server", "client", "server")
    *prepare, serve = start.strip().splitlines()
    assert serve.startswith("portside serve ")
    prepared = run_whole(lan, lan.server, "\n".join(prepare))
    (password,) = re.findall(r"^bob was added, with this password, shown once:\n(\S+)$", prepared, re.MULTILINE)
    with lan.typed(lan.server, f"exec {serve}") as hub:
        servers.wait_until(lambda: "portside run" in hub.text(), "the banner is there")
        (trust,) = re.findall(r"^  (portside trust .*)$", hub.text(), re.MULTILINE)
        assert trust.partition("SHA256:")[0] in README
        run_whole(lan, lan.client, trust)
        with lan.typed(lan.client, work) as client:
            servers.wait_until(lambda: "Password:" in client.text(), "docker asks for the password")
            client.type(password)
            assert client.process.wait(SECONDS) == 0, client.text()
        assert "Login Succeeded" in client.text()
        assert "hub.lan:5000/team/busybox:1" in client.text().strip().splitlines()[-1]
        looked = run_whole(lan, lan.server, look)
        assert re.search(r"^push +yes +\S", looked, re.MULTILINE), looked
        assert re.search(
            r"^\S+ \S+  bob +push +ok +team/busybox@sha256:\S+ .*from 192\.168\.77\.11$", looked, re.MULTILINE
        ), looked
        with pytest.raises(ServerError, match="unauthorized"):
            lan.docker("push", "hub.lan:5000/team/busybox:1")


def run_whole(lan: LAN, machine: Machine, block: str) -> str:
    """Run lines to their end; what was on the screen."""
    with lan.typed(machine, block) as terminal:
        assert terminal.process.wait(SECONDS) == 0, terminal.text()
    return terminal.text()
