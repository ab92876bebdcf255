import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci import mediatypes
from oci.config import ImageConfig, InvalidConfig, chain_ids
from oci.descriptor import Descriptor, InvalidDescriptor, Platform
from oci.digest import Digest
from oci.manifest import InvalidManifest, Manifest
from oci.strictjson import InvalidJSON, parse_object

EMPTY = {"mediaType": mediatypes.OCI_EMPTY, "digest": str(Digest.of(b"{}")), "size": 2}


def image(**more: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": mediatypes.OCI_MANIFEST, "config": EMPTY, "layers": [EMPTY], **more}


def parse(value: object, content_type: str | None = mediatypes.OCI_MANIFEST) -> Manifest:
    return Manifest.parse(json.dumps(value).encode(), content_type)


def test_an_image_manifest_keeps_its_bytes() -> None:
    raw = json.dumps(image(subject=EMPTY, annotations={"a": "b"}), indent=3).encode()
    manifest = Manifest.parse(raw, mediatypes.OCI_MANIFEST)
    assert manifest.raw is raw
    assert manifest.digest == Digest.of(raw)
    assert manifest.subject is not None
    assert [str(item.digest) for item in manifest.references()] == [EMPTY["digest"]] * 2
    assert not manifest.is_index
    assert manifest.referrer_type == mediatypes.OCI_EMPTY
    assert manifest.annotations == {"a": "b"}
    assert parse(image(artifactType="application/x")).referrer_type == "application/x"


def test_an_index() -> None:
    entry = EMPTY | {"platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}
    index = parse({"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX, "manifests": [entry]}, None)
    assert index.is_index
    assert str(index.manifests[0].platform) == "linux/arm64/v8"
    assert index.referrer_type is None
    assert index.manifests[0].to_json() == entry


def test_the_media_type_is_told_from_the_fields_where_nobody_says_it() -> None:
    value = image()
    del value["mediaType"]
    assert parse(value, None).media_type == mediatypes.OCI_MANIFEST
    assert parse({"schemaVersion": 2, "manifests": []}, None).media_type == mediatypes.OCI_INDEX


@pytest.mark.parametrize(
    ("value", "content_type", "reason"),
    [
        (image(), mediatypes.OCI_INDEX, "Content-Type"),
        (image(schemaVersion=1), mediatypes.OCI_MANIFEST, "schema 1"),
        ({"schemaVersion": 1}, "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (image(schemaVersion=True), mediatypes.OCI_MANIFEST, "schemaVersion"),
        (image(schemaVersion="2"), mediatypes.OCI_MANIFEST, "schemaVersion"),
        (image(config=None), mediatypes.OCI_MANIFEST, "config"),
        (image(config=[]), mediatypes.OCI_MANIFEST, "config must be an object"),
        (image(layers={}), mediatypes.OCI_MANIFEST, "layers must be a list"),
        (image(layers=[EMPTY | {"size": -1}]), mediatypes.OCI_MANIFEST, r"layers\[0\]\.size"),
        (image(layers=[EMPTY | {"size": 1.5}]), mediatypes.OCI_MANIFEST, "size"),
        (image(layers=[EMPTY | {"size": 2**64}]), mediatypes.OCI_MANIFEST, "size"),
        (image(layers=[EMPTY | {"digest": "sha256:x"}]), mediatypes.OCI_MANIFEST, "digest"),
        (image(layers=[EMPTY | {"mediaType": "x"}]), mediatypes.OCI_MANIFEST, "mediaType"),
        (image(layers=[EMPTY | {"data": "%"}]), mediatypes.OCI_MANIFEST, "data"),
        (image(layers=[EMPTY | {"urls": "x"}]), mediatypes.OCI_MANIFEST, "urls"),
        (image(annotations={"a": 1}), mediatypes.OCI_MANIFEST, "annotations"),
        (image(artifactType=1), mediatypes.OCI_MANIFEST, "artifactType"),
        (image(subject="x"), mediatypes.OCI_MANIFEST, "subject"),
        (image(mediaType=1), None, "mediaType"),
        ({"a": 1}, None, "neither"),
        ({"a": 1}, "text", "media type"),
        ([1], None, "object"),
        ({"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX}, None, "list of manifests"),
    ],
)
def test_what_is_no_manifest(value: object, content_type: str | None, reason: str) -> None:
    with pytest.raises(InvalidManifest, match=reason):
        parse(value, content_type)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"a": NaN}',
        b'{"a":1,"a":2}',
        b'{"a":' * 5000,
        b'{"a": 1' + b"0" * 5000 + b"}",
        rb'{"a": "\ud800"}',
        b'{"a":' * 70 + b"1" + b"}" * 70,
    ],
)
def test_json_that_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidJSON):
        parse_object(data, 1 << 20)


def test_json_has_a_limit() -> None:
    with pytest.raises(InvalidJSON, match="more than the 4"):
        parse_object(b'{"a":1}', 4)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(raw: bytes) -> None:
    with pytest.raises(InvalidManifest):
        Manifest.parse(raw, mediatypes.OCI_MANIFEST)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ("schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "annotations", "artifactType")


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_fields_are_a_manifest_or_refused(fields: dict[str, Any]) -> None:
    try:
        manifest = parse(image() | fields, None)
    except InvalidManifest:
        return
    assert manifest.media_type


def test_platforms() -> None:
    arm = Platform.parse("linux/arm64/v8")
    assert arm.satisfies(Platform.parse("linux/arm64"))
    assert not arm.satisfies(Platform.parse("linux/arm64/v7"))
    assert not arm.satisfies(Platform.parse("linux/amd64"))
    assert Platform.from_json(arm.to_json()) == arm
    with pytest.raises(ValueError, match="not a platform"):
        Platform.parse("linux")
    with pytest.raises(InvalidDescriptor):
        Platform.from_json({"os": 1})


def test_a_descriptor_survives_json() -> None:
    value = EMPTY | {"data": "e30=", "urls": ["u"], "artifactType": "a/b", "annotations": {"k": "v"}}
    descriptor = Descriptor.from_json(value)
    assert descriptor.data == b"{}"
    assert descriptor.to_json() == value


def test_an_image_config_and_its_chain() -> None:
    first, second = Digest.of(b"1"), Digest.of(b"2")
    config = ImageConfig.parse(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": ["A=b"], "Cmd": ["sh"], "Volumes": {"/v": {}}, "User": "nobody"},
                "rootfs": {"type": "layers", "diff_ids": [str(first), str(second)]},
            }
        ).encode()
    )
    assert config.env == ("A=b",)
    assert config.volumes == ("/v",)
    assert config.entrypoint == ()
    assert chain_ids(config.diff_ids) == (first, Digest.of(f"{first} {second}".encode()))


@pytest.mark.parametrize(
    "field", [{"config": []}, {"config": {"Env": "x"}}, {"config": {"User": "a\0"}}, {"rootfs": {"diff_ids": ["x"]}}]
)
def test_what_is_no_image_config(field: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig):
        ImageConfig.parse(json.dumps(field).encode())
