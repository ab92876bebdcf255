"""Content for the wire tables, and the shortest way to get it into a repository."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from tests.images import OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, noise
from tests.wire.client import Answer, Connection

JSON = dict[str, Any]

ERRORS: Mapping[str, int] = {
    "BLOB_UNKNOWN": 404,
    "BLOB_UPLOAD_UNKNOWN": 404,
    "DIGEST_INVALID": 400,
    "MANIFEST_INVALID": 400,
    "MANIFEST_UNKNOWN": 404,
    "NAME_INVALID": 400,
    "NAME_UNKNOWN": 404,
    "SIZE_INVALID": 400,
    "UNSUPPORTED": 405,
    "TAG_INVALID": 400,
    "PAGINATION_NUMBER_INVALID": 400,
    "RANGE_INVALID": 416,
    "MANIFEST_TOO_LARGE": 413,
    "REQUEST_INVALID": 400,
    "NOT_FOUND": 404,
    "STORAGE_FULL": 507,
}
"""The codes that a client can meet in these tests, and the one status of each."""


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def blob(label: str, size: int = 512) -> bytes:
    """Bytes that belong to one label, the same in each run."""
    return noise(size, int.from_bytes(hashlib.sha256(label.encode()).digest()[:6], "big"))


def descriptor(media_type: str, data: bytes, algorithm: str = "sha256", /, **more: object) -> JSON:
    return {"mediaType": media_type, "digest": digest_of(data, algorithm), "size": len(data), **more}


def image(config: JSON, layers: Sequence[JSON], **more: object) -> bytes:
    """An image manifest's bytes."""
    return _encode({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": list(layers), **more})


def index(manifests: Sequence[JSON], **more: object) -> bytes:
    """An image index' bytes."""
    return _encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests), **more})


def small_image(label: str, **more: object) -> tuple[bytes, list[bytes]]:
    """An image manifest that no other label has, and its blobs: config and one layer."""
    config = _encode({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}, "x": label})
    layer = blob(f"layer of {label}")
    return image(descriptor(OCI_CONFIG, config), [descriptor(OCI_LAYER, layer)], **more), [config, layer]


def artifact(label: str, artifact_type: str | None, subject: JSON | None = None, **more: object) -> bytes:
    """An artifact's manifest, with the empty descriptor as its config and layer."""
    empty = descriptor(OCI_EMPTY, b"{}")
    fields: JSON = {"annotations": {"label": label}} | more
    if artifact_type is not None:
        fields["artifactType"] = artifact_type
    if subject is not None:
        fields["subject"] = subject
    return image(empty, [empty], **fields)


def _encode(value: JSON) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def push_blob(connection: Connection, repository: str, data: bytes, algorithm: str = "sha256") -> str:
    """POST of a whole blob; its digest."""
    digest = digest_of(data, algorithm)
    answer = connection.request("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", body=data)
    assert answer.status == 201, answer
    return digest


def start_upload(connection: Connection, repository: str) -> str:
    """POST; the path of the new upload."""
    answer = connection.request("POST", f"/v2/{repository}/blobs/uploads/", body=b"")
    assert answer.status == 202, answer
    location = answer.header("location")
    assert location is not None
    return location


def push_manifest(
    connection: Connection, repository: str, reference: str, raw: bytes, media_type: str = OCI_MANIFEST
) -> Answer:
    """PUT of a manifest, which must be taken."""
    target = f"/v2/{repository}/manifests/{reference}"
    answer = connection.request("PUT", target, {"Content-Type": media_type}, raw)
    assert answer.status == 201, answer
    return answer


def push_image(connection: Connection, repository: str, tag: str, label: str = "", **more: object) -> bytes:
    """A small image under a tag; its manifest's bytes."""
    raw, blobs = small_image(label or f"{repository}:{tag}", **more)
    for data in blobs:
        push_blob(connection, repository, data)
    push_manifest(connection, repository, tag, raw)
    return raw


def query(**parameters: str) -> str:
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
