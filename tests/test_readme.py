"""The README's commands, run as they stand there: every ``sh`` block, in order, in one directory."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import images
from tests.servers import Containers, Docker, Server, free_port, portside, run
from tests.tools import tool

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
SERVE, *OTHERS = (block for block in BLOCKS)
ADDRESS = "127.0.0.1:5000"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds what ``make demo`` leaves."""
    found = tmp_path_factory.mktemp("readme")
    content = images.busybox()
    images.write_layout(found / ".build/demo/busybox", **{"1": content})
    (found / ".build/demo/busybox.tar").write_bytes(images.docker_archive(content, "demo.example/busybox:1"))
    return found


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[Server]:
    """Started with the options that the README gives, on a port of its own."""
    program, verb, *options = shlex.split(SERVE)
    assert (program, verb) == ("portside", "serve")
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert given == {"--root": "hub", "--listen": ADDRESS}
    with portside(directory / "hub", port=free_port()) as started:
        yield started


def test_serving_is_the_first_example() -> None:
    assert SERVE.startswith("portside serve ")
    assert len(OTHERS) >= 7


@pytest.mark.parametrize("block", OTHERS, ids=lambda block: "-".join(block.split()[:2]))
def test_block(block: str, directory: Path, server: Server, docker: Docker, containers: Containers) -> None:
    environment = {**os.environ, **containers.environment(), **docker.environment()}
    environment["PATH"] = f"{tool('portside').parent}{os.pathsep}{environment['PATH']}"
    said = run(
        ["/bin/bash", "-euxo", "pipefail", "-c", block.replace(ADDRESS, server.address)], environment, cwd=directory
    )
    if "echo hello" in block:
        assert said.splitlines()[0] == "hello"
        assert "uid=1000(alice)" in said
