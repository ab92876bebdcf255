"""Copying an image, whatever it is made of, from any source to any destination.

As data: ``target → Manifest (one platform chosen, or the whole index) → every manifest below it, children first → every blob, in parallel
→ the manifests → the tag, last``. So whoever sees the tag sees a whole image, and a copy that was cut has left only blobs behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from oci import mediatypes
from oci.descriptor import Descriptor, Platform
from oci.digest import Digest
from oci.manifest import Manifest
from remote.endpoints import Destination, Progress, Silence, Source
from remote.errors import Cancelled, InvalidContent
from remote.platforms import choose, describe_platforms

DEPTH_MAX = 4
"""How deep an index may hold indexes."""
MANIFESTS_MAX = 1000
MANIFEST_BYTES_MAX = 64 * 1024 * 1024
"""The size of all manifests of one image together, in bytes: they are held in memory."""
PARALLEL = 4


@dataclass(slots=True)
class Tree:
    """An image's manifests, children before parents, and its blobs, each once."""

    root: Manifest
    manifests: list[Manifest] = field(default_factory=list)
    blobs: dict[Digest, Descriptor] = field(default_factory=dict)


def copy(
    source: Source,
    target: Digest | str | None,
    destination: Destination,
    tag: str | None,
    *,
    platform: Platform | None = None,
    keep_index: bool = False,
    progress: Progress | None = None,
    stop: Callable[[], None] | None = None,
) -> Descriptor:
    """Copy one image; the descriptor of what ``tag`` names at the destination.

    ``platform`` None means the whole index. ``keep_index`` puts the index too where one platform was chosen of it (a store may be sparse,
    a registry need not accept it). ``stop`` is called when a transfer fails or ctrl-c is pressed, to end the others at once.
    """
    root = source.manifest(target)
    parents: list[Manifest] = []
    while platform is not None and root.is_index:
        parents.append(root)
        if len(parents) > DEPTH_MAX:
            raise InvalidContent(f"the index {parents[0].digest} holds indexes more than {DEPTH_MAX} deep: refused")
        chosen = choose(root, platform)
        if chosen is None:
            raise InvalidContent(f"the image has nothing for {platform}; it has {describe_platforms(root)}")
        root = fetch(source, chosen)
    tree = collect(source, root)
    transfer(source, destination, list(tree.blobs.values()), progress or Silence(), stop)
    if keep_index:
        tree.manifests.extend(reversed(parents))
    for manifest in tree.manifests[:-1]:
        destination.put(manifest)
    destination.finish(tree.manifests[-1], tag)
    return tree.manifests[-1].descriptor


def fetch(source: Source, descriptor: Descriptor) -> Manifest:
    """The manifest that a descriptor names, of its size and media type: one that could be read as two things is refused."""
    manifest = source.manifest(descriptor.digest)
    if manifest.media_type != descriptor.media_type:
        raise InvalidContent(
            f"the manifest {descriptor.digest} is {manifest.media_type}; the index says {descriptor.media_type}"
        )
    if len(manifest.raw) != descriptor.size:
        raise InvalidContent(
            f"the manifest {descriptor.digest} has {len(manifest.raw)} bytes; the index says {descriptor.size}"
        )
    return manifest


def collect(source: Source, root: Manifest) -> Tree:
    """Read every manifest below ``root``; InvalidContent for an index without bounds. A digest is read once, so a cycle cannot go on."""
    tree = Tree(root)
    seen: set[Digest] = set()
    total = 0

    def visit(manifest: Manifest, depth: int) -> None:
        nonlocal total
        seen.add(manifest.digest)
        total += len(manifest.raw)
        if depth > DEPTH_MAX:
            raise InvalidContent(f"the index {root.digest} holds indexes more than {DEPTH_MAX} deep: refused")
        if len(seen) + len(manifest.manifests) > MANIFESTS_MAX or total > MANIFEST_BYTES_MAX:
            raise InvalidContent(
                f"the index {root.digest} names more than {MANIFESTS_MAX} manifests, or more than "
                f"{MANIFEST_BYTES_MAX >> 20} MiB of them: refused"
            )
        for child in manifest.manifests:
            if child.digest not in seen:
                visit(fetch(source, child), depth + 1)
        for blob in manifest.blobs():
            known = tree.blobs.setdefault(blob.digest, blob)
            if known.size != blob.size:
                raise InvalidContent(f"the blob {blob.digest} is said to have {known.size} and {blob.size} bytes")
        tree.manifests.append(manifest)

    visit(root, 0)
    return tree


def transfer(
    source: Source,
    destination: Destination,
    blobs: Sequence[Descriptor],
    progress: Progress,
    stop: Callable[[], None] | None,
) -> None:
    """Bring blobs over, :data:`PARALLEL` at a time, the largest first. The first failure ends the others and is raised."""
    stopped = threading.Event()

    def advance(blob: Descriptor, count: int) -> None:
        # Every piece comes by here: the one place where a transfer between files can be ended too.
        if stopped.is_set():
            raise Cancelled
        progress.advance(blob, count)

    def one(blob: Descriptor) -> None:
        if stopped.is_set():
            return
        progress.start(blob)
        if mediatypes.is_nondistributable(blob.media_type):
            progress.finish(blob, "skipped")
            return
        outcome = destination.find(blob)
        if outcome is None:
            destination.write(blob, source, lambda count: advance(blob, count))
        progress.finish(blob, outcome or "done")

    pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="transfer")
    try:
        futures = [pool.submit(one, blob) for blob in sorted(blobs, key=lambda blob: -blob.size)]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()
    except BaseException:
        stopped.set()
        if stop is not None:
            stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
