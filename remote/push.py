"""Pushing: the engine's store as a source, a registry as a destination (distribution-spec, "Push").

A blob goes up as ``POST → 202, Location → PUT ?digest= with the body``. Where that is cut, the upload is asked how far it came and goes on
from there: ``GET Location → 204, Range: 0-N → PATCH from N+1 → PUT ?digest=``. A registry that has forgotten the upload gets it anew.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from oci.descriptor import Descriptor, Platform
from oci.digest import Digest
from oci.manifest import SIZE_MAX, InvalidManifest, Manifest
from remote.connections import URL, Body, Buffer, Response
from remote.copy import copy
from remote.endpoints import Advance, Progress, Source, Store
from remote.errors import InvalidContent, InvalidLocation, RegistryError, RemoteError
from remote.files import read_stretch, read_whole
from remote.transport import Registry

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,19})\Z", re.ASCII)
_OCTETS = "application/octet-stream"
_FORGOTTEN = frozenset({400, 404, 410, 416})
"""Answers to a status request that mean: this upload cannot go on. (distribution says 400 where its offset and the URL's state differ.)"""


def push(
    store: Store,
    root: Digest,
    registry: Registry,
    repository: str,
    tag: str | None,
    *,
    platform: Platform | None = None,
    mount_from: Sequence[str] = (),
    progress: Progress | None = None,
) -> Descriptor:
    """Send an image of a store to a repository; the descriptor of what the tag names there.

    ``root`` is a manifest or an index in the store; with a ``platform`` only its image is sent. ``mount_from`` names repositories
    of the same registry that may hold some of the blobs already.
    """
    source = StoreSource(store)
    destination = RegistryDestination(registry, repository, mount_from)
    try:
        return copy(source, root, destination, tag, platform=platform, progress=progress, stop=registry.stop)
    finally:
        destination.close()
        source.close()


class StoreSource:
    """The engine's store to read from. It has no tags: what a name leads to is known to its owner."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def manifest(self, target: Digest | str | None) -> Manifest:
        """A manifest by digest, verified."""
        if not isinstance(target, Digest):
            raise InvalidLocation("an image of the store is asked for by its digest")
        size = self._store.size(target)
        if size is None:
            raise InvalidContent(f"the manifest {target} is not in the store: pull the image whole (--all-platforms)")
        if size > SIZE_MAX:
            raise InvalidContent(f"the manifest {target} has {size} bytes, more than the {SIZE_MAX} that are allowed")
        reader = self._store.open(target)
        try:
            raw = read_whole(reader.fileno(), 0, size, f"the manifest {target}")
        finally:
            reader.close()
        if not target.matches(raw):
            raise InvalidContent(f"the manifest {target} is damaged in the store: pull the image again")
        try:
            return Manifest.parse(raw, None, target.algorithm)
        except InvalidManifest as error:
            raise InvalidContent(f"the manifest {target}: {error}") from error

    def open(self, blob: Descriptor, offset: int) -> Iterator[memoryview]:
        """A blob's bytes from ``offset``."""
        size = self._store.size(blob.digest)
        if size is None:
            raise InvalidContent(f"the blob {blob.digest} is not in the store: pull the image again")
        if size != blob.size:
            raise InvalidContent(f"the blob {blob.digest} has {size} bytes; its manifest says {blob.size}")
        reader = self._store.open(blob.digest)
        try:
            yield from read_stretch(reader.fileno(), offset, blob.size - offset, f"the blob {blob.digest}")
        finally:
            reader.close()

    def close(self) -> None:
        """Nothing is held."""


class RegistryDestination:
    """A repository to write to."""

    def __init__(self, registry: Registry, repository: str, mount_from: Sequence[str] = ()) -> None:
        self._registry, self._repository = registry, repository
        self._mount_from = [name for name in dict.fromkeys(mount_from) if name != repository]
        self._scope = (f"repository:{repository}:pull,push",)
        self._uploads: dict[Digest, URL] = {}
        self._lock = threading.Lock()

    def find(self, blob: Descriptor) -> str | None:
        """Whether the registry has the blob here, or can mount it from another repository."""
        path = f"/v2/{self._repository}/blobs/{blob.digest}"
        found = self._registry.request("HEAD", path, scope=self._scope, expect=(200, 404))
        found.close()
        if found.status == 200:
            return "exists"
        for name in self._mount_from:
            if self._mount(blob, name):
                return "mounted"
        return None

    def write(self, blob: Descriptor, source: Source, advance: Advance) -> None:
        """Upload a blob."""
        attempts = self._registry.attempts()
        upload = self._start(blob)
        offset = 0
        while True:
            stream = _Stream(blob, source, offset, advance)
            try:
                if offset == 0:
                    self._finish_upload(upload, blob, Body(blob.size, stream.pieces))
                else:
                    if offset < blob.size:
                        upload = self._append(upload, blob, offset, Body(blob.size - offset, stream.pieces))
                    self._finish_upload(upload, blob, b"")
                return
            except RemoteError as error:
                is_elsewhere = isinstance(error, RegistryError) and error.status in _FORGOTTEN and offset > 0
                if not error.transient and not is_elsewhere:
                    raise
                sent = offset + stream.sent
                attempts.wait(error, may_pass=True)
            before = offset
            upload, offset = self._status(upload, blob)
            if offset > before:
                attempts.progress()
            advance(offset - sent)

    def put(self, manifest: Manifest) -> None:
        """Push a manifest by its digest."""
        self._put(manifest, str(manifest.digest))

    def finish(self, root: Manifest, tag: str | None) -> None:
        """Push the last manifest under its tag."""
        if tag is None or root.digest.algorithm != "sha256":
            # A push by tag is addressed by sha256: another algorithm must be named, and the tag then travels as a parameter.
            answered = self._put(root, str(root.digest) + (f"?tag={tag}" if tag is not None else ""))
            if tag is None or tag in (answered.headers.get("OCI-Tag") or "").replace(",", " ").split():
                return
            self._put(root, tag)
            return
        self._put(root, tag)

    def close(self) -> None:
        """Cancel what was started and not used, and close the connections."""
        for url in self._uploads.values():
            try:
                self._registry.request("DELETE", url, scope=self._scope, expect=(204, 202, 200)).close()
            except RemoteError:
                break  # the registry expires it by itself
        self._uploads.clear()
        self._registry.close()

    def _mount(self, blob: Descriptor, name: str) -> bool:
        """Ask for a mount (distribution-spec, "Mounting a blob from another repository").

        A 202 is an upload instead: it is kept for the bytes.
        """
        path = f"/v2/{self._repository}/blobs/uploads/?mount={quote(str(blob.digest), safe='')}&from={quote(name, safe='')}"
        scope = (*self._scope, f"repository:{name}:pull")
        try:
            response = self._registry.request("POST", path, scope=scope, headers={}, expect=(201, 202))
        except RegistryError as error:
            if error.transient:
                raise
            return False  # no right to read there, or no mounts here: the bytes are sent
        response.close()
        if response.status == 201:
            return True
        with self._lock:
            self._uploads[blob.digest] = self._registry.locate(response)
        return False

    def _start(self, blob: Descriptor) -> URL:
        with self._lock:
            kept = self._uploads.pop(blob.digest, None)
        if kept is not None:
            return kept
        path = f"/v2/{self._repository}/blobs/uploads/"
        response = self._registry.request("POST", path, scope=self._scope, expect=(202,))
        response.close()
        return self._registry.locate(response)

    def _append(self, upload: URL, blob: Descriptor, offset: int, body: Body) -> URL:
        headers = {"Content-Type": _OCTETS, "Content-Range": f"{offset}-{blob.size - 1}"}
        response = self._registry.request("PATCH", upload, scope=self._scope, headers=headers, body=body, expect=(202,))
        response.close()
        return self._registry.locate(response)

    def _finish_upload(self, upload: URL, blob: Descriptor, body: Body | bytes) -> None:
        url = upload.with_query(f"digest={quote(str(blob.digest), safe='')}")
        headers = {"Content-Type": _OCTETS}
        response = self._registry.request("PUT", url, scope=self._scope, headers=headers, body=body, expect=(201, 204))
        response.close()
        _compare(response, blob.digest, f"the blob {blob.digest}")

    def _status(self, upload: URL, blob: Descriptor) -> tuple[URL, int]:
        """Where an upload stands; a new one at 0 where it is gone."""
        try:
            response = self._registry.request("GET", upload, scope=self._scope, expect=(204, 202, 200))
        except RegistryError as error:
            if error.status not in _FORGOTTEN:
                raise
            return self._start(blob), 0
        response.close()
        match = _RANGE.match(response.headers.get("Range", ""))
        reported = int(match[1]) + 1 if match is not None else 0
        if reported <= 1 or reported > blob.size:
            # "0-0" is written for nothing and for one byte alike, and a byte sent twice would spoil the blob: start anew.
            return self._start(blob), 0
        located = self._registry.locate(response) if response.headers.get("Location") else upload
        return located, reported

    def _put(self, manifest: Manifest, target: str) -> Response:
        path = f"/v2/{self._repository}/manifests/{target}"
        headers = {"Content-Type": manifest.media_type}
        response = self._registry.request(
            "PUT", path, scope=self._scope, headers=headers, body=manifest.raw, expect=(201,)
        )
        response.close()
        _compare(response, manifest.digest, f"the manifest {manifest.digest}")
        return response


class _Stream:
    """A blob's pieces on their way out, counted."""

    def __init__(self, blob: Descriptor, source: Source, offset: int, advance: Advance) -> None:
        self._blob, self._source, self._offset, self._advance = blob, source, offset, advance
        self.sent = 0

    def pieces(self) -> Iterator[Buffer]:
        """From the start, each time it is called: a request is repeated whole after a 401."""
        self._advance(-self.sent)
        self.sent = 0
        for piece in self._source.open(self._blob, self._offset):
            yield piece
            self.sent += len(piece)
            self._advance(len(piece))


def _compare(response: Response, digest: Digest, what: str) -> None:
    text = response.headers.get("Docker-Content-Digest")
    if text is not None and text.partition(":")[0] == digest.algorithm and text != str(digest):
        raise InvalidContent(f"{response.url.origin.authority} stored {what} under another digest: {text[:140]}")
