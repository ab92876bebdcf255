"""A server, S3 or PostgreSQL of a scaled hub is killed, and started again, while real clients push and pull through nginx.

What was acknowledged reads back whole, clients come to their end by trying again, and nothing is left over. ``PORTSIDE_SOAK_SCALED_KILLS``
sets how often (`make soak`).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from storage.postgres import PostgresDatabase
from tests import s3
from tests.accounts import add, rule, token
from tests.durability.ledger import Ledger, Reach
from tests.durability.pushing import PAUSE, SEED, Crane, Pusher
from tests.postgres import Postgres
from tests.scale.asking import basic
from tests.scale.collecting import PREFIX, collect_all
from tests.scale.hub import SERVERS, Scaled, restart, scaled
from tests.servers import wait_until
from tests.tools import tool
from tests.wire.client import ask

KILLS = int(os.environ.get("PORTSIDE_SOAK_SCALED_KILLS", "15"))
KINDS = s3.SERVERS if "PORTSIDE_SOAK_SCALED_KILLS" in os.environ else s3.SERVERS[:1]
PUSHERS = 3
USER = "pusher"
AGAIN = frozenset((429, 502, 503, 504))
"""What says to try again: the hub, or nginx that does not reach it. An upload is busy while a server that was killed has its lease."""
DOWN_SECONDS = 0.6
"""How long at most what was killed is gone."""


class Puller(threading.Thread):
    """Has crane pull, whole, images that crane was told are there."""

    def __init__(self, address: str, ledger: Ledger, directory: Path, environment: dict[str, str]) -> None:
        super().__init__(name="puller", daemon=True)
        self._address, self._ledger, self._environment = address, ledger, environment
        self._target = directory / "pulled.tar"
        self._random = random.Random(SEED)
        self.is_ending = threading.Event()
        self.finished = self.cut = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        while not self.is_ending.wait(PAUSE):
            images = [path for path in self._ledger.paths() if path.startswith("/v2/crane/image/manifests/")]
            if images:
                self._pull(f"{self._address}/crane/image:{self._random.choice(images).rpartition('/')[2]}")

    def _pull(self, reference: str) -> None:
        """Until it is there, whole."""
        command = [str(tool("crane")), "pull", reference, str(self._target)]
        while not self.is_ending.is_set():
            if subprocess.run(command, capture_output=True, env=self._environment).returncode == 0:
                self.finished += 1
                return
            self.cut += 1
            self.is_ending.wait(PAUSE)


Client = Pusher | Crane | Puller


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_acknowledged_outlives_every_part(kind: str, tmp_path: Path, postgres_server: Postgres) -> None:
    ledger = Ledger()
    with scaled(tmp_path / "hub", postgres_server, "--gc-interval", "1", kind=kind) as hub:
        reach = Reach(hub.connect, basic(USER, _let_in(hub)), AGAIN)
        environment = _crane_environment(hub, tmp_path)
        pushers = [Pusher(number, reach, ledger) for number in range(PUSHERS)]
        crane = Crane(hub.address, ledger, tmp_path, (), environment)
        puller = Puller(hub.address, ledger, tmp_path, environment)
        clients: list[Client] = [*pushers, crane, puller]
        for client in clients:
            client.start()
        try:
            for number in range(KILLS):
                _kill_once(hub, postgres_server, kind, number, reach, ledger, clients)
            _have_finished(clients)
        finally:
            for client in clients:
                client.is_ending.set()
            deadline = time.monotonic() + 60
            for client in clients:
                client.join(max(deadline - time.monotonic(), 0.1))
        assert not [client.name for client in clients if client.is_alive()]
        assert not _failed(clients), _failed(clients)
        whole = ledger.verify(reach, ledger.paths())
        assert whole == len(ledger) > KILLS
        said = hub.command("check", *hub.place)
        assert "problem" not in said
        for server in hub.servers:
            assert server.terminate() == 0
        with closing(PostgresDatabase(hub.database)) as database:
            left = collect_all(database, s3.location(hub.service.url, PREFIX))
    assert left == []
    assert s3.parts_of(hub.service) == []
    print(
        f"{kind}: {KILLS} kills, {whole} acknowledged, {crane.finished} images by crane, which was cut {crane.cut} times,"
    )
    print(
        f"{puller.finished} pulled ({puller.cut}), {sum(pusher.resumed for pusher in pushers)} uploads resumed; {said}"
    )


def _let_in(hub: Scaled) -> str:
    """A user who may do everything; a token of hers, which servers know without hashing."""
    with hub.people() as people:
        add(people, USER)
        rule(people, USER, "*", "pull,push,delete")
        return token(people, USER)


def _crane_environment(hub: Scaled, directory: Path) -> dict[str, str]:
    auth = basic(USER)["Authorization"].removeprefix("Basic ")
    (directory / "config.json").write_text(json.dumps({"auths": {hub.address: {"auth": auth}}}))
    return os.environ | {"DOCKER_CONFIG": str(directory), "SSL_CERT_FILE": str(hub.authority)}


def _kill_once(
    hub: Scaled, postgres: Postgres, kind: str, number: int, reach: Reach, ledger: Ledger, clients: list[Client]
) -> None:
    """Kill something while the clients go on, start it again after a while, and read back what was acknowledged last, and a sample."""
    rng = random.Random(f"{SEED} {kind} {number}")
    goal = len(ledger) + rng.randint(2, 10)
    wait_until(lambda: len(ledger) >= goal or bool(_failed(clients)), "the clients push on")
    _pause(rng.uniform(0.0, 0.05))  # any moment of a request, not only its end
    begin = _kill(hub, postgres, kind, number, rng)
    _pause(rng.uniform(0.0, DOWN_SECONDS))
    begin()
    for server in hub.servers:
        wait_until(lambda address=server.address: _serves(address, reach, ledger), "it serves again")  # type: ignore[misc]
    known = ledger.paths()
    sample = known[-20:] + rng.sample(known, min(len(known), 10))
    ledger.verify(reach, [path for path in sample if path not in ledger.tags])
    assert not _failed(clients), _failed(clients)


def _kill(hub: Scaled, postgres: Postgres, kind: str, number: int, rng: random.Random) -> Callable[[], object]:
    """Kill what is next; how it is started again."""
    what = ("server", "s3", "postgresql")[number % 3]
    if what == "server":
        victim = rng.randrange(SERVERS)
        hub.servers[victim].kill()

        def begin() -> None:
            hub.servers[victim] = restart(hub.servers[victim])

        return begin
    if what == "s3":
        hub.service.kill()

        def begin_s3() -> None:
            hub.service = s3.start_s3(kind, hub.service.root.parent, hub.service.port)

        return begin_s3
    postgres.stop(signal.SIGQUIT)
    return postgres.start


def _serves(address: str, reach: Reach, ledger: Ledger) -> bool:
    """Whether a server has a blob's bytes for us: it reaches PostgreSQL, and S3."""
    path = next(iter(dict(ledger.blobs)))
    try:
        return ask(address, "GET", path, reach.headers).status == 200
    except OSError:
        return False


def _have_finished(clients: list[Client]) -> None:
    """Wait until each has come to an end with what it began after the last kill, or with what it had to try again."""
    before = {client.name: client.finished for client in clients}

    def is_done() -> bool:
        return all(client.finished > before[client.name] for client in clients) or bool(_failed(clients))

    wait_until(is_done, "every client goes on")


def _failed(clients: list[Client]) -> list[BaseException]:
    return [client.failure for client in clients if client.failure is not None]


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)
