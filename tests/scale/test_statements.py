"""How many statements PostgreSQL is asked for one request: what grows with the number of things asked for would show here."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.postgres import PostgresDatabase
from storage.sql_people import SQLPeople
from tests import s3
from tests.accounts import BY, make, rule
from tests.images import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST
from tests.postgres import Postgres
from tests.scale.asking import bearer, log_in
from tests.servers import portside, wait_until
from tests.wire.client import Connection
from tests.wire.content import blob, descriptor, digest_of, image, index, query

LAYERS = 5
EXPECTED = {
    "HEAD of a blob that is not there": (1, 1),
    "a blob by POST": (8, 19),
    "another": (7, 18),
    "a blob by POST, PATCH and PUT": (7, 32),
    "yet another": (7, 32),
    "PUT of one": (11, 11),
    "PUT of five": (15, 15),
    "PUT of an index": (11, 11),
    "GET of a manifest by tag": (1, 1),
    "GET of a manifest by digest": (1, 1),
    "HEAD of a manifest by tag": (1, 1),
    "HEAD of a blob": (1, 2),
    "GET of a blob": (1, 2),
    "GET of tags": (2, 2),
    "GET of referrers": (1, 1),
}
"""Statements with BEGIN and COMMIT, for blobs in files and in S3: there an upload is a row, and where a blob is is a look-up.

Images of one layer and of five differ by their references, which are sent in one round trip.
"""
_LINE = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)")
_BESIDE = "FROM counters"
"""What each process asks by itself, once a second."""


class Statements:
    """The statements of one database, by the server's log, in which each is before it is executed."""

    def __init__(self, server: Postgres, url: str) -> None:
        self._log, self._database = server.directory / "log", url.partition("?")[0].rpartition("/")[2]
        server.execute(f"ALTER DATABASE {self._database} SET log_statement = 'all'")
        self._seen = 0

    def take(self) -> list[str]:
        """Those since this was asked last."""
        text = self._log.read_bytes()[self._seen :]
        self._seen += len(text)
        lines = [line for line in text.decode(errors="replace").splitlines() if line.startswith(f"{self._database} ")]
        found = [match[1] for line in lines if (match := _LINE.search(line))]
        return [one for one in found if _BESIDE not in one]


class Client:
    """A client with an access token, and the statements that each of its requests is."""

    def __init__(self, connection: Connection, statements: Statements) -> None:
        self._connection, self._statements = connection, statements
        self._token = log_in(connection.address, "bob", "repository:app/small:pull,push,delete")
        recorded: list[str] = []

        def is_recorded() -> bool:
            recorded.extend(statements.take())
            return any("INTO audit" in statement for statement in recorded)

        wait_until(is_recorded, "the log-in is in the audit trail")
        self.count("GET", "app/small/tags/list", 404)  # the account and its rights are looked up once

    def count(
        self, method: str, path: str, status: int, body: bytes | None = None, media_type: str = ""
    ) -> tuple[int, str]:
        """How many there were, and the answer's location. Printed, for where they are not as expected."""
        headers = bearer(self._token) | ({"Content-Type": media_type} if media_type else {})
        self._statements.take()
        answer = self._connection.request(method, f"/v2/{path}", headers, body)
        assert answer.status == status, answer
        found = self._statements.take()
        print(f"{method} {path[:70]}", *(f"  {statement[:120].strip()}" for statement in found), sep="\n")
        return len(found), (answer.header("location") or "").removeprefix("/v2/")

    def push_blob(self, data: bytes) -> int:
        """By POST, PATCH and PUT; how many statements."""
        began, location = self.count("POST", "app/small/blobs/uploads/", 202, b"")
        went_on, _ = self.count("PATCH", location, 202, data)
        ended, _ = self.count("PUT", f"{location}?{query(digest=digest_of(data))}", 201, b"")
        return began + went_on + ended

    def push_whole(self, data: bytes) -> int:
        """By one POST."""
        return self.count("POST", f"app/small/blobs/uploads/?{query(digest=digest_of(data))}", 201, data)[0]


@contextlib.contextmanager
def stored(kind: str, directory: Path) -> Iterator[list[str]]:
    """The options of a server on files, or on S3."""
    if kind == "files":
        yield []
        return
    with s3.s3_server(kind, directory / "s3") as service:
        yield ["--store", f"s3://{s3.BUCKET}/hub", "--s3-endpoint", service.url]


@pytest.fixture(scope="module", params=["files", "versitygw"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(kind: str, tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres) -> Iterator[Client]:
    """Of a server on PostgreSQL with accounts."""
    directory, url = tmp_path_factory.mktemp("statements"), postgres_server.database()
    with contextlib.closing(PostgresDatabase(url)) as database:
        people = SQLPeople(database)
        make(people, "bob")
        people.add_group("team", BY)
        people.set_member("team", "bob", True, BY)
        rule(people, "group:team", "app/*", "pull,push,delete")
    statements = Statements(postgres_server, url)
    with (
        stored(kind, directory) as where,
        portside(directory / "root", "--database", url, "--floor", "0", *where, environment=s3.KEYS) as server,
        Connection(server.address) as connection,
    ):
        yield Client(connection, statements)


def test_a_small_push_and_what_is_read_of_it(client: Client, kind: str) -> None:
    config = b'{"architecture":"amd64","os":"linux"}'
    layers = [blob(f"{kind}{number}", 3000) for number in range(LAYERS)]
    raw = image(descriptor(OCI_CONFIG, config), [descriptor(OCI_LAYER, data) for data in layers])
    small = image(descriptor(OCI_CONFIG, config), [descriptor(OCI_LAYER, layers[0])])
    several = index([descriptor(OCI_MANIFEST, raw), descriptor(OCI_MANIFEST, small)])
    found = {
        "HEAD of a blob that is not there": client.count("HEAD", f"app/small/blobs/{digest_of(config)}", 404)[0],
        "a blob by POST": client.push_whole(config),
        "another": client.push_whole(layers[0]),
        "a blob by POST, PATCH and PUT": client.push_blob(layers[1]),
        "yet another": client.push_blob(layers[2]),
    }
    for data in layers[3:]:
        client.push_whole(data)
    for name, reference, body in (("one", "one", small), ("five", "five", raw), ("an index", "all", several)):
        media_type = OCI_INDEX if body == several else OCI_MANIFEST
        counted = client.count("PUT", f"app/small/manifests/{reference}", 201, body, media_type)[0]
        found[f"PUT of {name}"] = counted
    for name, method, path in (
        ("a manifest by tag", "GET", "manifests/five"),
        ("a manifest by digest", "GET", f"manifests/{digest_of(raw)}"),
        ("a manifest by tag", "HEAD", "manifests/five"),
        ("a blob", "HEAD", f"blobs/{digest_of(layers[0])}"),
        ("a blob", "GET", f"blobs/{digest_of(layers[1])}"),
        ("tags", "GET", "tags/list"),
        ("referrers", "GET", f"referrers/{digest_of(raw)}"),
    ):
        found[f"{method} of {name}"] = client.count(method, f"app/small/{path}", 200)[0]
    assert found == {name: counts[kind != "files"] for name, counts in EXPECTED.items()}
