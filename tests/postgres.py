"""PostgreSQL for the tests: Debian's own server on a socket in a directory of its own, one fresh database for each test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from storage.postgres import PostgresDatabase
from tests.servers import ServerError, run, wait_until
from tests.tools import MissingToolError, tool

PROGRAMS = Path("/usr/lib/postgresql")
TEMPLATE = "portside_template"


@dataclass(slots=True)
class Postgres:
    """A server, which `start`, `stop` and whoever asks for `database` may do as they like with. One test at a time."""

    directory: Path
    process: subprocess.Popen[bytes] | None = None
    made: int = 0
    command: list[str] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"postgresql+psycopg://portside@/{name}?host={self.directory}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, "postgres", "-D", str(self.directory / "data"), "-k", str(self.directory)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until(self.answers, "PostgreSQL answers")
        except ServerError as error:
            error.add_note(self.log())
            raise

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends it fast, SIGQUIT at once, as a crash would."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def answers(self) -> bool:
        try:
            psycopg.connect(plain(self.url("postgres"))).close()
        except psycopg.OperationalError:
            return False
        return True

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def execute(self, *statements: str) -> None:
        """As its administrator, beside all databases."""
        with psycopg.connect(plain(self.url("postgres")), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def database(self, template: str = TEMPLATE) -> str:
        """The URL of a fresh database with Portside's tables; empty from ``template0``."""
        self.made += 1
        name = f"portside_{self.made}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)


def plain(url: str) -> str:
    """As libpq reads it."""
    return url.replace("postgresql+psycopg", "postgresql")


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """A server of our own; it must not be root's, so it is the user postgres' then."""
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short: a socket's path has 107 bytes
    versions = sorted(PROGRAMS.glob("*/bin"), key=lambda path: int(path.parent.name))
    if not versions:
        raise MissingToolError(
            "PostgreSQL is not on this machine: apt-get install postgresql, or let  make test  do it as root"
        )
    path = f"PATH={versions[-1]}:{os.environ['PATH']}"
    command = [str(tool("setpriv")), "--pdeathsig", "INT", "env", path]
    if os.geteuid() == 0:
        shutil.chown(directory, "postgres", "postgres")
        command[1:1] = ["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    server = Postgres(directory, command=command)
    try:
        options = ["-A", "trust", "--no-sync", "--locale=C.UTF-8", "-E", "UTF8"]
        run([*command, "initdb", "-D", str(directory / "data"), "-U", "portside", *options])
        with (directory / "data/postgresql.conf").open("a") as file:
            # What is acknowledged outlives a crash of the server, if not one of the machine, which no test makes.
            file.write("listen_addresses = ''\nfsync = off\nlog_line_prefix = '%d '\nmax_connections = 200\n")
        server.start()
        server.execute(f"CREATE DATABASE {TEMPLATE}")
        PostgresDatabase(server.url(TEMPLATE)).close()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)
