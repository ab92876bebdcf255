"""Pulling from enemies: each refused by name, with nothing of it kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oci import mediatypes
from oci.descriptor import Descriptor, Platform
from oci.digest import Digest
from oci.manifest import Manifest
from remote.errors import InvalidContent, RegistryError, RemoteError
from runtime.images import ImageStore
from tests.remote.content import Content, noise, sample
from tests.remote.faulty import Answer, Request, serving
from tests.remote.pulling import AMD64, content_of, fetch, files_under


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "engine", floor=0)


# Enemies


def attack(content: Content, store: ImageStore, fault: Callable[[Request, Answer], Answer], said: str) -> int:
    """Pull while every blob's answer goes through ``fault``; the pull must refuse it, and keep nothing of it. Bytes that were served."""
    with serving(content) as (server, served):
        served.faults.append(lambda one: fault(one, served.right(one)) if "/blobs/" in one.target else None)
        with pytest.raises(InvalidContent, match=said):
            fetch(server.host, store)
        served_bytes = server.served
    assert not set(content_of(store)) & set(content.blobs)
    assert [name for name in files_under(store) if name.startswith("uploads/")] == []
    assert store.names() == []
    return served_bytes


def one_layer() -> Content:
    content = Content()
    value = {"schemaVersion": 2, "mediaType": mediatypes.OCI_MANIFEST}
    layer = content.blob(noise(3_000_000), mediatypes.OCI_LAYER_GZIP)
    image = content.add({**value, "config": layer.to_json(), "layers": [layer.to_json()]})
    content.tags["1"] = image.digest
    return content


def test_wrong_bytes_of_the_right_length(store: ImageStore) -> None:
    attack(one_layer(), store, lambda _, right: Answer(200, [], bytes(len(right.body))), "arrived with the digest")


def test_one_flipped_bit(store: ImageStore) -> None:
    def flip(_: Request, right: Answer) -> Answer:
        return Answer(200, [], right.body[:-1] + bytes([right.body[-1] ^ 1]))

    attack(one_layer(), store, flip, "arrived with the digest")


def test_a_length_that_is_not_the_manifests(store: ImageStore) -> None:
    attack(one_layer(), store, lambda _, right: Answer(200, [], right.body + b"x"), "wants to send 3000001 bytes")
    attack(one_layer(), store, lambda _, right: Answer(200, [], right.body[:-1]), "wants to send 2999999 bytes")


def endless() -> Iterator[bytes]:
    while True:
        yield b"x" * 65536


def test_an_endless_body_is_read_to_the_size_and_one_byte(store: ImageStore) -> None:
    served = attack(one_layer(), store, lambda _, right: Answer(200, [], pieces=endless()), "sends more of the blob")
    assert served < 40_000_000


def test_one_byte_more_without_a_length(store: ImageStore) -> None:
    attack(one_layer(), store, lambda _, right: Answer(200, [], pieces=[right.body, b"x"]), "sends more of the blob")


def test_an_encoding_nobody_asked_for(store: ImageStore) -> None:
    def packed(_: Request, right: Answer) -> Answer:
        return Answer(200, [("Content-Encoding", "gzip")], right.body)

    attack(one_layer(), store, packed, "encoding nobody asked for")


@pytest.mark.parametrize(
    "text", ["bytes 5-9/10", "bytes */3000000", "bytes 1000000-2999999/99", "nonsense", "bytes \u0663-\u0664/\u0665"]
)
def test_a_range_that_was_not_asked_for(store: ImageStore, text: str) -> None:
    def fault(request: Request, right: Answer) -> Answer:
        if "range" not in request.headers:
            right.cut = 1_000_000
            return right
        return Answer(206, [("Content-Range", text.encode().decode("latin-1"))], right.body)

    content = one_layer()
    with serving(content) as (server, served):
        served.faults.append(lambda one: fault(one, served.right(one)) if "/blobs/" in one.target else None)
        with pytest.raises(InvalidContent, match="was asked for the blob"):
            fetch(server.host, store)
    assert not set(content_of(store)) & set(content.blobs)


def manifest_answer(raw: bytes, **headers: str) -> Callable[[Request], Answer | None]:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return lambda request: Answer(200, list(named), raw) if "/manifests/" in request.target else None


@pytest.mark.parametrize(
    ("raw", "headers", "said"),
    [
        (b"{", {}, "cannot be read"),
        (b"[]", {}, "not a JSON object"),
        (b"{}" + b" " * (8 << 20), {}, "longer than the 8388608 bytes"),
        (b'{"schemaVersion":1}', {}, "schema 1 is not supported"),
        (b"{}", {"Docker_Content_Digest": f"sha256:{'0' * 64}"}, "arrived with the digest"),
        (b"{}", {"Docker_Content_Digest": "sha256:short"}, "announces a digest that is none"),
        (
            b'{"schemaVersion":2,"manifests":[5]}',
            {"Content_Type": mediatypes.OCI_INDEX},
            r"manifests\[0\] must be an object",
        ),
        (b'{"schemaVersion":2,"mediaType":"a/b"}', {"Content_Type": mediatypes.OCI_INDEX}, "says mediaType"),
    ],
)
def test_a_manifest_that_is_none(store: ImageStore, raw: bytes, headers: dict[str, str], said: str) -> None:
    with serving(Content()) as (server, served):
        served.faults.append(manifest_answer(raw, **headers))
        with pytest.raises(RemoteError, match=said):
            fetch(server.host, store)
    assert files_under(store) == []


