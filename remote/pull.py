"""Pulling: a registry as a source, the engine's store as a destination (distribution-spec, "Pull")."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from oci import mediatypes
from oci.descriptor import Descriptor, Platform
from oci.digest import Digest
from oci.manifest import SIZE_MAX, InvalidManifest, Manifest
from oci.reference import Reference
from remote.connections import PIECE, Response
from remote.copy import copy
from remote.endpoints import Advance, Progress, Sink, Source, Store
from remote.errors import Interrupted, InvalidContent, RemoteError
from remote.files import read_whole
from remote.transport import Registry

_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)\Z", re.ASCII)
VERIFIED_MAX = 1024 * 1024
"""Blobs that are there are read and verified up to this size in bytes: configs, which nobody else verifies."""
LARGE = 4 * 1024 * 1024
"""Blobs from this size in bytes on are hashed beside their receiving: below, the hand-over costs more than it gains."""
_GAIN = 256 * 1024
"""Bytes that must arrive between two cuts for the second not to count as the same failure again."""


def pull(
    registry: Registry,
    reference: Reference,
    store: Store,
    platform: Platform | None,
    progress: Progress | None = None,
    link_from: Sequence[Path] = (),
) -> Descriptor:
    """Bring an image into a store; the descriptor of what the reference names, for the caller to keep under that name.

    With a ``platform`` only its image comes, with the index that it was chosen from; None brings the whole index. Blobs that lie under
    one of the roots ``link_from`` (a registry's on the same disk) are hard-linked. RemoteError says what went wrong; what had arrived
    by then stays, and the next pull goes on from there.
    """
    source = RegistrySource(registry, reference.repository)
    destination = StoreDestination(store, link_from)
    try:
        return copy(
            source,
            reference.digest or reference.tag,
            destination,
            reference.tag,
            platform=platform,
            keep_index=True,
            progress=progress,
            stop=registry.stop,
        )
    finally:
        destination.close()
        source.close()


class RegistrySource:
    """A repository to read from."""

    def __init__(self, registry: Registry, repository: str) -> None:
        self.registry, self.repository = registry, repository
        self._scope = (f"repository:{repository}:pull",)

    def manifest(self, target: Digest | str | None) -> Manifest:
        """Fetch a manifest and verify it: against the digest asked for, and against the one that the registry says."""
        if target is None:
            raise RemoteError(f"{self.registry.host}/{self.repository} needs a tag or a digest")
        what = (
            f"the manifest {self.registry.host}/{self.repository}{'@' if isinstance(target, Digest) else ':'}{target}"
        )
        headers = {"Accept": mediatypes.ACCEPT}
        path = f"/v2/{self.repository}/manifests/{target}"
        response = self.registry.request("GET", path, scope=self._scope, headers=headers)
        try:
            raw = response.read(SIZE_MAX, what)
        finally:
            response.close()
        expected = target if isinstance(target, Digest) else _announced(response)
        if expected is not None and not expected.matches(raw):
            raise InvalidContent(f"{what} arrived with the digest {Digest.of(raw, expected.algorithm)}, not {expected}")
        content_type = response.headers.get_content_type() if "Content-Type" in response.headers else None
        if content_type in ("application/json", "text/plain", "application/octet-stream"):
            content_type = None  # a server that knows no better: what the manifest says of itself counts
        try:
            return Manifest.parse(raw, content_type, expected.algorithm if expected is not None else "sha256")
        except InvalidManifest as error:
            raise InvalidContent(f"{what}: {error}") from error

    def open(self, blob: Descriptor, offset: int) -> Iterator[memoryview]:
        """A blob from ``offset``. A cut is healed here: the rest is asked for by Range, from where it broke."""
        attempts = self.registry.attempts()
        buffers = [memoryview(bytearray(min(PIECE, max(blob.size, 1)))) for _ in range(2)]
        since = offset
        while offset < blob.size:
            try:
                response = self._get(blob, offset)
                try:
                    for piece in _receive(response, blob, offset, buffers):
                        yield piece
                        offset += len(piece)
                finally:
                    response.close()
            except Interrupted as error:
                if offset - since >= _GAIN:
                    attempts.progress()
                since = offset
                attempts.wait(error)

    def close(self) -> None:
        """Close the connections."""
        self.registry.close()

    def _get(self, blob: Descriptor, offset: int) -> Response:
        """The answer, its body standing at ``offset``."""
        # No If-Range: a digest names the same bytes for ever, so the validator that matters is checked at the end.
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        headers["Accept-Encoding"] = "identity"
        path = f"/v2/{self.repository}/blobs/{blob.digest}"
        response = self.registry.request("GET", path, scope=self._scope, headers=headers, expect=(200, 206))
        try:
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise InvalidContent(
                    f"{self.registry.host} sends the blob {blob.digest} in an encoding nobody asked for"
                )
            start = _start(response, blob, offset)
            if response.length is not None and response.length != blob.size - start:
                raise InvalidContent(
                    f"{self.registry.host} wants to send {response.length} bytes of the blob {blob.digest} from byte "
                    f"{start}; by its manifest it has {blob.size} in all"
                )
            if start < offset:
                _skip(response, offset - start)
        except BaseException:
            response.close()
            raise
        return response


def _announced(response: Response) -> Digest | None:
    text = response.headers.get("Docker-Content-Digest")
    if text is None:
        return None
    try:
        return Digest.parse(text)
    except ValueError as error:
        raise InvalidContent(f"{response.url.origin.authority} announces a digest that is none: {error}") from error


def _start(response: Response, blob: Descriptor, offset: int) -> int:
    """The offset of the body's first byte (RFC 9110 section 14.4); a server that ignores ranges begins at 0."""
    if response.status == 200:
        return 0
    text = response.headers.get("Content-Range", "")
    match = _CONTENT_RANGE.match(text)
    if match is None or int(match[1]) != offset or (match[3] != "*" and int(match[3]) != blob.size):
        raise InvalidContent(
            f"{response.url.origin.authority} was asked for the blob {blob.digest} from byte {offset} of {blob.size}; "
            f"it sends {text[:100]!r}"
        )
    return offset


def _skip(response: Response, count: int) -> None:
    buffer = memoryview(bytearray(PIECE))
    while count:
        got = response.readinto(buffer[: min(count, PIECE)])
        if not got:
            raise Interrupted(f"{response.url.origin.authority} ended a blob early")
        count -= got


def _receive(response: Response, blob: Descriptor, offset: int, buffers: list[memoryview]) -> Iterator[memoryview]:
    """Fill two buffers by turns up to the blob's size. What came before a cut is handed on before the cut is raised."""
    enough = max(1, len(buffers[0]) // 2)
    left = blob.size - offset
    while left:
        buffer = buffers[0]
        buffers.reverse()
        filled, failure = 0, None
        while filled < min(enough, left):
            try:
                count = response.readinto(buffer[filled : min(len(buffer), left)])
                if not count:
                    raise Interrupted(
                        f"{response.url.origin.authority} ended the blob {blob.digest} {left - filled} bytes early"
                    )
            except Interrupted as error:
                failure = error
                break
            filled += count
        if filled:
            yield buffer[:filled]
        left -= filled
        if failure is not None:
            raise failure
    if response.length is None and response.readinto(memoryview(bytearray(1))):
        raise InvalidContent(
            f"{response.url.origin.authority} sends more of the blob {blob.digest} than the {blob.size} bytes it has by its manifest"
        )


def _pour(pieces: Iterator[memoryview], sink: Sink, advance: Advance, *, is_large: bool) -> None:
    """Write and hash; a large blob is hashed in a thread of its own while the next piece is received."""
    if not is_large:
        for piece in pieces:
            sink.write(piece)
            sink.hash(piece)
            advance(len(piece))
        return
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as pool:
        hashing: Future[None] | None = None
        for piece in pieces:
            if hashing is not None:
                hashing.result()
            hashing = pool.submit(sink.hash, piece)
            sink.write(piece)
            advance(len(piece))
        if hashing is not None:
            hashing.result()


class StoreDestination:
    """The engine's store to write to. Tags are not its business: the caller keeps the name."""

    def __init__(self, store: Store, link_from: Sequence[Path] = ()) -> None:
        self._store, self._link_from = store, tuple(link_from)

    def find(self, blob: Descriptor) -> str | None:
        """Whether the blob is there, or lies in a store on the same disk. A small one that is damaged counts as missing."""
        if self._store.size(blob.digest) == blob.size and (blob.size > VERIFIED_MAX or self._is_sound(blob)):
            return "exists"
        for root in self._link_from:
            path = root / "blobs" / blob.digest.algorithm / blob.digest.hex[:2] / blob.digest.hex
            if self._store.adopt(blob.digest, path):
                if self._store.size(blob.digest) == blob.size:
                    return "linked"
                raise InvalidContent(f"the blob {blob.digest} has not the {blob.size} bytes that the manifest says")
        return None

    def _is_sound(self, blob: Descriptor) -> bool:
        reader = self._store.open(blob.digest)
        try:
            return blob.digest.matches(read_whole(reader.fileno(), 0, blob.size, f"the blob {blob.digest}"))
        except InvalidContent:
            return False
        finally:
            reader.close()

    def write(self, blob: Descriptor, source: Source, advance: Advance) -> None:
        """Write a blob down, from where an earlier transfer was cut. Bytes kept from before that turn out bad are fetched once more."""
        while True:
            sink = self._store.begin(blob)
            kept = sink.offset
            try:
                if kept > blob.size:
                    sink.cancel()
                    continue
                advance(kept)
                _pour(source.open(blob, kept), sink, advance, is_large=blob.size - kept >= LARGE)
                sink.commit()
                return
            except InvalidContent:
                is_whole = sink.offset == blob.size
                sink.cancel()
                if not kept or not is_whole:
                    raise
                advance(-blob.size)
            finally:
                sink.close()

    def put(self, manifest: Manifest) -> None:
        """Keep the manifest's bytes as a blob."""
        descriptor = manifest.descriptor
        sink = self._store.begin(descriptor)
        try:
            if sink.offset:
                sink.cancel()
                sink = self._store.begin(descriptor)
            piece = memoryview(manifest.raw)
            sink.write(piece)
            sink.hash(piece)
            sink.commit()
        finally:
            sink.close()

    def finish(self, root: Manifest, tag: str | None) -> None:
        """Keep the last manifest; every blob was made durable when it was committed."""
        self.put(root)

    def close(self) -> None:
        """Nothing is held."""
