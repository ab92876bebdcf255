"""Images that stand in for those of Docker Hub, which no test reaches: a Debian, and what docker-compose.yml names, from Debian's packages.

They have the same names, and do what the official ones do with the variables and the options that docker-compose.yml gives them. They are
made once and stay in a Docker daemon's directory in the user's cache folder, with the layers of the hub's own image. apt and pip have in
them the settings that this machine's have: the hub's Dockerfile needs to know of none.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts import gotools
from tests import servers
from tests.servers import Docker, ServerError
from tests.tools import tool

HERE = Path(__file__).parent
BASE = "debian:bookworm-slim"
RELEASE = "bookworm"
STANDINS = {"postgres:15": "postgres", "nginx:1.28": "nginx", "versity/versitygw:v1.8.0": "versitygw"}
"""Image -> the directory of its Dockerfile."""
SETTINGS = (
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d",
    "/etc/apt/apt.conf.d",
    "/etc/apt/auth.conf.d",
    "/etc/apt/keyrings",
    "/etc/pip.conf",
    "/etc/ssl/certs",
    "/usr/local/share/ca-certificates",
)
"""By which apt and pip reach where packages come from."""
VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_CERT", "PIP_DEFAULT_TIMEOUT")
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
BUILD_SECONDS = 900.0


@contextlib.contextmanager
def daemon(*options: str, inside: Sequence[str] = ()) -> Iterator[Docker]:
    """A Docker daemon whose images outlive it, and with ``docker compose``. One at a time has them: others wait.

    Nothing but images is left in it at its start, whatever became of the one before.
    """
    directory = gotools.cache().parent / "deploy"
    with gotools.Locked("deploy"), servers.dockerd(f"--data-root={directory}", *options, inside=inside) as docker:
        plugins = docker.directory / "config/cli-plugins"
        plugins.mkdir()
        (plugins / "docker-compose").symlink_to(tool("docker-compose"))
        if left := docker("ps", "--all", "--quiet").split():
            docker("rm", "--force", "--volumes", *left)
        docker("volume", "prune", "--force")
        docker("network", "prune", "--force")
        docker("image", "prune", "--force")
        yield docker


def make(docker: Docker) -> None:
    """See to it that all are there. The daemon's own network is this machine's: packages come by it."""
    if not docker("images", "--quiet", BASE):
        _make_base(docker)
    for name, directory in STANDINS.items():
        with tempfile.TemporaryDirectory(prefix="portside-standin-") as scratch:
            shutil.copytree(HERE / directory, scratch, dirs_exist_ok=True)
            if directory == "versitygw":
                shutil.copy(tool("versitygw"), scratch)
            arguments = [word for proxy in PROXIES if proxy in os.environ for word in ("--build-arg", proxy)]
            docker("build", "--network=host", "--tag", name, *arguments, scratch, seconds=BUILD_SECONDS)


def _make_base(docker: Docker) -> None:
    """A bare Debian, without what the slim image leaves out."""
    with tempfile.TemporaryDirectory(prefix="portside-debian-") as scratch:
        root = Path(scratch)
        command = [tool("debootstrap"), "--variant=minbase", "--include=ca-certificates", RELEASE, root, _mirror()]
        servers.run(list(map(str, command)), seconds=BUILD_SECONDS)
        for left_out in ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(root / left_out)
            (root / left_out).mkdir()
        (root / "etc/dpkg/dpkg.cfg.d/docker").write_text(
            "".join(f"path-exclude /usr/share/{place}/*\n" for place in ("doc", "man", "locale"))
        )
        (root / "etc/apt/sources.list").unlink()
        for setting in map(Path, SETTINGS):
            target = root / setting.relative_to("/")
            if setting.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(setting, target)
            elif setting.exists():
                shutil.copy(setting, target)
        changes = ["CMD bash", *(f"ENV {name}={os.environ[name]}" for name in VARIABLES if name in os.environ)]
        command = [tool("docker"), "import", *(word for one in changes for word in ("--change", one)), "-", BASE]
        tar = [str(tool("tar")), "--create", "--numeric-owner", "--directory", scratch, "."]
        with subprocess.Popen(tar, stdout=subprocess.PIPE) as packing:
            done = subprocess.run(list(map(str, command)), stdin=packing.stdout, env=docker.environment())
        if packing.returncode or done.returncode:
            raise ServerError(f"the root of {BASE} was not imported")


def _mirror() -> str:
    """Where this machine's apt has that Debian from."""
    wanted = "$(RELEASE) $(REPO_URI)"
    for line in servers.run([str(tool("apt-get")), "indextargets", "--format", wanted]).splitlines():
        release, _, uri = line.partition(" ")
        if release == RELEASE:
            return uri
    raise ServerError(f"no source of this machine's apt has Debian {RELEASE}")
