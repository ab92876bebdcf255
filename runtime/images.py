"""The engine's images: names, and the blobs that they lead to.

::

    ROOT/engine/images.json      every name and its descriptor: replaced whole, under images.lock
    ROOT/engine/images.lock      flock: one writer of names at a time, of any process
    ROOT/engine/partial/DIGEST   the id of the upload that holds the first bytes of a blob whose pull was cut
    ROOT/engine/blobs, uploads   a FilesystemBlobStore

A name may lead to an index of which only some platforms are here. Removing a name leaves the bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oci.config import SIZE_MAX as CONFIG_MAX
from oci.config import ImageConfig
from oci.descriptor import Descriptor, InvalidDescriptor, Platform
from oci.digest import Digest
from oci.manifest import SIZE_MAX as MANIFEST_MAX
from oci.manifest import Manifest
from oci.mediatypes import is_nondistributable
from oci.reference import InvalidReference, Reference
from oci.strictjson import InvalidJSON, parse_object
from remote.errors import InvalidContent
from remote.platforms import choose
from storage.blobs import BlobFile
from storage.errors import BlobNotFound, DigestMismatch, UploadBusy, UploadNotFound
from storage.filesystem import FilesystemBlobStore
from storage.uploads import Upload

NAMES_MAX = 64 * 1024 * 1024
"""The largest images.json, in bytes."""
INDEX_DEPTH_MAX = 4
RELATED_MAX = 3
PARTIAL_MIN = 1024 * 1024
"""Blobs below this many bytes are pulled anew after a cut: finding them again would cost as much."""
PARTIAL_LIFETIME = 7 * 24 * 3600.0
"""Seconds after which the first bytes of a blob that nobody asked for again are dropped."""

_SCOPE = "engine"


class ImageStoreError(Exception):
    """The names cannot be read. The message says which file, and what to do."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image of one platform, as a container is made from it. ``descriptor`` is the manifest's, not that of an index above it."""

    reference: Reference
    descriptor: Descriptor
    manifest: Manifest
    config: ImageConfig


@dataclass(frozen=True, slots=True)
class NamedImage:
    """A name and what it leads to: a manifest, or an index."""

    reference: Reference
    descriptor: Descriptor


