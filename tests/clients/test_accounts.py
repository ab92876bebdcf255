"""Each client with a name and a password over TLS: log-in, push, pull, log-out, and what it says when it may not."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import oras.client  # type: ignore[import-untyped]
import pytest

from tests import images
from tests.accounts import PASSWORD
from tests.clients import wire
from tests.clients.containerd import containerd
from tests.clients.hubs import ADMIN, CLIENTS, Hub
from tests.clients.test_cosign import OFFLINE, VERIFY, Cosign
from tests.clients.test_crane import Crane
from tests.clients.test_helm import Helm, package
from tests.clients.test_oras import make_client
from tests.clients.test_regctl import Regctl
from tests.servers import Containers, Docker, ServerError


class Program(Protocol):
    """A client, with the credentials of nobody else. Names are REPOSITORY:TAG; what fails raises ServerError with all that it said."""

    def login(self, name: str, password: str) -> None: ...
    def logout(self) -> None: ...
    def push(self, name: str) -> None: ...
    def pull(self, name: str) -> None: ...


class DockerProgram:
    """docker, with a configuration beside the session's."""

    def __init__(self, hub: Hub, docker: Docker, directory: Path) -> None:
        self._hub, self._docker, self._directory = hub, docker, directory

    def __call__(self, *arguments: str, stdin: bytes = b"") -> str:
        return self._docker("--config", str(self._directory), *arguments, stdin=stdin)

    def login(self, name: str, password: str) -> None:
        self("login", self._hub.address, "-u", name, "--password-stdin", stdin=password.encode())

    def logout(self) -> None:
        self("logout", self._hub.address)

    def push(self, name: str) -> None:
        self("load", stdin=images.docker_archive(images.small(), f"{self._hub.address}/{name}"))
        try:
            self("push", f"{self._hub.address}/{name}")
        finally:
            self("rmi", f"{self._hub.address}/{name}")

    def pull(self, name: str) -> None:
        self("pull", f"{self._hub.address}/{name}")
        self("rmi", f"{self._hub.address}/{name}")


class PodmanProgram:
    """podman or buildah, with a file of credentials beside the session's."""

    def __init__(self, hub: Hub, containers: Containers, directory: Path, program: str) -> None:
        self._hub, self._containers, self._program = hub, containers, program
        self._layout = images.write_layout(directory / "layout", small=images.small())
        self._credentials = f"--authfile={directory / 'auth.json'}"

    def __call__(self, verb: str, *arguments: str, stdin: bytes = b"") -> str:
        return self._containers(self._program, verb, *arguments, stdin=stdin)

    def login(self, name: str, password: str) -> None:
        log_in = ("login", self._credentials, "-u", name, "--password-stdin", self._hub.address)
        self(*log_in, stdin=password.encode())

    def logout(self) -> None:
        self("logout", self._credentials, self._hub.address)

    def push(self, name: str) -> None:
        image = self("pull", "-q", f"oci:{self._layout}:small").strip()
        self("push", self._credentials, image, f"docker://{self._hub.address}/{name}")

    def pull(self, name: str) -> None:
        self("rmi", "--all", "--force")
        self("pull", "-q", self._credentials, f"{self._hub.address}/{name}")


class SkopeoProgram(PodmanProgram):
    """skopeo, which keeps no images."""

    def push(self, name: str) -> None:
        self("copy", self._credentials, f"oci:{self._layout}:small", f"docker://{self._hub.address}/{name}")

    def pull(self, name: str) -> None:
        self("copy", self._credentials, f"docker://{self._hub.address}/{name}", f"oci:{self._layout}:back")


class CraneProgram(Crane):
    def push(self, name: str) -> None:
        self.push_image(images.small(), f"{self._hub.address}/{name}")

    def pull(self, name: str) -> None:
        self("pull", f"{self._hub.address}/{name}", str(self._directory / "pulled.tar"))


class RegctlProgram(Regctl):
    def push(self, name: str) -> None:
        layout = images.write_layout(self._directory / "layout", small=images.small())
        self("image", "copy", f"ocidir://{layout}:small", f"{self._hub.address}/{name}")

    def pull(self, name: str) -> None:
        shutil.rmtree(self._directory / "back", ignore_errors=True)
        self("image", "copy", f"{self._hub.address}/{name}", f"ocidir://{self._directory / 'back'}:back")


