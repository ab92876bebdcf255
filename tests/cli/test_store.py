"""Hubs moved by ``portside store copy``, between real databases and stores, beside real servers."""

from __future__ import annotations

import base64
import contextlib
import itertools
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.place import Place
from oci.digest import Digest
from oci.manifest import Manifest
from storage.metadata import StoredManifest
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople
from storage.uploads import append
from tests import images, s3
from tests.accounts import PASSWORD, make, rule, token
from tests.cli.running import call, command
from tests.clients import wire
from tests.postgres import Postgres
from tests.servers import Server, portside, wait_until
from tests.wire.client import Connection
from tests.wire.content import push_image

KINDS = ("files+sqlite", "s3+postgres", "files+postgres")
SMALL = images.small("moved")
MULTI = images.multi_platform("moved too")
SIGNATURE = images.artifact(b"signed", "application/vnd.example.signature", SMALL)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3.s3_server("versitygw", tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(autouse=True)
def keys_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET_KEY)


@dataclass(frozen=True, slots=True)
class Places:
    """New places, each empty."""

    directory: Path
    postgres: Postgres
    service: Server

    def new(self, kind: str) -> Place:
        name = uuid.uuid4().hex
        bytes_in, facts_in = kind.split("+")
        database = self.postgres.database() if facts_in == "postgres" else ""
        store = (f"s3://{s3.BUCKET}/{name}", self.service.url) if bytes_in == "s3" else ("", "")
        return Place(self.directory / name, database, *store)


@pytest.fixture
def places(tmp_path: Path, postgres_server: Postgres, service: Server) -> Places:
    return Places(tmp_path, postgres_server, service)


def options(place: Place, prefix: str = "--") -> list[str]:
    given = {
        "root": str(place.root),
        "database": place.database,
        "store": place.store,
        "s3-endpoint": place.s3_endpoint,
    }
    return [word for name, value in given.items() if value for word in (f"{prefix}{name}", value)]


def copy_command(source: Place, destination: Place) -> list[str]:
    return ["store", "copy", *options(source), *options(destination, "--to-")]


@dataclass(frozen=True, slots=True)
class Opened:
    """A hub's facts and blobs, as they are."""

    place: Place
    metadata: SQLMetadata

    def push(self, repository: str, content: images.Content, *tags: str) -> None:
        stored = self.place.open_store(self.metadata.database, 0)
        try:
            for text, data in content.blobs.items():
                digest = Digest.parse(text)
                if text in content.manifests:
                    continue
                upload = stored.blobs.start(repository)
                append(upload, data)
                with stored.blobs.publishing(digest):
                    upload.commit(digest)
                    self.metadata.link_blob(repository, digest, len(data))
        finally:
            stored.close()
        for text in content.manifests:
            names = tags if text == content.digest else ()
            self.metadata.put_manifest(repository, Manifest.parse(content.blobs[text]), names)


@contextlib.contextmanager
def opened(place: Place) -> Iterator[Opened]:
    database = place.open_database()
    try:
        yield Opened(place, SQLMetadata(database))
    finally:
        database.close()


def everything(place: Place) -> dict[str, object]:
    """What a hub's clients could ask for: by repository, tags, manifests, referrers; and all bytes, by their digests."""
    found: dict[str, object] = {}
    with opened(place) as hub:
        facts = hub.metadata
        for name in facts.list_repositories(1000, "").names:
            page = facts.list_tags(name, 1000, "")
            assert page is not None
            tags = {tag: facts.find_manifest(name, tag) for tag in page.names}
            found[name] = tags, [_referrers(facts, name, one) for one in tags.values()]
        stored = place.open_store(facts.database, 0)
        try:
            for digest in stored.blobs.digests():
                reader = stored.blobs.open(digest)
                found[str(digest)] = reader.read(0, reader.size)
                reader.close()
        finally:
            stored.close()
    return found


def _referrers(facts: SQLMetadata, name: str, manifest: StoredManifest | None) -> object:
    assert manifest is not None
    return facts.list_referrers(name, manifest.digest, None, 100, "")


def fill(place: Place) -> str:
    """Images, and people; a personal token of ann's."""
    with opened(place) as hub:
        hub.push("team/app", SMALL, "1", "latest")
        hub.push("team/app", SIGNATURE)
        hub.push("team/multi", MULTI, "all")
        people = SQLPeople(hub.metadata.database)
        make(people, "ann", "bob")
        rule(people, "ann", "team/*", "pull,push,delete")
        return token(people, "ann")


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def check(place: Place) -> str:
    return call("check", *options(place)).stdout


