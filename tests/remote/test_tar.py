"""Tar files as they come, and as enemies make them."""

from __future__ import annotations

import contextlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.errors import InvalidContent
from remote.tar import Archive, header
from tests.remote.content import layer_tar


def members(tmp_path: Path, raw: bytes, names: list[str]) -> list[bytes | None]:
    path = tmp_path / "raw.tar"
    path.write_bytes(raw)
    with path.open("rb") as file:
        archive = Archive(file.fileno(), "raw.tar")
        found = [archive.find(name) for name in names]
        return [None if one is None else raw[one.offset : one.offset + one.size] for one in found]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_is_read(tmp_path: Path, form: int) -> None:
    names = ["a", "./b/c", "d" * 90 + "/" + "e" * 90, "last"]
    names += ["ü" * 150] if form != tarfile.USTAR_FORMAT else []
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name in [*names, "a"]:
            info = tarfile.TarInfo(name)
            data = name.encode() * 7
            info.size, info.mtime = len(data), 12
            archive.addfile(info, io.BytesIO(data))
    assert members(tmp_path, out.getvalue(), names) == [name.encode() * 7 for name in names]


def test_our_headers_are_read_by_others(tmp_path: Path) -> None:
    names = ["short", f"blobs/sha512/{'a' * 128}", "x" * 300]
    raw = b"".join(header(name, 5) + b"12345".ljust(512, b"\0") for name in names) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        assert archive.getnames() == names
    large = tarfile.TarInfo.frombuf(header("large", 9 * 2**30), "utf-8", "strict")
    assert large.size == 9 * 2**30
    assert members(tmp_path, raw, names) == [b"12345"] * 3


def pax(record: bytes) -> bytes:
    block = bytearray(header("x", len(record)))
    block[156:157] = b"x"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + record.ljust(512, b"\0")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"x" * 1024, "wrong checksum|no tar archive"),
        (header("a", 10**9), "cut short"),
        (pax(b"99 path=a\n"), "broken pax header"),
        (pax(b"path=a\n"), "broken pax header"),
        (pax(b"9 size=-\n"), "broken size"),
        (pax(b"22 GNU.sparse.major=1\n"), "sparse"),
        (header("././@LongLink", 2**30)[:156] + b"L" + header("x", 0)[157:], "checksum"),
    ],
)
def test_broken_tars_are_refused(tmp_path: Path, raw: bytes, said: str) -> None:
    with pytest.raises(InvalidContent, match=said):
        members(tmp_path, raw, [])


def test_a_header_that_claims_a_gigabyte_is_refused(tmp_path: Path) -> None:
    block = bytearray(header("././@LongLink", 2**30))
    block[156:157] = b"L"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(InvalidContent, match="a header of 1073741824 bytes"):
        members(tmp_path, bytes(block), [])


def test_more_members_than_any_image_has(tmp_path: Path) -> None:
    with pytest.raises(InvalidContent, match="more than 100000 members"):
        members(tmp_path, header("a", 0) * 100_001, [])


@given(st.binary(max_size=2048), st.integers(0, 1023), st.binary(min_size=1, max_size=40))
def test_no_bytes_make_a_traceback(tmp_path_factory: pytest.TempPathFactory, raw: bytes, at: int, patch: bytes) -> None:
    good = layer_tar("a" * 120, b"content")
    broken = good[:at] + patch + good[at + len(patch) :]
    for data in (raw, broken):
        with contextlib.suppress(InvalidContent):
            members(tmp_path_factory.getbasetemp(), data, ["a", "../a", "", "/"])
