"""Rows of real clients: crane, the docker CLI, and zot's load tester."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterable
from functools import partial

from bench.content import ACCEPT, LAYERS, write_archive, write_layout
from bench.docker import Docker
from bench.filesystem import BenchError
from bench.sampling import Session, Tools
from bench.servers import running
from bench.setups import PASSWORD, USER

REPOSITORY = "bench/image"
SMALL = "1mb"
LARGE = ("49mb", "1gib")
"""Of the sizes in `bench.content.LAYERS`: with which log-ins are looked at, and which all push and pull."""
PULLS = 25
"""Pulls of the small image with a log-in, and without."""
ZB_CONNECTIONS = 10
ZB_REQUESTS = 30


def crane_push(size: str, session: Session) -> None:
    """Push an OCI layout whose layers are compressed already; the value is the whole of crane's run in seconds."""
    layout = session.tools.disk.memory / f"layout-{size}"
    if not layout.exists():
        write_layout(layout, LAYERS[size])
    _timed(session, [_crane(session), "push", "--insecure", str(layout), _reference(session, size)])


def crane_pull(size: str, session: Session) -> None:
    """Pull into a file in memory."""
    target = session.tools.disk.memory / "pulled.tar"
    try:
        _timed(session, [_crane(session), "pull", "--insecure", _reference(session, size), str(target)])
    finally:
        target.unlink(missing_ok=True)


def docker_load(tools: Tools, sizes: Iterable[str]) -> None:
    """Give the daemon images, once; from then on it is sent and loses them in turn."""
    for size in sizes:
        tools.progress(f"docker load of the {size} image")
        archive = tools.disk.memory / "archive.tar"
        write_archive(archive, _local(size), LAYERS[size])
        _docker(tools)("load", "--quiet", "--input", str(archive))
        archive.unlink()


def docker_push(size: str, session: Session) -> None:
    """The value is the whole of the push in seconds; compressing the layers is part of what Docker does."""
    docker, reference = _docker(session.tools), _reference(session, size)
    docker("tag", _local(size), reference)
    with session.meter(1.0) as sample:
        docker("push", "--quiet", reference)
    sample.value = sample.wall_seconds


def docker_pull(size: str, session: Session) -> None:
    """Everything of the image is removed first; what was pulled is what the next server is sent."""
    docker, reference = _docker(session.tools), _reference(session, size)
    with session.connect() as connection:  # what was not pushed must not be removed
        target = f"/v2/{REPOSITORY}-{size}/manifests/1"
        connection.request("HEAD", target, {"Accept": ACCEPT}).expect(200, f"HEAD {target}")
    docker("rmi", "--force", reference, _local(size))
    with session.meter(1.0) as sample:
        docker("pull", "--quiet", reference)
    sample.value = sample.wall_seconds
    docker("tag", reference, _local(size))
    docker("rmi", reference)


def docker_login(session: Session) -> None:
    """What a log-in adds to a pull: in turn from the server with accounts and from a plain one beside it. Milliseconds, of medians."""
    docker, running_with = _docker(session.tools), session.running
    beside = running_with.root.with_name(f"{running_with.root.name}-plain")
    try:
        with running(running_with.server, beside) as plain:
            address = f"127.0.0.1:{session.port}"
            docker("login", "--username", USER, "--password-stdin", address, input=PASSWORD)
            references = [f"127.0.0.1:{one.port}/{REPOSITORY}-{SMALL}:1" for one in (running_with, plain)]
            for reference in references:
                docker("tag", _local(SMALL), reference)
                docker("push", "--quiet", reference)
            docker("rmi", "--force", *references, _local(SMALL))
            for reference in references:
                _pull_seconds(docker, reference)
            with session.meter(PULLS) as sample:
                pulled = [
                    {reference: _pull_seconds(docker, reference) for reference in references[:: 1 - number % 2 * 2]}
                    for number in range(PULLS)
                ]
            with_login, without = (statistics.median(one[reference] for one in pulled) for reference in references)
            sample.value = (with_login - without) * 1000
            sample.detail = {"with": with_login, "without": without}
            docker("pull", "--quiet", references[1])
            docker("tag", references[1], _local(SMALL))
            docker("rmi", references[1])
            docker("logout", address)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _pull_seconds(docker: Docker, reference: str) -> float:
    """The whole command; what was pulled is removed again."""
    began = time.monotonic()
    docker("pull", "--quiet", reference)
    seconds = time.monotonic() - began
    docker("rmi", reference)
    return seconds


def zb(test: str, session: Session) -> None:
    """One of zot's load tests, whole: its requests a second count its preparation and cleaning, too."""
    if session.tools.zb is None:
        raise BenchError("zb was not given")
    folder = session.tools.disk.memory / "zb"
    command = [session.tools.zb, "-c", str(ZB_CONNECTIONS), "-n", str(ZB_REQUESTS), "-d", str(folder)]
    command += ["-t", f"^{re.escape(test)}$", f"http://127.0.0.1:{session.port}"]
    try:
        with session.meter(1.0) as sample:
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        sample.value = None
        rate, failed, sample.detail = zb_result(result.stdout, test)
        if failed or result.returncode != 0:
            raise BenchError(f"zb {test!r}: {failed} of {ZB_REQUESTS} requests failed: {sample.detail}")
        sample.value = rate
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def zb_result(output: str, test: str) -> tuple[float, int, dict[str, str]]:
    """From what zb printed about one test: requests a second, failed requests, and the rest of its lines.

    BenchError when there is no such test, which is how zb ends when a step of its preparation was refused.
    """
    _, found, text = output.partition("Test name:")
    lines = dict(re.findall(r"^([\w ]+):\s+(\S.*?)\s*$", found + text, re.MULTILINE))
    if lines.get("Test name") != test:
        raise BenchError(f"zb did not finish {test!r}: {output.strip()[-300:]}")
    return float(lines["Requests per second"]), int(lines["Failed requests"]), lines


CRANE_ROWS = {
    f"crane-{verb}-{size}": partial(action, size)
    for size in LARGE
    for verb, action in (("push", crane_push), ("pull", crane_pull))
}


DOCKER_ROWS = {
    f"docker-{verb}-{size}": partial(action, size)
    for size in LARGE
    for verb, action in (("push", docker_push), ("pull", docker_pull))
}


def _local(size: str) -> str:
    return f"portside-bench:{size}"


def _docker(tools: Tools) -> Docker:
    if tools.docker is None:
        raise BenchError("no Docker daemon was started")
    return tools.docker


def _reference(session: Session, size: str) -> str:
    return f"127.0.0.1:{session.port}/{REPOSITORY}-{size}:1"


def _crane(session: Session) -> str:
    if session.tools.crane is None:
        raise BenchError("crane was not given")
    return session.tools.crane


def _timed(session: Session, command: list[str]) -> None:
    with session.meter(1.0) as sample:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if result.returncode != 0:
        sample.value = None
        raise BenchError(f"{' '.join(command[:2])}: {result.stderr.strip()[-300:]}")
    sample.value = sample.wall_seconds
