"""Several processes on one root: two independent servers, and the workers of one. Any of them takes the next request of anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.images import OCI_MANIFEST
from tests.servers import portside, wait_until
from tests.wire.client import Connection
from tests.wire.content import blob, digest_of, push_image, push_manifest, query, small_image, start_upload

ID_PREFIX = 8
"""Characters of a request id that all requests of one process share."""


def process_of(connection: Connection) -> str:
    """Which process answers on a connection, by the ids of its requests."""
    answer = connection.request("GET", "/v2/none/manifests/none")
    assert answer.status == 404
    return str(answer.json["errors"][0]["detail"]["request_id"])[:ID_PREFIX]


@contextlib.contextmanager
def two_processes(kind: str, root: Path) -> Iterator[tuple[Connection, Connection]]:
    """A connection to each of two processes that serve one root."""
    with contextlib.ExitStack() as stack:
        if kind == "two servers":
            servers = [stack.enter_context(portside(root, "--floor", "0")) for _ in range(2)]
            one, two = (stack.enter_context(Connection(server.address)) for server in servers)
        else:
            server = stack.enter_context(portside(root, "--floor", "0", "--workers", "2"))
            found: dict[str, Connection] = {}

            def has_both() -> bool:
                connection = stack.enter_context(Connection(server.address))
                found.setdefault(process_of(connection), connection)
                return len(found) == 2

            wait_until(has_both, "two workers answer")
            one, two = found.values()
        assert process_of(one) != process_of(two)
        yield one, two


KINDS = pytest.mark.parametrize("kind", ["two servers", "two workers"])


@KINDS
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_the_chunks_of_one_upload_alternate(tmp_path: Path, kind: str, algorithm: str) -> None:
    with two_processes(kind, tmp_path / "root") as pair:
        for size in (1000, 70_000, 500_000):
            parts = [blob(f"{algorithm}{size}{n}", size + n) for n in range(5)]
            data = b"".join(parts)
            location = start_upload(pair[0], "a")
            offset = 0
            for number, part in enumerate(parts):
                span = {"Content-Range": f"{offset}-{offset + len(part) - 1}"}
                offset += len(part)
                assert pair[(number + 1) % 2].request("PATCH", location, span, part).status == 202
                assert pair[number % 2].request("GET", location).header("range") == f"0-{offset - 1}"
            digest = digest_of(data, algorithm)
            assert pair[len(parts) % 2].request("PUT", f"{location}?{query(digest=digest)}", body=b"").status == 201
            for connection in pair:
                assert connection.request("GET", f"/v2/a/blobs/{digest}").body == data
                assert connection.request("GET", location).status == 404


@KINDS
def test_what_one_writes_the_other_reads_at_once(tmp_path: Path, kind: str) -> None:
    with two_processes(kind, tmp_path / "root") as pair:
        for number in range(30):
            writer, reader = pair[number % 2], pair[(number + 1) % 2]
            raw = push_image(writer, "a", "moving", f"{number}")
            answer = reader.request("GET", "/v2/a/manifests/moving")
            assert (answer.status, answer.body) == (200, raw)
            push_manifest(writer, "a", f"t{number}", raw)
            assert f"t{number}" in reader.request("GET", "/v2/a/tags/list").json["tags"]
            assert writer.request("DELETE", f"/v2/a/manifests/t{number}").status == 202
            assert reader.request("GET", "/v2/a/manifests/t{number}").status in (400, 404)
            assert reader.request("HEAD", f"/v2/a/manifests/t{number}").status == 404
            assert reader.request("GET", "/v2/a/tags/list").json["tags"] == ["moving"]


@KINDS
def test_both_write_at_once_and_nothing_is_lost(tmp_path: Path, kind: str) -> None:
    count = 40
    with two_processes(kind, tmp_path / "root") as pair:
        raw, _ = small_image("both")
        failures: list[BaseException] = []

        def write(connection: Connection, name: str) -> None:
            try:
                for number in range(count):
                    push_manifest(connection, "a", f"{name}{number}", raw, OCI_MANIFEST)
            except BaseException as error:
                failures.append(error)

        threads = [Thread(target=write, args=(pair[n], "xy"[n])) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not failures
        expected = sorted(f"{name}{number}" for name in "xy" for number in range(count))
        for connection in pair:
            assert connection.request("GET", "/v2/a/tags/list").json["tags"] == expected
