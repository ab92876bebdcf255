"""An OCI image layout in a directory, to read and to write (image-spec image-layout.md).

::

    DIR/oci-layout                 {"imageLayoutVersion": "1.0.0"}
    DIR/index.json                 the images, each named by an annotation
    DIR/blobs/<algorithm>/<hex>    every manifest, config and layer
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from oci import mediatypes
from oci.descriptor import Descriptor, InvalidDescriptor
from oci.digest import Digest
from oci.manifest import SIZE_MAX, InvalidManifest, Manifest
from oci.reference import InvalidReference, Reference
from oci.strictjson import InvalidJSON, parse_object
from remote.endpoints import Advance, Source
from remote.errors import InvalidContent, InvalidLocation
from remote.files import read_stretch, read_whole, receive, sync_folder

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation with an image's tag (image-spec annotations.md)."""
CONTAINERD_NAME = "io.containerd.image.name"
"""The annotation with an image's full name, as containerd and Docker from 25 on write and read it."""
_NEW = ".new-"
"""How the names of files that are being written begin."""
LAYOUT_FILE = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()


def parse_index(raw: bytes, where: str) -> list[Descriptor]:
    """The entries of an index.json; InvalidContent."""
    try:
        items = parse_object(raw, SIZE_MAX).get("manifests")
        if not isinstance(items, list):
            raise InvalidContent(f"{where} has no list of manifests")
        return [Descriptor.from_json(item, f"manifests[{number}]") for number, item in enumerate(items)]
    except (InvalidJSON, InvalidDescriptor) as error:
        raise InvalidContent(f"{where} cannot be read: {error}") from error


def select(entries: Sequence[Descriptor], wanted: str | None, where: str) -> Descriptor:
    """The entry that a tag or a full name means, or the only one; InvalidLocation lists what there is."""
    if wanted is None:
        if len({entry.digest for entry in entries}) == 1:
            return entries[0]
        found = []
    else:
        found = [
            entry
            for entry in entries
            if wanted in (entry.annotations.get(REF_NAME), entry.annotations.get(CONTAINERD_NAME))
        ]
        found = found or [entry for entry in entries if _same_name(wanted, entry.annotations.get(CONTAINERD_NAME, ""))]
    if len({entry.digest for entry in found}) == 1:
        return found[0]
    names = sorted({name for entry in entries if (name := image_name(entry))})
    offered = f"it has {', '.join(names[:20])}" if names else f"it has {len(entries)} images without a name"
    if wanted is None:
        raise InvalidLocation(f"{where} holds {len(entries)} images, say which one: {offered}")
    raise InvalidLocation(f"{where} has {'more than one' if found else 'no'} image {wanted!r}: {offered}")


def image_name(entry: Descriptor) -> str:
    """What an index.json calls an image, "" for nothing."""
    return entry.annotations.get(CONTAINERD_NAME) or entry.annotations.get(REF_NAME) or ""


def _same_name(one: str, other: str) -> bool:
    try:
        return str(Reference.parse(one)) == str(Reference.parse(other))
    except InvalidReference:
        return False


class LayoutSource:
    """A layout directory to read from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "index.json").is_file():
            raise InvalidLocation(f"{path} is no OCI layout: it has no index.json")

    def manifest(self, target: Digest | str | None) -> Manifest:
        """A manifest by digest, or an image by its name in index.json."""
        media_type: str | None = None
        if not isinstance(target, Digest):
            path = self.path / "index.json"
            raw = self._read(path, SIZE_MAX)
            entry = select(parse_index(raw, str(path)), target, str(self.path))
            target, media_type = entry.digest, entry.media_type
        raw = self._read(self._blob(target), SIZE_MAX)
        if not target.matches(raw):
            raise InvalidContent(f"{self._blob(target)} has not the content that its name says")
        try:
            return Manifest.parse(raw, media_type, target.algorithm)
        except InvalidManifest as error:
            raise InvalidContent(f"{self._blob(target)}: {error}") from error

    def open(self, blob: Descriptor, offset: int) -> Iterator[memoryview]:
        """A blob's bytes."""
        path = self._blob(blob.digest)
        fd = _open(path)
        try:
            size = os.fstat(fd).st_size
            if size != blob.size:
                raise InvalidContent(f"{path} has {size} bytes; its manifest says {blob.size}")
            yield from read_stretch(fd, offset, size - offset, str(path))
        finally:
            os.close(fd)

    def close(self) -> None:
        """Nothing is held."""

    def _blob(self, digest: Digest) -> Path:
        return self.path / "blobs" / digest.algorithm / digest.hex

    def _read(self, path: Path, limit: int) -> bytes:
        fd = _open(path)
        try:
            size = os.fstat(fd).st_size
            if size > limit:
                raise InvalidContent(f"{path} has {size} bytes, more than the {limit} that are allowed")
            return read_whole(fd, 0, size, str(path))
        finally:
            os.close(fd)


