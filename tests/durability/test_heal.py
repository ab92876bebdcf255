"""A blob that the disk has lost or cut short: clients ask by HEAD before they push, so the answer must be that it is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.check import check
from storage.filesystem import FilesystemBlobStore
from storage.sqlite import SQLiteDatabase
from tests.images import small, write_layout
from tests.servers import portside, run
from tests.tools import tool
from tests.wire.client import Connection
from tests.wire.content import blob, digest_of, push_blob


def _truncate(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1])


def problems(root: Path) -> list[str]:
    database = SQLiteDatabase(root)
    try:
        return check(FilesystemBlobStore(root, floor=0), database).problems
    finally:
        database.close()


@pytest.mark.parametrize("damage", [Path.unlink, _truncate], ids=["lost", "cut short"])
def test_what_the_disk_lost_is_pushed_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    data = blob("heal", 100_000)
    digest = digest_of(data)
    path = tmp_path / "root/blobs/sha256" / digest[7:9] / digest[7:]
    with portside(tmp_path / "root", "--floor", "0") as server, Connection(server.address) as wire:
        push_blob(wire, "one", data)
        target = f"/v2/two/blobs/uploads/?mount={digest}&from=one"
        assert wire.request("POST", target).status == 201
        damage(path)
        for repository in ("one", "two"):
            for method in ("HEAD", "GET"):
                assert wire.request(method, f"/v2/{repository}/blobs/{digest}").status == 404
        assert wire.request("POST", f"/v2/three/blobs/uploads/?mount={digest}&from=one").status == 202
        push_blob(wire, "three", data)
        for repository in ("one", "two", "three"):
            assert wire.request("GET", f"/v2/{repository}/blobs/{digest}").body == data
        assert f"blob {digest} of one is missing or damaged on disk" in server.log.read_text()
    assert problems(tmp_path / "root") == []


def test_a_client_heals_by_pushing_the_same_image(tmp_path: Path) -> None:
    layout = write_layout(tmp_path / "layout", image=small())
    with portside(tmp_path / "root", "--floor", "0") as server:
        # Not crane, which pushes nothing at all where the manifest is there.
        push = [str(tool("portside")), "copy", f"oci:{layout}:image", f"{server.address}/app:1"]
        run(push)
        for path in (tmp_path / "root/blobs/sha256").glob("*/*"):
            _truncate(path)
        assert problems(tmp_path / "root")
        run(push)
    assert problems(tmp_path / "root") == []
