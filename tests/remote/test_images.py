"""The engine's image store: names that survive, and what they resolve to."""

from __future__ import annotations

import json
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from oci import mediatypes
from oci.descriptor import Descriptor, Platform
from oci.digest import Digest
from oci.manifest import Manifest
from oci.reference import Reference
from remote.platforms import choose, host_platform
from remote.pull import StoreDestination
from runtime.images import ImageStore, ImageStoreError, NamedImage
from tests.remote.content import Content, layer_tar, multi, sample

AMD64 = Platform("amd64", "linux")
NAME = Reference.parse("hub.example/demo/app:1")


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "engine", floor=0)


def keep(store: ImageStore, content: Content) -> None:
    """Put all content into the store."""
    destination = StoreDestination(store)
    for digest, data in content.blobs.items():
        blob = Descriptor("application/octet-stream", digest, len(data))
        if destination.find(blob) is None:
            destination.write(blob, content, lambda count: None)
    for manifest in content.manifests.values():
        destination.put(manifest)


def test_names_come_and_go(store: ImageStore) -> None:
    descriptor = Descriptor(mediatypes.OCI_MANIFEST, Digest.of(b"x"), 1)
    other = Reference.parse("a/b:2")
    assert store.list() == []
    store.tag(NAME, descriptor)
    store.tag(other, descriptor)
    assert store.names() == ["docker.io/a/b:2", "hub.example/demo/app:1"]
    assert store.list()[1] == NamedImage(NAME, descriptor)
    assert ImageStore(store.root, floor=0).names() == store.names()
    assert store.remove(other)
    assert not store.remove(other)
    assert store.find(other) is None
    assert store.find(NAME) == descriptor


def test_a_name_moves(store: ImageStore) -> None:
    for text in (b"one", b"two"):
        store.tag(NAME, Descriptor(mediatypes.OCI_MANIFEST, Digest.of(text), 1))
    assert len(store.names()) == 1
    found = store.find(NAME)
    assert found is not None
    assert found.digest == Digest.of(b"two")


def test_what_a_name_resolves_to(store: ImageStore) -> None:
    content = Content()
    index = multi(content)
    keep(store, content)
    store.tag(NAME, index.descriptor)
    for entry in index.manifests:
        assert entry.platform is not None
        found = store.resolve(NAME, entry.platform)
        assert found is not None
        assert found.reference == NAME
        assert found.descriptor.digest == entry.digest
        assert found.config.platform.architecture == entry.platform.architecture
    assert store.resolve(NAME, Platform("s390x", "linux")) is None
    assert store.resolve(Reference.parse("hub.example/demo/app:2"), AMD64) is None


def test_by_digest_under_any_name_of_the_repository(store: ImageStore) -> None:
    content = Content()
    index = multi(content)
    keep(store, content)
    store.tag(NAME, index.descriptor)
    child = index.manifests[1].digest
    for digest, repository, is_there in [
        (index.digest, "hub.example/demo/app", True),
        (child, "hub.example/demo/app", True),
        (index.digest, "hub.example/demo/ap", False),
        (child, "other.example/demo/app", False),
        (Digest.of(b"unknown"), "hub.example/demo/app", False),
    ]:
        found = store.resolve(Reference.parse(f"{repository}@{digest}"), Platform("arm64", "linux"))
        assert (found is not None) == is_there, (digest, repository)


@pytest.mark.parametrize("part", ["manifest", "config"])
@pytest.mark.parametrize("harm", ["missing", "flipped", "longer"])
def test_damage_counts_as_missing_and_a_pull_heals(store: ImageStore, part: str, harm: str) -> None:
    content = Content()
    image = sample(content, 1000)
    keep(store, content)
    store.tag(NAME, image.descriptor)
    assert image.config is not None
    digest = image.digest if part == "manifest" else image.config.digest
    path = store.root / "blobs" / digest.algorithm / digest.hex[:2] / digest.hex
    raw = path.read_bytes()
    path.unlink()
    if harm != "missing":
        path.write_bytes(raw + b" " if harm == "longer" else bytes([raw[0] ^ 1]) + raw[1:])
    assert store.resolve(NAME, AMD64) is None
    keep(store, content)
    assert store.resolve(NAME, AMD64) is not None


def test_a_whole_image_and_one_that_is_not(store: ImageStore) -> None:
    content = Content()
    index = multi(content)
    keep(store, content)
    assert store.is_whole(index.descriptor)
    missing = content.manifests[index.manifests[2].digest].layers[1].digest
    (store.root / "blobs" / missing.algorithm / missing.hex[:2] / missing.hex).unlink()
    assert not store.is_whole(index.descriptor)
    assert store.is_whole(content.manifests[index.manifests[0].digest].descriptor)
    assert not store.is_whole(Descriptor(mediatypes.OCI_MANIFEST, Digest.of(b"no"), 2))


