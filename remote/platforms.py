"""Choosing one platform's image from an index (image-spec image-index.md)."""

from __future__ import annotations

import os

from oci.descriptor import Descriptor, Platform
from oci.manifest import Manifest

_MACHINES = {
    "x86_64": ("amd64", None),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", None),
    "ppc64le": ("ppc64le", None),
    "s390x": ("s390x", None),
    "riscv64": ("riscv64", None),
    "loongarch64": ("loong64", None),
}
"""What ``uname -m`` says, as Go's (and so the specification's) architecture and variant."""


def host_platform() -> Platform:
    """The platform of this machine."""
    machine = os.uname().machine
    architecture, variant = _MACHINES.get(machine, (machine, None))
    return Platform(architecture, "linux", variant)


def choose(index: Manifest, wanted: Platform) -> Descriptor | None:
    """The entry of an index that serves ``wanted`` best: the same variant, else one that names none, else an older 32-bit ARM.

    The first of equals wins, as everywhere. An entry without a platform is taken only where it is the only entry.
    """
    ranked: list[tuple[int, int, Descriptor]] = []
    for position, entry in enumerate(index.manifests):
        rank = _rank(entry.platform, wanted)
        if rank is not None:
            ranked.append((rank, position, entry))
    if ranked:
        return min(ranked, key=lambda found: found[:2])[2]
    if len(index.manifests) == 1 and index.manifests[0].platform is None:
        return index.manifests[0]
    return None


def _rank(offered: Platform | None, wanted: Platform) -> int | None:
    if offered is None:
        return None
    if offered.satisfies(wanted):
        return 0 if offered.variant == wanted.variant else 1
    if offered.os == wanted.os and offered.architecture == wanted.architecture == "arm":
        newest, own = _arm_version(wanted), _arm_version(offered)
        if own < newest:
            return 1 + newest - own
    return None


def _arm_version(platform: Platform) -> int:
    text = (platform.variant or "v7").removeprefix("v")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0


def describe_platforms(index: Manifest) -> str:
    """The platforms that an index offers, for a message."""
    names = sorted({str(entry.platform) for entry in index.manifests if entry.platform is not None})
    return ", ".join(name for name in names if name != "unknown/unknown")[:500] or "none that it names"
