"""Image archives: one tar file with images in it, to read and to write.

Two layouts are read, told by what is inside: an OCI image layout (``index.json``, ``blobs/…``: skopeo's and podman's
``oci-archive``, ``docker save`` from 25 on) and Docker's older one (``manifest.json``, which lists a config and layers by file
name). Written is one file that is both, so that ``docker load``, ``podman load`` and skopeo take it, whatever their age.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oci import mediatypes
from oci.config import SIZE_MAX as CONFIG_MAX
from oci.config import ImageConfig, InvalidConfig
from oci.descriptor import Descriptor
from oci.digest import Digest
from oci.manifest import SIZE_MAX, InvalidManifest, Manifest
from oci.reference import InvalidReference, Reference
from oci.strictjson import InvalidJSON, parse_object
from remote.endpoints import Advance, Source
from remote.errors import InvalidContent, InvalidLocation
from remote.files import read_stretch, read_whole, receive, sync_folder, write_at
from remote.layout import LAYOUT_FILE, index_entry, index_json, parse_index, select
from remote.platforms import choose, host_platform
from remote.tar import BLOCK, Archive, Member, header

LAYERS_MAX = 4096
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class _Legacy:
    """One image of a manifest.json: file names in the archive."""

    config: str
    layers: tuple[str, ...]
    names: tuple[str, ...]


class ArchiveSource:
    """An archive to read from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidLocation(f"the archive {path} cannot be read: {error.strerror}") from error
        try:
            magic = os.pread(self._fd, 4, 0)
            if magic.startswith(_GZIP) or magic == _ZSTD:
                raise InvalidLocation(f"the archive {path} is compressed: unpack it first (gunzip, unzstd)")
            self._archive = Archive(self._fd, str(path))
            if self._archive.find("index.json") is None and self._archive.find("manifest.json") is None:
                raise InvalidLocation(f"{path} holds no images: it has neither an index.json nor a manifest.json")
        except BaseException:
            os.close(self._fd)
            raise
        self._members: dict[Digest, Member] = {}
        self._made: dict[Digest, Manifest] = {}

    def manifest(self, target: Digest | str | None) -> Manifest:
        """A manifest by digest, or an image by its tag or full name; for Docker's older layout it is made from its list of files."""
        if isinstance(target, Digest):
            return self._made.get(target) or self._manifest(target, None)
        index = self._archive.find("index.json")
        if index is not None:
            raw = self._read(index, SIZE_MAX, "index.json")
            entry = select(parse_index(raw, f"index.json in {self.path}"), target, str(self.path))
            return self._manifest(entry.digest, entry.media_type)
        manifest = self._convert(self._select(target))
        self._made[manifest.digest] = manifest
        return manifest

    def open(self, blob: Descriptor, offset: int) -> Iterator[memoryview]:
        """A blob's bytes."""
        member = self._blob(blob.digest)
        if member.size != blob.size:
            raise InvalidContent(f"the blob {blob.digest} in {self.path} has {member.size} bytes, not {blob.size}")
        what = f"the blob {blob.digest} in {self.path}"
        yield from read_stretch(self._fd, member.offset + offset, member.size - offset, what)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _manifest(self, digest: Digest, media_type: str | None) -> Manifest:
        what = f"the manifest {digest} in {self.path}"
        raw = self._read(self._blob(digest), SIZE_MAX, what)
        if not digest.matches(raw):
            raise InvalidContent(f"{what} has not the content that its name says")
        try:
            return Manifest.parse(raw, media_type, digest.algorithm)
        except InvalidManifest as error:
            raise InvalidContent(f"{what}: {error}") from error

    def _blob(self, digest: Digest) -> Member:
        member = self._members.get(digest) or self._archive.find(f"blobs/{digest.algorithm}/{digest.hex}")
        if member is None:
            raise InvalidContent(f"the blob {digest} is not in {self.path}")
        return member

    def _read(self, member: Member, limit: int, what: str) -> bytes:
        if member.size > limit:
            raise InvalidContent(f"{what} has {member.size} bytes, more than the {limit} that are allowed")
        return read_whole(self._fd, member.offset, member.size, what)

    def _select(self, wanted: str | None) -> _Legacy:
        """The image of a manifest.json that a name means, or the only one."""
        member = self._archive.find("manifest.json")
        if member is None:
            raise InvalidContent(f"{self.path} has no manifest.json")
        images = _parse_legacy(self._read(member, SIZE_MAX, "manifest.json"), str(self.path))
        found = images if wanted is None else [image for image in images if _is_named(image, wanted)]
        if len(found) == 1:
            return found[0]
        names = ", ".join(name for image in images for name in image.names)[:1000] or "images without a name"
        what = "say which image" if wanted is None else f"there is no single image {wanted!r}"
        raise InvalidLocation(f"{self.path}: {what}; it has {names}")

    def _convert(self, image: _Legacy) -> Manifest:
        """An OCI manifest over the files of an older archive: the same bytes, so config and layers keep their digests."""
        raw = self._read(self._file(image.config), CONFIG_MAX, image.config)
        try:
            config = ImageConfig.parse(raw)
        except InvalidConfig as error:
            raise InvalidContent(f"{image.config} in {self.path}: {error}") from error
        if len(config.diff_ids) != len(image.layers):
            raise InvalidContent(
                f"{self.path}: the image has {len(image.layers)} layers, but its config {len(config.diff_ids)}"
            )
        digest = Digest.of(raw)
        self._members[digest] = self._file(image.config)
        layers = [self._layer(name, diff_id) for name, diff_id in zip(image.layers, config.diff_ids, strict=True)]
        value = {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_MANIFEST,
            "config": Descriptor(mediatypes.OCI_CONFIG, digest, len(raw)).to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
        return Manifest.parse(json.dumps(value, separators=(",", ":")).encode())

    def _layer(self, name: str, diff_id: Digest) -> Descriptor:
        """A layer's descriptor. The digest of a plain tar is its diff id; a compressed one must be read to know it."""
        member = self._file(name)
        magic = os.pread(self._fd, 4, member.offset)
        if not magic.startswith(_GZIP) and magic != _ZSTD:
            self._members[diff_id] = member
            return Descriptor(mediatypes.OCI_LAYER, diff_id, member.size)
        state = diff_id.hasher()
        for piece in read_stretch(self._fd, member.offset, member.size, name):
            state.update(piece)
        digest = Digest.from_hasher(diff_id.algorithm, state)
        self._members[digest] = member
        media_type = mediatypes.OCI_LAYER_ZSTD if magic == _ZSTD else mediatypes.OCI_LAYER_GZIP
        return Descriptor(media_type, digest, member.size)

    def _file(self, name: str) -> Member:
        member = self._archive.find(name)
        if member is None:
            raise InvalidContent(f"{self.path} has no file {name[:200]!r}, which its manifest.json names")
        return member


class ArchiveDestination:
    """An archive to write to: beside its place, and put there whole when it is finished.

    Sizes are known before bytes are, so every blob gets its stretch of the file at once and they are written side by side.
    """

    def __init__(self, path: Path, reference: Reference | None = None) -> None:
        self.path, self._reference = path, reference
        try:
            self._fd, self._name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-")
        except OSError as error:
            raise InvalidLocation(f"the archive {path} cannot be written: {error.strerror}") from error
        self._is_finished = False
        self._end = 0
        self._lock = threading.Lock()
        self._manifests: list[Manifest] = []
        self._written: set[Digest] = set()

    def find(self, blob: Descriptor) -> str | None:
        """The file is new: nothing is there."""
        return None

    def write(self, blob: Descriptor, source: Source, advance: Advance) -> None:
        """Write a blob into its stretch."""
        offset = self._reserve(_path(blob.digest), blob.size)
        receive(self._fd, offset, blob, source, advance)
        self._written.add(blob.digest)

    def put(self, manifest: Manifest) -> None:
        """Write a manifest."""
        self._file(_path(manifest.digest), manifest.raw)
        self._manifests.append(manifest)

    def finish(self, root: Manifest, tag: str | None) -> None:
        """Write the last manifest and the lists of images, sync, and move the file to its place."""
        self.put(root)
        name = str(self._reference) if self._reference is not None and self._reference.tag else None
        self._file("oci-layout", LAYOUT_FILE)
        self._file("index.json", index_json([index_entry(root, tag, name)]))
        image = self._docker_image(root)
        if image is not None:
            self._file("manifest.json", json.dumps([image], separators=(",", ":")).encode("utf-8"))
        os.ftruncate(self._fd, self._end + 2 * BLOCK)
        os.fchmod(self._fd, 0o644)
        os.fsync(self._fd)
        os.replace(self._name, self.path)
        self._is_finished = True
        sync_folder(self.path.parent)

    def close(self) -> None:
        """Drop what was not finished."""
        os.close(self._fd)
        if not self._is_finished:
            os.unlink(self._name)

    def _docker_image(self, root: Manifest) -> dict[str, Any] | None:
        """The image's line in manifest.json; an index is there by the image of this machine, else by its first."""
        by_digest = {manifest.digest: manifest for manifest in self._manifests}
        found: Manifest | None = root
        while found is not None and found.is_index:
            chosen = choose(found, host_platform()) or next(iter(found.manifests), None)
            found = by_digest.get(chosen.digest) if chosen is not None else None
        if found is None or found.config is None or not self._is_image(found):
            return None
        names = [self._reference.familiar] if self._reference is not None and self._reference.tag else []
        return {
            "Config": _path(found.config.digest),
            "RepoTags": names,
            "Layers": [_path(layer.digest) for layer in found.layers if layer.digest in self._written],
        }

    def _is_image(self, manifest: Manifest) -> bool:
        """Whether Docker could load it: artifacts have no image config."""
        config = manifest.config
        return config is not None and config.media_type in (mediatypes.OCI_CONFIG, mediatypes.DOCKER_CONFIG)

    def _file(self, name: str, data: bytes) -> None:
        write_at(self._fd, data, self._reserve(name, len(data)))

    def _reserve(self, name: str, size: int) -> int:
        """Room for a member; the offset of its first byte. The header is written at once, the padding is a hole of zeros."""
        head = header(name, size)
        with self._lock:
            start = self._end
            self._end += len(head) + -(-size // BLOCK) * BLOCK
        write_at(self._fd, head, start)
        return start + len(head)


def _path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _parse_legacy(raw: bytes, where: str) -> list[_Legacy]:
    try:
        # The file is a list; the strict reader takes objects.
        items = parse_object(b'{"images":' + raw + b"}", SIZE_MAX + 16)["images"]
    except InvalidJSON as error:
        raise InvalidContent(f"manifest.json in {where} cannot be read: {error}") from error
    out: list[_Legacy] = []
    for item in items if isinstance(items, list) else ():
        config = item.get("Config") if isinstance(item, dict) else None
        layers, names = (
            (_strings(item, key) for key in ("Layers", "RepoTags")) if isinstance(item, dict) else (None, None)
        )
        if not isinstance(config, str) or layers is None or names is None or len(layers) > LAYERS_MAX:
            raise InvalidContent(
                f"manifest.json in {where} has an image without a Config, or with Layers that are no list of names"
            )
        out.append(_Legacy(config, layers, names))
    if not out:
        raise InvalidContent(f"manifest.json in {where} lists no image")
    return out


def _strings(item: dict[str, Any], key: str) -> tuple[str, ...] | None:
    found: Sequence[object] = item.get(key) or ()
    if not isinstance(found, list | tuple):
        return None
    texts = [text for text in found if isinstance(text, str)]
    return tuple(texts) if len(texts) == len(found) else None


def _is_named(image: _Legacy, wanted: str) -> bool:
    if wanted in image.names or any(name.rpartition(":")[2] == wanted for name in image.names):
        return True
    try:
        return str(Reference.parse(wanted)) in {str(Reference.parse(name)) for name in image.names}
    except InvalidReference:
        return False
