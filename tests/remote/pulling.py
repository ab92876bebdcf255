"""What the tests of pulling share."""

from __future__ import annotations

from pathlib import Path

from oci.descriptor import Descriptor, Platform
from oci.digest import Digest
from oci.reference import Reference
from remote.pull import pull
from remote.transport import Policy, Registry
from runtime.images import ImageStore

QUICK = Policy(attempts=4, pause=0.001, pause_max=5.0, connect_timeout=5.0, read_timeout=5.0)
AMD64 = Platform("amd64", "linux")
BIG = 8_000_000


class Watch:
    """A Progress that remembers."""

    def __init__(self) -> None:
        self.counts: dict[Digest, int] = {}
        self.outcomes: dict[Digest, str] = {}

    def start(self, blob: Descriptor) -> None:
        self.counts[blob.digest] = 0

    def advance(self, blob: Descriptor, count: int) -> None:
        self.counts[blob.digest] += count

    def finish(self, blob: Descriptor, outcome: str) -> None:
        self.outcomes[blob.digest] = outcome


def fetch(
    host: str,
    store: ImageStore,
    target: str = ":1",
    platform: Platform | None = AMD64,
    watch: Watch | None = None,
    link_from: tuple[Path, ...] = (),
    policy: Policy = QUICK,
) -> Descriptor:
    reference = Reference.parse(f"{host}/demo/image{target}")
    with Registry(host, credential=lambda name: None, policy=policy) as registry:
        descriptor = pull(registry, reference, store, platform, watch, link_from)
    store.tag(reference, descriptor)
    return descriptor


def content_of(store: ImageStore) -> dict[Digest, bytes]:
    files = (path for path in (store.root / "blobs").glob("*/??/*"))
    return {Digest(path.parent.parent.name, path.name): path.read_bytes() for path in files}


def files_under(store: ImageStore) -> list[str]:
    """Whatever a broken pull might have left: files of blobs and uploads, and notes."""
    return sorted(
        str(path.relative_to(store.root))
        for part in ("blobs", "uploads", "partial")
        for path in (store.root / part).rglob("*")
        if path.is_file()
    )
