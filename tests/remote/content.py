"""Small images for the tests of the client: deterministic, made of nothing but bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oci import mediatypes
from oci.descriptor import Descriptor, Platform
from oci.digest import Digest
from oci.manifest import Manifest
from remote.errors import InvalidContent


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress, the same for every run."""
    return random.Random(seed).randbytes(size)


def layer_tar(name: str, content: bytes) -> bytes:
    """A layer with one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


@dataclass
class Content:
    """Manifests and blobs by digest: a Source and the expected state of any destination."""

    blobs: dict[Digest, bytes] = field(default_factory=dict)
    manifests: dict[Digest, Manifest] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)

    def blob(self, data: bytes, media_type: str, algorithm: str = "sha256") -> Descriptor:
        digest = Digest.of(data, algorithm)
        self.blobs[digest] = data
        return Descriptor(media_type, digest, len(data))

    def add(self, value: dict[str, Any], algorithm: str = "sha256") -> Manifest:
        manifest = Manifest.parse(json.dumps(value, indent=3).encode(), None, algorithm)
        self.manifests[manifest.digest] = manifest
        return manifest

    def image(
        self, layers: list[bytes], platform: Platform | None = None, *, compress: bool = True, algorithm: str = "sha256"
    ) -> Manifest:
        """An OCI image of these layer tars."""
        platform = platform or Platform("amd64", "linux")
        config = {
            "architecture": platform.architecture,
            "os": platform.os,
            **({"variant": platform.variant} if platform.variant else {}),
            "config": {"Cmd": ["/bin/true"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in layers]},
        }
        described = [
            self.blob(gzip.compress(tar, 1, mtime=0), mediatypes.OCI_LAYER_GZIP, algorithm)
            if compress
            else self.blob(tar, mediatypes.OCI_LAYER, algorithm)
            for tar in layers
        ]
        return self.add(
            {
                "schemaVersion": 2,
                "mediaType": mediatypes.OCI_MANIFEST,
                "config": self.blob(json.dumps(config).encode(), mediatypes.OCI_CONFIG, algorithm).to_json(),
                "layers": [layer.to_json() for layer in described],
            },
            algorithm,
        )

    def index(self, entries: list[tuple[Manifest, Platform | None]]) -> Manifest:
        """An OCI index."""
        return self.add(
            {
                "schemaVersion": 2,
                "mediaType": mediatypes.OCI_INDEX,
                "manifests": [
                    Descriptor(one.media_type, one.digest, len(one.raw), platform).to_json()
                    for one, platform in entries
                ],
            }
        )

    def manifest(self, target: Digest | str | None) -> Manifest:
        digest = target if isinstance(target, Digest) else self.tags[str(target)]
        if digest not in self.manifests:
            raise InvalidContent(f"the manifest {digest} is not there")
        return self.manifests[digest]

    def open(self, blob: Descriptor, offset: int) -> Iterator[memoryview]:
        view = memoryview(self.blobs[blob.digest])[offset:]
        for start in range(0, len(view), 65536):
            yield view[start : start + 65536]

    def close(self) -> None:
        return None

    def write_layout(self, path: Path, root: Manifest, tag: str | None) -> None:
        """Write everything as an OCI layout, without the code under test."""
        for digest, data in [*self.blobs.items(), *((one.digest, one.raw) for one in self.manifests.values())]:
            place = path / "blobs" / digest.algorithm / digest.hex
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        entry = root.descriptor.to_json()
        if tag is not None:
            entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def sample(content: Content, size: int = 300_000) -> Manifest:
    """An image of two layers."""
    return content.image([layer_tar("one", noise(size)), layer_tar("two", b"second")])


def multi(content: Content) -> Manifest:
    """An index of three platforms that share a layer."""
    shared = layer_tar("shared", noise(100_000, 7))
    platforms = [Platform("amd64", "linux"), Platform("arm64", "linux", "v8"), Platform("arm", "linux", "v7")]
    return content.index(
        [
            (content.image([shared, layer_tar("own", str(platform).encode())], platform), platform)
            for platform in platforms
        ]
    )
