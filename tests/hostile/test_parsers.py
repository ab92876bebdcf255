"""Whatever the text: the parsers of the edge answer with a value or with their own error, and a value is what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oci.digest import HEX_LENGTH, Digest, InvalidDigest
from oci.manifest import SIZE_MAX, InvalidManifest, Manifest
from oci.reference import NAME_MAX, is_repository_name, is_tag
from oci.strictjson import InvalidJSON, parse_object
from registry.errors import RequestError
from registry.framing import Chunked
from registry.messages import BadRequest, Request
from registry.routes import METHODS, Endpoint, match
from tests.hostile.words import DIGESTS, MEDIA_TYPES, TRAVERSALS
from tests.images import OCI_INDEX, OCI_MANIFEST
from tests.wire.content import digest_of

T = TypeVar("T")


def value_of(call: Callable[[], T], refusal: type[Exception]) -> T | None:
    """What a parser returns, None where it refused in words. Any other exception is the test's failure."""
    try:
        return call()
    except refusal as error:
        message = str(error)
    assert 0 < len(message) < 700
    return None


QUIET = settings(max_examples=400, deadline=None, database=None)

WORDS = st.sampled_from(
    [*TRAVERSALS, "a", "b0", "v2", "blobs", "uploads", "manifests", "tags", "list", "referrers", "_catalog"]
)
DIGEST_TEXTS = st.one_of(st.sampled_from(DIGESTS), st.binary(max_size=4).map(digest_of), st.text(max_size=80))
PATHS = st.one_of(
    st.lists(st.one_of(WORDS, DIGEST_TEXTS), max_size=8).map(lambda parts: "/v2/" + "/".join(parts)),
    st.text(max_size=300),
)
_NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


@QUIET
@given(st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "BREW", ""]), PATHS)
def test_a_route_holds_lawful_values_only(method: str, path: str) -> None:
    route = value_of(lambda: match(method, path), RequestError)
    if route is None:
        return
    assert method in METHODS[route.endpoint]
    if route.endpoint in (Endpoint.PING, Endpoint.CATALOG):
        assert route.repository == ""
        return
    assert _NAME.fullmatch(route.repository)
    assert len(route.repository) <= NAME_MAX
    if route.endpoint in (Endpoint.BLOB, Endpoint.REFERRERS):
        assert isinstance(route.reference, Digest)
    if route.endpoint is Endpoint.MANIFEST and isinstance(route.reference, str):
        assert _TAG.fullmatch(route.reference)
    if route.endpoint is Endpoint.UPLOAD:
        assert isinstance(route.reference, str)
        assert route.reference
        assert "/" not in route.reference


@QUIET
@given(st.one_of(st.text(max_size=300), WORDS, st.from_regex(_NAME, fullmatch=True)))
def test_names_are_those_of_the_specification(text: str) -> None:
    assert is_repository_name(text) == (bool(_NAME.fullmatch(text)) and len(text) <= NAME_MAX)


@QUIET
@given(st.one_of(st.text(max_size=140), WORDS, st.from_regex(_TAG, fullmatch=True)))
def test_tags_are_those_of_the_specification(text: str) -> None:
    assert is_tag(text) == bool(_TAG.fullmatch(text))


@QUIET
@given(DIGEST_TEXTS)
def test_a_digest_is_read_exactly_or_not_at_all(text: str) -> None:
    digest = value_of(lambda: Digest.parse(text), InvalidDigest)
    if digest is None:
        return
    assert str(digest) == text
    assert re.fullmatch(r"[0-9a-f]+", digest.hex)
    assert len(digest.hex) == HEX_LENGTH[digest.algorithm]


JSON_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(DIGESTS)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=12,
)
DESCRIPTORS = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": st.one_of(st.sampled_from(MEDIA_TYPES), JSON_VALUES),
        "digest": st.one_of(DIGEST_TEXTS, JSON_VALUES),
        "size": st.one_of(st.integers(-1, 2**65), JSON_VALUES),
        "annotations": JSON_VALUES,
        "platform": JSON_VALUES,
        "urls": JSON_VALUES,
        "data": JSON_VALUES,
        "artifactType": JSON_VALUES,
    },
)
FIELD = st.one_of(DESCRIPTORS, st.lists(DESCRIPTORS, max_size=3), JSON_VALUES)
MANIFESTS = st.fixed_dictionaries(
    {"schemaVersion": st.one_of(st.just(2), JSON_VALUES)},
    optional={
        name: FIELD
        for name in ("config", "layers", "manifests", "subject", "annotations", "artifactType", "mediaType", "x")
    },
)