class HelmProgram(Helm):
    def push(self, name: str) -> None:
        repository, _, version = name.partition(":")
        project, _, chart = repository.rpartition("/")
        if not (self._directory / f"{chart}-{version}.tgz").exists():
            package(self, self._directory, version, chart)
        self("push", self.reach, f"{chart}-{version}.tgz", f"oci://{self._hub.address}/{project}")

    def pull(self, name: str) -> None:
        repository, _, version = name.partition(":")
        (self._directory / "back").mkdir(exist_ok=True)
        self("pull", self.reach, f"oci://{self._hub.address}/{repository}", "--version", version, "-d", "back")


class CosignProgram(Cosign):
    """What it pushes are signatures, of images that somebody else put there; what it pulls are signatures to be verified."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        super().__init__(hub, directory)
        (directory / "other").mkdir()
        self._other = Crane(hub, directory / "other")
        self._other.login(ADMIN)

    def logout(self) -> None:
        """By crane: cosign has log-in alone."""
        Crane(self._hub, self._directory).logout()

    def push(self, name: str) -> None:
        digest = self._other.push_image(images.small(), f"{self._hub.address}/{name}")
        repository = name.partition(":")[0]
        self("sign", *OFFLINE, "--new-bundle-format=true", f"{self._hub.address}/{repository}@{digest}")

    def pull(self, name: str) -> None:
        self("verify", *VERIFY, "--new-bundle-format=true", f"{self._hub.address}/{name}")


class OrasProgram:
    """oras-py in this process, a new client for each thing that is done."""

    def __init__(self, hub: Hub, directory: Path, patch: pytest.MonkeyPatch, how: str) -> None:
        self._at, self._directory, self._patch, self._how = hub.witness, directory, patch, how
        self._name, self._password = "", ""
        (directory / "payload.txt").write_text("a payload")

    def login(self, name: str, password: str) -> None:
        self._name, self._password = name, password
        self._client()

    def logout(self) -> None:
        """By hand: its own log-out leaves what the log-in has written."""
        (self._directory / ".docker/config.json").unlink()
        self._name = self._password = ""

    def push(self, name: str) -> None:
        with _as_server_error():
            self._client().push(target=f"{self._at.address}/{name}", files=["payload.txt:text/plain"])

    def pull(self, name: str) -> None:
        with _as_server_error():
            self._client().pull(target=f"{self._at.address}/{name}", outdir=str(self._directory / "back"))

    def _client(self) -> oras.client.OrasClient:
        """Without a name by tokens, which it can get for nobody."""
        how = self._how if self._name else "token"
        return make_client(self._at, self._directory, self._patch, self._name, self._password, how=how)


@contextlib.contextmanager
def _as_server_error() -> Iterator[None]:
    """With what it logs, where the registry's words are."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("oras.logger")
    logger.addHandler(handler)
    try:
        yield
    except ValueError as error:
        raise ServerError("\n".join([*said, str(error)])) from error
    finally:
        logger.removeHandler(handler)


@dataclass(frozen=True, slots=True)
class Said:
    """What a client says (regular expressions): to a wrong password, at the log-in or, where it does not ask then, at the push; to an
    account that may not see what it pulls; to nobody."""

    wrong: str
    unseen: str = "tag 1.0.0 is not in the repository"
    nobody: str = "log in to pull in"


WRONG = "the name or the password is wrong"
SAID = {
    "docker": Said(WRONG, nobody="repository does not exist or may require 'docker login'"),
    "podman": Said("invalid username/password"),
    "buildah": Said("invalid username/password"),
    "skopeo": Said("invalid username/password"),
    "crane": Said(WRONG),
    "regctl": Said("failed to ping registry .*: unauthorized", nobody="failed to get manifest .*: unauthorized"),
    "helm": Said(WRONG, unseen="not found"),
    "cosign": Said(WRONG),
    "oras": Said(WRONG),
    "oras-token": Said(""),
}
assert tuple(SAID) == CLIENTS


