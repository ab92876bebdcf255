"""Where the files of a tar archive lie, without unpacking anything (POSIX.1-2017 pax, and GNU tar's long names and large numbers).

The archive is hostile: names are only keys here and never become paths, every header is bounded, and links lead only to members.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass

from remote.errors import InvalidContent

BLOCK = 512
MEMBERS_MAX = 100_000
EXTENSION_MAX = 1024 * 1024
"""The longest pax header or GNU long name, in bytes."""
LINKS_MAX = 8

_REGULAR = (b"0", b"\0", b"7")
_HARD_LINK, _SYMLINK = b"1", b"2"
_GNU_NAME, _GNU_LINK = b"L", b"K"
_PAX, _PAX_GLOBAL = b"x", b"g"


@dataclass(frozen=True, slots=True)
class Member:
    """A file's bytes in an archive: ``size`` bytes from ``offset``."""

    offset: int
    size: int


@dataclass(slots=True)
class _Pending:
    """What extension headers say about the next member."""

    name: str | None = None
    link: str | None = None
    size: int | None = None


class Archive:
    """The members of an open tar file, by their normal names; the last of a name counts, as it would when unpacked."""

    def __init__(self, fd: int, where: str) -> None:
        self.fd, self.where = fd, where
        self._files: dict[str, Member] = {}
        self._links: dict[str, str] = {}
        self._scan()

    def find(self, name: str) -> Member | None:
        """A regular file, through the archive's own links; None where there is none."""
        path = _normal(name)
        for _ in range(LINKS_MAX):
            if path is None:
                return None
            if path in self._files:
                return self._files[path]
            link = self._links.get(path)
            path = _normal(link) if link is not None else None
        return None

    def _scan(self) -> None:
        end = os.fstat(self.fd).st_size
        position = count = 0
        pending = _Pending()
        while position + BLOCK <= end:
            header = os.pread(self.fd, BLOCK, position)
            if not header.strip(b"\0"):
                return
            count += 1
            if count > MEMBERS_MAX:
                raise InvalidContent(f"{self.where} has more than {MEMBERS_MAX} members: refused")
            self._verify(header, position)
            kind = header[156:157]
            size = self._number(header[124:136], position)
            position += BLOCK
            if kind in (_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK):
                self._extend(pending, kind, position, size)
            else:
                if pending.size is not None:
                    size = pending.size
                self._add(header, kind, Member(position, size), pending)
                pending = _Pending()
            position += -(-size // BLOCK) * BLOCK
            if position > end + BLOCK:
                raise InvalidContent(f"{self.where} is cut short: a member's end lies behind the file's")

    def _add(self, header: bytes, kind: bytes, member: Member, pending: _Pending) -> None:
        name = pending.name if pending.name is not None else _header_name(header)
        path = _normal(name)
        if path is None:
            return
        self._files.pop(path, None)
        self._links.pop(path, None)
        link = pending.link if pending.link is not None else _text(header[157:257])
        if kind in _REGULAR:
            self._files[path] = member
        elif kind == _HARD_LINK:
            self._links[path] = link
        elif kind == _SYMLINK:
            self._links[path] = posixpath.join(posixpath.dirname(path), link)

    def _extend(self, pending: _Pending, kind: bytes, position: int, size: int) -> None:
        if size > EXTENSION_MAX:
            raise InvalidContent(f"{self.where} has a header of {size} bytes: refused")
        data = os.pread(self.fd, size, position)
        if kind == _GNU_NAME:
            pending.name = _text(data)
        elif kind == _GNU_LINK:
            pending.link = _text(data)
        elif kind == _PAX:
            self._pax(pending, data, position)

    def _pax(self, pending: _Pending, data: bytes, position: int) -> None:
        """Records ``LENGTH KEY=VALUE\\n``, the length counting itself."""
        while data:
            digits, space, _ = data[:20].partition(b" ")
            if not space or not digits.isdigit() or not len(digits) + 3 <= int(digits) <= len(data):
                raise InvalidContent(f"{self.where} has a broken pax header at byte {position}")
            record, data = data[len(digits) + 1 : int(digits) - 1], data[int(digits) :]
            key, _, value = record.partition(b"=")
            if key == b"path":
                pending.name = value.decode("utf-8", "surrogateescape")
            elif key == b"linkpath":
                pending.link = value.decode("utf-8", "surrogateescape")
            elif key == b"size":
                if not value.isdigit() or len(value) > 19:
                    raise InvalidContent(f"{self.where} has a broken size at byte {position}")
                pending.size = int(value)
            elif key.startswith(b"GNU.sparse."):
                raise InvalidContent(f"{self.where} has a sparse member at byte {position}: not supported")

    def _verify(self, header: bytes, position: int) -> None:
        expected = self._number(header[148:156], position)
        if sum(header[:148]) + 8 * 0x20 + sum(header[156:]) != expected:
            raise InvalidContent(f"{self.where} is no tar archive: the header at byte {position} has a wrong checksum")

    def _number(self, field: bytes, position: int) -> int:
        if field[0] & 0x80:  # GNU's base 256; a negative one has all bits of the first byte set
            value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
            if field[0] == 0xFF or value >= 2**63:
                raise InvalidContent(f"{self.where} has a broken number at byte {position}")
            return value
        text = field.strip(b" \0")
        if not all(0x30 <= digit <= 0x37 for digit in text):
            raise InvalidContent(f"{self.where} is no tar archive: broken number at byte {position}")
        return int(text, 8) if text else 0


def _header_name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _normal(name: str) -> str | None:
    """A member's one name: relative, without dots; None for the top itself, and for what would lie outside."""
    path = posixpath.normpath("/" + name).lstrip("/")
    is_outside = posixpath.normpath(name.lstrip("/") or ".").startswith("..")
    return None if is_outside or not path else path


def header(name: str, size: int) -> bytes:
    """The header of a regular file: ustar, with GNU extensions where the name or the size needs them."""
    encoded = name.encode("utf-8")
    long_name = b""
    if len(encoded) > 100:
        padded = encoded + b"\0"
        long_name = _block(b"././@LongLink", len(padded), _GNU_NAME) + padded + bytes(-len(padded) % BLOCK)
    return long_name + _block(encoded[:100], size, b"0")


def _block(name: bytes, size: int, kind: bytes) -> bytes:
    sized = b"%011o\0" % size if size < 8**11 else b"\x80" + size.to_bytes(11, "big")
    magic = b"ustar\x0000" if size < 8**11 and kind == b"0" else b"ustar  \0"
    fields = [
        name.ljust(100, b"\0"),
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        sized,
        b"00000000000\0",  # a date would make two copies of one image differ
        b" " * 8,
        kind,
        bytes(100),
        magic,
        bytes(32),
        bytes(32),
        bytes(16),
        bytes(155),
        bytes(12),
    ]
    block = bytearray(b"".join(fields))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
