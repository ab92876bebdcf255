"""Image manifests and indexes (image-spec manifest.md, image-index.md; Docker's schema 2 and manifest lists).

The exact bytes are kept: a digest is of bytes, and whoever re-encodes a manifest breaks every signature on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from oci import mediatypes
from oci.descriptor import Descriptor, InvalidDescriptor, is_media_type, parse_annotations
from oci.digest import Digest
from oci.strictjson import InvalidJSON, parse_object

SIZE_MAX = 8 * 1024 * 1024
"""The largest manifest, in bytes. distribution-spec asks registries to take at least 4 MiB."""


class InvalidManifest(ValueError):
    """Bytes that are no manifest; the message names the field."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One manifest or index of any media type, with what a registry and an engine need to know of it.

    ``config`` and ``layers`` are set for image manifests, ``manifests`` for indexes; the others have ``None`` and empty tuples.
    """

    raw: bytes
    media_type: str
    digest: Digest
    config: Descriptor | None
    layers: tuple[Descriptor, ...]
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None
    artifact_type: str | None
    annotations: Mapping[str, str]

    @classmethod
    def parse(cls, raw: bytes, content_type: str | None = None, algorithm: str = "sha256") -> Manifest:
        """Read a manifest's bytes as sent under ``content_type`` (without parameters); InvalidManifest says what is wrong.

        Where the body names its ``mediaType``, it must be the same. Where neither is given, the fields decide.
        """
        try:
            value = parse_object(raw, SIZE_MAX)
        except InvalidJSON as error:
            raise InvalidManifest(f"the manifest cannot be read: {error}") from error
        media_type = _media_type(value, content_type)
        try:
            config = Descriptor.from_json(value["config"], "config") if value.get("config") is not None else None
            subject = Descriptor.from_json(value["subject"], "subject") if value.get("subject") is not None else None
            layers = _descriptors(value, "layers")
            manifests = _descriptors(value, "manifests")
            annotations = parse_annotations(value.get("annotations"), "manifest")
        except InvalidDescriptor as error:
            raise InvalidManifest(f"the manifest is not valid: {error}") from error
        if media_type in mediatypes.MANIFESTS and config is None:
            raise InvalidManifest("the manifest is not valid: an image manifest needs a config")
        if media_type in mediatypes.INDEXES and not isinstance(value.get("manifests"), list):
            raise InvalidManifest("the manifest is not valid: an index needs a list of manifests")
        artifact_type = value.get("artifactType")
        if artifact_type is not None and not isinstance(artifact_type, str):
            raise InvalidManifest("the manifest is not valid: artifactType must be a string")
        return cls(
            raw,
            media_type,
            Digest.of(raw, algorithm),
            config,
            layers,
            manifests,
            subject,
            artifact_type or None,
            annotations,
        )

    @property
    def is_index(self) -> bool:
        """Whether this is an index (or a manifest list): something to choose a manifest from."""
        return self.media_type in mediatypes.INDEXES or (self.config is None and bool(self.manifests))

    @property
    def referrer_type(self) -> str | None:
        """What a referrers list calls this: its artifactType, else its config's media type (distribution-spec, "Listing Referrers")."""
        return self.artifact_type or (self.config.media_type if self.config is not None else None)

    @property
    def descriptor(self) -> Descriptor:
        """A descriptor of this manifest, without platform or annotations."""
        return Descriptor(self.media_type, self.digest, len(self.raw))

    def blobs(self) -> Iterator[Descriptor]:
        """The config and the layers, in order; duplicates stay."""
        if self.config is not None:
            yield self.config
        yield from self.layers

    def references(self) -> Iterator[Descriptor]:
        """Everything this manifest points down to: config, layers, manifests. Not the subject."""
        yield from self.blobs()
        yield from self.manifests


def _descriptors(value: Mapping[str, object], name: str) -> tuple[Descriptor, ...]:
    items = value.get(name)
    if items is None:
        return ()
    if not isinstance(items, list):
        raise InvalidDescriptor(f"{name} must be a list")
    return tuple(Descriptor.from_json(item, f"{name}[{index}]") for index, item in enumerate(items))


def _media_type(value: Mapping[str, object], content_type: str | None) -> str:
    declared = value.get("mediaType")
    if declared is not None and not isinstance(declared, str):
        raise InvalidManifest("the manifest is not valid: mediaType must be a string")
    version = value.get("schemaVersion")
    if (version is not True and version == 1) or declared in mediatypes.SCHEMA1 or content_type in mediatypes.SCHEMA1:
        raise InvalidManifest(
            "Docker image manifest schema 1 is not supported: push it again with Docker 1.10 or newer"
        )
    if declared and content_type and declared != content_type:
        raise InvalidManifest(
            f"the Content-Type is {content_type!r} but the manifest says mediaType {declared[:200]!r}"
        )
    media_type = content_type or declared
    if not media_type:
        if isinstance(value.get("manifests"), list):
            media_type = mediatypes.OCI_INDEX
        elif isinstance(value.get("config"), dict):
            media_type = mediatypes.OCI_MANIFEST
        else:
            raise InvalidManifest("neither a Content-Type nor a mediaType says what this manifest is")
    if not is_media_type(media_type):
        raise InvalidManifest(f"{media_type[:200]!r} is not a media type")
    if media_type in mediatypes.MANIFESTS | mediatypes.INDEXES and (version != 2 or isinstance(version, bool)):
        raise InvalidManifest("the manifest is not valid: schemaVersion must be 2")
    return media_type
