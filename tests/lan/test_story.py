"""The story of a hub on a LAN, from the first command on the server to who is cut off: three machines, real clients, as it is typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import images, servers
from tests.clients.machine import NAME, Machine
from tests.lan.network import ADDRESSES, Terminal, at_a_terminal, network
from tests.servers import Containers, Docker, ServerError, run
from tests.tools import SYSTEM_PATH, tool

HOME = Path(__file__).parents[2]
HUB = f"{NAME}:5000"
IMAGE = f"{HUB}/team/app:1"
WORKERS = 2
WITHIN = 5.0
"""Seconds in which who is cut off has to be refused everywhere."""
UNTRUSTED = "certificate signed by unknown authority"
ANN, BOB, EVE = "the-first-admin-s", "bob-s-own-password", "eve-s-own-password"


@dataclass(frozen=True, slots=True)
class LAN:
    """The server's machine with its root, and two clients': one has Docker, the other podman."""

    server: Machine
    root: Path
    one: Machine
    docker: Docker
    two: Machine
    containers: Containers

    def portside(self, verb: str, *arguments: str, stdin: str = "") -> str:
        """A command on the server's machine."""
        command = [*verb.split(), "--root", str(self.root), *arguments]
        return self.server(tool("portside"), *command, stdin=f"{stdin}\n".encode())

    def podman(self, *arguments: str, stdin: str = "") -> str:
        return self.containers("podman", *arguments, stdin=f"{stdin}\n".encode())


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[LAN]:
    with (
        network() as (server, one, two),
        servers.dockerd(inside=one.inside) as docker,
        servers.containers(inside=two.inside) as containers,
    ):
        yield LAN(server, tmp_path / "hub", one, docker, two, containers)


def test_the_whole_story(lan: LAN) -> None:
    _make_accounts(lan)
    serve = ("serve", "--root", lan.root, "--listen", "0.0.0.0:5000", "--tls", "auto", "--name", NAME)
    more = ("--workers", str(WORKERS), "--floor", "0")
    with at_a_terminal(*lan.server.inside, tool("portside"), *serve, *more) as terminal:
        servers.wait_until(lambda: "portside run" in terminal.text(), "the banner is there")
        _await_workers(lan)
        digest = _push_from_the_first(lan, terminal)
        _pull_from_the_second(lan, terminal)
        _cut_off(lan)
        _read_the_trail(lan, digest)


def _make_accounts(lan: LAN) -> None:
    lan.portside("init", "--admin", "ann", "--password-stdin", stdin=ANN)
    for name, password in (("bob", BOB), ("eve", EVE)):
        lan.portside("user add", name, "--password-stdin", stdin=password)
    lan.portside("grant", "bob", "team/*", "pull,push")
    lan.portside("grant", "eve", "team/*", "pull")


def _await_workers(lan: LAN) -> None:
    def is_up() -> bool:
        status = lan.server(tool("curl"), "-sk", "-o", "/dev/null", "-w", "%{http_code}", f"https://{HUB}/v2/")
        return status == "401"

    servers.wait_until(is_up, "the hub answers")


def _push_from_the_first(lan: LAN, terminal: Terminal) -> str:
    """On a machine without Portside: the line that the hub printed is pasted into a shell. The digest that was pushed."""
    docker = lan.docker
    log_in = ("login", "--username", "bob", "--password-stdin", HUB)
    with pytest.raises(ServerError, match=UNTRUSTED):
        docker(*log_in, stdin=BOB.encode())
    (line,) = re.findall(r"^  (sh -c .*)$", terminal.text(), re.MULTILINE)
    said = lan.one(tool("sh"), stdin=f"{line}\n".encode(), environment={"PATH": SYSTEM_PATH})
    assert f"{HUB} is trusted. Now: docker login {HUB}" in said
    with pytest.raises(ServerError, match="the name or the password is wrong"):
        docker(*log_in, stdin=EVE.encode())
    assert "Login Succeeded" in docker(*log_in, stdin=BOB.encode())
    docker("load", stdin=images.docker_archive(images.small(), IMAGE))
    pushed = re.search(r"digest: (sha256:[0-9a-f]{64})", docker("push", IMAGE))
    assert pushed
    docker("tag", IMAGE, f"{HUB}/other/app:1")
    with pytest.raises(ServerError, match="denied: bob may not push in other/app"):
        docker("push", f"{HUB}/other/app:1")
    return pushed[1]


def _pull_from_the_second(lan: LAN, terminal: Terminal) -> None:
    """On a machine with Portside: by the command that the hub printed."""
    log_in = ("login", "--username", "eve", "--password-stdin", HUB)
    with pytest.raises(ServerError, match=UNTRUSTED):
        lan.podman(*log_in, stdin=EVE)
    (command,) = re.findall(r"^  portside (trust .*)$", terminal.text(), re.MULTILINE)
    assert f"{HUB} is trusted" in lan.two(tool("portside"), *command.split())
    with pytest.raises(ServerError, match="unauthorized: log in to pull in team/app"):
        lan.podman("pull", IMAGE)
    assert "Login Succeeded" in lan.podman(*log_in, stdin=EVE)
    lan.podman("pull", IMAGE)
    with pytest.raises(ServerError, match="denied: eve may not push in team/app: ask an administrator of this hub"):
        lan.podman("push", IMAGE)
    lan.podman("rmi", IMAGE)