def test_repositories_that_share_blobs(store: ImageStore) -> None:
    content = Content()
    shared = layer_tar("shared", b"shared")
    images = [content.image([shared, layer_tar(str(number), b"x")]) for number in range(6)]
    alone = content.image([layer_tar("alone", b"alone")], Platform("arm64", "linux"))
    keep(store, content)
    for number, image in enumerate(images):
        store.tag(Reference.parse(f"hub.example/demo/app{number}:1"), image.descriptor)
    store.tag(Reference.parse("hub.example/demo/alone:1"), alone.descriptor)
    store.tag(Reference.parse("other.example/demo/app:1"), images[0].descriptor)
    assert store.related("hub.example", images[0].descriptor) == ("demo/app0", "demo/app1", "demo/app2")
    assert store.related("hub.example", alone.descriptor) == ("demo/alone",)
    assert store.related("nobody.example", images[0].descriptor) == ()


@pytest.mark.parametrize(
    "raw",
    [b"{", b"[]", b'{"version":2,"images":{}}', b'{"version":1,"images":[]}', b'{"version":1,"images":{"a/b:1":5}}'],
)
def test_a_file_of_names_that_cannot_be_read(store: ImageStore, raw: bytes) -> None:
    (store.root / "images.json").write_bytes(raw)
    with pytest.raises(ImageStoreError, match="move it aside"):
        store.names()
    with pytest.raises(ImageStoreError):
        store.tag(NAME, Descriptor(mediatypes.OCI_MANIFEST, Digest.of(b"x"), 1))
    assert (store.root / "images.json").read_bytes() == raw, "what could not be read is not overwritten"


def _tag_many(root: Path, who: int, together: Barrier) -> None:
    store = ImageStore(root, floor=0)
    together.wait(60)
    for number in range(20):
        name = Reference.parse(f"hub.example/p{who}/n{number}:1")
        store.tag(name, Descriptor(mediatypes.OCI_MANIFEST, Digest.of(str(name).encode()), 1))


def test_processes_that_write_at_once_lose_no_name(store: ImageStore) -> None:
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(4)
    processes = [context.Process(target=_tag_many, args=(store.root, who, together)) for who in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(store.names()) == 80
    assert not list(store.root.glob(".new-*"))


def test_the_file_of_names_is_for_people_too(store: ImageStore) -> None:
    store.tag(NAME, Descriptor(mediatypes.OCI_MANIFEST, Digest.of(b"x"), 1))
    value = json.loads((store.root / "images.json").read_text())
    assert list(value["images"]) == [str(NAME)]


# Choosing a platform


def entries(*platforms: str | None) -> Manifest:
    content = Content()
    images = [(content.image([layer_tar("a", str(number).encode())]), text) for number, text in enumerate(platforms)]
    return content.index([(image, Platform.parse(text) if text is not None else None) for image, text in images])


@pytest.mark.parametrize(
    ("offered", "wanted", "chosen"),
    [
        (("linux/amd64", "linux/arm64/v8"), "linux/arm64", 1),
        (("linux/amd64", "linux/arm64"), "linux/arm64/v8", 1),
        (("linux/arm/v5", "linux/arm/v7", "linux/arm/v6"), "linux/arm/v7", 1),
        (("linux/arm/v5", "linux/arm/v6"), "linux/arm/v7", 1),
        (("linux/arm/v7",), "linux/arm/v6", None),
        (("linux/amd64", "linux/amd64"), "linux/amd64", 0),
        (("unknown/unknown", "linux/amd64"), "linux/amd64", 1),
        (("windows/amd64",), "linux/amd64", None),
        ((None,), "linux/amd64", 0),
        ((None, None), "linux/amd64", None),
        ((None, "linux/amd64"), "linux/amd64", 1),
        (("linux/arm/vX",), "linux/arm/v6", 0),
        ((), "linux/amd64", None),
    ],
)
def test_the_best_entry(offered: tuple[str | None, ...], wanted: str, chosen: int | None) -> None:
    index = entries(*offered)
    found = choose(index, Platform.parse(wanted))
    assert found == (index.manifests[chosen] if chosen is not None else None)


def test_this_machine_is_a_platform() -> None:
    assert host_platform().os == "linux"
    assert host_platform().satisfies(Platform.parse(str(host_platform())))