class LayoutDestination:
    """A layout directory to write to. It is made where it is missing; what it holds already stays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_dir():
            raise InvalidLocation(f"{path} is not a directory: an OCI layout cannot be written there")
        path.mkdir(parents=True, exist_ok=True)
        if not (path / "oci-layout").is_file():
            others = [name for name in os.listdir(path) if name != "oci-layout" and not name.startswith(_NEW)]
            if others:
                raise InvalidLocation(f"{path} is not empty and no OCI layout: choose another directory")
            with _replacing(path / "oci-layout") as fd:
                _write(fd, LAYOUT_FILE)

    def find(self, blob: Descriptor) -> str | None:
        """Whether a file of the right size is there: it was verified when it was written."""
        try:
            return "exists" if os.stat(self._blob(blob.digest)).st_size == blob.size else None
        except FileNotFoundError:
            return None

    def write(self, blob: Descriptor, source: Source, advance: Advance) -> None:
        """Write a blob beside its place, and put it there once it is verified and synced."""
        path = self._blob(blob.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as fd:
            receive(fd, 0, blob, source, advance)

    def put(self, manifest: Manifest) -> None:
        """Write a manifest's bytes."""
        path = self._blob(manifest.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as fd:
            _write(fd, manifest.raw)

    def finish(self, root: Manifest, tag: str | None) -> None:
        """Write the last manifest, then name it in index.json, in the place of what had that name."""
        self.put(root)
        lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            index = self.path / "index.json"
            kept = parse_index(index.read_bytes(), str(index)) if index.exists() else []
            entries = [entry for entry in kept if not _is_replaced(entry, root.digest, tag)]
            entries.append(index_entry(root, tag, None))
            with _replacing(index) as fd:
                _write(fd, index_json(entries))
        finally:
            os.close(lock)

    def close(self) -> None:
        """Nothing is held."""

    def _blob(self, digest: Digest) -> Path:
        return self.path / "blobs" / digest.algorithm / digest.hex


def index_entry(root: Manifest, tag: str | None, name: str | None) -> Descriptor:
    """An image's line in index.json."""
    annotations = {REF_NAME: tag} if tag is not None else {}
    if name is not None:
        annotations[CONTAINERD_NAME] = name
    return Descriptor(root.media_type, root.digest, len(root.raw), annotations=annotations)


def index_json(entries: Sequence[Descriptor]) -> bytes:
    """An index.json."""
    value = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_INDEX,
        "manifests": [entry.to_json() for entry in entries],
    }
    return json.dumps(value, separators=(",", ":")).encode("utf-8")


def _is_replaced(entry: Descriptor, digest: Digest, tag: str | None) -> bool:
    if tag is not None:
        return entry.annotations.get(REF_NAME) == tag
    return entry.digest == digest and not image_name(entry)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise InvalidContent(f"{path} is missing") from error
    except OSError as error:
        raise InvalidContent(f"{path} cannot be read: {error.strerror}") from error


def _write(fd: int, data: bytes) -> None:
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[int]:
    """A file that takes the place of ``path``, synced, where the block ends well, and is gone where it does not."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=_NEW)
    try:
        yield fd
        os.fchmod(fd, 0o644)
        os.fsync(fd)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    finally:
        os.close(fd)
    sync_folder(path.parent)
