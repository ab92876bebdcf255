"""The workers of one server are killed at random moments: the others go on, a new one comes, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from functools import partial
from pathlib import Path

from tests.durability.ledger import Ledger, over
from tests.durability.pushing import SEED, Pusher
from tests.servers import Server, answers, free_port, run, start_portside, wait_until
from tests.tools import tool

KILLS = 12


def workers_of(server: Server) -> list[int]:
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _have_pushed(ledger: Ledger, goal: int, pushers: list[Pusher]) -> bool:
    return len(ledger) >= goal or any(pusher.failure for pusher in pushers)


def test_a_worker_that_is_killed_is_replaced_and_loses_nothing(tmp_path: Path) -> None:
    root, log, ledger = tmp_path / "root", tmp_path / "log", Ledger()
    server = start_portside(root, log, "--floor", "0", "--workers", "2", port=free_port())
    pushers = [Pusher(number, over(server.address), ledger) for number in range(3)]
    rng = random.Random(SEED)
    try:
        wait_until(lambda: len(workers_of(server)) == 2, "two workers run")
        for pusher in pushers:
            pusher.start()
        killed = set()
        for _ in range(KILLS):
            goal = len(ledger) + rng.randint(3, 20)
            wait_until(partial(_have_pushed, ledger, goal, pushers), "pushes are acknowledged")
            assert not [pusher.failure for pusher in pushers if pusher.failure]
            victim = rng.choice(workers_of(server))
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
            wait_until(lambda: len(set(workers_of(server)) - killed) == 2, "another worker was started")
        for pusher in pushers:
            pusher.is_ending.set()
        for pusher in pushers:
            pusher.join(60)
        assert not [pusher.failure for pusher in pushers if pusher.failure or pusher.is_alive()]
        whole = ledger.verify(over(server.address), ledger.paths())
        assert server.terminate() == 0
    finally:
        for pusher in pushers:
            pusher.is_ending.set()
        if server.process.poll() is None:
            server.terminate()
    assert "Traceback" not in log.read_text(errors="replace")
    assert log.read_text().count("a worker ended with -9") == KILLS
    assert whole == len(ledger) > KILLS
    run([str(tool("portside")), "check", "--root", str(root)])


def test_workers_end_with_a_server_that_is_killed_and_the_next_one_gets_the_port(tmp_path: Path) -> None:
    root, port = tmp_path / "root", free_port()
    server = start_portside(root, tmp_path / "log", "--workers", "2", port=port)
    wait_until(lambda: len(workers_of(server)) == 2, "two workers run")
    workers = workers_of(server)
    server.kill()
    wait_until(lambda: not any(map(is_alive, workers)), "the workers end")
    time.sleep(0.1)
    assert not answers(f"127.0.0.1:{port}")
    again = start_portside(root, tmp_path / "log", "--workers", "2", port=port)
    assert again.terminate() == 0