@dataclass(frozen=True, slots=True)
class Client:
    """A client of the secure hub; ``name`` is its account's, and the end of the names of repositories that are there for it."""

    name: str
    program: Program
    said: Said
    hub: Hub


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Each of them. An administrator has pushed by it what it finds."""
    name: str = request.param
    hub: Hub = request.getfixturevalue("secure_hub")
    directory = tmp_path_factory.mktemp(name)
    with pytest.MonkeyPatch.context() as patch:
        made: dict[str, Callable[[], Program]] = {
            "docker": lambda: DockerProgram(hub, request.getfixturevalue("secure_docker"), directory),
            "podman": lambda: PodmanProgram(hub, request.getfixturevalue("secure_containers"), directory, name),
            "buildah": lambda: PodmanProgram(hub, request.getfixturevalue("secure_containers"), directory, name),
            "skopeo": lambda: SkopeoProgram(hub, request.getfixturevalue("secure_containers"), directory, name),
            "crane": lambda: CraneProgram(hub, directory),
            "regctl": lambda: RegctlProgram(hub, directory),
            "helm": lambda: HelmProgram(hub, directory),
            "cosign": lambda: CosignProgram(hub, directory),
            "oras": lambda: OrasProgram(hub, directory, patch, "basic"),
            "oras-token": lambda: OrasProgram(hub, directory, patch, "token"),
        }
        client = Client(name, made[name](), SAID[name], hub)
        client.program.login(ADMIN, PASSWORD)
        for project in ("shared", "secret", "public"):
            client.program.push(f"{project}/{name}:1.0.0")
        client.program.logout()
        yield client


def test_log_in_push_pull_log_out(client: Client) -> None:
    name = f"{client.name}/{client.name}:1.0.0"
    client.program.login(client.name, PASSWORD)
    client.program.push(name)
    assert wire.digest_of(client.hub.witness, *name.split(":"))
    client.program.pull(name)
    client.program.pull(f"shared/{client.name}:1.0.0")
    client.program.logout()
    with pytest.raises(ServerError, match=client.said.nobody):
        client.program.pull(name)


@pytest.mark.parametrize("client", CLIENTS[:-1], indirect=True)
def test_a_wrong_password(client: Client) -> None:
    """Without oras-py's tokens: it tries again for two minutes, and then says that it cannot respond."""
    with pytest.raises(ServerError, match=client.said.wrong):
        _push_with_a_wrong_password(client)
    with contextlib.suppress(ServerError):  # who asked at the log-in has kept nothing
        client.program.logout()


def _push_with_a_wrong_password(client: Client) -> None:
    client.program.login(client.name, "not the password")
    client.program.push(f"{client.name}/wrong:1.0.0")


def test_a_push_that_is_not_allowed(client: Client) -> None:
    client.program.login(client.name, PASSWORD)
    refused = f"{client.name} may not push in shared/{client.name}: ask an administrator of this hub"
    with pytest.raises(ServerError, match=refused):
        client.program.push(f"shared/{client.name}:2.0.0")
    client.program.logout()
    if client.name != "cosign":  # before which somebody else has put the image there
        assert wire.is_gone(client.hub.witness, f"shared/{client.name}", "2.0.0")


def test_what_may_not_be_seen_is_as_what_is_not_there(client: Client) -> None:
    client.program.login(client.name, PASSWORD)
    said = []
    for project in ("secret", "absent"):
        with pytest.raises(ServerError, match=client.said.unseen) as refused:
            client.program.pull(f"{project}/{client.name}:1.0.0")
        said.append(re.sub(r"time=\S+|request_id\W+\w+", "", str(refused.value)).replace(f"{project}/", "PROJECT/"))
    client.program.logout()
    assert said[0] == said[1]


def test_what_is_public_is_there_for_nobody(client: Client) -> None:
    client.program.pull(f"public/{client.name}:1.0.0")
    with pytest.raises(ServerError, match=client.said.nobody):
        client.program.pull(f"shared/{client.name}:1.0.0")


@pytest.mark.parametrize("hub", ["secure"], indirect=True)
def test_containerd_with_a_name_and_a_password_each_time(hub: Hub, tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    mine, secret = f"{hub.address}/docker/containerd:1", f"{hub.address}/secret/containerd:1"
    good, hosts = ("--user", f"docker:{PASSWORD}"), ("--hosts-dir", "/etc/docker/certs.d")
    with containerd(hub.inside) as ctr:
        for name in (mine, secret):
            archive.write_bytes(images.docker_archive(images.small(), name))
            ctr("import", str(archive))
        for wrong in ((), ("--user", "docker:wrong password"), ("--user", f"nobody:{PASSWORD}")):
            with pytest.raises(ServerError, match=r"(?i)unauthorized|authorization failed|401"):
                ctr("push", *hosts, *wrong, mine)
        with pytest.raises(ServerError, match=r"(?i)denied|forbidden|403|authorization failed"):
            ctr("push", *hosts, *good, secret)
        ctr("push", *hosts, *good, mine)
        ctr("remove", "--sync", mine)
        ctr("pull", "--snapshotter", "native", *hosts, *good, mine)
        assert mine in ctr("list", "--quiet")
