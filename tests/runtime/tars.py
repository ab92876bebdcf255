"""Tar streams made by hand, byte for byte, and layers of them: what no well-meaning library would write."""

from __future__ import annotations

import gzip
from pathlib import Path

from oci.descriptor import Descriptor
from oci.digest import Digest
from runtime.layers import Applied, apply_layer
from runtime.limits import Limits

END = bytes(1024)


def header(
    name: bytes,
    kind: bytes = b"0",
    *,
    size: int = 0,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_000_000_000,
    target: bytes = b"",
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
    raw_size: bytes | None = None,
) -> bytes:
    """One ustar header with a good checksum; names are cut to what fits."""
    fields = [
        name[:100].ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % uid,
        b"%07o\0" % gid,
        raw_size or b"%011o\0" % size,
        b"%011o\0" % mtime,
        b" " * 8,
        kind,
        target[:100].ljust(100, b"\0"),
        magic,
        bytes(64),
        b"%07o\0" % device[0],
        b"%07o\0" % device[1],
        prefix[:155].ljust(155, b"\0"),
    ]
    block = b"".join(fields).ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def file(name: bytes, data: bytes = b"", *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> bytes:
    return header(name, size=len(data), mode=mode, uid=uid, gid=gid) + pad(data)


def folder(name: bytes, *, mode: int = 0o755, uid: int = 0, gid: int = 0, mtime: int = 1_000_000_000) -> bytes:
    return header(name, b"5", mode=mode, uid=uid, gid=gid, mtime=mtime)


def symlink(name: bytes, target: bytes) -> bytes:
    return header(name, b"2", target=target, mode=0o777)


def link(name: bytes, target: bytes) -> bytes:
    return header(name, b"1", target=target)


def node(name: bytes, kind: bytes, major: int, minor: int) -> bytes:
    return header(name, kind, device=(major, minor), mode=0o666)


def pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    """An extended header for the entry that follows."""
    content = b""
    for key, value in records.items():
        tail = b" " + key + b"=" + value + b"\n"
        length = len(tail)
        while len(b"%d" % length) + len(tail) != length:
            length = len(b"%d" % length) + len(tail)
        content += b"%d" % length + tail
    return header(b"pax", kind, size=len(content)) + pad(content)


def gnu_long(kind: bytes, text: bytes) -> bytes:
    """A GNU long name (L) or long link (K) for the entry that follows."""
    return header(b"././@LongLink", kind, size=len(text) + 1, magic=b"ustar  \0") + pad(text + b"\0")


class MemoryBlob:
    """A blob in memory, as a store would give it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def fileno(self) -> int:
        raise OSError("this blob is in memory")

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]

    def close(self) -> None:
        """Nothing is held."""


def descriptor(data: bytes) -> Descriptor:
    return Descriptor("application/vnd.oci.image.layer.v1.tar", Digest.of(data), len(data))


def unpack(tar: bytes, directory: Path, *, packed: bytes | None = None, limits: Limits | None = None) -> Applied:
    """Apply an uncompressed tar, or what it was ``packed`` to, to a new directory."""
    directory.mkdir()
    stored = packed if packed is not None else tar
    return apply_layer(MemoryBlob(stored), descriptor(stored), Digest.of(tar), str(directory), limits)


def squeeze(tar: bytes) -> bytes:
    return gzip.compress(tar, mtime=0)
