"""What the rest of the engine knows of unpacking layers, without loading what does it: a run seldom unpacks."""

from __future__ import annotations

from dataclasses import dataclass

from oci.digest import Digest

OPAQUE = "trusted.overlay.opaque"
"""The attribute ``y`` of which makes overlayfs show a directory without what lower layers have in it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a layer may unpack to.

    ``unpacked_max`` is in bytes. A layer may also be no more than ``ratio_max`` times its compressed size, once it is above ``ratio_free``
    bytes: text packs 3 to 10 times, logs 30 times, zeros 1000 times with gzip and without end with zstd. Below a gigabyte anything goes,
    since a file of zeros is not yet an attack; above, a hundred times is beyond all that images hold.
    """

    unpacked_max: int = 10 * 1024**3
    ratio_max: int = 100
    ratio_free: int = 1024**3
    entries_max: int = 2_000_000

    def allowed(self, compressed: int) -> int:
        """How many bytes a layer of a compressed size may unpack to."""
        return min(self.unpacked_max, max(self.ratio_free, self.ratio_max * compressed))


class LayerRefused(Exception):
    """A layer that is not unpacked. ``entry`` is the name inside it as text, empty where it is about the whole layer."""

    def __init__(self, digest: Digest, entry: bytes, reason: str) -> None:
        self.digest = digest
        self.entry = entry[:200].decode("utf-8", "backslashreplace")
        self.reason = reason
        where = f" at the entry {self.entry!r}" if entry else ""
        super().__init__(f"layer {digest} is refused{where}: {reason}")
