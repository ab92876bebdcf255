"""What the CNCF's registry, distribution, keeps on a disk or in a bucket: read, never written.

::

    docker/registry/v2/
        blobs/sha256/ab/abcdef…/data                              the bytes of layers, configs and manifests alike
        repositories/NAME/
            _layers/sha256/abcdef…/link                           the repository holds this blob
            _manifests/revisions/sha256/abcdef…/link              the repository holds this manifest; deleting it removes the link
            _manifests/tags/TAG/current/link                      the text of the digest that the tag points at
            _manifests/tags/TAG/index/…, _uploads/…               what it pointed at before; bytes on their way. Nobody is served these

The layout is the same from version 2.0 to 3.1. A crash can leave a link without a byte: distribution serves nothing by it.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from oci.digest import Digest, InvalidDigest
from oci.reference import is_repository_name, is_tag
from storage.errors import StorageError

LAYOUT = "docker/registry/v2"
REPOSITORIES = f"{LAYOUT}/repositories"
CHUNK = 1024 * 1024
LINK_MAX = 1024
"""Bytes of a link that are read: a digest has 135 at most."""

_NOT_SERVED = {"_uploads", "index"}
_LINK = re.compile(
    r"(?P<name>.+)/_(?:layers/(?P<layer>[^/]+/[^/]+)|manifests/revisions/(?P<manifest>[^/]+/[^/]+)"
    r"|manifests/tags/(?P<tag>[^/]+)/current)/link"
)

Pieces = Iterator[bytes | memoryview]


class NoVolume(StorageError):
    """There is no registry's storage at the place."""

    def __init__(self, where: object) -> None:
        super().__init__(
            f"{where} is no storage of distribution: it has no {REPOSITORIES}. Name what its configuration has as rootdirectory"
        )


class Volume(Protocol):
    """The storage of one registry. Names are below its root directory. OSError, StorageError."""

    def links(self) -> Iterator[tuple[str, int]]:
        """The files below `REPOSITORIES` by names relative to that, with their sizes; those of one repository together."""
        ...

    def size(self, name: str) -> int | None:
        """A file's size in bytes, None where there is none."""
        ...

    def read(self, name: str) -> Pieces:
        """A file's bytes, in pieces that are used before the next is asked for; nothing where there is none."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Held:
    """What a repository holds. ``broken``: names of links that lead nowhere, each with what is wrong."""

    name: str
    layers: list[Digest] = field(default_factory=list)
    manifests: list[Digest] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class DirectoryVolume:
    """A `Volume` on a disk."""

    def __init__(self, root: Path) -> None:
        """NoVolume."""
        self.root = root
        if not (root / REPOSITORIES).is_dir():
            raise NoVolume(root)

    def links(self) -> Iterator[tuple[str, int]]:
        """By walking, in the order of the names. OSError: what cannot be walked is not passed over."""

        def fail(error: OSError) -> None:
            raise error

        top = self.root / REPOSITORIES
        for directory, below, files in os.walk(top, onerror=fail):
            below[:] = sorted(name for name in below if name not in _NOT_SERVED or not _is_apart(name, directory))
            for name in files:
                path = os.path.join(directory, name)
                yield os.path.relpath(path, top), os.lstat(path).st_size

    def size(self, name: str) -> int | None:
        """One stat."""
        try:
            return (self.root / name).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read(self, name: str) -> Pieces:
        """Through a buffer."""
        try:
            file = (self.root / name).open("rb", buffering=0)
        except FileNotFoundError:
            return
        with file:
            while piece := file.read(CHUNK):
                yield piece

    def close(self) -> None:
        """Nothing is held."""


def held(volume: Volume) -> Iterator[Held]:
    """What each repository holds, one at a time. OSError, StorageError."""
    found = ((match, size) for name, size in volume.links() if (match := _LINK.fullmatch(name)) is not None)
    for name, group in itertools.groupby(found, key=lambda pair: str(pair[0]["name"])):
        one = Held(name)
        for match, size in group:
            _note(one, match, size)
        if not is_repository_name(name):
            one = Held(name, broken=[f"repository {name!r} has a name that the specification does not allow"])
        yield one


def data_of(digest: Digest) -> str:
    """The name of the file with a blob's bytes."""
    return f"{LAYOUT}/blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}/data"


def tagged(volume: Volume, repository: str, tag: str) -> Digest | None:
    """What a tag points at; None where its link cannot be read as a digest."""
    text = b"".join(
        bytes(piece) for piece in volume.read(f"{REPOSITORIES}/{repository}/_manifests/tags/{tag}/current/link")
    )
    try:
        return Digest.parse(text[:LINK_MAX].decode("ascii").strip())
    except (InvalidDigest, UnicodeDecodeError):
        return None


def _note(one: Held, match: re.Match[str], size: int) -> None:
    what = match["layer"] or match["manifest"]
    if size == 0:
        one.broken.append(f"repository {one.name}: the link {match[0]} is empty")
    elif match["tag"]:
        if is_tag(match["tag"]):
            one.tags.append(match["tag"])
        else:
            one.broken.append(
                f"repository {one.name}: the tag {match['tag']!r} has a name that the specification does not allow"
            )
    else:
        try:
            digest = Digest.parse(what.replace("/", ":"))
        except InvalidDigest as error:
            one.broken.append(f"repository {one.name}: the link {match[0]} is of no digest: {error}")
            return
        (one.layers if match["layer"] else one.manifests).append(digest)


def _is_apart(name: str, directory: str) -> bool:
    """Whether a directory of such a name is one of those that nobody is served from, and no part of a repository's name."""
    return name == "_uploads" or os.path.basename(os.path.dirname(directory)) == "tags"
