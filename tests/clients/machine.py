"""A machine of a test's own: its network, its host names and its ``/etc`` are not those of the machine that the tests run on."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests import servers
from tests.tools import SYSTEM_PATH, tool

ADDRESS = "192.168.77.10"
"""Its own address. Not one of the loopback: clients do not look at the certificates of those."""
NAME = "hub.lan"

_SETUP = """
mount -t tmpfs tmpfs "$1"
for place in /etc /usr/local/share; do
    mkdir -p "$1/upper$place" "$1/work$place"
    mount -t overlay overlay -o "lowerdir=$place,upperdir=$1/upper$place,workdir=$1/work$place" "$place"
done
rm -rf /etc/docker/certs.d /etc/containers/certs.d /etc/containerd/certs.d
printf '127.0.0.1 localhost\\n::1 localhost\\n%s %s\\n' "$2" "$3" > /etc/hosts
ip link set lo up
ip address add "$2/32" dev lo
echo ready
exec cat
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """Programs run in it by `inside` before their command, or by calling it. Its ``/etc`` is a copy that is written to in memory."""

    holder: int

    @property
    def inside(self) -> tuple[str, ...]:
        """What comes before a command that shall run here."""
        spaces = (f"--{space}=/proc/{self.holder}/ns/{name}" for space, name in (("net", "net"), ("mount", "mnt")))
        return (str(tool("nsenter")), *spaces, "--")

    def __call__(
        self,
        *command: str | Path,
        environment: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        seconds: float = 120.0,
    ) -> str:
        """Run a program to its end; its standard output. Raises ServerError with all that it said when it fails."""
        return servers.run([*self.inside, *map(str, command)], environment, stdin=stdin, seconds=seconds)

    def exists(self, path: str) -> bool:
        """Whether there is such a file in it."""
        return self._test("-e", path)

    def read(self, path: str) -> str:
        """The text of one of its files."""
        return self("cat", path)

    def _test(self, *arguments: str) -> bool:
        return subprocess.run([*self.inside, "test", *arguments]).returncode == 0


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """Start one; it needs root. It has `NAME` at `ADDRESS`, no other network, and trusts no registry's authority."""
    with tempfile.TemporaryDirectory(prefix="portside-machine-") as directory:
        command = [str(tool("unshare")), "--mount", "--net", "--propagation", "private", "sh", "-euc", _SETUP, "sh"]
        holder = subprocess.Popen(
            [*command, directory, ADDRESS, NAME],
            stdin=subprocess.PIPE,  # which ends with the tests, and the machine with it
            stdout=subprocess.PIPE,
            env={"PATH": SYSTEM_PATH},
        )
        assert holder.stdout is not None
        with holder:
            assert holder.stdout.readline() == b"ready\n"
            yield Machine(holder.pid)
