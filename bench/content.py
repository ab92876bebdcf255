"""What is pushed: blobs that are new each time without being hashed each time, small images, and images of a given size."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MIB = 1 << 20
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ACCEPT = f"{OCI_MANIFEST}, {OCI_INDEX}, application/vnd.docker.distribution.manifest.v2+json"

LAYERS = {"1mb": (1,), "49mb": (28, 11, 6, 3, 1), "1gib": (600, 300, 100, 24)}
"""The images that clients push and pull: their layers' sizes in MiB."""


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Blob:
    """``size`` bytes: the start of ``file``, then ``tail``."""

    file: IO[bytes]
    size: int
    tail: bytes
    digest: str


class Source:
    """Random bytes in a file (of a tmpfs), from which any number of different blobs of one size are made.

    All but the last 32 bytes are hashed once; each blob ends in bytes of its own.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._size = size
        self._state = hashlib.sha256()
        self._numbers = itertools.count()
        self._salt = os.urandom(16)
        self._file = path.open("w+b", buffering=0)
        left = size - 32
        while left > 0:
            block = os.urandom(min(left, 16 * MIB))
            self._file.write(block)
            self._state.update(block)
            left -= len(block)

    def blob(self) -> Blob:
        """A blob that no server has seen."""
        tail = self._salt + next(self._numbers).to_bytes(16, "big")
        state = self._state.copy()
        state.update(tail)
        return Blob(self._file, self._size, tail, "sha256:" + state.hexdigest())

    def close(self) -> None:
        self._file.close()


class Sources:
    """The sources of a run, one per size: made when first asked for and kept, since random bytes cost more than most rows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sources: dict[int, Source] = {}

    def of(self, size: int) -> Source:
        if size not in self._sources:
            self._sources[size] = Source(self._folder / f"source-{size}", size)
        return self._sources[size]

    def close(self) -> None:
        for source in self._sources.values():
            source.close()


@dataclass(frozen=True, slots=True)
class SmallImage:
    """An image of one tiny layer: three things to push."""

    config: bytes
    layer: bytes
    manifest: bytes


def small_image() -> SmallImage:
    """Its config has 89 bytes, as the row of the small blob says."""
    layer = gzip.compress(b"".join(_tar_of([("etc/hostname", b"bench\n")])), mtime=0)
    config = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
    config = config[:-1] + b" " * (89 - len(config)) + b"}"
    return SmallImage(config, layer, _manifest(config, [(digest_of(layer), len(layer))]))


def empty_index() -> bytes:
    """The smallest manifest there is: a repository with one request."""
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()


def write_layout(folder: Path, sizes: tuple[int, ...]) -> None:
    """Write an image as an OCI layout (image-spec image-layout.md): one layer per size in MiB, of bytes that do not compress."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layers, diff_ids = [], []
    for index, size in enumerate(sizes):
        layer = folder / "layer"
        diff_id = _write_layer(layer, index, size)
        with layer.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        layers.append((f"sha256:{digest}", layer.stat().st_size))
        diff_ids.append(diff_id)
        layer.rename(blobs / digest)
    config = json.dumps(_config(diff_ids)).encode()
    manifest = _manifest(config, layers)
    for data in (config, manifest):
        (blobs / digest_of(data).removeprefix("sha256:")).write_bytes(data)
    entry = {"mediaType": OCI_MANIFEST, "size": len(manifest), "digest": digest_of(manifest)}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def write_archive(path: Path, tag: str, sizes: tuple[int, ...]) -> None:
    """Write an image as ``docker save`` does, for ``docker load``: one layer per size in MiB, of bytes that do not compress."""
    with tarfile.open(path, "w") as archive:
        names, diff_ids = [], []
        for index, size in enumerate(sizes):
            layer = path.with_suffix(".layer")
            with layer.open("wb") as file:
                state = hashlib.sha256()
                for block in _tar_of(_files(index, size)):
                    state.update(block)
                    file.write(block)
            diff_ids.append("sha256:" + state.hexdigest())
            names.append(f"{state.hexdigest()}/layer.tar")
            archive.add(layer, names[-1])
            layer.unlink()
        config = json.dumps(_config(diff_ids)).encode()
        name = digest_of(config).removeprefix("sha256:") + ".json"
        manifest = json.dumps([{"Config": name, "RepoTags": [tag], "Layers": names}]).encode()
        for member, data in ((name, config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _files(index: int, size: int) -> Iterator[tuple[str, bytes]]:
    for number in range(size):
        yield f"data/{index}-{number}", os.urandom(MIB)


def _tar_of(files: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """A tar stream in pieces, so that a large one is never in memory whole."""
    for name, data in files:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o644
        yield info.tobuf(tarfile.USTAR_FORMAT)
        yield data
        yield bytes(-len(data) % 512)
    yield bytes(1024)


def _write_layer(path: Path, index: int, size: int) -> str:
    """Write a layer as gzip that only stores (the client's compressor is not what is measured); its diff id."""
    state = hashlib.sha256()
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 0, raw, mtime=0) as file:
        for block in _tar_of(_files(index, size)):
            state.update(block)
            file.write(block)
    return "sha256:" + state.hexdigest()


def _config(diff_ids: list[str]) -> dict[str, Any]:
    return {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/true"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }


def _manifest(config: bytes, layers: list[tuple[str, int]]) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "size": len(config), "digest": digest_of(config)},
            "layers": [{"mediaType": OCI_LAYER, "size": size, "digest": digest} for digest, size in layers],
        }
    ).encode()
