"""What layers become on disk: odd ones as Docker unpacks them, hostile ones nothing at all."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oci.digest import Digest
from runtime.layers import apply_layer
from runtime.limits import OPAQUE, LayerRefused, Limits
from tests.runtime.tars import (
    END,
    MemoryBlob,
    descriptor,
    file,
    folder,
    gnu_long,
    header,
    link,
    node,
    pad,
    pax,
    squeeze,
    symlink,
    unpack,
)
from tests.tools import tool

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DEEP = b"/".join([b"d"] * 300)

HOSTILE: dict[str, tuple[bytes, str]] = {
    "parent": (file(b"../evil", b"x"), "leads out of the root"),
    "parent inside": (file(b"a/../../evil", b"x"), "leads out of the root"),
    "parent alone": (folder(b".."), "leads out of the root"),
    "parent by pax": (pax({b"path": b"../evil"}) + file(b"good"), "leads out of the root"),
    "parent by GNU": (gnu_long(b"L", b"../evil") + file(b"good"), "leads out of the root"),
    "parent by prefix": (header(b"evil", prefix=b"../.."), "leads out of the root"),
    "through a relative link": (symlink(b"l", b"../../..") + file(b"l/evil", b"x"), "leads out of the root"),
    "through a nested link": (
        folder(b"a") + symlink(b"a/l", b"../..") + symlink(b"m", b"a/l") + file(b"m/evil"),
        "leads out of the root",
    ),
    "through a link to nothing": (symlink(b"l", b"/tmp/outside") + file(b"l/evil"), "not in the layer"),
    "through a loop": (symlink(b"a", b"b") + symlink(b"b", b"a") + file(b"a/evil"), "too many symbolic links"),
    "directory through a link": (symlink(b"l", b"../..") + folder(b"l/evil"), "leads out of the root"),
    "hard link out": (link(b"l", b"../../../../etc/passwd"), "hard link out of the root"),
    "hard link out, absolute": (link(b"l", b"/../etc/passwd"), "hard link out of the root"),
    "hard link to the host": (link(b"l", b"/etc/passwd"), "not in the layer"),
    "hard link through a link": (
        symlink(b"e", b"../../../../../../../etc") + link(b"l", b"e/passwd"),
        "leads out of the root",
    ),
    "hard link to nothing": (link(b"l", b""), "hard link to nothing"),
    "hard link to itself": (link(b"l", b"l"), "not in the layer"),
    "hard link to a directory": (folder(b"d") + link(b"l", b"d"), "hard link to a directory"),
    "hard link to a whiteout": (file(b".wh.x") + link(b"l", b"x"), "the layer removes"),
    "bare whiteout": (file(b"a/.wh."), "whiteout of no name"),
    "whiteout of its directory": (file(b"a/.wh.."), "whiteout of no name"),
    "whiteout of its parent": (file(b"a/.wh..."), "whiteout of no name"),
    "whiteout of an unknown kind": (file(b"a/.wh..wh.new"), "kept for whiteouts"),
    "whiteout through a link": (symlink(b"l", b"../..") + file(b"l/.wh.etc"), "leads out of the root"),
    "opaque through a link": (symlink(b"l", b"../..") + file(b"l/.wh..wh..opq"), "leads out of the root"),
    "root replaced": (symlink(b".", b"/etc"), "replace the root"),
    "file as directory": (file(b"a") + file(b"a/b"), "is no directory"),
    "overlay's own attribute": (
        pax({b"SCHILY.xattr.trusted.overlay.redirect": b"/etc"}) + folder(b"a"),
        "overlayfs keeps for itself",
    ),
    "sparse": (header(b"s", b"S", size=0), "sparse"),
    "sparse by pax": (pax({b"GNU.sparse.major": b"1"}) + file(b"s"), "sparse"),
    "unknown type": (header(b"v", b"V"), "none that layers have"),
    "NUL in a name": (pax({b"path": b"a\0b"}) + file(b"a"), "NUL"),
    "no name": (file(b""), "name is empty"),
    "name too long": (pax({b"path": b"n" * 256}) + file(b"a"), "File name too long"),
    "path too long": (pax({b"path": b"n/" * 2048 + b"n"}) + file(b"a"), "longer than 4095"),
    "too deep": (pax({b"path": DEEP}) + file(b"a"), "directories deep"),
    "bad checksum": (b"x" + file(b"abc")[1:], "checksum"),
    "no tar": (b"<html>" + bytes(506), "checksum"),
    "cut in a header": (file(b"a")[:300], "cut short"),
    "cut in data": (header(b"a", size=10_000) + b"abc", "cut short"),
    "cut after a pax header": (pax({b"path": b"b"}), "ends after an extended header"),
    "zeros between": (file(b"a") + bytes(512) + file(b"b"), "block of zeros"),
    "negative size": (header(b"a", raw_size=b"\xff" * 12), "size"),
    "size no number": (header(b"a", raw_size=b"1_0".ljust(12, b"\0")), "no number"),
    "size beyond all": (header(b"a", raw_size=b"\x80" + b"\xff" * 11), "size"),
    "owner beyond all": (pax({b"uid": b"4294967295"}) + file(b"a"), "owner"),
    "pax length lies": (header(b"p", b"x", size=10) + pad(b"99 path=a\n") + file(b"a"), "length that it says"),
    "pax without length": (header(b"p", b"x", size=8) + pad(b"path=ab\n") + file(b"a"), "begin with its length"),
    "pax too large": (header(b"p", b"x", size=2 * 1024 * 1024), "extended header of"),
    "mtime no time": (pax({b"mtime": b"now"}) + file(b"a"), "no time"),
    "impossible device": (pax({}) + header(b"d", b"3", device=(0o17777, 1)), "which Linux does not have"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_layer_is_refused_by_name(name: str, tmp_path: Path) -> None:
    tar, reason = HOSTILE[name]
    if not name.startswith("cut"):
        tar += END
    outside = tmp_path / "x"
    outside.mkdir()
    before = _listing(tmp_path)
    with pytest.raises(LayerRefused) as refused:
        unpack(tar, outside / "root")
    assert reason in refused.value.reason
    assert str(refused.value.digest) in str(refused.value)
    assert refused.value.digest == Digest.of(tar)
    after = [path for path in _listing(tmp_path) if not path.startswith("x/root")]
    assert after == before


def test_the_refusal_names_the_entry(tmp_path: Path) -> None:
    with pytest.raises(LayerRefused, match=r"at the entry 'etc/\.wh\.\.\.'"):
        unpack(file(b"good") + file(b"etc/.wh...") + END, tmp_path / "root")


def test_a_wrong_diff_id_is_refused(tmp_path: Path) -> None:
    tar = file(b"a", b"content") + END
    wrong = Digest.of(b"something else")
    tmp_path.joinpath("root").mkdir()
    with pytest.raises(LayerRefused, match=f"diff id {Digest.of(tar)}, but the image config says {wrong}"):
        apply_layer(MemoryBlob(tar), descriptor(tar), wrong, str(tmp_path / "root"))


def test_a_damaged_blob_is_refused(tmp_path: Path) -> None:
    tar = file(b"a", b"content") + END
    damaged = tar.replace(b"content", b"CONTENT")
    tmp_path.joinpath("root").mkdir()
    with pytest.raises(LayerRefused, match="the blob is damaged"):
        apply_layer(MemoryBlob(damaged), descriptor(tar), Digest.of(damaged), str(tmp_path / "root"))


def test_a_blob_of_another_size_is_refused(tmp_path: Path) -> None:
    tar = file(b"a", b"content") + END
    tmp_path.joinpath("root").mkdir()
    with pytest.raises(LayerRefused, match="but the manifest says"):
        apply_layer(MemoryBlob(tar + b"more"), descriptor(tar), Digest.of(tar), str(tmp_path / "root"))


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_is_refused_before_it_bursts(kind: str, tmp_path: Path) -> None:
    size = 100 * 1024 * 1024
    tar = header(b"zeros", size=size) + bytes(size) + END
    packed = gzip.compress(tar, 1) if kind == "gzip" else zstd.compress(tar)
    limits = Limits(ratio_free=8 * 1024 * 1024)
    with pytest.raises(LayerRefused, match="taken for a bomb"):
        unpack(tar, tmp_path / "root", packed=packed, limits=limits)
    assert (tmp_path / "root/zeros").stat().st_size <= limits.allowed(len(packed)) < size


def test_a_layer_above_the_absolute_limit_is_refused(tmp_path: Path) -> None:
    tar = file(b"a", os.urandom(200_000)) + END
    with pytest.raises(LayerRefused, match="more than 100000 bytes, the most that a layer may"):
        unpack(tar, tmp_path / "root", limits=Limits(unpacked_max=100_000))


def test_a_layer_with_too_many_entries_is_refused(tmp_path: Path) -> None:
    tar = b"".join(file(b"%d" % number) for number in range(20)) + END
    with pytest.raises(LayerRefused, match="more than 10 entries"):
        unpack(tar, tmp_path / "root", limits=Limits(entries_max=10))


def test_what_follows_the_archive_counts_for_the_diff_id_only(tmp_path: Path) -> None:
    unpack(file(b"a", b"1") + END + file(b"b", b"2"), tmp_path / "root")
    assert _listing(tmp_path / "root") == ["a"]


@pytest.mark.parametrize(
    ("tar", "expected"),
    [
        pytest.param(file(b"/etc/absolute"), ["etc", "etc/absolute"], id="absolute"),
        pytest.param(file(b"/../a"), ["a"], id="absolute parent"),
        pytest.param(file(b"./a//b/./c"), ["a", "a/b", "a/b/c"], id="dots"),
        pytest.param(file(b"a/../b"), ["b"], id="parent that stays inside"),
        pytest.param(folder(b"a/") + file(b"a/b"), ["a", "a/b"], id="slash at the end"),
        pytest.param(header(b"old/", b"\0", magic=b"\0" * 8), ["old"], id="directory before POSIX"),
        pytest.param(header(b"b", prefix=b"a"), ["a", "a/b"], id="prefix"),
        pytest.param(gnu_long(b"L", b"n" * 200) + file(b"cut"), ["n" * 200], id="GNU long name"),
        pytest.param(pax({b"path": b"p" * 200}) + file(b"cut"), ["p" * 200], id="pax long name"),
        pytest.param(pax({b"comment": b"x"}, b"g") + file(b"a"), ["a"], id="global header"),
        pytest.param(file(b"new\nline\x1b"), ["new\nline\x1b"], id="control characters"),
        pytest.param(file(b"\xff\xfe"), [os.fsdecode(b"\xff\xfe")], id="not UTF-8"),
        pytest.param(file(b".wh..wh.plnk/1.2") + file(b"a"), ["a"], id="AUFS directory"),
        pytest.param(file(b".wh..wh.aufs") + file(b"a"), ["a"], id="AUFS file"),
        pytest.param(b"", [], id="nothing"),
    ],
)
def test_odd_names_end_up_where_docker_puts_them(tar: bytes, expected: list[str], tmp_path: Path) -> None:
    unpack(tar + END, tmp_path / "root")
    assert _listing(tmp_path / "root") == expected


def test_a_stream_without_the_blocks_at_its_end_is_whole(tmp_path: Path) -> None:
    unpack(file(b"a", b"x"), tmp_path / "root")
    assert (tmp_path / "root/a").read_bytes() == b"x"


ONES = {
    "file": file(b"x", b"new"),
    "directory": folder(b"x"),
    "link": symlink(b"x", b"elsewhere"),
    "hard link": link(b"x", b"other"),
    "fifo": header(b"x", b"6"),
    "device": node(b"x", b"3", 1, 3),
}


@pytest.mark.parametrize("first", ONES)
@pytest.mark.parametrize("last", ONES)
def test_the_last_of_two_entries_wins(first: str, last: str, tmp_path: Path) -> None:
    inside = file(b"x/inside") if first == "directory" else b""
    unpack(file(b"other", b"other") + ONES[first] + inside + ONES[last] + END, tmp_path / "root")
    info = os.lstat(tmp_path / "root/x")
    kinds = {
        "file": stat.S_ISREG,
        "directory": stat.S_ISDIR,
        "link": stat.S_ISLNK,
        "hard link": stat.S_ISREG,
        "fifo": stat.S_ISFIFO,
        "device": stat.S_ISCHR,
    }
    assert kinds[last](info.st_mode)
    assert (info.st_nlink == 2) == (last in ("hard link", "directory"))
    # Only a directory meets a directory; anything else takes it away with what is in it.
    assert (tmp_path / "root/x/inside").exists() == (first == last == "directory")


def test_a_file_through_a_link_inside_goes_where_the_link_leads(tmp_path: Path) -> None:
    tar = folder(b"usr") + folder(b"usr/lib") + symlink(b"lib", b"usr/lib") + file(b"lib/a", b"1")
    tar += symlink(b"abs", b"/usr/lib") + file(b"abs/b/c", b"2") + link(b"lib/d", b"abs/a")
    unpack(tar + END, tmp_path / "root")
    assert _listing(tmp_path / "root/usr/lib") == ["a", "b", "b/c", "d"]
    assert (tmp_path / "root/usr/lib/d").samefile(tmp_path / "root/usr/lib/a")


def test_a_directory_that_was_replaced_by_a_link_is_not_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tar = folder(b"d", mode=0o700) + file(b"d/a") + symlink(b"d", os.fsencode(outside)) + file(b"d/b")
    with pytest.raises(LayerRefused, match="not in the layer"):
        unpack(tar + END, tmp_path / "root")
    assert list(outside.iterdir()) == []


def test_a_link_out_of_the_root_alone_is_the_containers_business(tmp_path: Path) -> None:
    unpack(symlink(b"l", b"../../../../etc/passwd") + END, tmp_path / "root")
    assert os.readlink(tmp_path / "root/l") == "../../../../etc/passwd"


def test_owners_modes_times_and_attributes_are_kept(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    tar = folder(b"d", mode=0o1777, uid=5, gid=6, mtime=1234)
    tar += file(b"d/su", b"#!", mode=0o6755, uid=7, gid=8)
    tar += pax({b"SCHILY.xattr.security.capability": capability, b"mtime": b"1.5"}) + file(b"d/cap", mode=0o755, uid=9)
    tar += pax({b"uid": b"3000000000", b"SCHILY.xattr.user.empty": b""}) + file(b"d/big")
    tar += header(b"d/l", b"2", target=b"x", uid=11, mtime=99) + header(b"d/fifo", b"6", mode=0o622, uid=12)
    unpack(tar + END, tmp_path / "root")
    root = tmp_path / "root/d"
    info = root.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime) == (0o1777, 5, 6, 1234)
    info = (root / "su").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime) == (0o6755, 7, 8, 1e9)
    assert os.getxattr(root / "cap", "security.capability") == capability
    assert (root / "cap").stat().st_mtime_ns == 1_500_000_000
    assert (root / "big").stat().st_uid == 3_000_000_000
    assert os.getxattr(root / "big", "user.empty") == b""
    info = os.lstat(root / "l")
    assert (info.st_uid, info.st_mtime) == (11, 99)
    assert stat.S_IMODE(os.lstat(root / "fifo").st_mode) == 0o622


def test_the_mode_is_the_archives_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        unpack(file(b"new/a", mode=0o666) + folder(b"b", mode=0o777) + END, tmp_path / "root")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / "root" / name).stat().st_mode) for name in ("new", "new/a", "b")]
    assert modes == [0o755, 0o666, 0o777]


def test_device_nodes_are_made(tmp_path: Path) -> None:
    unpack(node(b"n", b"3", 1, 3) + node(b"b", b"4", 259, 70_000) + END, tmp_path / "root")
    assert os.lstat(tmp_path / "root/n").st_rdev == os.makedev(1, 3)
    assert os.lstat(tmp_path / "root/b").st_rdev == os.makedev(259, 70_000)


def test_whiteouts_become_what_overlayfs_has(tmp_path: Path) -> None:
    tar = file(b"a/.wh.gone") + file(b"b/.wh..wh..opq") + file(b"b/own")
    unpack(tar + END, tmp_path / "root")
    info = os.lstat(tmp_path / "root/a/gone")
    assert stat.S_ISCHR(info.st_mode)
    assert info.st_rdev == 0
    assert os.getxattr(tmp_path / "root/b", OPAQUE) == b"y"
    assert _listing(tmp_path / "root") == ["a", "a/gone", "b", "b/own"]


@pytest.mark.parametrize("order", [0, 1])
def test_a_whiteout_hides_the_layers_below_and_not_its_own(order: int, tmp_path: Path) -> None:
    whiteouts = file(b".wh.d") + file(b".wh.f")
    own = folder(b"d", mode=0o700) + file(b"d/own") + file(b"f", b"own")
    unpack((whiteouts + own if order else own + whiteouts) + END, tmp_path / "root")
    assert os.getxattr(tmp_path / "root/d", OPAQUE) == b"y"
    assert (tmp_path / "root/d/own").exists()
    assert (tmp_path / "root/f").read_bytes() == b"own"


def test_a_directory_that_is_only_used_takes_the_place_of_its_whiteout(tmp_path: Path) -> None:
    applied = unpack(file(b".wh.d") + file(b"d/own") + END, tmp_path / "root")
    assert os.getxattr(tmp_path / "root/d", OPAQUE) == b"y"
    assert applied.implicit == (b"", b"d")


def test_directories_that_are_used_but_not_described_are_told(tmp_path: Path) -> None:
    applied = unpack(file(b"a/b/c") + folder(b"a") + folder(b"x") + END, tmp_path / "root")
    assert applied.implicit == (b"", b"a/b")
    assert unpack(folder(b"./") + END, tmp_path / "other").implicit == ()


@pytest.mark.parametrize("kind", ["plain", "gzip", "members", "zeros", "zstd", "frames"])
def test_the_compression_is_told_by_magic(kind: str, tmp_path: Path) -> None:
    tar = b"".join(file(b"%d" % number, os.urandom(3000)) for number in range(500)) + END
    half = len(tar) // 2
    packed = {
        "plain": lambda: tar,
        "gzip": lambda: squeeze(tar),
        "members": lambda: squeeze(tar[:half]) + squeeze(b"") + squeeze(tar[half:]),
        "zeros": lambda: squeeze(tar) + bytes(512),
        "zstd": lambda: zstd.compress(tar),
        "frames": lambda: (
            b"\x50\x2a\x4d\x18\x03\0\0\0abc"
            + zstd.compress(tar[:half])
            + zstd.compress(tar[half:])
            + b"\x5f\x2a\x4d\x18\0\0\0\0"
        ),
    }[kind]()
    assert unpack(tar, tmp_path / "root", packed=packed).entries == 500


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        pytest.param(squeeze(file(b"a") + END)[:-9], "cut short", id="gzip cut"),
        pytest.param(squeeze(file(b"a") + END) + b"rubbish", "no gzip member", id="gzip with rubbish"),
        pytest.param(squeeze(file(b"a") + END)[:-8] + bytes(8), "decompressed", id="gzip damaged"),
        pytest.param(zstd.compress(file(b"a") + END)[:-3], "cut short", id="zstd cut"),
        pytest.param(zstd.compress(file(b"a") + END) + b"rubbish", "decompressed", id="zstd with rubbish"),
    ],
)
def test_a_damaged_stream_is_refused(packed: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(LayerRefused, match=reason):
        unpack(file(b"a") + END, tmp_path / "root", packed=packed)


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_a_real_tree_comes_out_as_gnu_tar_packed_it(form: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/file").write_bytes(os.urandom(3_000_000))
    (source / "a/empty").touch(0o600)
    (source / ("d" * 60)).mkdir()
    (source / ("d" * 60) / ("n" * 90)).write_text("long")
    (source / "l").symlink_to("a/b")
    os.link(source / "a/b/file", source / "hard")
    os.mkfifo(source / "fifo")
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(source / "a/empty", 1000, 50)
    (source / "a/b").chmod(0o2750)
    os.utime(source / "a/b", (1, 1))
    archive = tmp_path / "x.tar"
    pack = [str(tool("tar")), f"--format={form}", "-C", str(source), "-cf", str(archive), "."]
    subprocess.run(pack, check=True)
    unpack(archive.read_bytes(), tmp_path / "root")
    compare = [str(tool("tar")), "-C", str(tmp_path / "root"), "--compare", "-f", str(archive)]
    result = subprocess.run(compare, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("", "", 0)
    assert _listing(tmp_path / "root") == _listing(source)


ENTRIES = st.lists(
    st.one_of(
        st.builds(
            lambda name, kind, target, data: header(name, kind, target=target, size=len(data)) + pad(data),
            st.sampled_from(
                [b"a", b"a/b", b"a/b/c", b"../x", b"/a", b"l", b"l/x", b".wh.a", b"a/.wh..wh..opq", b".", b"a/.."]
            ),
            st.sampled_from([b"0", b"1", b"2", b"5", b"6", b"3", b"L", b"x", b"g"]),
            st.sampled_from([b"", b"a", b"..", b"../..", b"/", b"/etc", b"l", b"a/b", b"../../../../tmp"]),
            st.sampled_from([b"", b"x", b"../escape\0", b"14 path=../up\n", b"16 path=l/a/b/c\n"]),
        ),
        st.binary(min_size=512, max_size=512),
    ),
    max_size=12,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=ENTRIES, flip=st.integers(0, 5000), is_flipped=st.booleans())
def test_no_stream_escapes_or_fails_in_any_other_way(
    entries: list[bytes], flip: int, is_flipped: bool, tmp_path: Path
) -> None:
    stream = bytearray(b"".join(entries) + END)
    if is_flipped:
        stream[flip % len(stream)] ^= 1 << (flip % 8)
    with tempfile.TemporaryDirectory(dir=tmp_path) as name:
        outside = Path(name)
        (outside / "canary").write_text("untouched")
        with contextlib.suppress(LayerRefused):
            unpack(bytes(stream), outside / "root")
        assert sorted(path.name for path in outside.iterdir()) == ["canary", "root"]
        assert (outside / "canary").read_text() == "untouched"
    assert not Path("/tmp/escape").exists()


def _listing(root: Path) -> list[str]:
    """Every name below a directory, in order; links are not followed."""
    return sorted(
        os.path.relpath(os.path.join(folder_name, name), root)
        for folder_name, folders, files in os.walk(root)
        for name in (*folders, *files)
    )
