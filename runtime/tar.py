"""A tar stream, one header at a time: ustar, pax and GNU long names, read from blocks of any size with bounded memory.

Read as Go's archive/tar reads, since that is what wrote nearly every layer and what Docker unpacks them with; where it is lenient about
damage we are not. Names stay bytes. Formats: POSIX.1-2017 pax ("pax Interchange Format", "ustar Interchange Format"), GNU tar manual
"Basic Tar Format".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 512
EXTENSION_MAX = 1024 * 1024
"""The largest pax or GNU extension of one entry, in bytes, as in Go. A kernel takes 64 KiB of xattr and 4 KiB of path."""

REGULAR, LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0123456"
_CONTIGUOUS, _OLD_REGULAR = ord("7"), 0
_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK = b"xgLK"
_KNOWN = frozenset(b"01234567xgLK\0")
_ZEROS = bytes(BLOCK)
_XATTR = b"SCHILY.xattr."
_NOTHING: dict[bytes, bytes] = {}


class InvalidTar(Exception):
    """A stream that is no tar archive, or one with something that is not unpacked. ``name`` is the entry's, where one is known."""

    def __init__(self, reason: str, name: bytes = b"") -> None:
        self.reason, self.name = reason, name
        super().__init__(reason)


@dataclass(slots=True)
class Entry:
    """One member. ``size`` in bytes of the data that follows; ``mtime`` in nanoseconds since 1970; ``kind`` one of the constants above."""

    name: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    target: bytes
    xattrs: dict[bytes, bytes]
    device: tuple[int, int]


class TarReader:
    """The entries of an uncompressed stream that arrives as blocks of any size: :meth:`entries`, and :meth:`data` inside the loop."""

    def __init__(self, blocks: Iterator[bytes | memoryview]) -> None:
        self._blocks = blocks
        self._block = memoryview(b"")
        self._at = 0
        self._data = 0
        self._padding = 0

    def entries(self) -> Iterator[Entry]:
        """Every entry in order, up to the end of the archive; InvalidTar. Data that was not taken is passed over."""
        while (header := self._header()) is not None:
            records = _NOTHING
            name = target = None
            while (kind := header[156]) in (_PAX, _PAX_GLOBAL, _GNU_NAME, _GNU_LINK):
                content = self._extension(_number(header, 124, 136, "size"))
                if kind == _PAX:
                    records = parse_pax(content)
                elif kind == _GNU_NAME:
                    name = content.split(b"\0", 1)[0]
                elif kind == _GNU_LINK:
                    target = content.split(b"\0", 1)[0]
                # A global header changes nothing, as in Go and so in Docker: `git archive` puts a comment there.
                following = self._header()
                if following is None:
                    raise InvalidTar("it ends after an extended header")
                header = following
            entry = _entry(header, records, name, target)
            self._data, self._padding = entry.size, -entry.size % BLOCK
            yield entry
            if self._data or self._padding:
                self._skip(self._data + self._padding)
                self._data = self._padding = 0

    def data(self) -> Iterator[memoryview]:
        """The data of the entry that :meth:`entries` stands at, in pieces that are valid until the next one is asked for."""
        while self._data:
            piece = self._piece(self._data)
            self._data -= len(piece)
            yield piece

    def drain(self) -> None:
        """Read on to the end of the stream: what follows an archive counts for its digest, and nothing else."""
        self._block, self._at = memoryview(b""), 0
        for _ in self._blocks:
            pass

    def _header(self) -> bytes | None:
        """The next header, verified by its checksum; None at the end of the archive: two blocks of zeros, or the end of the stream."""
        header = self._take(BLOCK, may_end=True)
        if not header:
            return None
        if header[0] == 0 and header == _ZEROS:
            following = self._take(BLOCK, may_end=True)
            if following and following != _ZEROS:
                raise InvalidTar("a block of zeros stands between its entries")
            return None
        # The sum over the header with its own field as spaces.
        declared = header[148:156]
        total = sum(header) - sum(declared) + 256
        if _number(header, 148, 156, "checksum") != total:
            signed = total - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
            if _number(header, 148, 156, "checksum") != signed:  # old Sun tars
                raise InvalidTar("a header's checksum is wrong: it is damaged, or no tar archive")
        if header[156] not in _KNOWN:
            kind = chr(header[156])
            reason = "it is a sparse file" if kind == "S" else f"its type {kind!r} is none that layers have"
            raise InvalidTar(f"{reason}, which is not unpacked", header[:100].split(b"\0", 1)[0])
        return header

    def _extension(self, size: int) -> bytes:
        if not 0 <= size <= EXTENSION_MAX:
            raise InvalidTar(f"an extended header of {size} bytes; at most {EXTENSION_MAX} are read")
        content = self._take(size + -size % BLOCK)
        return content[:size]

    def _take(self, count: int, may_end: bool = False) -> bytes:
        """Exactly ``count`` bytes; with ``may_end`` none at all where the stream ends just here."""
        at, block = self._at, self._block
        if at + count <= len(block):
            self._at = at + count
            return bytes(block[at : at + count])
        out = bytearray()
        while len(out) < count:
            piece = self._piece(count - len(out), may_end and not out)
            if not piece:
                return b""
            out += piece
        return bytes(out)

    def _piece(self, count: int, may_end: bool = False) -> memoryview:
        while self._at >= len(self._block):
            block = next(self._blocks, None)
            if block is None:
                if may_end:
                    return memoryview(b"")
                raise InvalidTar("it is cut short: the stream ends inside an entry")
            self._block, self._at = memoryview(block), 0
        piece = self._block[self._at : self._at + count]
        self._at += len(piece)
        return piece

    def _skip(self, count: int) -> None:
        while count:
            count -= len(self._piece(count))


