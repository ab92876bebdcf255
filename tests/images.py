"""Small images for tests: made without any network, the same bytes each time, and without the product's own code."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tools import tool

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

JSON = dict[str, Any]


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Content:
    """A manifest or index with everything below it: ``blobs`` maps digests to bytes, the manifests' own included."""

    media_type: str
    raw: bytes
    blobs: Mapping[str, bytes]
    platform: JSON | None = None
    manifests: tuple[str, ...] = field(default=())
    """The digests of all manifests in ``blobs``, children before parents; the last one is this one's."""

    @property
    def digest(self) -> str:
        return sha256(self.raw)

    @property
    def descriptor(self) -> JSON:
        found: JSON = {"mediaType": self.media_type, "digest": self.digest, "size": len(self.raw)}
        return found | ({"platform": self.platform} if self.platform else {})

    @property
    def json(self) -> JSON:
        parsed: JSON = json.loads(self.raw)
        return parsed


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress, the same ones for the same seed."""
    return random.Random(seed).randbytes(size)


def tar(files: Mapping[str, bytes | str], executables: Sequence[str] = ()) -> bytes:
    """A tar of regular files; a ``str`` is the target of a symbolic link. Parent directories come before their entries."""
    out = io.BytesIO()
    made: set[str] = set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, value in files.items():
            parts = name.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                directory = "/".join(parts[:depth])
                if directory not in made:
                    made.add(directory)
                    entry = tarfile.TarInfo(directory)
                    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(entry)
            entry = tarfile.TarInfo(name)
            if isinstance(value, str):
                entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, value, 0o777
                archive.addfile(entry)
            else:
                entry.size, entry.mode = len(value), 0o755 if name in executables else 0o644
                archive.addfile(entry, io.BytesIO(value))
    return out.getvalue()


def compress(data: bytes) -> bytes:
    """gzip without a time or a name in it."""
    return gzip.compress(data, compresslevel=1, mtime=0)


def encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def image(
    *layers: bytes,
    architecture: str = "amd64",
    config: JSON | None = None,
    is_docker: bool = False,
    annotations: Mapping[str, str] | None = None,
) -> Content:
    """An image of uncompressed layer tars, lowest first; ``config`` is what the config holds under that name."""
    types = (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER) if is_docker else (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER)
    packed = [compress(layer) for layer in layers]
    config_bytes = encode(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "2020-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/bin"]} | (config or {}),
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "tests"} for _ in layers],
        }
    )
    manifest: JSON = {
        "schemaVersion": 2,
        "mediaType": types[0],
        "config": {"mediaType": types[1], "digest": sha256(config_bytes), "size": len(config_bytes)},
        "layers": [{"mediaType": types[2], "digest": sha256(layer), "size": len(layer)} for layer in packed],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    raw = encode(manifest)
    blobs = {sha256(data): data for data in (*packed, config_bytes, raw)}
    return Content(types[0], raw, blobs, {"architecture": architecture, "os": "linux"}, (sha256(raw),))


def index(*children: Content, is_docker: bool = False, annotations: Mapping[str, str] | None = None) -> Content:
    """A multi-platform index (or Docker manifest list) of images."""
    media_type = DOCKER_LIST if is_docker else OCI_INDEX
    value: JSON = {"schemaVersion": 2, "mediaType": media_type, "manifests": [child.descriptor for child in children]}
    if annotations:
        value["annotations"] = dict(annotations)
    raw = encode(value)
    blobs = {digest: data for child in children for digest, data in child.blobs.items()} | {sha256(raw): raw}
    manifests = tuple(dict.fromkeys(digest for child in children for digest in child.manifests))
    return Content(media_type, raw, blobs, manifests=(*manifests, sha256(raw)))


def artifact(payload: bytes, artifact_type: str, subject: Content | None = None, **annotations: str) -> Content:
    """An artifact manifest with one layer and the empty config, referring to ``subject`` when there is one."""
    value: JSON = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": {"mediaType": OCI_EMPTY, "digest": sha256(b"{}"), "size": 2},
        "layers": [{"mediaType": artifact_type, "digest": sha256(payload), "size": len(payload)}],
        "annotations": annotations,
    }
    if subject:
        value["subject"] = {k: v for k, v in subject.descriptor.items() if k != "platform"}
    raw = encode(value)
    return Content(OCI_MANIFEST, raw, {sha256(data): data for data in (payload, b"{}", raw)}, manifests=(sha256(raw),))


def small(name: str = "hello", *, architecture: str = "amd64", is_docker: bool = False) -> Content:
    """Two tiny layers; another name is another image that shares the first layer."""
    base = tar({"etc/motd": b"a layer that many images share\n"})
    own = tar({"srv/name": name.encode(), f"srv/{architecture}": noise(2048)})
    return image(base, own, architecture=architecture, is_docker=is_docker, config={"Cmd": ["/bin/true"]})


def large(megabytes: int = 32, seed: int = 7) -> Content:
    """One layer of so many MB that do not compress."""
    return image(tar({"srv/large": noise(megabytes * 1_000_000, seed)}))


def multi_platform(name: str = "hello", *, is_docker: bool = False) -> Content:
    """An index of the small image for amd64 and arm64."""
    children = [small(name, architecture=arch, is_docker=is_docker) for arch in ("amd64", "arm64")]
    return index(*children, is_docker=is_docker)


BUSYBOX_COMMANDS = (
    "sh cat echo env free grep head hostname id ip ls mount nproc ps pwd sleep stat tail test touch tr true false wc"
)


def busybox(
    programs: Mapping[str, bytes] | None = None, *, is_docker: bool = False, config: JSON | None = None
) -> Content:
    """A real image that runs: the machine's static busybox, its commands as links, the usual accounts, and other programs."""
    files: dict[str, bytes | str] = {"bin/busybox": tool("busybox").read_bytes()}
    files |= {f"bin/{command}": "busybox" for command in BUSYBOX_COMMANDS.split()}
    accounts = {
        "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nalice:x:1000:1000::/home/alice:/bin/sh\n",
        "etc/group": b"root:x:0:\nnogroup:x:65534:\nalice:x:1000:\nstaff:x:50:alice\n",
        "root/.keep": b"",
        "tmp/.keep": b"",
    }
    more = dict(programs or {})
    return image(
        tar(files, executables=["bin/busybox"]),
        tar(accounts | more, executables=list(more)),
        architecture=machine_architecture(),
        config={"Cmd": ["sh"]} | (config or {}),
        is_docker=is_docker,
    )


