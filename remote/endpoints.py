"""Where images come from and go to.

A copy knows only these protocols; registries, the engine's store, layouts and archives satisfy them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from oci.descriptor import Descriptor
from oci.digest import Digest
from oci.manifest import Manifest

Advance = Callable[[int], None]
"""Told how many more bytes of a blob have arrived; a negative count takes bytes back that must be sent again."""


class Source(Protocol):
    """Manifests and blobs to read. Safe for several threads."""

    def manifest(self, target: Digest | str | None) -> Manifest:
        """A manifest by digest (verified), by tag, or the only one there is (None); RemoteError."""
        ...

    def open(self, blob: Descriptor, offset: int) -> Iterator[memoryview]:
        """A blob's bytes from ``offset`` to ``blob.size``, not one more, in pieces that are good until the next but one.

        Unverified: whoever writes them down compares the digest.
        """
        ...

    def close(self) -> None: ...


class Destination(Protocol):
    """A place that images are written to. Safe for several threads. Nothing is visible under a tag before :meth:`finish`."""

    def find(self, blob: Descriptor) -> str | None:
        """How the blob came to be there without being sent (``exists``, ``linked``, ``mounted``), None where it must be sent."""
        ...

    def write(self, blob: Descriptor, source: Source, advance: Advance) -> None:
        """Bring a blob over; InvalidContent where its bytes are not those of its digest."""
        ...

    def put(self, manifest: Manifest) -> None:
        """Add a manifest whose references are all there."""
        ...

    def finish(self, root: Manifest, tag: str | None) -> None:
        """Add the last manifest, under a tag where one is given, and make durable and visible what was written."""
        ...

    def close(self) -> None:
        """Let go. What was not finished leaves no trace, except for what a next try resumes."""
        ...


class Progress(Protocol):
    """Somebody who watches. Called from several threads."""

    def start(self, blob: Descriptor) -> None: ...
    def advance(self, blob: Descriptor, count: int) -> None:
        """``count`` more bytes are there; negative where bytes must be sent again."""
        ...

    def finish(self, blob: Descriptor, outcome: str) -> None:
        """The blob is there: ``done``, ``exists``, ``linked``, ``mounted``, or ``skipped`` (not distributable)."""
        ...


class Silence:
    """A Progress that says nothing."""

    def start(self, blob: Descriptor) -> None:
        """Nothing to say."""

    def advance(self, blob: Descriptor, count: int) -> None:
        """Nothing to say."""

    def finish(self, blob: Descriptor, outcome: str) -> None:
        """Nothing to say."""


class Reader(Protocol):
    """An open blob of a store."""

    @property
    def size(self) -> int: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Sink(Protocol):
    """A blob on its way into a store. What was written outlives the process, and :meth:`Store.begin` finds it again."""

    @property
    def offset(self) -> int:
        """How many bytes are there."""
        ...

    def write(self, data: memoryview) -> None: ...
    def hash(self, data: memoryview) -> None:
        """Every written piece goes through here too, in order; another thread may do it."""
        ...

    def commit(self) -> None:
        """Verify and publish; InvalidContent, after which the bytes are gone."""
        ...

    def cancel(self) -> None:
        """Drop the bytes; nothing after a commit."""
        ...

    def close(self) -> None:
        """Keep the bytes for the next :meth:`Store.begin`; nothing after a commit or a cancel."""
        ...


class Store(Protocol):
    """Blobs on this machine, as `runtime.images.ImageStore` keeps them."""

    def size(self, digest: Digest) -> int | None: ...
    def open(self, digest: Digest) -> Reader: ...
    def begin(self, blob: Descriptor) -> Sink:
        """Start a blob, or take it up where a transfer before was cut."""
        ...

    def adopt(self, digest: Digest, source: Path) -> bool:
        """Hard-link a blob file of another store on the same disk, verified; False where that cannot be done."""
        ...
