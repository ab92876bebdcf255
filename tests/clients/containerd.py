"""containerd's own client, which has no log-in of its own: each command is given a name and a password."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.servers import ServerError, run, wait_until
from tests.tools import tool


@contextlib.contextmanager
def containerd(inside: Sequence[str]) -> Iterator[Callable[..., str]]:
    """A containerd of the test's own; yields how to call ``ctr images`` with it. ``inside``: what comes before a command there."""
    with tempfile.TemporaryDirectory(prefix="portside-containerd-") as scratch:
        directory = Path(scratch)
        (directory / "config.toml").write_text(
            f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{directory}/socket"\n'
        )
        with (directory / "log").open("wb") as log:
            command = [*inside, str(tool("containerd")), "--config", str(directory / "config.toml")]
            daemon = subprocess.Popen(command, stderr=log)

        def ctr(*arguments: str) -> str:
            return run([*inside, str(tool("ctr")), "--address", str(directory / "socket"), "images", *arguments])

        def answers() -> bool:
            assert daemon.poll() is None, (directory / "log").read_text()
            with contextlib.suppress(ServerError):
                return bool(ctr("list"))
            return False

        try:
            wait_until(answers, "containerd answers")
            yield ctr
        finally:
            daemon.terminate()
            daemon.wait(30)