def _entry(header: bytes, records: dict[bytes, bytes], name: bytes | None, target: bytes | None) -> Entry:
    """One entry of its header and what extensions said of it. The GNU extension wins over pax, as in Go."""
    if name is None:
        name = header[:100].split(b"\0", 1)[0]
        if header[345] and header[257:263] == b"ustar\0":
            name = header[345:500].split(b"\0", 1)[0] + b"/" + name
        if records:
            name = records.get(b"path", name)
    kind = header[156]
    if kind in (_OLD_REGULAR, _CONTIGUOUS):
        kind = REGULAR
    if target is None:
        target = header[157:257].split(b"\0", 1)[0] if header[157] else b""
        if records:
            target = records.get(b"linkpath", target)
    uid, gid = _number(header, 108, 116, "uid", name), _number(header, 116, 124, "gid", name)
    size = _number(header, 124, 136, "size", name)
    mtime = _number(header, 136, 148, "mtime", name) * 1_000_000_000
    xattrs = _NOTHING
    if records:
        uid = _decimal(records, b"uid", uid, name)
        gid = _decimal(records, b"gid", gid, name)
        size = _decimal(records, b"size", size, name)
        if b"mtime" in records:
            mtime = _time(records[b"mtime"], name)
        if any(key.startswith(b"GNU.sparse.") for key in records):
            raise InvalidTar("it is a sparse file, which is not unpacked", name)
        xattrs = {key[len(_XATTR) :]: value for key, value in records.items() if key.startswith(_XATTR)}
    device = (0, 0)
    if kind in (CHARACTER, BLOCK_DEVICE):
        device = _number(header, 329, 337, "devmajor", name), _number(header, 337, 345, "devminor", name)
    if not name or b"\0" in name or b"\0" in target:
        raise InvalidTar("its name is empty, or a name holds a NUL", name)
    if kind == REGULAR and name.endswith(b"/"):
        kind = DIRECTORY  # before POSIX there was no other way to say so
    elif kind != REGULAR:
        size = 0  # as in Go: nothing but a regular file has data, whatever the field says
    if size < 0:
        raise InvalidTar("its size is negative", name)
    if not (0 <= uid < 2**32 - 1 and 0 <= gid < 2**32 - 1):
        raise InvalidTar(f"its owner {uid}:{gid} is none that Linux has", name)
    return Entry(
        name, kind, _number(header, 100, 108, "mode", name) & 0o7777, uid, gid, size, mtime, target, xattrs, device
    )


def _number(header: bytes, start: int, end: int, field: str, name: bytes = b"") -> int:
    """A numeric field: octal digits between spaces and NULs, or base 256 where the first bit is set (GNU)."""
    if header[start] & 0x80:
        value = int.from_bytes(header[start:end], "big", signed=False)
        bits = (end - start) * 8
        value &= (1 << (bits - 1)) - 1
        if value >> (bits - 2):  # the sign, in two's complement
            value -= 1 << (bits - 1)
        if not -(2**63) <= value < 2**63:
            raise InvalidTar(f"its {field} is out of any range", name)
        return value
    text = header[start:end].strip(b" \0").split(b"\0", 1)[0]
    if not text:
        return 0
    try:
        if not text.isdigit():
            raise ValueError
        return int(text, 8)
    except ValueError:
        raise InvalidTar(f"its {field} is no number", name) from None


def parse_pax(content: bytes) -> dict[bytes, bytes]:
    """The records of an extended header, ``LENGTH KEY=VALUE\\n`` each; a later one wins, an empty value takes the key away; InvalidTar."""
    out: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + 8)
        digits = content[at:space] if space > at else b""
        if not digits.isdigit():
            raise InvalidTar("a pax record does not begin with its length")
        end = at + int(digits)
        if end > len(content) or end < space + 4 or content[end - 1] != 0x0A:
            raise InvalidTar("a pax record has not the length that it says")
        key, equals, value = content[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise InvalidTar("a pax record has no key")
        if value:
            out[key] = value
        else:
            out.pop(key, None)
            if key.startswith(_XATTR):
                out[key] = value
        at = end
    return out


def _decimal(records: dict[bytes, bytes], key: bytes, fallback: int, name: bytes) -> int:
    text = records.get(key)
    if text is None:
        return fallback
    if not text.isdigit() or len(text) > 19:
        raise InvalidTar(f"its {key.decode('ascii')} in the pax header is no number", name)
    return int(text)


def _time(text: bytes, name: bytes) -> int:
    """``[-]SECONDS[.FRACTION]`` in nanoseconds, what is finer cut off."""
    whole, _, fraction = text.partition(b".")
    digits = whole.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 12 or (fraction and not fraction.isdigit()):
        raise InvalidTar("its mtime in the pax header is no time", name)
    nanoseconds = int(digits) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if whole.startswith(b"-") else nanoseconds