def _cut_off(lan: LAN) -> None:
    """Whoever loses a right, or the account, is refused by every worker, also with the token from before."""
    _is_cut_off(lan, "revoke", "eve", "team/*", "pull", status=404, said_to_podman="manifest unknown")
    lan.portside("grant", "eve", "team/*", "pull")
    lan.podman("pull", IMAGE)
    _is_cut_off(lan, "user disable", "eve", status=401, said_to_podman="unauthorized")
    with pytest.raises(ServerError, match="invalid username/password"):
        lan.podman("login", "--username", "eve", "--password-stdin", HUB, stdin=EVE)
    lan.docker("rmi", IMAGE)
    lan.docker("pull", IMAGE)  # by bob, whose rights are what they were


def _is_cut_off(lan: LAN, verb: str, *arguments: str, status: int, said_to_podman: str) -> None:
    with _watching(lan) as client:
        before = time.monotonic()
        lan.portside(verb, *arguments)
        after = time.monotonic()
        said, _ = client.communicate(timeout=60)
    refused = json.loads(said)
    assert len(refused) == 2 * WORKERS, refused
    for name, (found, at) in refused.items():
        assert found == status, (name, found)
        assert before < at < after + WITHIN, (name, at - after)
    with pytest.raises(ServerError, match=said_to_podman):
        lan.podman("pull", IMAGE)


def _watching(lan: LAN) -> subprocess.Popen[bytes]:
    """`tests.lan.watching` as eve on the second client, when it is at it."""
    authority = f"/etc/containers/certs.d/{HUB}/ca.crt"
    command = [sys.executable, "-m", "tests.lan.watching", HUB, authority, "/v2/team/app/manifests/1"]
    client = subprocess.Popen(
        [*lan.two.inside, *command, "repository:team/app:pull", str(WORKERS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=HOME,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(f"eve:{EVE}\n".encode())
    client.stdin.flush()
    assert client.stdout.readline() == b"watching\n"
    return client


def _read_the_trail(lan: LAN, digest: str) -> None:
    """Who did what from where, in the order of the story; the servers write it down a few times a second."""
    _, first, second = ADDRESSES
    story = [
        ("local", "", "account", "user:ann", True),
        ("local", "", "account", "user:bob", True),
        ("local", "", "account", "user:eve", True),
        ("local", "", "grant", "grant team/*", True),
        ("bob", first, "login", "user:bob", False),
        ("bob", first, "login", "user:bob", True),
        ("bob", first, "push", f"team/app@{digest}", True),
        ("bob", first, "denied", "push other/app", False),
        ("eve", second, "login", "user:eve", True),
        ("eve", second, "denied", "push team/app", False),
        ("local", "", "grant", "grant team/*", True),
        ("eve", second, "denied", "pull team/app", False),
        ("local", "", "account", "user:eve", True),
        ("eve", second, "login", "user:eve", False),
    ]

    def untold() -> list[tuple[str, str, str, str, bool]]:
        records = [json.loads(line) for line in lan.portside("audit", "--since", "1h", "--json").splitlines()]
        assert all(one["request_id"] for one in records if one["address"])
        left = list(story)
        for one in sorted(records, key=lambda one: one["at"]):
            if left and left[0] == (one["who"], one["address"], one["kind"], one["subject"], one["is_success"]):
                left.pop(0)
        return left

    servers.wait_until(lambda: not untold(), "the trail tells the story", 10)


@pytest.mark.parametrize(
    ("has_accounts", "has_tls", "dangers", "safe"),
    [
        (False, False, "no accounts: .*, and no TLS: .*", "portside init --root {root} --admin NAME, then {serve}"),
        (False, True, "no accounts: .*", "portside init --root {root} --admin NAME, then this command again"),
        (True, False, "no TLS: .*", "{serve}"),
    ],
)
def test_others_are_not_served_in_the_open(
    tmp_path: Path, has_accounts: bool, has_tls: bool, dangers: str, safe: str
) -> None:
    root = tmp_path / "the hub"
    if has_accounts:
        run([str(tool("portside")), "init", "--root", str(root), "--admin", "ann"])
    with pytest.raises(ServerError) as caught:
        run(
            [
                str(tool("portside")),
                "serve",
                "--root",
                str(root),
                "--listen",
                "0.0.0.0:0",
                *(["--tls", "auto"] if has_tls else []),
            ]
        )
    first, second, *ways = str(caught.value).strip().splitlines()[-5:]
    said = re.fullmatch(
        rf"portside: (0\.0\.0\.0:\d+) can be reached from other machines, and this hub has {dangers}\.", first
    )
    assert said, first
    assert second == "Three ways forward:"
    serve = f"portside serve --root '{root}' --listen {said[1]} --tls auto --name THIS-HOSTS-NAME"
    assert ways[0] == "  1. " + safe.format(root=f"'{root}'", serve=serve)
    assert re.match(r"  2\. --listen 127\.0\.0\.1:\d+, behind a reverse proxy that speaks TLS: --external-url", ways[1])
    assert ways[2].startswith("  3. --insecure-open, where everybody on the network may do and see everything")