def machine_architecture() -> str:
    """This machine in the words of Go and OCI."""
    import platform

    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def write_layout(directory: Path, **contents: Content) -> Path:
    """An OCI image layout of contents by tag (image-spec, image-layout.md)."""
    for content in contents.values():
        for digest, data in content.blobs.items():
            algorithm, _, encoded = digest.partition(":")
            (directory / "blobs" / algorithm).mkdir(parents=True, exist_ok=True)
            (directory / "blobs" / algorithm / encoded).write_bytes(data)
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entries = [
        content.descriptor | {"annotations": {"org.opencontainers.image.ref.name": tag}}
        for tag, content in contents.items()
    ]
    (directory / "index.json").write_bytes(encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}))
    return directory


def docker_archive(content: Content, reference: str) -> bytes:
    """The image as ``docker save`` writes it, for ``docker load``; ``reference`` is the name and tag that it gets."""
    config_digest = content.json["config"]["digest"]
    layers = [gzip.decompress(content.blobs[layer["digest"]]) for layer in content.json["layers"]]
    config_name = config_digest.partition(":")[2] + ".json"
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    entry = [{"Config": config_name, "RepoTags": [reference], "Layers": names}]
    files = {config_name: content.blobs[config_digest], **dict(zip(names, layers, strict=True))}
    return tar({**files, "manifest.json": json.dumps(entry).encode()})
