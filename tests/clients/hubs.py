"""The hubs that clients are tested against.

One is open to all over plain HTTP, one has TLS and accounts on a machine of its own, and one is many servers with accounts behind nginx.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from auth.authority import Authority
from auth.rights import PERSONAL_SETTING
from storage.sql_people import SQLPeople
from tests import servers
from tests.accounts import BY, PASSWORD, add, make, people_of, rule
from tests.clients import wire
from tests.clients.machine import NAME, machine
from tests.clients.wire import Witness
from tests.postgres import Postgres
from tests.scale.hub import scaled
from tests.servers import ServerError, run
from tests.tools import tool

PORT = 5000
ADMIN = "root"
USER = "ann"
"""Who may pull, push and delete everywhere, and is no administrator."""
CLIENTS = ("docker", "podman", "buildah", "skopeo", "crane", "regctl", "helm", "cosign", "oras", "oras-token")
"""Accounts, one for each way that a client logs in: each owns what is below its name, may pull ``shared/*``, and sees no ``secret/*``."""


EVERY_HUB = pytest.mark.parametrize("hub", ["open", "secure", "scaled"], indirect=True)
"""What a test that is to run against many servers, too, is marked with."""


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub as its clients reach it. ``address``: HOST:PORT, as images of it are named.

    ``witness``: where the tests themselves look at what it holds, and what in-process clients reach it by: another server of the same root.
    ``authority``: the certificate that clients have to trust; None where the hub speaks plain HTTP and has no accounts.
    ``inside``: what comes before a client's command; ``environment``: what there is in it beside the client's own.
    """

    address: str
    witness: Witness
    authority: Path | None = None
    inside: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def tls_verify(self) -> str:
        """How podman, buildah and skopeo are told of plain HTTP, or, as is their default, of TLS."""
        return "--tls-verify=true" if self.authority else "--tls-verify=false"

    def run(self, program: str, *arguments: str, environment: Mapping[str, str], cwd: Path, stdin: bytes = b"") -> str:
        """Run a client in a directory to its end; its standard output. ServerError with all that it said when it fails."""
        there = [str(tool("env")), "-C", str(cwd)]  # entering another mount namespace leaves the directory
        command = [*self.inside, *there, str(tool(program)), *arguments]
        return run(command, {**environment, **self.environment}, stdin=stdin)


@contextlib.contextmanager
def secure_hub(directory: Path) -> Iterator[Hub]:
    """``portside serve --tls auto`` with accounts, by a name, on a machine whose clients were told by ``portside trust`` to trust it."""
    root = directory / "root"
    _make_accounts(root)
    options = ("--tls", "auto", "--name", NAME, "--floor", "0")
    authority = root / "tls/ca.pem"
    with machine() as here:

        def answers_there(_: str) -> bool:
            with contextlib.suppress(ServerError):
                url = f"https://{NAME}:{PORT}/v2/"
                asked = here(tool("curl"), "-sS", "--cacert", authority, "-o", "/dev/null", "-w", "%{http_code}", url)
                return asked == "401"
            return False

        def answers_here(address: str) -> bool:
            with contextlib.suppress(OSError):
                return wire.ask(Witness(address, authority=authority), "GET", "/v2/").status == 401
            return False

        with (
            servers.portside(
                root,
                *options,
                host="0.0.0.0",
                port=PORT,
                inside=here.inside,
                is_up=answers_there,
                log=directory / "log",
            ),
            servers.portside(root, *options, is_up=answers_here) as beside,
        ):
            fingerprint = Authority(root, ()).read().fingerprint
            here(tool("portside"), "trust", f"{NAME}:{PORT}", "--fingerprint", str(fingerprint))
            witness = Witness(beside.address, f"{ADMIN}:{PASSWORD}", authority)
            yield Hub(f"{NAME}:{PORT}", witness, authority, here.inside)


@contextlib.contextmanager
def scaled_hub(directory: Path, postgres: Postgres, *options: str, kind: str = "versitygw") -> Iterator[Hub]:
    """Three servers of one PostgreSQL and one bucket behind nginx, on the loopback, where Docker takes any certificate.

    All other clients look at it, as programs in Go do by SSL_CERT_FILE. ``kind``: of S3.
    """
    with scaled(directory, postgres, *options, kind=kind) as running:
        with running.people() as people:
            add(people, USER, *CLIENTS)
            _make_rules(people)
        witness = Witness(running.address, f"{ADMIN}:{PASSWORD}", running.authority)
        trusting = {"SSL_CERT_FILE": str(running.authority)}
        yield Hub(running.address, witness, running.authority, environment=trusting)


def _make_accounts(root: Path) -> None:
    with people_of(root) as people:
        make(people, USER, *CLIENTS, admin=ADMIN)
        _make_rules(people)


def _make_rules(people: SQLPeople) -> None:
    rule(people, USER, "*", "pull,push,delete")
    people.set_setting(PERSONAL_SETTING, "on", BY)
    people.add_group("clients", BY)
    for client in CLIENTS:
        people.set_member("clients", client, True, BY)
    rule(people, "group:clients", "shared/*", "pull")
    rule(people, "everyone", "public/*", "pull")
