"""A scaled hub: servers without a directory in common, on one PostgreSQL and one bucket, behind nginx that speaks TLS for them."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from storage.postgres import PostgresDatabase
from storage.sql_people import SQLPeople
from tests import nginx, s3
from tests.accounts import PASSWORD
from tests.postgres import Postgres
from tests.scale.collecting import PREFIX
from tests.secure import SecureConnection
from tests.servers import Server, answers, await_start, free_port, run, spawn, start_portside
from tests.tools import tool
from tests.wire.client import SECONDS

SERVERS = 3
ADMIN = "root"
HOST = "127.0.0.1"
OPTIONS = ("--floor", "0", "--trusted-proxy", HOST)


@dataclass(slots=True)
class Scaled:
    """A running one. ``servers``, and what they use, may be killed and started again by whoever has it."""

    directory: Path
    database: str
    """Its URL."""
    service: Server
    """S3."""
    servers: list[Server]
    proxy: Server

    @property
    def address(self) -> str:
        """nginx's."""
        return self.proxy.address

    @property
    def authority(self) -> Path:
        """The certificate that clients have to trust."""
        return self.proxy.root / "ca.pem"

    @property
    def place(self) -> list[str]:
        """The options that say where it is."""
        return _place(self.database, self.service)

    def connect(self, seconds: float = SECONDS) -> SecureConnection:
        """A connection to nginx: each of its requests goes to another server."""
        return SecureConnection(self.address, seconds, self.context())

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority)

    def command(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run ``portside …`` on it, from a directory that has nothing of it; what it prints."""
        empty = ["--root", str(self.directory / "nothing")]
        return run([str(tool("portside")), *arguments, *empty], os.environ | s3.KEYS, stdin=stdin)

    @contextlib.contextmanager
    def people(self) -> Iterator[SQLPeople]:
        """The facts of its people, as another server would have them."""
        database = PostgresDatabase(self.database)
        try:
            yield SQLPeople(database)
        finally:
            database.close()


def _place(database: str, service: Server) -> list[str]:
    return ["--database", database, "--store", f"s3://{s3.BUCKET}/{PREFIX}", "--s3-endpoint", service.url]


@contextlib.contextmanager
def scaled(
    directory: Path, postgres: Postgres, *options: str, kind: str = "versitygw", has_accounts: bool = True
) -> Iterator[Scaled]:
    """Start one. ``options`` are the servers'; ``kind`` of S3. With accounts `ADMIN` is there, by `tests.accounts.PASSWORD`.

    At the end servers that run still have to go by SIGTERM with 0, and no log may have a traceback.
    """
    database = postgres.database("template0")
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(s3.s3_server(kind, _made(directory / "s3")))
        addresses = [f"{HOST}:{free_port()}" for _ in range(SERVERS)]
        proxy = stack.enter_context(_proxy(_made(directory / "nginx"), addresses))
        hub = Scaled(directory, database, service, [], proxy)
        if has_accounts:
            init = ("init", "--admin", ADMIN, "--password-stdin", "--database", database)
            hub.command(*init, stdin=f"{PASSWORD}\n".encode())
        common = [*hub.place, *OPTIONS, "--external-url", f"https://{proxy.address}", *options]

        def start(number: int) -> Server:
            root, port = _made(directory / f"root{number}"), int(addresses[number].rpartition(":")[2])
            return start_portside(root, directory / f"log{number}", *common, port=port, environment=s3.KEYS)

        try:
            for number in range(SERVERS):
                hub.servers.append(start(number))
            yield hub
        except BaseException as error:
            for server in hub.servers:
                error.add_note(f"the log of {server.address} ends:\n{server.tail(15)}")
            raise
        finally:
            codes = [server.terminate() for server in hub.servers if server.process.poll() is None]
            stack.callback(hub.service.kill)  # it may have been started again
        assert set(codes) <= {0}, codes
        for server in hub.servers:
            text = server.log.read_text(errors="replace")
            assert "Traceback" not in text, text[max(text.find("Traceback") - 500, 0) :][:6000]


def restart(server: Server) -> Server:
    """Start a server of a scaled hub again as it was, on its port."""
    command = [str(word) for word in server.process.args]  # type: ignore[union-attr]
    again = Server(server.address, spawn(command[3:], server.log, s3.KEYS), server.log, server.root)
    await_start(again, lambda: answers(server.address))
    return again


@contextlib.contextmanager
def _proxy(directory: Path, servers: Sequence[str]) -> Iterator[Server]:
    port = free_port()
    config = nginx.configure(directory, HOST, servers, port)
    log = directory / "log"
    command = [str(tool("nginx")), "-p", str(directory), "-c", str(config)]
    server = Server(f"{HOST}:{port}", spawn(command, log), log, directory)
    try:
        yield server
    finally:
        server.terminate()


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory
