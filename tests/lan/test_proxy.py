"""A hub behind nginx, as `docs/proxy.md` says. TLS ends there, clients are on other machines, each is known by its own address."""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest

from tests import images, servers
from tests.clients.machine import NAME, Machine
from tests.lan.network import ADDRESSES, at_a_terminal, network
from tests.nginx import block, configure
from tests.servers import ServerError
from tests.tools import SYSTEM_PATH, tool

_, FIRST, SECOND = ADDRESSES
PASSWORD = "correct horse battery"
LAYER = 50
"""Megabytes of a large image's layer."""


@dataclass(frozen=True, slots=True)
class Proxied:
    """A hub with an account, bob, nginx before it on the same machine, and two more machines that trust its certificate."""

    server: Machine
    root: Path
    one: Machine
    two: Machine
    access: Path
    """nginx's log, a line of protocol, method, status and path for each request."""

    def audit(self) -> list[dict[str, object]]:
        said = self.server(tool("portside"), "audit", "--root", self.root, "--json")
        return [json.loads(line) for line in said.splitlines()]

    def curl(self, on: Machine, *arguments: str) -> str:
        trusted = f"/etc/docker/certs.d/{NAME}/ca.crt"
        return on(tool("curl"), "-sS", "--cacert", trusted, *arguments)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    directory = tmp_path_factory.mktemp("proxied")
    root, config = directory / "hub", configure(directory, NAME)
    program, *options = shlex.split(block("sh"))
    assert program == "portside"
    serve = [str(root) if option == "/srv/hub" else option for option in options]
    with network() as (server, one, two):
        for command, stdin in (("init --admin ann", "ann's password"), ("user add bob", PASSWORD)):
            words = [*command.split(), "--password-stdin", "--root", str(root)]
            server(tool("portside"), *words, stdin=f"{stdin}\n".encode())
        server(tool("portside"), "grant", "bob", "*", "pull,push", "--root", root)
        for client in (one, two):
            for place in ("docker", "containers"):
                trusted = f"/etc/{place}/certs.d/{NAME}"
                client("mkdir", "-p", trusted)
                client("cp", directory / "ca.pem", f"{trusted}/ca.crt")
        with (
            at_a_terminal(*server.inside, tool("portside"), *serve, "--floor", "0"),
            at_a_terminal(*server.inside, tool("nginx"), "-p", directory, "-c", config),
        ):
            hub = Proxied(server, root, one, two, directory / "access")
            servers.wait_until(lambda: status_of(hub) == "401", "the hub answers through nginx")
            yield hub


def status_of(hub: Proxied) -> str:
    try:
        return hub.curl(hub.one, "-o", "/dev/null", "-w", "%{http_code}", f"https://{NAME}/v2/")
    except ServerError:
        return ""


def test_docker_and_podman(proxied: Proxied) -> None:
    """Each logs in, and pulls what the other pushed."""
    reference, back = f"{NAME}/proxy/docker:1", f"{NAME}/proxy/podman:1"
    log_in = ("login", "--username", "bob", "--password-stdin", NAME)
    content, other = images.large(LAYER), images.small()
    with servers.dockerd(inside=proxied.one.inside) as docker, servers.containers(inside=proxied.two.inside) as around:
        podman = functools.partial(around, "podman")
        assert "Login Succeeded" in docker(*log_in, stdin=PASSWORD.encode())
        assert "Login Succeeded" in podman(*log_in, stdin=PASSWORD.encode())
        docker("load", stdin=images.docker_archive(content, reference))
        docker("push", reference)
        assert podman("pull", "--quiet", reference).strip() == content.json["config"]["digest"].partition(":")[2]
        podman("load", stdin=images.docker_archive(other, back))
        podman("push", back)
        docker("pull", "--quiet", back)
        assert docker("images", "--quiet", "--no-trunc", back).strip() == other.json["config"]["digest"]
    found = {(one["who"], one["kind"], one["address"]) for one in proxied.audit() if one["is_success"]}
    for address in (FIRST, SECOND):
        assert {("bob", "login", address), ("bob", "push", address)} <= found


def test_crane_over_http_2(proxied: Proxied, tmp_path: Path) -> None:
    environment = {
        "PATH": SYSTEM_PATH,
        "DOCKER_CONFIG": str(tmp_path / "config"),
        "SSL_CERT_FILE": f"/etc/docker/certs.d/{NAME}/ca.crt",
    }

    def crane(*arguments: str | Path, stdin: bytes = b"") -> str:
        return proxied.one(tool("crane"), *arguments, environment=environment, stdin=stdin)

    content, reference = images.large(LAYER, seed=9), f"{NAME}/proxy/crane:1"
    crane("auth", "login", NAME, "--username", "bob", "--password-stdin", stdin=PASSWORD.encode())
    crane("push", images.write_layout(tmp_path / "layout", large=content), reference)
    assert crane("digest", reference).strip() == content.digest
    crane("pull", "--format", "oci", reference, tmp_path / "pulled")
    for digest, data in content.blobs.items():
        assert (tmp_path / "pulled/blobs" / digest.replace(":", "/")).read_bytes() == data
    lines = [line for line in proxied.access.read_text().splitlines() if "/proxy/crane/" in line]
    assert any(line.startswith("HTTP/2.0 PATCH 202 ") for line in lines), lines
    assert all(line.startswith("HTTP/2.0 ") for line in lines), lines