@pytest.mark.parametrize(("kind", "other"), list(itertools.permutations(KINDS, 2)))
def test_a_hub_goes_to_another_place(kind: str, other: str, places: Places) -> None:
    source, destination = places.new(kind), places.new(other)
    secret = fill(source)
    with portside(source.root, *options(source)[2:], "--floor", "0") as server:
        scope = "scope=repository:team/app:pull"
        answer = wire.ask(server.address, "GET", f"/auth/token?service=portside&{scope}", basic("ann", secret))
        bearer = {"Authorization": f"Bearer {answer.json['token']}"}
    done = call(*copy_command(source, destination))
    assert done.stdout.endswith("both are the same\n"), done
    assert everything(destination) == everything(source)
    assert " 0 blobs that no repository holds, 0 references to what was never pushed" in check(destination)

    again = call(*copy_command(source, destination)).stdout
    assert again.startswith("0 blobs (0 B) were copied and verified, "), again
    assert "; 0 rows were written and 0 removed; 1 signing keys\n" in again
    with opened(source) as hub:
        hub.push("team/new", images.small("new"), "1")
        hub.metadata.delete_tag("team/app", "latest")
        hub.metadata.delete_manifest("team/multi", Digest.parse(MULTI.digest))
    call("gc", "--now", "--untagged", "0", *options(source))
    call(*copy_command(source, destination))
    assert everything(destination) == everything(source)
    check(destination)

    with portside(destination.root, *options(destination)[2:], "--floor", "0") as server:
        path = f"/v2/team/app/manifests/{SMALL.digest}"
        for headers in (bearer, basic("ann", PASSWORD), basic("ann", secret)):
            answer = wire.ask(server.address, "GET", path, {"Accept": images.OCI_MANIFEST} | headers)
            assert (answer.status, answer.body) == (200, SMALL.raw)
        assert wire.ask(server.address, "GET", path, basic("bob", PASSWORD)).status == 404
    with opened(destination) as hub:
        hub.push("team/later", images.small("later"), "1")
    refused = call(*copy_command(source, destination), code=1)
    assert "the destination has been written to since it was copied" in refused.stderr
    check(destination)


def kill_when_it_has_copied(size: int, source: Place, destination: Place) -> None:
    log, query = subprocess.PIPE, "SELECT count(*) FROM blobs WHERE place IS NOT NULL"
    copying = subprocess.Popen(command(copy_command(source, destination)), stdout=log, stderr=log)
    try:
        with opened(destination) as there:
            wait_until(lambda: there.metadata.database.row(query, ())[0] >= size, "some blobs are there")
    finally:
        copying.send_signal(signal.SIGKILL)
        copying.communicate()
    assert copying.returncode == -signal.SIGKILL


def test_a_copy_that_is_killed_goes_on(places: Places) -> None:
    source, destination = places.new("files+sqlite"), places.new("s3+postgres")
    with opened(source) as hub:
        for number in range(40):
            hub.push(f"app{number}", images.large(1, number), "1")
    for size in (10, 25):
        kill_when_it_has_copied(size, source, destination)
    done = call(*copy_command(source, destination)).stdout
    assert done.endswith("both are the same\n")
    assert int(done.split()[0]) <= 55
    assert everything(destination) == everything(source)
    check(destination)


@pytest.mark.parametrize("kind", ["files+sqlite", "s3+postgres"])
def test_pushes_go_on_beside_it(kind: str, places: Places) -> None:
    source, destination = places.new(kind), places.new("files+postgres")
    with opened(source) as hub:
        for number in range(8):
            hub.push(f"old{number}", images.large(1, number), "1")
    ended = threading.Event()
    pushed: list[bytes] = []

    def push() -> None:
        with Connection(server.address) as connection:
            for number in itertools.count():
                pushed.append(push_image(connection, f"new{number % 7}", f"t{number % 11}", f"content {number}"))
                if number % 3 == 0:
                    path = f"/v2/new{number % 7}/manifests/{images.sha256(pushed[-1])}"
                    assert connection.request("DELETE", path).status == 202
                if ended.is_set():
                    return

    with portside(source.root, *options(source)[2:], "--floor", "0") as server:
        pushing = threading.Thread(target=push)
        pushing.start()
        try:
            said = [call(*copy_command(source, destination)).stdout for _ in range(3)]
        finally:
            ended.set()
            pushing.join()
        assert any("changes came to" in words for words in said)
    assert len(pushed) > 20
    assert call(*copy_command(source, destination)).stdout.endswith("both are the same\n")
    assert everything(destination) == everything(source)
    check(destination)


def test_what_is_lost_or_damaged_at_the_source_is_told(places: Places) -> None:
    source, destination = places.new("files+sqlite"), places.new("files+postgres")
    fill(source)
    lost, damaged = (Digest.parse(layer["digest"]) for layer in SMALL.json["layers"])
    blobs = source.root / "blobs/sha256"
    (blobs / lost.hex[:2] / lost.hex).unlink()
    path = blobs / damaged.hex[:2] / damaged.hex
    path.chmod(0o600)
    path.write_bytes(b"other bytes")
    done = call(*copy_command(source, destination), code=1)
    assert f"problem: blob {lost} is missing at the source" in done.stdout
    assert f"problem: blob {damaged} is damaged at the source" in done.stdout
    with opened(source) as hub:
        hub.push("team/app", SMALL, "1")
    assert call(*copy_command(source, destination)).stdout.endswith("both are the same\n")
    assert everything(destination) == everything(source)


def test_a_place_with_other_content_is_refused(places: Places) -> None:
    source, another, destination = (places.new("files+sqlite") for _ in range(3))
    for place in (source, another):
        fill(place)
    assert "the destination has content of its own" in call(*copy_command(source, another), code=1).stderr
    assert "is where it is copied from" in call(*copy_command(source, source), code=2).stderr
    call(*copy_command(source, destination))
    assert "the destination is a copy of another hub" in call(*copy_command(another, destination), code=1).stderr
    call(*copy_command(destination, places.new("files+postgres")))
