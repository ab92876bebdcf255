"""A full disk: a clear 507, the server lives, what was acknowledged reads, and after space returns the same push goes on where it stood."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.durability.filesystems import MIB, fill, small_filesystem
from tests.images import OCI_MANIFEST
from tests.servers import portside, run
from tests.tools import tool
from tests.wire.client import Answer, Connection
from tests.wire.content import artifact, blob, digest_of, push_blob, push_image, push_manifest, query, start_upload


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with small_filesystem(request.param, tmp_path, 48 * MIB) as point:
        yield point


def _is_full(answer: Answer) -> bool:
    """Whether it is 507; then it has to be one that a person can use."""
    if answer.status != 507:
        return False
    assert answer.error == "STORAGE_FULL"
    assert any(word in answer.message for word in ("space", "full", "free")), answer.message
    assert answer.header("retry-after") is not None
    return True


@pytest.mark.parametrize("chunk", [MIB // 8, 60 * MIB], ids=["small chunks", "one stream"])
def test_a_push_onto_a_full_disk_goes_on_when_space_returns(disk: Path, chunk: int) -> None:
    ballast = disk / "ballast"
    data = blob(f"large {chunk}", 20 * MIB)
    digest = digest_of(data)
    with portside(disk / "root", "--floor", "0") as server, Connection(server.address) as connection:
        raw = push_image(connection, "kept", "v1")
        small = push_blob(connection, "kept", blob("kept"))
        location = start_upload(connection, "large")
        fill(ballast, leave=6 * MIB)
        full_at = _patch_until_full(server.address, location, data, chunk)
        assert 0 < full_at < len(data)
        assert connection.request("GET", "/v2/kept/manifests/v1").body == raw
        assert connection.request("GET", f"/v2/kept/blobs/{small}").body == blob("kept")
        assert connection.request("GET", "/v2/kept/tags/list").json["tags"] == ["v1"]
        assert connection.request("GET", f"/v2/large/blobs/{digest}").status == 404
        ballast.unlink()
        span = connection.request("GET", location).header("range") or ""
        assert span == f"0-{full_at - 1}", "the offset that was reported at 507 still holds"
        rest = connection.request("PATCH", location, {"Content-Range": f"{full_at}-{len(data) - 1}"}, data[full_at:])
        assert rest.status == 202, rest
        assert connection.request("PUT", f"{location}?{query(digest=digest)}", body=b"").status == 201
        assert connection.request("GET", f"/v2/large/blobs/{digest}").body == data
    run([str(tool("portside")), "check", "--root", str(disk / "root")])


def _patch_until_full(address: str, location: str, data: bytes, chunk: int) -> int:
    """PATCH until 507; the offset that a GET reports then. A connection that a refusal ended is opened again."""
    offset = 0
    while offset < len(data):
        with Connection(address) as connection:
            answer = connection.request("PATCH", location, body=data[offset : offset + chunk])
        with Connection(address) as connection:
            status = connection.request("GET", location)
        assert status.status == 204, status
        end = int((status.header("range") or "").partition("-")[2])
        if _is_full(answer):
            return end + 1
        assert answer.status == 202, answer
        offset = end + 1
    raise AssertionError("the disk was never full")


def test_small_pushes_onto_a_full_disk(disk: Path) -> None:
    ballast = disk / "ballast"
    with portside(disk / "root", "--floor", "0") as server, Connection(server.address) as connection:
        raw = push_image(connection, "kept", "v1")
        fill(ballast)
        refused: list[int] = []
        for number in range(200):  # some find a place in blocks that are taken already
            data = blob(f"small {number}", 3000)
            target = f"/v2/small/blobs/uploads/?{query(digest=digest_of(data))}"
            answer = connection.request("POST", target, body=data)
            assert _is_full(answer) or answer.status == 201, answer
            if answer.status == 507:
                refused.append(number)
            else:
                assert connection.request("GET", f"/v2/small/blobs/{digest_of(data)}").body == data
        assert refused, "nothing was refused: the disk was not full"
        assert connection.request("GET", "/v2/kept/manifests/v1").body == raw
        ballast.unlink()
        for number in refused:
            push_blob(connection, "small", blob(f"small {number}", 3000))
    run([str(tool("portside")), "check", "--root", str(disk / "root")])


def test_manifests_onto_a_full_disk(disk: Path) -> None:
    """The metadata's turn to find no space: 507, the tag is what it was, and the same push succeeds afterwards."""
    ballast = disk / "ballast"
    with portside(disk / "root", "--floor", "0") as server, Connection(server.address) as connection:
        push_blob(connection, "m", b"{}")
        first = artifact("first", "a/b")
        push_manifest(connection, "m", "v1", first)
        fill(ballast)
        taken, refused = first, b""
        for number in range(300):
            raw = artifact(f"{number}", "a/b", annotations={"x": f"{number} " + "A" * 100_000})
            answer = connection.request("PUT", "/v2/m/manifests/v1", {"Content-Type": OCI_MANIFEST}, raw)
            if _is_full(answer):
                refused = raw
                break
            assert answer.status == 201, answer
            taken = raw
        assert refused, "no manifest was refused: the disk was not full"
        assert connection.request("GET", "/v2/m/manifests/v1").body == taken
        assert connection.request("GET", f"/v2/m/manifests/{digest_of(refused)}").status == 404
        ballast.unlink()
        push_manifest(connection, "m", "v1", refused)
        assert connection.request("GET", "/v2/m/manifests/v1").body == refused
    run([str(tool("portside")), "check", "--root", str(disk / "root")])


def test_a_server_starts_and_serves_on_a_disk_that_is_almost_full(disk: Path) -> None:
    """SQLite makes its log and index anew at each start: a few pages is all that is asked for."""
    with portside(disk / "root", "--floor", "0") as server, Connection(server.address) as connection:
        raw = push_image(connection, "kept", "v1")
    fill(disk / "ballast", leave=256 * 1024)
    with portside(disk / "root", "--floor", "0") as server, Connection(server.address) as connection:
        assert connection.request("GET", "/v2/kept/manifests/v1").body == raw


def test_below_the_floor_uploads_are_refused_and_pulls_go_on(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with portside(root, "--floor", "0") as server, Connection(server.address) as connection:
        raw = push_image(connection, "kept", "v1")
        digest = push_blob(connection, "kept", blob("kept"))
        location = start_upload(connection, "kept")
        assert connection.request("PATCH", location, body=b"begun").status == 202
    total = os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize // MIB
    with portside(root, "--floor", str(total + 1)) as server, Connection(server.address) as connection:
        whole = query(digest=digest_of(b"x"))
        for method, target in (
            ("POST", "/v2/kept/blobs/uploads/"),
            ("POST", f"/v2/kept/blobs/uploads/?{whole}"),
            ("PATCH", location),
        ):
            answer = connection.request(method, target, body=b"x")
            assert _is_full(answer), (method, target, answer)
        assert connection.request("GET", "/v2/kept/manifests/v1").body == raw
        assert connection.request("GET", f"/v2/kept/blobs/{digest}").body == blob("kept")
        assert connection.request("DELETE", f"/v2/kept/blobs/{digest}").status == 202, "space can be made"
    with portside(root, "--floor", "0") as server, Connection(server.address) as connection:
        target = f"{location}?{query(digest=digest_of(b'begun'))}"
        assert connection.request("PUT", target, body=b"").status == 201
