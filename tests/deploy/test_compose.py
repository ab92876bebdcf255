"""What a user deploys: the Dockerfile and docker-compose.yml, by a real Docker and the real ``docker compose``, as the README says."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import images, servers
from tests.clients.machine import NAME, Machine, machine
from tests.deploy import standins
from tests.servers import Docker, ServerError
from tests.tools import tool

ROOT = Path(__file__).parents[2]
HUB = ("oci", "storage", "auth", "remote", "registry", "runtime", "cli")
FILES = ("Dockerfile", ".dockerignore", "docker-compose.yml", "pyproject.toml", "LICENSE", "README.md", "deploy", *HUB)
"""What a clone has of which the deployment is made."""
BUILD = "docker compose build"
ON_THIS_NETWORK = "services: {accounts: {build: {network: host}}}\n"
"""apt and pip get their packages by the machine's own network: the tests' daemons have none for containers that are built."""

pytestmark = pytest.mark.timeout(1800)  # the first time of all, when there are no images yet


def commands() -> tuple[str, str, str]:
    """The README's: what comes before the image is built, that, and what comes after."""
    (block,) = re.findall(r"^```sh compose\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert isinstance(block, str)
    before, build, after = block.partition(f"{BUILD}\n")
    return before, build, after


def block(name: str) -> str:
    """The commands of docs/deploy.md that are marked so, all of them in order."""
    page = (ROOT / "docs/deploy.md").read_text()
    return "".join(
        re.findall(rf"^```{name if name == 'sh' else f'sh {name}'}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    )


@dataclass(frozen=True, slots=True)
class Deployed:
    """A clone, the machine that it is deployed on, which is its own client, too, and the machine's Docker."""

    place: Path
    machine: Machine
    docker: Docker
    password: str

    def run(self, script: str, stdin: bytes = b"") -> str:
        """Lines of shell, typed in the clone; their standard output."""
        return self.machine(*shell(self.place, script), environment=self.docker.environment(), stdin=stdin)

    def curl(self, path: str, *options: str) -> str:
        return self.machine(
            tool("curl"), "-sS", "--cacert", self.place / "deploy/tls/hub.crt", *options, f"https://{NAME}{path}"
        )

    def push(self, name: str) -> str:
        """A small image of that name, from Docker; its config's digest."""
        content = images.small(name)
        reference = f"{NAME}/team/{name}:1"
        self.docker("load", stdin=images.docker_archive(content, reference))
        self.docker("push", reference)
        self.docker("rmi", reference)
        digest: str = content.json["config"]["digest"]
        return digest

    def pull(self, name: str) -> str:
        """Have Docker pull it anew; its config's digest."""
        reference = f"{NAME}/team/{name}:1"
        self.docker("pull", "--quiet", reference)
        digest = self.docker("images", "--quiet", "--no-trunc", reference).strip()
        self.docker("rmi", reference)
        return digest


def shell(place: Path, script: str) -> list[str | Path]:
    return [tool("env"), "-C", place, tool("bash"), "-euo", "pipefail", "-c", script]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone, prepared as the README says; the images, too, which Docker keeps."""
    place = tmp_path_factory.mktemp("portside")
    for name in FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, place / name)
    before, build, _ = commands()
    override = place / "network.yml"
    override.write_text(ON_THIS_NETWORK)
    with standins.daemon() as docker:
        standins.make(docker)
        environment = docker.environment()
        servers.run(list(map(str, shell(place, before))), environment)
        environment["COMPOSE_FILE"] = f"docker-compose.yml:{override}"
        servers.run(list(map(str, shell(place, build))), environment, seconds=standins.BUILD_SECONDS)
    return place


@pytest.fixture(scope="module")
def deployed(built: Path) -> Iterator[Deployed]:
    """It runs, and this machine's Docker is logged in as its administrator."""
    _, _, after = commands()
    init, up = after.strip().splitlines()
    with machine() as on, standins.daemon("--iptables=true", "--ip-masq=true", inside=on.inside) as docker:
        on("mkdir", "-p", f"/etc/docker/certs.d/{NAME}")
        on("cp", built / "deploy/tls/hub.crt", f"/etc/docker/certs.d/{NAME}/ca.crt")
        before = Deployed(built, on, docker, "")
        with pytest.raises(ServerError, match="accounts"):
            before.run(up)  # nobody is served as long as everybody would be
        password = before.run(init).strip()
        try:
            before.run(up)
            docker("login", "--username", "ann", "--password-stdin", NAME, stdin=password.encode())
            yield Deployed(built, on, docker, password)
        except BaseException as error:
            error.add_note(before.run("docker compose ps --all; docker compose logs --tail 30"))
            raise
        finally:
            before.run("docker compose down --volumes")
        assert not docker("volume", "ls", "--quiet")


def test_what_is_pushed_can_be_pulled(deployed: Deployed) -> None:
    pushed = deployed.push("first")
    assert deployed.pull("first") == pushed
    assert deployed.curl("/healthz", "-o", "/dev/null", "-w", "%{http_code}") == "200"


def test_log_in_is_at_the_url_of_env(deployed: Deployed) -> None:
    said = deployed.curl("/v2/", "-I", "-H", "X-Forwarded-Host: evil.example")
    assert f'realm="https://{NAME}/auth/token"' in said


def test_the_trail_does_not_name_nginx(deployed: Deployed) -> None:
    """Clients of the same machine come from the gateway of nginx's other network."""
    deployed.curl("/v2/", "--user", "stranger:wrong password", "-o", "/dev/null")

    def addresses() -> set[str]:
        said = deployed.run("docker compose exec -T portside-1 portside audit --since 1h --json")
        return {one["address"] for one in map(json.loads, said.splitlines()) if one["who"] == "stranger"}

    servers.wait_until(lambda: bool(addresses()), "the trail has the log-in", 20)
    (address,) = addresses()
    assert ipaddress.ip_address(address) not in ipaddress.ip_network("10.200.77.0/24")


def test_a_hub_is_killed(deployed: Deployed) -> None:
    """Both have served before, and the other one goes on at once."""
    for hub in ("portside-1", "portside-2"):
        assert '"status": 20' in deployed.run(f"docker compose logs --no-log-prefix {hub}")
    deployed.run("docker compose kill portside-1")
    for name in ("alone", "again"):
        pushed = deployed.push(name)
        assert deployed.pull(name) == pushed
    running = deployed.run("docker compose ps --services --status running").split()
    assert running == ["nginx", "portside-2", "postgres", "s3"]
    deployed.run("docker compose start portside-1")


def test_all_is_started_again(deployed: Deployed) -> None:
    pushed = deployed.push("kept")
    deployed.run("docker compose restart")
    servers.wait_until(lambda: answers_again(deployed), "the hubs are back")
    assert deployed.pull("kept") == pushed


def test_the_page_and_its_copies(deployed: Deployed) -> None:
    """What docs/deploy.md says; then the volumes, which stayed, are lost, and come back from the copies."""
    pushed = deployed.push("copied")
    deployed.run(block("sh"))
    deployed.run(block("away"))
    assert not deployed.docker("ps", "--all", "--quiet")
    deployed.docker("volume", "rm", "portside_postgres", "portside_s3")
    deployed.run(block("restore"))
    deployed.docker("login", "--username", "ann", "--password-stdin", NAME, stdin=deployed.password.encode())
    assert deployed.pull("copied") == pushed
    assert "bob" in deployed.run("docker compose exec -T portside-2 portside user ls")
    deployed.push("after")


def test_a_new_version(deployed: Deployed) -> None:
    """The hubs are replaced, and whoever asks meanwhile is answered."""
    before = deployed.run("docker compose ps --quiet portside-1 portside-2").split()
    deployed.docker("build", "--tag", "portside", "-", stdin=b"FROM portside\nLABEL version=next\n")
    curl = f"curl -s --cacert deploy/tls/hub.crt -o /dev/null -w '%{{http_code}}\\n' https://{NAME}/v2/"
    asking = shell(deployed.place, f"while read -r -t 0.2 || [ $? -gt 128 ]; do {curl} || true; done")
    command = [*deployed.machine.inside, *map(str, asking)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        try:
            deployed.run(block("new"))
        finally:
            said, _ = client.communicate(timeout=60)
    after = deployed.run("docker compose ps --quiet portside-1 portside-2").split()
    assert len(after) == 2
    assert not set(before) & set(after)
    assert len(said.split()) > 10
    assert set(said.split()) == {b"401"}


def test_a_hub_without_its_database_is_not_healthy(deployed: Deployed) -> None:
    (hub,) = json.loads(deployed.docker("inspect", *deployed.run("docker compose ps --quiet portside-1").split()))
    assert hub["State"]["Health"]["Status"] == "healthy"
    kind, *command = hub["Config"]["Healthcheck"]["Test"]
    assert kind == "CMD"
    deployed.run("docker compose stop postgres")
    with pytest.raises(ServerError, match=r"HTTP Error 503|timed out"):  # of a name that is gone DNS may say so late
        deployed.docker("exec", hub["Id"], *command)
    deployed.run("docker compose up --detach --wait postgres")
    servers.wait_until(lambda: answers_again(deployed), "the hubs have found it again")


def answers_again(deployed: Deployed) -> bool:
    return deployed.curl("/healthz", "-o", "/dev/null", "-w", "%{http_code}") == "200"


def test_containers_may_do_little(deployed: Deployed) -> None:
    published = set()
    for container in json.loads(deployed.docker("inspect", *deployed.docker("ps", "--all", "--quiet").split())):
        service, host = container["Config"]["Labels"]["com.docker.compose.service"], container["HostConfig"]
        assert host["CapDrop"] == ["ALL"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
        assert host["ReadonlyRootfs"], service
        added = {name.removeprefix("CAP_") for name in host["CapAdd"] or []}
        assert added <= {"CHOWN", "DAC_OVERRIDE", "FOWNER", "NET_BIND_SERVICE", "SETGID", "SETUID"}, service
        if host["PortBindings"]:
            published.add(service)
    assert published == {"nginx"}


def test_the_image(deployed: Deployed) -> None:
    """It runs as nobody in particular, with nothing to build with, and is not large."""
    look = "id -u; command -v cc gcc g++ make pip || echo nothing; touch /opt/portside/x /var/lib/portside/x || echo no"
    hub = "docker compose exec -T portside-1 sh -c"
    assert deployed.run(f"{hub} '{look}' 2>/dev/null").split() == ["5000", "nothing", "no"]
    (image,) = json.loads(deployed.docker("image", "inspect", "portside"))
    assert image["Size"] < 240_000_000
    assert image["Config"]["Entrypoint"] == ["portside"]
    assert image["Config"]["Cmd"] == ["serve"]


@pytest.mark.parametrize("name", ["PORTSIDE_URL", "POSTGRES_PASSWORD", "S3_SECRET_KEY"])
def test_nothing_starts_without_a_setting(name: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    lines = (ROOT / "deploy/env.example").read_text().splitlines()
    (tmp_path / ".env").write_text("".join(f"{line}x\n" for line in lines if not line.startswith(f"{name}=")))
    config = [str(tool("docker-compose")), "config", "--quiet"]
    with pytest.raises(ServerError, match=rf"required variable {name} is missing a value: is not set. Make .env from"):
        servers.run(config, cwd=tmp_path)
    (tmp_path / ".env").write_text("".join(f"{line}x\n" for line in lines))
    servers.run(config, cwd=tmp_path)


def test_the_example_has_no_password() -> None:
    """A copy that nobody filled in starts nothing."""
    settings = re.findall(r"^(\w+)=(.*)$", (ROOT / "deploy/env.example").read_text(), re.MULTILINE)
    assert settings == [("PORTSIDE_URL", "https://hub.lan"), ("POSTGRES_PASSWORD", ""), ("S3_SECRET_KEY", "")]