class ImageStore:
    """The images of one root. Any number of processes and threads may use it at once.

    Besides its own methods it is a `remote.endpoints.Store`: :meth:`size`, :meth:`open`, :meth:`begin`, :meth:`adopt`.
    """

    def __init__(self, root: Path, *, floor: int | None = None) -> None:
        self.root = root
        self._partial = root / "partial"
        self._partial.mkdir(parents=True, exist_ok=True)
        self._names = root / "images.json"
        self.blobs = FilesystemBlobStore(root, floor=floor)

    def names(self) -> list[str]:
        """Every name in full, in order."""
        return [str(named.reference) for named in self.list()]

    def list(self) -> list[NamedImage]:
        """Every name with its descriptor, in the names' order; ImageStoreError."""
        return [NamedImage(_reference(name, self._names), found) for name, found in sorted(self._read().items())]

    def resolve(self, reference: Reference, platform: Platform) -> Image | None:
        """The image that a name means on a platform; None where the name or any manifest or config below it is not here.

        A name that leads to a single image (no index) gives that image, whatever its platform. Bytes that do not have their digest count
        as missing: a pull heals them. InvalidManifest and InvalidConfig for content that no run can use.
        """
        descriptor = self.find(reference)
        manifest = self.manifest(descriptor) if descriptor is not None else None
        if reference.digest is not None and manifest is None:
            manifest = self._below(reference)
        for _ in range(INDEX_DEPTH_MAX):
            if manifest is None or not manifest.is_index:
                break
            chosen = choose(manifest, platform)
            manifest = self.manifest(chosen) if chosen is not None else None
        if manifest is None or manifest.is_index or manifest.config is None:
            return None
        raw = self.read(manifest.config, CONFIG_MAX)
        if raw is None:
            return None
        return Image(reference, manifest.descriptor, manifest, ImageConfig.parse(raw))

    def find(self, reference: Reference) -> Descriptor | None:
        """What a name leads to. A digest is found under any name of its repository."""
        names = self._read()
        if reference.digest is None:
            return names.get(str(reference))
        prefix = f"{reference.host}/{reference.repository}"
        for name, descriptor in names.items():
            if descriptor.digest == reference.digest and name.startswith((f"{prefix}:", f"{prefix}@")):
                return descriptor
        return None

    def manifest(self, descriptor: Descriptor) -> Manifest | None:
        """A manifest by its descriptor, None where its bytes are not here or not its own; InvalidManifest."""
        raw = self.read(descriptor, MANIFEST_MAX)
        return Manifest.parse(raw, descriptor.media_type, descriptor.digest.algorithm) if raw is not None else None

    def read(self, descriptor: Descriptor, limit: int = CONFIG_MAX) -> bytes | None:
        """A small blob in memory; None where it is not here whole, has not its digest, or is longer than ``limit`` bytes."""
        if descriptor.size > limit or self.blobs.size(descriptor.digest) != descriptor.size:
            return None
        try:
            reader = self.blobs.open(descriptor.digest)
        except BlobNotFound:
            return None
        try:
            raw = reader.read(0, descriptor.size)
        finally:
            reader.close()
        return raw if descriptor.digest.matches(raw) else None

    def manifests(self, root: Descriptor) -> Iterator[Manifest]:
        """Every manifest and index that is here at and below ``root``, each once, the parents first."""
        seen: set[Digest] = set()
        level = [root]
        for _ in range(INDEX_DEPTH_MAX + 1):
            found = [self.manifest(one) for one in level if one.digest not in seen]
            seen.update(one.digest for one in level)
            level = []
            for manifest in found:
                if manifest is not None:
                    yield manifest
                    level.extend(manifest.manifests)

    def is_whole(self, root: Descriptor) -> bool:
        """Whether everything below a manifest or index is here: all platforms, all blobs that may be sent on."""
        here = {manifest.digest: manifest for manifest in self.manifests(root)}
        return root.digest in here and all(
            all(child.digest in here for child in manifest.manifests)
            and all(
                is_nondistributable(blob.media_type) or self.size(blob.digest) == blob.size for blob in manifest.blobs()
            )
            for manifest in here.values()
        )

    def related(self, host: str, root: Descriptor) -> Sequence[str]:
        """Repositories of a registry that images here were named after, and that share blobs with ``root``; a few at most."""
        wanted = {blob.digest for manifest in self.manifests(root) for blob in manifest.blobs()}
        out: dict[str, None] = {}
        for named in self.list():
            if named.reference.host == host and named.reference.repository not in out and len(out) < RELATED_MAX:
                own = (blob.digest for manifest in self.manifests(named.descriptor) for blob in manifest.blobs())
                if not wanted.isdisjoint(own):
                    out[named.reference.repository] = None
        return tuple(out)

    def tag(self, reference: Reference, descriptor: Descriptor) -> None:
        """Let a name lead to a manifest or index, durably. A reference with a digest is kept by the digest alone."""
        with self._changing() as names:
            names[_key(reference)] = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)

    def remove(self, reference: Reference) -> bool:
        """Forget a name; whether it was known. The bytes stay: another name, or a running container, may need them."""
        with self._changing() as names:
            return names.pop(_key(reference), None) is not None

    def size(self, digest: Digest) -> int | None:
        """A blob's size in bytes, None where it is not here."""
        return self.blobs.size(digest)

    def open(self, digest: Digest) -> BlobFile:
        """Open a blob; BlobNotFound."""
        return self.blobs.open(digest)

    def adopt(self, digest: Digest, source: Path) -> bool:
        """Hard-link a blob of another store on this disk, once its bytes are verified; False where that cannot be done."""
        return self.blobs.adopt(digest, source)

    def begin(self, blob: Descriptor) -> PartialBlob:
        """Start to write a blob, or take it up where a pull was cut. A blob that another process writes now is written beside it."""
        note = self._partial / f"{blob.digest.algorithm}-{blob.digest.hex}" if blob.size >= PARTIAL_MIN else None
        if note is not None:
            try:
                kept = note.read_text("ascii")
            except (FileNotFoundError, ValueError):
                kept = ""
            try:
                if kept:
                    return PartialBlob(self.blobs.resume(_SCOPE, kept), blob.digest, note)
            except UploadNotFound:
                pass  # expired, or finished a moment ago: start anew
            except UploadBusy:
                note = None
        upload = self.blobs.start(_SCOPE)
        if note is not None:
            # Losing this note costs a download, not an image: it is not synced.
            _replace(note, upload.id.encode("ascii"), is_durable=False)
        return PartialBlob(upload, blob.digest, note)

    def expire(self) -> int:
        """Drop the first bytes of blobs that were not asked for again; how many there were."""
        return self.blobs.expire_uploads(PARTIAL_LIFETIME)

    def _below(self, reference: Reference) -> Manifest | None:
        """A manifest by digest, where an index that the repository has a name for leads to it."""
        prefix = f"{reference.host}/{reference.repository}"
        for name, descriptor in self._read().items():
            if name.startswith((f"{prefix}:", f"{prefix}@")) and (index := self.manifest(descriptor)) is not None:
                for child in index.manifests:
                    if child.digest == reference.digest:
                        return self.manifest(child)
        return None

    def _read(self) -> dict[str, Descriptor]:
        try:
            raw = self._names.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            return {name: Descriptor.from_json(value, name) for name, value in _images(raw).items()}
        except (InvalidJSON, InvalidDescriptor) as error:
            raise ImageStoreError(
                f"{self._names} cannot be read ({error}); move it aside and pull the images again: their blobs are kept"
            ) from error

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Descriptor]]:
        """The names, to be changed in place by one writer at a time, and written back when the block ends well."""
        lock = os.open(self.root / "images.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            names = self._read()
            yield names
            images = {name: descriptor.to_json() for name, descriptor in sorted(names.items())}
            text = json.dumps({"version": 1, "images": images}, indent=1)
            _replace(self._names, text.encode("utf-8"), is_durable=True)
        finally:
            os.close(lock)


class PartialBlob:
    """A blob on its way into the store: an upload whose id is noted under the blob's digest until it is committed."""

    def __init__(self, upload: Upload, digest: Digest, note: Path | None) -> None:
        self._upload, self._digest, self._note = upload, digest, note
        self._is_over = False

    @property
    def offset(self) -> int:
        """How many bytes are here."""
        return self._upload.offset

    def write(self, data: memoryview) -> None:
        """Add bytes at the end; StoreFull, after which those before are still here."""
        self._upload.write(data)

    def hash(self, data: memoryview) -> None:
        """Add the same bytes to the digest."""
        self._upload.hash(data)

    def commit(self) -> None:
        """Verify, sync and publish; InvalidContent where the bytes have another digest, and they are gone."""
        self._is_over = True
        try:
            self._upload.commit(self._digest)
        except DigestMismatch as error:
            raise InvalidContent(
                f"the blob {error.expected} arrived with the digest {error.actual}: not kept"
            ) from error
        finally:
            self._forget()

    def cancel(self) -> None:
        """Drop the bytes; nothing after a commit, whether it went well or not."""
        if not self._is_over:
            self._is_over = True
            self._upload.cancel()
            self._forget()

    def close(self) -> None:
        """Keep the bytes for the next pull."""
        self._upload.close()

    def _forget(self) -> None:
        if self._note is not None:
            self._note.unlink(missing_ok=True)


def _key(reference: Reference) -> str:
    return str(reference.with_digest(reference.digest) if reference.digest is not None else reference)


def _reference(name: str, path: Path) -> Reference:
    try:
        return Reference.parse(name)
    except InvalidReference as error:
        raise ImageStoreError(f"{path} holds a name that is none: {error}; remove that line") from error


def _images(raw: bytes) -> Mapping[str, Any]:
    value = parse_object(raw, NAMES_MAX)
    if value.get("version") != 1:
        raise InvalidJSON("its version is not 1: another Portside wrote it")
    images = value.get("images")
    if not isinstance(images, dict):
        raise InvalidJSON("it has no object `images`")
    return images


def _replace(path: Path, data: bytes, *, is_durable: bool) -> None:
    """Write a file so that readers see the old or the new one, whole, and after a crash too where it ``is_durable``."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            if is_durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    if is_durable:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