def test_a_manifest_of_another_digest_than_was_asked_for(store: ImageStore) -> None:
    content = Content()
    image = sample(content)
    with serving(content) as (server, served):
        served.faults.append(manifest_answer(image.raw + b"\n", Content_Type=image.media_type))
        with pytest.raises(InvalidContent, match="arrived with the digest"):
            fetch(server.host, store, f"@{image.digest}")
    assert files_under(store) == []


def index_of(content: Content, entries: list[Descriptor]) -> Manifest:
    value: dict[str, Any] = {"schemaVersion": 2, "mediaType": mediatypes.OCI_INDEX}
    return content.add({**value, "manifests": [entry.to_json() for entry in entries]})


def test_indexes_in_indexes_without_end(store: ImageStore) -> None:
    content = Content()
    inner = index_of(content, [sample(content).descriptor])
    for _ in range(3):
        inner = index_of(content, [inner.descriptor])
    content.tags["1"] = inner.digest
    with serving(content) as (server, _):
        fetch(server.host, store, platform=None)
    content.tags["1"] = index_of(content, [inner.descriptor]).digest
    with serving(content) as (server, _), pytest.raises(InvalidContent, match="more than 4 deep"):
        fetch(server.host, store, ":1", platform=None)


@pytest.mark.parametrize("platform", [None, AMD64])
def test_an_index_that_holds_itself(store: ImageStore, platform: Platform | None) -> None:
    """A true cycle needs a broken hash; a server can only lie, and is caught by the digest."""
    content = Content()
    inner = index_of(content, [])
    entry = Descriptor(mediatypes.OCI_INDEX, inner.digest, len(inner.raw), AMD64)
    outer = index_of(content, [entry, entry])
    content.tags["1"] = outer.digest
    with serving(content) as (server, served):
        served.faults.append(lambda one: served.right(one) if one.target.endswith("/1") else None)
        served.faults.append(manifest_answer(outer.raw, Content_Type=mediatypes.OCI_INDEX))
        with pytest.raises(InvalidContent, match="arrived with the digest"):
            fetch(server.host, store, platform=platform)


def test_a_thousand_manifests_and_no_more(store: ImageStore) -> None:
    content = Content()
    entries = [Descriptor(mediatypes.OCI_MANIFEST, Digest.of(str(number).encode()), 2) for number in range(1001)]
    content.tags["1"] = index_of(content, entries).digest
    with serving(content) as (server, _):
        with pytest.raises(InvalidContent, match="more than 1000 manifests"):
            fetch(server.host, store, platform=None)
        assert len(server.requests) == 1, "refused before any of them is fetched"


def test_an_index_that_lies_about_a_manifest(store: ImageStore) -> None:
    content = Content()
    image = sample(content)
    for entry, said in [
        (Descriptor(image.media_type, image.digest, len(image.raw) + 1), "the index says"),
        (Descriptor(mediatypes.DOCKER_MANIFEST, image.digest, len(image.raw)), "the index says application/vnd.docker"),
    ]:
        content.tags["1"] = index_of(content, [entry]).digest
        with serving(content) as (server, _), pytest.raises(InvalidContent, match=said):
            fetch(server.host, store, platform=None)


def test_one_blob_of_two_sizes(store: ImageStore) -> None:
    content = Content()
    layer = content.blob(b"layer", mediatypes.OCI_LAYER)
    other = Descriptor(layer.media_type, layer.digest, 6)
    value = {"schemaVersion": 2, "mediaType": mediatypes.OCI_MANIFEST}
    content.tags["1"] = content.add({**value, "config": layer.to_json(), "layers": [other.to_json()]}).digest
    with serving(content) as (server, _), pytest.raises(InvalidContent, match="is said to have 5 and 6 bytes"):
        fetch(server.host, store)


def test_a_missing_blob_and_a_missing_image_are_named(store: ImageStore) -> None:
    content = Content()
    image = sample(content)
    content.tags["1"] = image.digest
    gone = image.layers[1].digest
    del content.blobs[gone]
    with serving(content) as (server, _):
        with pytest.raises(RegistryError, match=f"/v2/demo/image/blobs/{gone} was answered 404 .*BLOB_UNKNOWN"):
            fetch(server.host, store)
        with pytest.raises(RegistryError, match="MANIFEST_UNKNOWN: no such manifest"):
            fetch(server.host, store, f"@{Digest.of(b'unknown')}")
    assert store.names() == []
