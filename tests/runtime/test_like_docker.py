"""The same layers, unpacked by us and by Docker: what a container sees is the same, entry by entry.

Two things are left out. Docker refuses to load a layer that has a path twice. And a directory that a layer uses without describing it
becomes root's with mode 0755 in Docker's overlay2, whatever it was below; here it stays what it was (`test_snapshots.py`).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import linux
from runtime.snapshots import SnapshotStore, mount_overlay, prepare_upper
from tests.runtime.tars import END, file, folder, gnu_long, header, link, node, pad, pax, symlink
from tests.runtime.test_snapshots import Image
from tests.servers import Docker, dockerd
from tests.tools import tool

CAPABILITY = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
"""cap_net_bind_service=ep, as setcap stores it."""

LOWER = (
    folder(b"tmp", mode=0o1777)
    + folder(b"home", mode=0o750, uid=1000, gid=100)
    + file(b"home/su", b"#!", mode=0o4755)
    + file(b"home/sg", b"#!", mode=0o2711, uid=7, gid=8)
    + header(b"home/old", size=3, mtime=1) + pad(b"old")
    + symlink(b"home/there", b"../tmp")
    + symlink(b"home/nowhere", b"/no/such")
    + symlink(b"home/above", b"../../../etc/passwd")
    + file(b"one", b"linked")
    + link(b"home/two", b"one")
    + link(b"three", b"/home/two")
    + node(b"fifo", b"6", 0, 0)
    + node(b"null", b"3", 1, 3)
    + node(b"loop", b"4", 7, 0)
    + file(b"/absolute/path", b"a")
    + file(b"./dotted/./path", b"d")
    + file(b"implied/parents/file", b"i")
    + file(b" a b\n", b"blank")
    + file("ünïcode".encode(), b"u")
    + file(b"not-utf8-\xff", b"n")
    + pax({b"path": b"long/" + b"n" * 200, b"mtime": b"1234567890.25"}) + file(b"cut", b"pax")
    + gnu_long(b"L", b"gnu/" + b"g" * 150) + file(b"cut", b"gnu")
    + pax({b"uid": b"3000000", b"gid": b"4000000"}) + file(b"large-owner", b"o")
    + pax({b"SCHILY.xattr.security.capability": CAPABILITY}) + file(b"capable", b"c", mode=0o755)
    + folder(b"emptied") + file(b"emptied/x") + file(b"emptied/y")
    + folder(b"opaque", mode=0o700) + file(b"opaque/x") + folder(b"opaque/sub") + file(b"opaque/sub/z")
    + folder(b"removed") + file(b"removed/x")
    + file(b"becomes-folder") + folder(b"becomes-file") + file(b"becomes-file/x")
    + folder(b"becomes-link") + file(b"becomes-link/x")
    + file(b"changed", b"before", mode=0o600)
    + END
)  # fmt: skip
UPPER = (
    file(b"emptied/.wh.x") + file(b".wh.removed") + file(b".wh.never-was")
    + folder(b"opaque", mode=0o711) + file(b"opaque/.wh..wh..opq") + file(b"opaque/new", b"n")
    + folder(b"becomes-folder") + file(b"becomes-folder/x", b"x")
    + file(b"becomes-file", b"f")
    + symlink(b"becomes-link", b"tmp")
    + file(b"changed", b"after", mode=0o640, uid=5)
    + folder(b"home", mode=0o750, uid=1000, gid=100) + file(b"home/added", b"added", uid=9)
    + END
)  # fmt: skip
TOP = (
    file(b"removed/again", b"r")
    + folder(b"opaque", mode=0o711) + file(b"opaque/.wh.new") + folder(b"opaque/sub") + file(b"opaque/sub/y", b"y")
    + END
)  # fmt: skip

DOCKERS_OWN = {".dockerenv", "dev", "etc", "proc", "sys"}
"""What Docker puts into every container that it creates."""


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    with dockerd() as daemon:
        yield daemon


def seen_by_docker(docker: Docker, layers: list[bytes]) -> dict[str, object]:
    """What `docker load`, `docker create` and `docker export` make of layers."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/x"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]},
    }
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": ["like/docker:1"], "Layers": names}]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in [
            ("config.json", json.dumps(config).encode()),
            *zip(names, layers, strict=True),
            ("manifest.json", json.dumps(manifest).encode()),
        ]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    docker("load", stdin=archive.getvalue())
    docker("create", "--name", "like", "like/docker:1")
    exported = subprocess.run(
        [str(tool("docker")), "export", "like"], env=docker.environment(), capture_output=True, check=True
    ).stdout
    found: dict[str, object] = {}
    with tarfile.open(fileobj=io.BytesIO(exported), errors="surrogateescape") as tar:
        for member in tar:
            name = member.name.rstrip("/")
            if name.partition("/")[0] in DOCKERS_OWN or name in ("", "."):
                continue
            if member.islnk():
                first = tar.getmember(member.linkname)
                found[name] = found[first.name]
                continue
            content = tar.extractfile(member) if member.isreg() else None
            found[name] = _entry(
                member.mode | _TYPES[member.type],
                member.uid,
                member.gid,
                int(member.mtime),
                member.linkname,
                (member.devmajor, member.devminor),
                content.read() if content is not None else b"",
            )
    return found


_TYPES = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
}


def seen_by_us(root: Path, layers: list[bytes]) -> dict[str, object]:
    unpacked = Image(root, layers).unpack(SnapshotStore(root))
    for name in ("work", "merged"):
        (root / name).mkdir()
    prepare_upper(unpacked, root / "upper")
    merged = root / "merged"
    mount_overlay(unpacked, root / "upper", root / "work", merged, is_volatile=True)
    found: dict[str, object] = {}
    try:
        for folder_name, folders, files in os.walk(merged):
            for name in (*folders, *files):
                path = Path(folder_name) / name
                info = path.lstat()
                found[str(path.relative_to(merged))] = _entry(
                    info.st_mode,
                    info.st_uid,
                    info.st_gid,
                    int(info.st_mtime),
                    os.readlink(path) if path.is_symlink() else "",
                    (os.major(info.st_rdev), os.minor(info.st_rdev)),
                    path.read_bytes() if stat.S_ISREG(info.st_mode) else b"",
                )
        assert os.getxattr(merged / "capable", "security.capability") == CAPABILITY
    finally:
        linux.unmount(str(merged))
    return found


def _entry(
    mode: int, uid: int, gid: int, mtime: int, target: str, device: tuple[int, int], content: bytes
) -> dict[str, object]:
    entry: dict[str, object] = {"type": stat.S_IFMT(mode), "uid": uid, "gid": gid}
    if stat.S_ISLNK(mode):
        return {**entry, "target": target}
    entry["mode"] = stat.S_IMODE(mode)
    if stat.S_ISREG(mode):
        return {**entry, "content": content, "mtime": mtime}
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return {**entry, "device": device}
    return entry


def test_a_container_sees_what_it_would_see_in_docker(docker: Docker, tmp_path: Path) -> None:
    layers = [LOWER, UPPER, TOP]
    ours, theirs = seen_by_us(tmp_path, layers), seen_by_docker(docker, layers)
    assert sorted(ours) == sorted(theirs)
    assert {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]} == {}
    assert len(ours) > 40
    assert "removed/x" not in ours
    assert "opaque/x" not in ours
