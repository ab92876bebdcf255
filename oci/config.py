"""Image configs and chain ids (image-spec config.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oci.descriptor import Platform
from oci.digest import Digest, InvalidDigest
from oci.strictjson import InvalidJSON, parse_object

SIZE_MAX = 8 * 1024 * 1024
"""The largest image config, in bytes."""


class InvalidConfig(ValueError):
    """Bytes that are no image config; the message names the field."""


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How an image is run, and the layers that it is made of. Missing fields are empty."""

    raw: bytes
    platform: Platform
    env: tuple[str, ...]
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    user: str
    working_dir: str
    stop_signal: str
    labels: Mapping[str, str]
    volumes: tuple[str, ...]
    exposed_ports: tuple[str, ...]
    diff_ids: tuple[Digest, ...]
    created: str | None

    @classmethod
    def parse(cls, raw: bytes) -> ImageConfig:
        """Read a config blob; InvalidConfig names the field that is wrong."""
        try:
            value = parse_object(raw, SIZE_MAX)
        except InvalidJSON as error:
            raise InvalidConfig(f"the image config cannot be read: {error}") from error
        run = _object(value, "config")
        rootfs = _object(value, "rootfs")
        try:
            diff_ids = tuple(Digest.parse(text) for text in _strings(rootfs, "diff_ids"))
        except InvalidDigest as error:
            raise InvalidConfig(f"the image config's rootfs.diff_ids: {error}") from error
        labels = _object(run, "Labels")
        if not all(isinstance(text, str) for text in labels.values()):
            raise InvalidConfig("the image config's Labels must map strings to strings")
        created = value.get("created")
        return cls(
            raw,
            Platform(_string(value, "architecture"), _string(value, "os"), _string(value, "variant") or None),
            _strings(run, "Env"),
            _strings(run, "Entrypoint"),
            _strings(run, "Cmd"),
            _string(run, "User"),
            _string(run, "WorkingDir"),
            _string(run, "StopSignal"),
            labels,
            tuple(_object(run, "Volumes")),
            tuple(_object(run, "ExposedPorts")),
            diff_ids,
            created if isinstance(created, str) else None,
        )


def chain_ids(diff_ids: Sequence[Digest]) -> tuple[Digest, ...]:
    """The chain id of each layer applied on those below it (image-spec config.md, "Layer ChainID"): one per diff id, bottom first."""
    out: list[Digest] = []
    for diff_id in diff_ids:
        if not out:
            out.append(diff_id)
        else:
            text = f"{out[-1]} {diff_id}".encode("ascii")
            out.append(Digest("sha256", hashlib.sha256(text).hexdigest()))
    return tuple(out)


def _object(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidConfig(f"the image config's {name} must be an object")
    return found


def _string(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if found is None:
        return ""
    if not isinstance(found, str) or "\0" in found:
        raise InvalidConfig(f"the image config's {name} must be a string without NUL")
    return found


def _strings(value: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = value.get(name)
    if found is None:
        return ()
    if not isinstance(found, list) or not all(isinstance(text, str) and "\0" not in text for text in found):
        raise InvalidConfig(f"the image config's {name} must be a list of strings without NUL")
    return tuple(found)