@QUIET
@given(MANIFESTS, st.one_of(st.none(), st.sampled_from([OCI_MANIFEST, OCI_INDEX, *MEDIA_TYPES]), st.text(max_size=20)))
def test_a_manifest_is_read_or_refused(value: dict[str, Any], content_type: str | None) -> None:
    raw = json.dumps(value).encode()
    manifest = value_of(lambda: Manifest.parse(raw, content_type), InvalidManifest)
    if manifest is None:
        return
    assert manifest.raw == raw
    assert str(manifest.digest) == digest_of(raw)
    assert manifest.media_type.isascii()
    assert "\r" not in manifest.media_type
    assert "\n" not in manifest.media_type
    for descriptor in [*manifest.references(), *([manifest.subject] if manifest.subject else [])]:
        assert Digest.parse(str(descriptor.digest)) == descriptor.digest
        assert 0 <= descriptor.size < 2**63
        json.dumps(descriptor.to_json()).encode()


@QUIET
@given(st.one_of(st.binary(max_size=200), JSON_VALUES.map(lambda value: json.dumps(value).encode())))
def test_json_is_an_object_or_refused(raw: bytes) -> None:
    value = value_of(lambda: parse_object(raw, SIZE_MAX), InvalidJSON)
    assert value is None or isinstance(value, dict)
    json.dumps(value, ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize("depth", [60, 65, 1000, 100_000, 3_000_000])
@pytest.mark.parametrize("form", [(b'{"a":', b"1", b"}"), (b"[", b"", b"]")])
def test_depth_is_bounded(depth: int, form: tuple[bytes, bytes, bytes]) -> None:
    before, middle, after = form
    raw = b'{"x":' + before * depth + middle + after * depth + b"}"
    if depth < 64:
        assert list(parse_object(raw, SIZE_MAX * 10)) == ["x"]
    else:
        with pytest.raises(InvalidJSON, match="deep"):
            parse_object(raw, SIZE_MAX * 10)


@QUIET
@given(st.one_of(st.binary(max_size=80), PATHS.map(lambda path: path.encode("utf-8", "surrogatepass"))))
def test_a_target_is_decoded_or_refused(target: bytes) -> None:
    request = Request(b"GET", target, [], client="", keep_alive=True, started=0.0, request_id="")
    for text in (value_of(lambda: request.path, BadRequest), value_of(lambda: request.parameter("last"), BadRequest)):
        if text is None:
            continue
        assert "\0" not in text
        text.encode("utf-8")


@QUIET
@given(
    st.lists(st.binary(min_size=1, max_size=50), max_size=10),
    st.lists(st.integers(1, 20), min_size=1, max_size=30),
    st.binary(max_size=20),
)
def test_a_chunked_body_is_the_same_however_it_arrives(parts: list[bytes], steps: list[int], following: bytes) -> None:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nTrailer: x\r\n\r\n"
    stream, framing, held, payload = framed + following, Chunked(), b"", b""
    position = step = 0
    while position < len(stream):
        size = steps[step % len(steps)]
        step += 1
        buffer = bytearray(held + stream[position : position + size])
        position += size
        w, r = framing.decode(buffer, 0, 0, len(buffer))
        payload, held = payload + bytes(buffer[:w]), bytes(buffer[r:])
    assert framing.complete
    assert payload == b"".join(parts)
    assert held == following


@QUIET
@given(st.binary(max_size=200), st.integers(1, 50))
def test_a_broken_chunked_body_is_refused_or_unfinished(raw: bytes, size: int) -> None:
    framing, held, payload = Chunked(), b"", 0
    for at in range(0, len(raw), size):
        buffer = bytearray(held + raw[at : at + size])
        decoded = value_of(lambda b=buffer: framing.decode(b, 0, 0, len(b)), BadRequest)  # type: ignore[misc]
        if decoded is None:
            break
        w, r = decoded
        payload, held = payload + w, bytes(buffer[r:])
    assert payload <= len(raw)
