"""A Docker daemon of the benchmark's own, with its data on the benchmark's disk and nothing shared with one that the machine runs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.filesystem import BenchError


@dataclass(frozen=True, slots=True)
class Docker:
    """The docker CLI against one daemon's socket. ``config`` is the folder where it keeps log-ins."""

    host: str
    config: Path

    def __call__(self, *arguments: str, input: str = "") -> str:
        command = ["docker", "--config", str(self.config), "--host", self.host, *arguments]
        result = subprocess.run(command, input=input, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise BenchError(f"docker {' '.join(arguments)}: {result.stderr.strip()[-300:]}")
        return result.stdout.strip()


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[Docker]:
    """Start dockerd (and the containerd that it manages) below ``folder``; end both."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Path(os.path.realpath("/run")) / f"portside-bench-{os.getpid()}"
    run.mkdir(mode=0o700)
    host = f"unix://{run}/docker.sock"
    command = ["dockerd", "--host", host, "--data-root", str(folder / "data"), "--exec-root", str(run / "exec")]
    command += ["--pidfile", str(run / "pid"), "--bridge", "none", "--iptables=false", "--ip6tables=false"]
    log = folder / "dockerd.log"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        except FileNotFoundError as error:
            raise BenchError("dockerd is missing: apt-get install docker.io, or leave the docker rows out") from error
    docker = Docker(host, folder / "config")
    try:
        _wait(docker, process, log)
        yield docker
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _tidy(run)


def _wait(docker: Docker, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchError(f"dockerd ended at its start: {log.read_text(errors='replace')[-500:]}")
        with contextlib.suppress(BenchError):
            docker("version", "--format", "{{.Server.Version}}")
            return
        time.sleep(0.1)
    raise BenchError(f"dockerd did not answer within 60 s: {log.read_text(errors='replace')[-500:]}")


def _tidy(run: Path) -> None:
    """Unmount what the daemon left under its run folder (network namespaces), then remove that."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((m for m in mounts if m.startswith(f"{run}/")), reverse=True):
        subprocess.run(["umount", "--lazy", mount], check=False)
    subprocess.run(["rm", "-rf", "--one-file-system", str(run)], check=False)
