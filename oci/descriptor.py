"""Descriptors and platforms (image-spec descriptor.md and image-index.md)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oci.digest import Digest, InvalidDigest

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}\Z")
SIZE_MAX = 2**63 - 1


class InvalidDescriptor(ValueError):
    """JSON that is no descriptor; the message names the field."""


def is_media_type(text: str) -> bool:
    """Whether text is ``type/subtype`` by RFC 6838 section 4.2, without parameters."""
    return _MEDIA_TYPE.match(text) is not None


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on. ``str()`` gives Docker's form, ``linux/arm64/v8``."""

    architecture: str
    os: str
    variant: str | None = None
    os_version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read ``os/arch[/variant]``; ValueError otherwise."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(parts):
            raise ValueError(f"{text!r} is not a platform: write os/architecture or os/architecture/variant")
        return cls(parts[1], parts[0], parts[2] if len(parts) == 3 else None)

    @classmethod
    def from_json(cls, value: object) -> Platform:
        """Read an index entry's ``platform`` object; InvalidDescriptor where a field has the wrong type."""
        if not isinstance(value, dict):
            raise InvalidDescriptor("platform must be an object")
        fields: list[str | None] = []
        for name in ("architecture", "os", "variant", "os.version"):
            text = value.get(name)
            if text is not None and not isinstance(text, str):
                raise InvalidDescriptor(f"platform.{name} must be a string")
            fields.append(text)
        architecture, system, variant, version = fields
        return cls(architecture or "", system or "", variant or None, version or None)

    def to_json(self) -> dict[str, str]:
        """The object as the image index has it."""
        out = {"architecture": self.architecture, "os": self.os}
        if self.variant:
            out["variant"] = self.variant
        if self.os_version:
            out["os.version"] = self.os_version
        return out

    def satisfies(self, wanted: Platform) -> bool:
        """Whether something made for this platform serves one who wants the other: a variant counts only where both name one."""
        return (
            self.os == wanted.os
            and self.architecture == wanted.architecture
            and (self.variant is None or wanted.variant is None or self.variant == wanted.variant)
        )

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A typed, sized, addressed pointer to content. ``size`` in bytes."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None
    urls: tuple[str, ...] = ()
    data: bytes | None = None

    @classmethod
    def from_json(cls, value: object, where: str = "descriptor") -> Descriptor:
        """Read one from parsed JSON; InvalidDescriptor names the field under ``where`` that is wrong."""
        if not isinstance(value, dict):
            raise InvalidDescriptor(f"{where} must be an object")
        media_type = value.get("mediaType")
        if not isinstance(media_type, str) or not is_media_type(media_type):
            raise InvalidDescriptor(f"{where}.mediaType must be a media type")
        digest_text = value.get("digest")
        if not isinstance(digest_text, str):
            raise InvalidDescriptor(f"{where}.digest must be a string")
        try:
            digest = Digest.parse(digest_text)
        except InvalidDigest as error:
            raise InvalidDescriptor(f"{where}.digest: {error}") from error
        size = value.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= SIZE_MAX:
            raise InvalidDescriptor(f"{where}.size must be a whole number of bytes")
        artifact_type = value.get("artifactType")
        if artifact_type is not None and not isinstance(artifact_type, str):
            raise InvalidDescriptor(f"{where}.artifactType must be a string")
        urls = value.get("urls") or []
        if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
            raise InvalidDescriptor(f"{where}.urls must be a list of strings")
        platform = value.get("platform")
        return cls(
            media_type,
            digest,
            size,
            Platform.from_json(platform) if platform is not None else None,
            parse_annotations(value.get("annotations"), where),
            artifact_type or None,
            tuple(urls),
            _parse_data(value.get("data"), where),
        )

    def to_json(self) -> dict[str, Any]:
        """The object as manifests carry it; empty fields are left out."""
        out: dict[str, Any] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.urls:
            out["urls"] = list(self.urls)
        if self.annotations:
            out["annotations"] = dict(self.annotations)
        if self.data is not None:
            out["data"] = base64.b64encode(self.data).decode("ascii")
        if self.platform is not None:
            out["platform"] = self.platform.to_json()
        if self.artifact_type:
            out["artifactType"] = self.artifact_type
        return out


def parse_annotations(value: object, where: str) -> dict[str, str]:
    """Read a string-to-string map (image-spec annotations.md); None is an empty one; InvalidDescriptor otherwise."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InvalidDescriptor(f"{where}.annotations must map strings to strings")
    return value


def _parse_data(value: object, where: str) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidDescriptor(f"{where}.data must be a base64 string")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidDescriptor(f"{where}.data must be base64 (RFC 4648 section 4)") from error
