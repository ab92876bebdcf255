"""kill -9 at random moments while real clients push: what was answered 201 reads back whole, and the store is sound.

``PORTSIDE_SOAK_KILLS`` sets how often (`make soak`).
"""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

from tests.durability.ledger import Ledger, over
from tests.durability.pushing import SEED, Crane, Pusher
from tests.servers import Server, free_port, run, start_portside, wait_until
from tests.tools import tool

KILLS = int(os.environ.get("PORTSIDE_SOAK_KILLS", "50"))
RAW_CLIENTS = 3


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    root, log, ledger = tmp_path / "root", tmp_path / "log", Ledger()
    server = start_portside(root, log, "--floor", "0", port=free_port())
    pushers = [Pusher(number, over(server.address), ledger) for number in range(RAW_CLIENTS)]
    crane = Crane(server.address, ledger, tmp_path)
    clients: list[Pusher | Crane] = [*pushers, crane]
    for client in clients:
        client.start()
    try:
        between = 0
        try:
            for kill in range(KILLS):
                server, count = _kill_once(server, ledger, clients, random.Random(f"{SEED} {kill}"))
                between += count
        finally:
            for client in clients:
                client.is_ending.set()
            deadline = time.monotonic() + 60
            for client in clients:
                client.join(max(deadline - time.monotonic(), 0.1))
        assert not [client.name for client in clients if client.is_alive()]
        assert not _failed(clients), _failed(clients)
        whole = ledger.verify(over(server.address), ledger.paths())
        assert server.terminate() == 0
    finally:
        server.kill()
    assert "Traceback" not in log.read_text(errors="replace")
    run([str(tool("portside")), "check", "--root", str(root)])
    assert whole == len(ledger) > KILLS
    assert crane.finished > 0
    assert sum(pusher.resumed for pusher in pushers) > 0, (
        "no upload was resumed: the kills came at no interesting moment"
    )
    print(f"{KILLS} kills, {whole} acknowledged ({crane.finished} images by crane), {between} read in between")


def _kill_once(server: Server, ledger: Ledger, clients: list[Pusher | Crane], rng: random.Random) -> tuple[Server, int]:
    """Kill the server while its clients push, start it again, and read back what it had answered 201 last, and a sample of the rest."""
    _wait_for(ledger, len(ledger) + rng.randint(1, 12), clients)
    threading.Event().wait(rng.uniform(0.0, 0.03))  # any moment of a request, not only its end
    server.kill()
    known = ledger.paths()
    started = start_portside(server.root, server.log, "--floor", "0", port=server.port)
    try:
        sample = known[-40:] + rng.sample(known, min(len(known), 20))
        count = ledger.verify(over(started.address), [path for path in sample if path not in ledger.tags])
        assert not _failed(clients), _failed(clients)
    except BaseException:
        started.kill()
        raise
    return started, count


def _wait_for(ledger: Ledger, goal: int, clients: list[Pusher | Crane]) -> None:
    wait_until(lambda: len(ledger) >= goal or bool(_failed(clients)), "the clients push on")


def _failed(clients: list[Pusher | Crane]) -> list[BaseException]:
    return [client.failure for client in clients if client.failure is not None]