def test_curl_gets_a_manifest_over_http_2(proxied: Proxied) -> None:
    base = f"https://{NAME}/v2/proxy/curl"
    log_in = ("--user", f"bob:{PASSWORD}")
    content = images.small()
    for digest, data in content.blobs.items():
        if digest != content.digest:
            put(proxied, f"{base}/blobs/uploads/?digest={digest}", "POST", data)
    put(proxied, f"{base}/manifests/1", "PUT", content.raw, images.OCI_MANIFEST)
    said = proxied.curl(
        proxied.one, "--http2", *log_in, "-w", "%{stderr}%{http_version} %{http_code}", f"{base}/manifests/1"
    )
    assert said.encode() == content.raw
    seen = proxied.curl(
        proxied.one, "--http2", *log_in, "-o", "/dev/null", "-w", "%{http_version} %{http_code}", f"{base}/manifests/1"
    )
    assert seen == "2 200"


def put(proxied: Proxied, url: str, method: str, data: bytes, media_type: str = "application/octet-stream") -> None:
    command = [str(tool("curl")), "-sS", "--cacert", f"/etc/docker/certs.d/{NAME}/ca.crt", "--user", f"bob:{PASSWORD}"]
    command += ["-X", method, "--data-binary", "@-", "-H", f"content-type: {media_type}", "-w", "%{http_code}", url]
    assert proxied.one(*command, stdin=data).endswith("201")


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
def test_realm_and_locations_lead_to_nginx(proxied: Proxied, protocol: str) -> None:
    said = proxied.curl(proxied.one, protocol, "-I", f"https://{NAME}/v2/")
    assert f'www-authenticate: bearer realm="https://{NAME}/auth/token",service="portside"' in said.lower()
    base = f"https://{NAME}/v2/proxy/locations/blobs/uploads/"
    log_in = ("--user", f"bob:{PASSWORD}")
    said = proxied.curl(proxied.one, protocol, *log_in, "-D", "-", "-X", "POST", base)
    (location,) = re.findall(r"^location: (\S+)\r?$", said, re.MULTILINE | re.IGNORECASE)
    upload = urljoin(base, location)
    assert urlsplit(upload)[:2] == ("https", NAME)
    assert proxied.curl(proxied.one, protocol, *log_in, "-o", "/dev/null", "-w", "%{http_code}", upload) == "204"


def test_the_trail_names_the_client_whatever_it_says_of_itself(proxied: Proxied) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Real-IP": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    headers = [word for name, value in forged.items() for word in ("-H", f"{name}: {value}")]
    for _ in range(2):
        proxied.curl(proxied.two, *headers, "--user", "forger:wrong password", "-o", "/dev/null", f"https://{NAME}/v2/")

    def addresses() -> set[object]:
        return {one["address"] for one in proxied.audit() if one["who"] == "forger"}

    servers.wait_until(lambda: bool(addresses()), "the trail has the log-in", 10)
    assert addresses() == {SECOND}


def test_the_scheme_and_host_that_a_client_forges_do_not_count(proxied: Proxied) -> None:
    forged = ("-H", "X-Forwarded-Proto: http", "-H", "X-Forwarded-Host: evil.example")
    said = proxied.curl(proxied.two, *forged, "-D", "-", f"https://{NAME}/v2/")
    assert f'realm="https://{NAME}/auth/token"' in said
    assert "evil" not in said


def test_what_is_pushed_goes_on_at_once(proxied: Proxied) -> None:
    """Half of a body is in the hub while the client holds the other half back: nginx does not gather it first."""
    half = images.noise(4_000_000)
    url = f"https://{NAME}/v2/proxy/half/blobs/uploads/?digest={images.sha256(half + half)}"
    command = [*proxied.one.inside, str(tool("curl")), "-sS", "--cacert", f"/etc/docker/certs.d/{NAME}/ca.crt"]
    command += ["--user", f"bob:{PASSWORD}", "-X", "POST", "-T", "-", "-o", "/dev/null", "-w", "%{http_code}", url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        client.stdin.write(half)
        client.stdin.flush()

        def has_come() -> bool:
            files = [path for path in (proxied.root / "uploads").rglob("*") if path.is_file()]
            return sum(path.stat().st_size for path in files) > len(half) // 2

        servers.wait_until(has_come, "half of the body is in the hub", 30)
        said, _ = client.communicate(half, timeout=60)
    assert said == b"201"
