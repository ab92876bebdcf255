"""Layers on disk: unpacked once, whole or not at all, whoever else is at it; and overlay mounts of them."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from oci.config import chain_ids
from oci.descriptor import Descriptor
from oci.digest import Digest
from runtime import linux
from runtime.limits import OPAQUE, LayerRefused
from runtime.snapshots import LAYERS_MAX, SnapshotError, SnapshotStore, mount_overlay, prepare_upper
from storage.filesystem import FilesystemBlobStore
from tests.runtime.tars import END, descriptor, file, folder, squeeze, symlink


class Image:
    """Layers in a blob store."""

    def __init__(self, root: Path, tars: Sequence[bytes]) -> None:
        self.blobs = FilesystemBlobStore(root, floor=0)
        self.layers: list[Descriptor] = []
        self.diff_ids = [Digest.of(tar) for tar in tars]
        for tar in tars:
            packed = squeeze(tar)
            layer = descriptor(packed)
            upload = self.blobs.start("test")
            upload.write(memoryview(packed))
            upload.hash(memoryview(packed))
            upload.commit(layer.digest)
            self.layers.append(layer)

    def unpack(self, store: SnapshotStore) -> tuple[Path, ...]:
        return store.unpack(self.layers, self.diff_ids, self.blobs)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_layers_are_kept_under_their_chain_ids_and_unpacked_once(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    image = Image(tmp_path, [file(b"a") + END, file(b"b") + END])
    first = image.unpack(store)
    assert [path.parent.name for path in first] == [chain.hex for chain in chain_ids(image.diff_ids)]
    assert [names(path) for path in first] == [["a"], ["b"]]
    inodes = [(path / "a").exists() and (path / "a").stat().st_ino for path in first]
    assert image.unpack(store) == first
    assert [(path / "a").exists() and (path / "a").stat().st_ino for path in first] == inodes
    assert names(tmp_path / "layers") == sorted(path.parent.name for path in first)


def test_a_layer_that_another_image_shares_is_not_unpacked_again(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    base = file(b"a") + END
    (shared,) = Image(tmp_path, [base]).unpack(store)
    before = shared.stat().st_ino
    assert Image(tmp_path, [base, file(b"b") + END]).unpack(store)[0].stat().st_ino == before


def test_one_refused_layer_leaves_nothing_of_any(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    image = Image(tmp_path, [file(b"%d" % number) + END for number in range(5)] + [file(b"../x") + END])
    with pytest.raises(LayerRefused, match=str(image.layers[5].digest)):
        image.unpack(store)
    assert names(tmp_path / "layers") == []


def test_what_the_config_and_the_manifest_disagree_on_is_refused(tmp_path: Path) -> None:
    image = Image(tmp_path, [file(b"a") + END])
    with pytest.raises(SnapshotError, match="1 layers, but the image config 0 diff ids"):
        SnapshotStore(tmp_path).unpack(image.layers, [], image.blobs)


def test_directories_that_a_layer_only_uses_look_as_below(tmp_path: Path) -> None:
    lower = (
        folder(b"./", mode=0o750, uid=1)
        + folder(b"d", mode=0o1711, uid=2, gid=3, mtime=5)
        + folder(b"gone", mode=0o700)
    )
    lower += symlink(b"l", b"/etc") + folder(b"o", mode=0o700) + folder(b"o/p", mode=0o700)
    middle = file(b".wh.gone") + file(b"o/.wh..wh..opq")
    upper = file(b"d/new") + file(b"gone/new") + file(b"l/new") + file(b"o/p/new")
    layers = Image(tmp_path, [lower + END, middle + END, upper + END]).unpack(SnapshotStore(tmp_path))

    def look(path: Path) -> tuple[int, int, int]:
        info = path.lstat()
        return stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid

    top = layers[2]
    assert look(top) == (0o750, 1, 0)
    assert look(top / "d") == (0o1711, 2, 3)
    assert (top / "d").stat().st_mtime == 5
    # Hidden by a whiteout, a link, an opaque directory: these are new.
    assert [look(top / name) for name in ("gone", "l", "o/p")] == [(0o755, 0, 0)] * 3
    assert look(top / "o") == (0o700, 0, 0)
    assert look(Path("/etc"))[0] == stat.S_IMODE(os.stat("/etc").st_mode)
    upper_directory = tmp_path / "upper"
    prepare_upper(layers, upper_directory)
    assert look(upper_directory) == (0o750, 1, 0)


def test_a_replaced_directory_is_not_described_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "b").mkdir(parents=True, mode=0o755)
    lower = folder(b"a", mode=0o700, uid=7) + folder(b"a/b", mode=0o700, uid=7)
    upper = file(b"a/b/c") + symlink(b"a", os.fsencode(outside))
    Image(tmp_path, [lower + END, upper + END]).unpack(SnapshotStore(tmp_path))
    assert (outside / "b").stat().st_uid == 0
    assert stat.S_IMODE((outside / "b").stat().st_mode) == 0o755


def test_half_unpacked_layers_are_removed_unless_somebody_is_at_them(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path)
    for name in ("left", "busy"):
        (tmp_path / f"layers/.new-{name}/diff/x").mkdir(parents=True)
    lock = os.open(tmp_path / "layers/.new-busy", os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert store.clean() == 1
        assert names(tmp_path / "layers") == [".new-busy"]
    finally:
        os.close(lock)
    assert store.clean() == 1


def test_what_a_crash_left_of_a_layer_is_not_part_of_it(tmp_path: Path) -> None:
    image = Image(tmp_path, [file(b"a") + END])
    store = SnapshotStore(tmp_path)
    rubbish = tmp_path / "layers" / f".new-{image.diff_ids[0].hex}" / "diff"
    rubbish.mkdir(parents=True)
    (rubbish / "rubbish").touch()
    assert names(image.unpack(store)[0]) == ["a"]


def test_threads_and_processes_that_want_the_same_layers_get_them_once(tmp_path: Path) -> None:
    tars = [
        b"".join(file(b"%d-%d" % (number, entry), b"x" * 2000) for entry in range(200)) + END for number in range(4)
    ]
    image = Image(tmp_path, tars)
    backwards = Image(tmp_path, tars[:2])
    found: list[tuple[Path, ...]] = []

    def run(one: Image) -> None:
        found.append(one.unpack(SnapshotStore(tmp_path)))

    script = (
        "import sys, pathlib\n"
        "from tests.runtime.test_snapshots import Image, SnapshotStore\n"
        "from tests.runtime.tars import file, END\n"
        "tars = [b''.join(file(b'%d-%d' % (n, e), b'x' * 2000) for e in range(200)) + END for n in range(4)]\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "print(len(Image(root, tars).unpack(SnapshotStore(root))))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        for _ in range(2)
    ]
    threads = [threading.Thread(target=run, args=(one,)) for one in (image, backwards, image, backwards)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [process.communicate(timeout=60)[0] for process in processes] == [b"4\n", b"4\n"]
    assert sorted(len(paths) for paths in found) == [2, 2, 4, 4]
    assert len(names(tmp_path / "layers")) == 4
    assert [len(names(path)) for path in image.unpack(SnapshotStore(tmp_path))] == [200] * 4


def test_as_many_layers_as_overlayfs_takes_are_mounted(tmp_path: Path) -> None:
    # A root with a long name, and characters that mean something in mount options.
    root = tmp_path / ("long,name:with\\all" + "x" * 180)
    layers = Image(root, [file(b"%d" % number) + END for number in range(LAYERS_MAX)]).unpack(SnapshotStore(root))
    for name in ("work", "merged"):
        (root / name).mkdir()
    prepare_upper(layers, root / "upper")
    mount_overlay(layers, root / "upper", root / "work", root / "merged", is_volatile=True)
    try:
        assert len(names(root / "merged")) == LAYERS_MAX
        (root / "merged/new").touch()
        assert names(root / "upper") == ["new"]
    finally:
        assert linux.unmount(str(root / "merged"))
    assert not linux.unmount(str(root / "merged"))


def test_more_layers_than_that_are_refused(tmp_path: Path) -> None:
    image = Image(tmp_path, [file(b"a") + END])
    with pytest.raises(SnapshotError, match="129 layers; overlayfs takes at most 128"):
        SnapshotStore(tmp_path).unpack(image.layers * 129, image.diff_ids * 129, image.blobs)


def test_the_upper_layer_hides_the_lower_ones(tmp_path: Path) -> None:
    lower = folder(b"d") + file(b"d/hidden") + file(b"f") + folder(b"w") + file(b"w/x")
    upper = file(b".wh.f") + file(b"d/.wh..wh..opq") + file(b"d/seen") + file(b".wh.w") + folder(b"w") + file(b"w/y")
    layers = Image(tmp_path, [lower + END, upper + END]).unpack(SnapshotStore(tmp_path))
    assert os.getxattr(layers[1] / "w", OPAQUE) == b"y"
    for name in ("work", "merged"):
        (tmp_path / name).mkdir()
    prepare_upper(layers, tmp_path / "upper")
    mount_overlay(layers, tmp_path / "upper", tmp_path / "work", tmp_path / "merged", is_volatile=False)
    try:
        assert names(tmp_path / "merged") == ["d", "w"]
        assert names(tmp_path / "merged/d") == ["seen"]
        assert names(tmp_path / "merged/w") == ["y"]
    finally:
        linux.unmount(str(tmp_path / "merged"))


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)
    try:
        image = Image(tmp_path / "blobs", [file(b"a", os.urandom(4_000_000)) + END])
        with pytest.raises(SnapshotError, match="No space left on device; look at the disk's space"):
            image.unpack(SnapshotStore(small))
        assert names(small / "layers") == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_files_are_read_inside_a_root_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "in/file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    (root / "up").symlink_to("../secret")
    (root / "abs").symlink_to("/in/file")
    (root / "magic").symlink_to("/proc/self/root/etc/passwd")
    fd = os.open(root, os.O_RDONLY)
    try:
        assert linux.read_in_root(fd, "/abs", 100) == b"inside"
        assert linux.read_in_root(fd, "../../in/file", 100) == b"inside"
        assert linux.read_in_root(fd, "up", 100) is None
        assert linux.read_in_root(fd, "magic", 100) is None
        assert linux.read_in_root(fd, "in", 100) is None
        with pytest.raises(OSError, match="larger"):
            linux.read_in_root(fd, "abs", 3)
        linux.make_directories(fd, "/in/./../in/new/er")
        assert (root / "in/new/er").is_dir()
        with pytest.raises(OSError, match="Not a directory"):
            linux.make_directories(fd, "/in/file/x")
    finally:
        os.close(fd)
