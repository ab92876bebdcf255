"""Images in an engine's store, and `portside run` on them as a person calls it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from oci.descriptor import Descriptor
from oci.digest import Digest
from oci.reference import Reference
from runtime.images import ImageStore
from tests.images import Content
from tests.tools import tool

PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass(frozen=True, slots=True)
class Engine:
    """A hub's root with images in it, and one OCI runtime."""

    root: Path
    runtime: str

    def add(self, content: Content, name: str) -> str:
        """Put an image into the store, under a name."""
        store = ImageStore(self.root / "engine", floor=0)
        for text, data in content.blobs.items():
            partial = store.begin(Descriptor("application/octet-stream", Digest.parse(text), len(data)))
            partial.write(memoryview(data))
            partial.hash(memoryview(data))
            partial.commit()
            partial.close()
        store.tag(Reference.parse(name), Descriptor(content.media_type, Digest.parse(content.digest), len(content.raw)))
        return name

    def command(self, *arguments: str) -> list[str]:
        return [str(tool("portside")), "run", "--root", str(self.root), "--runtime", self.runtime, *arguments]

    def run(
        self, *arguments: str, stdin: bytes | None = None, env: Mapping[str, str] | None = None, keep: bool = False
    ) -> Result:
        """``portside run [--rm] ARGUMENTS``; its output as text, odd bytes escaped."""
        done = subprocess.run(
            self.command(*([] if keep else ["--rm"]), *arguments),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=120,
            env={**os.environ, **(env or {})},
            check=False,
        )
        err = done.stderr.decode("utf-8", "backslashreplace")
        lines = [line for line in err.splitlines(keepends=True) if not line.startswith("portside: warning: runc")]
        return Result(done.returncode, done.stdout.decode("utf-8", "backslashreplace"), "".join(lines))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """The same in the background."""
        return subprocess.Popen(
            self.command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def containers(self) -> list[Path]:
        """The directories of the containers that there are."""
        folder = self.root / "engine/containers"
        return sorted(path for path in folder.iterdir() if path.name != "names") if folder.exists() else []

    def leftovers(self) -> list[str]:
        """Whatever runs keep outside of their stores and should have taken down: mounts, cgroups, processes."""
        found = [
            line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(self.root) in line
        ]
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                try:
                    command = (path / "cmdline").read_bytes()
                except OSError:
                    continue
                if str(self.root).encode() in command:
                    found.append(command.replace(b"\0", b" ").decode("utf-8", "replace"))
        return found


def cgroups_of(identifier: str) -> list[Path]:
    """The cgroups of a container, in every hierarchy."""
    return [
        *Path("/sys/fs/cgroup").glob(f"*/portside/{identifier}"),
        *Path("/sys/fs/cgroup").glob(f"portside/{identifier}"),
    ]


def until(condition: Callable[[], object], what: str) -> None:
    """Look again and again until something is so; an error that says ``what`` never came."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come to be in {PATIENCE:.0f} seconds"
        time.sleep(0.02)
