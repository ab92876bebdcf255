"""``portside images``: what is in the engine's store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import RootOption

if TYPE_CHECKING:
    from runtime.images import ImageStore, NamedImage


def images(
    root: RootOption,
    digests: Annotated[bool, typer.Option("--digests", help="Whole digests.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each image.")] = False,
) -> None:
    """List the images of the engine's store.

    Example: portside images --digests
    """
    from cli.progress import human
    from cli.transfer import failures, open_store

    with failures("nothing was changed"):
        store = open_store(root)
        rows: list[tuple[str, str, str, str]] = []
        for named in store.list():
            platforms, size = describe(store, named)
            if as_json:
                fields = {"name": str(named.reference), "digest": str(named.descriptor.digest)}
                print(json.dumps({**fields, "platforms": platforms, "size": size}))
                continue
            digest = str(named.descriptor.digest) if digests else named.descriptor.digest.hex[:12]
            rows.append((named.reference.familiar, digest, ",".join(platforms) or "-", human(size)))
        if as_json:
            return
        head = ("NAME", "DIGEST", "PLATFORMS", "SIZE")
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(3)]
        for row in [head, *rows]:
            print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]))


def describe(store: ImageStore, named: NamedImage) -> tuple[list[str], int]:
    """The platforms of an image that are in the store whole, and the bytes that they take there, each blob once."""
    from oci.config import ImageConfig, InvalidConfig

    platforms: list[str] = []
    sizes: dict[str, int] = {}
    for manifest in store.manifests(named.descriptor):
        sizes[str(manifest.digest)] = len(manifest.raw)
        for blob in manifest.blobs():
            if (size := store.size(blob.digest)) is not None:
                sizes[str(blob.digest)] = size
        raw = store.read(manifest.config) if manifest.config is not None else None
        try:
            platform = ImageConfig.parse(raw).platform if raw is not None else None
        except InvalidConfig:
            platform = None  # an artifact: its config is its own affair
        if platform is not None and platform.architecture and platform.os:
            platforms.append(str(platform))
    return list(dict.fromkeys(platforms)), sum(sizes.values())
