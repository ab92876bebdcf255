"""The rounds: every group, every round, every server in rotated order; what came of it as samples."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from bench.clients import docker_load
from bench.docker import daemon
from bench.filesystem import BenchError
from bench.groups import Group
from bench.sampling import Sample, Session, Tools
from bench.servers import Running, Server, running
from bench.wire import WireError

SETTLE_LIMIT = 60.0
"""Seconds that a server gets after its start on a full store until it is idle."""

Report = Callable[[Sample], None]
Contender = TypeVar("Contender")


def rotated(contenders: Sequence[Contender], round_number: int) -> list[Contender]:
    """Each one comes first, last and in between equally often, so that none always has the warmer machine."""
    shift = round_number % len(contenders)
    return [*contenders[shift:], *contenders[:shift]]


def run_group(
    group: Group, rows: Collection[str], servers: Sequence[Server], rounds: int, tools: Tools, report: Report
) -> None:
    """All rounds of the chosen rows of one group. A row that fails on a server is reported as failed, and the others go on."""
    taking_part = [server for server in servers if server.name in group.servers]
    with ExitStack() as stack:
        if group.keeps_disk:
            disk = tools.disk.renew()
        if group.needs == "docker":
            tools = dataclasses.replace(tools, docker=stack.enter_context(daemon(disk / "docker")))
            docker_load(tools, group.images)
        if group.prepare is not None:
            for server in taking_part:
                tools.progress(f"{group.name}: preparing {server.name}")
                group.prepare(server, disk / _folder(server), tools.progress)
        for round_number in range(rounds):
            for server in rotated(taking_part, round_number):
                if not group.keeps_disk:
                    disk = tools.disk.renew()
                tools.progress(f"{group.name}: round {round_number + 1} of {rounds}, {server.name}")
                _take_turn(group, rows, server, disk / _folder(server), round_number, tools, report)
                if group.prepare is None:
                    shutil.rmtree(disk / _folder(server), ignore_errors=True)


def _take_turn(
    group: Group, rows: Collection[str], server: Server, root: Path, round_number: int, tools: Tools, report: Report
) -> None:
    wanted = [row for row in group.rows if row in rows]
    try:
        with running(server, root, group.setup(tools.material)) as started:
            if group.prepare is not None:
                _settle(started, tools)
            for row in wanted:
                report(_measure(group, row, started, round_number, tools))
    except BenchError as error:
        for row in wanted:
            report(Sample(row, server.name, round_number, failure=str(error)))


def _measure(group: Group, row: str, started: Running, round_number: int, tools: Tools) -> Sample:
    session = Session(tools, started, row, round_number)
    try:
        group.rows[row](session)
    except (BenchError, WireError, OSError, subprocess.TimeoutExpired) as error:
        session.sample.value = None
        session.sample.failure = str(error) or type(error).__name__
    return session.sample


def _settle(started: Running, tools: Tools) -> None:
    """Wait until the server has done what it does after a start on a full store, or for a minute."""
    deadline = time.monotonic() + SETTLE_LIMIT
    while time.monotonic() < deadline:
        before = started.tree.cpu_seconds()
        time.sleep(0.5)
        if started.tree.cpu_seconds() - before < 0.05:
            return
    tools.progress(
        f"{started.server.name} is still busy with its store after {SETTLE_LIMIT:.0f} s; measured all the same"
    )


def _folder(server: Server) -> str:
    return "root-" + "".join(c if c.isalnum() else "-" for c in server.name)
