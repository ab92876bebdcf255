"""Pushing to real registries, distribution and our own, and resuming over lines that break."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci import mediatypes
from oci.descriptor import Descriptor, Platform
from oci.manifest import Manifest
from oci.reference import Reference
from remote.copy import copy
from remote.errors import InvalidContent, RegistryError, RemoteError
from remote.pull import RegistrySource, pull
from remote.push import RegistryDestination, push
from remote.transport import Policy, Registry
from runtime.images import ImageStore
from tests.remote.content import Content, layer_tar, multi, noise, sample
from tests.remote.faulty import Answer, CuttingProxy, Faulty, Request, refusal
from tests.remote.pulling import Watch
from tests.servers import distribution, portside

QUICK = Policy(attempts=5, pause=0.01, pause_max=5.0, connect_timeout=5.0, read_timeout=10.0)
BIG = 12_000_000


@pytest.fixture(scope="module", params=["distribution", "portside"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real registry's host."""
    root = tmp_path_factory.mktemp(request.param)
    with distribution(root) if request.param == "distribution" else portside(root, "--floor", "0") as server:
        yield server.address


def client(host: str) -> Registry:
    return Registry(host, credential=lambda name: None, policy=QUICK)


def send(
    content: Content, root: Manifest, host: str, repository: str, tag: str | None, watch: Watch | None = None
) -> Descriptor:
    with client(host) as registry:
        destination = RegistryDestination(registry, repository)
        try:
            return copy(content, root.digest, destination, tag, progress=watch)
        finally:
            destination.close()


def fetch_all(host: str, repository: str, root: Manifest, target: str | None = None) -> Content:
    """Everything that a registry holds of an image."""
    found = Content()

    def visit(manifest: Manifest) -> None:
        found.manifests[manifest.digest] = manifest
        for child in manifest.manifests:
            visit(source.manifest(child.digest))
        for blob in manifest.blobs():
            found.blobs[blob.digest] = b"".join(bytes(piece) for piece in source.open(blob, 0))

    with client(host) as registry:
        source = RegistrySource(registry, repository)
        visit(source.manifest(target or root.digest))
    return found


def test_what_goes_up_comes_down(host: str) -> None:
    content = Content()
    root = multi(content)
    assert send(content, root, host, "up/multi", "1") == root.descriptor
    found = fetch_all(host, "up/multi", root, "1")
    assert {digest: one.raw for digest, one in found.manifests.items()} == {
        digest: one.raw for digest, one in content.manifests.items()
    }
    assert found.blobs == content.blobs


def test_a_second_push_sends_no_blob(host: str) -> None:
    content = Content()
    root = sample(content)
    send(content, root, host, "up/twice", "1")
    with CuttingProxy(host) as proxy:
        watch = Watch()
        send(content, root, proxy.host, "up/twice", "2", watch)
        assert proxy.up < 10_000
    assert set(watch.outcomes.values()) == {"exists"}


def test_the_empty_blob_and_an_artifact(host: str) -> None:
    content = Content()
    config, empty = content.blob(b"{}", mediatypes.OCI_EMPTY), content.blob(b"", "application/x-empty")
    value = {"schemaVersion": 2, "mediaType": mediatypes.OCI_MANIFEST, "artifactType": "a/b"}
    root = content.add({**value, "config": config.to_json(), "layers": [empty.to_json()]})
    send(content, root, host, "up/artifact", "1")
    assert fetch_all(host, "up/artifact", root).blobs == content.blobs


def test_without_a_tag(host: str) -> None:
    content = Content()
    root = sample(content)
    send(content, root, host, "up/untagged", None)
    assert set(fetch_all(host, "up/untagged", root).manifests) == {root.digest}


def test_a_cut_upload_goes_on_where_it_was_cut(host: str) -> None:
    content = Content()
    root = sample(content, BIG)
    total = sum(map(len, content.blobs.values()))
    with CuttingProxy(host, cuts_up=[5_000_000, 3_000_000, 1_000_000]) as proxy:
        watch = Watch()
        send(content, root, proxy.host, f"up/cut-{total}", "1", watch)
        assert proxy.cuts_up == []
        # What the server had not read of the last piece at each cut is sent again, the rest is not.
        assert proxy.up < total + 3 * 1_500_000
    assert watch.counts == {blob.digest: blob.size for blob in root.blobs()}
    assert fetch_all(host, f"up/cut-{total}", root).blobs == content.blobs


def test_blobs_of_another_repository_are_mounted(host: str) -> None:
    content = Content()
    root = sample(content, 2_000_000)
    send(content, root, host, "up/origin", "1")
    watch = Watch()
    with CuttingProxy(host) as proxy, client(proxy.host) as registry:
        source = RegistrySource(registry, "up/origin")
        destination = RegistryDestination(registry, "up/mounted", ["up/origin"])
        copy(source, "1", destination, "1", progress=watch)
        destination.close()
        assert proxy.up + proxy.down < 50_000
    assert set(watch.outcomes.values()) == {"mounted"}
    assert fetch_all(host, "up/mounted", root).blobs == content.blobs


def test_a_mount_that_cannot_be_becomes_an_upload(host: str) -> None:
    content = Content()
    root = sample(content, 50_000)
    watch = Watch()
    with client(host) as registry:
        destination = RegistryDestination(registry, "up/unmounted", ["up/no-such-repository"])
        copy(content, root.digest, destination, "1", progress=watch)
        destination.close()
    assert set(watch.outcomes.values()) == {"done"}
    assert fetch_all(host, "up/unmounted", root).blobs == content.blobs


def test_pull_and_push_through_the_store(host: str, tmp_path: Path) -> None:
    content = Content()
    root = multi(content)
    send(content, root, host, "up/store", "1")
    store = ImageStore(tmp_path / "engine", floor=0)
    arm64 = Platform("arm64", "linux")
    with client(host) as registry:
        whole = pull(registry, Reference.parse(f"{host}/up/store:1"), store, None)
        assert push(store, whole.digest, registry, "up/store-again", "1") == root.descriptor
        one = push(store, whole.digest, registry, "up/store-one", "1", platform=arm64)
    assert fetch_all(host, "up/store-again", root, "1").blobs == content.blobs
    assert one.digest == root.manifests[1].digest
    assert set(fetch_all(host, "up/store-one", root, "1").manifests) == {one.digest}


def test_an_image_that_is_not_whole_in_the_store_is_not_pushed(host: str, tmp_path: Path) -> None:
    content = Content()
    root = multi(content)
    send(content, root, host, "up/part", "1")
    store = ImageStore(tmp_path / "engine", floor=0)
    with client(host) as registry:
        pull(registry, Reference.parse(f"{host}/up/part:1"), store, Platform("amd64", "linux"))
        with pytest.raises(InvalidContent, match="--all-platforms"):
            push(store, root.digest, registry, "up/part-again", "1")
        with pytest.raises(RegistryError, match="404"):
            RegistrySource(registry, "up/part-again").manifest("1")


def test_bytes_that_are_not_the_digests_are_refused_and_no_tag_is_made(host: str) -> None:
    content = Content()
    root = sample(content, 100_000)
    large = root.layers[0].digest
    content.blobs[large] = bytes(len(content.blobs[large]))
    with pytest.raises(RemoteError, match="DIGEST_INVALID"):
        send(content, root, host, "up/wrong", "1")
    with client(host) as registry, pytest.raises(RegistryError, match="404"):
        RegistrySource(registry, "up/wrong").manifest("1")


def test_sha512_is_kept_by_a_registry_that_knows_it(tmp_path: Path) -> None:
    content = Content()
    root = content.image([layer_tar("a", noise(3000))], algorithm="sha512")
    with portside(tmp_path, "--floor", "0") as server:
        host = server.address
        send(content, root, host, "up/sha512", "1")
        found = fetch_all(host, "up/sha512", root)
        assert found.blobs == content.blobs
        with client(host) as registry:
            assert RegistrySource(registry, "up/sha512").manifest("1").raw == root.raw


# What only a broken server does


class Uploads:
    """A registry that takes uploads, with faults: what its clients must cope with."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.kept = b""
        self.started = 0
        self.manifests: list[str] = []
        self.faults: dict[str, list[Answer]] = {}

    def __call__(self, request: Request) -> Answer:
        waiting = self.faults.get(request.method, [])
        if waiting and "/manifests/" not in request.target:
            return waiting.pop(0)
        if request.method == "HEAD":
            return Answer(200 if request.path.rpartition("/")[2] in self.blobs else 404)
        if request.method == "POST":
            self.started += 1
            self.kept = b""
            return self._at(202)
        if request.method == "PATCH":
            self.kept += request.body
            return self._at(202)
        if request.method == "GET":
            return self._at(204)
        if "/manifests/" in request.target:
            self.manifests.append(request.path.rpartition("/")[2])
            return Answer(201)
        self.blobs[request.target.partition("digest=")[2].replace("%3A", ":")] = self.kept + request.body
        return Answer(201)

    def _at(self, status: int) -> Answer:
        path = f"/v2/a/blobs/uploads/{self.started}?state=x%2By"
        return Answer(status, [("Location", path), ("Range", f"0-{max(0, len(self.kept) - 1)}")])


def small() -> tuple[Content, Manifest]:
    content = Content()
    config = content.blob(noise(1000), mediatypes.OCI_CONFIG)
    value = {"schemaVersion": 2, "mediaType": mediatypes.OCI_MANIFEST, "config": config.to_json(), "layers": []}
    return content, content.add(value)


def test_an_upload_refused_for_now_is_asked_where_it_stands() -> None:
    content, root = small()
    uploads = Uploads()
    uploads.faults["PUT"] = [refusal(503, "UNAVAILABLE", "later"), refusal(429, "TOOMANYREQUESTS", "later")]
    with Faulty(uploads) as server:
        send(content, root, server.host, "a", "1")
        # "Range: 0-0" may mean one byte or none: the upload is started anew.
        assert uploads.started == 3
    assert list(uploads.blobs.values()) == [content.blobs[root.blobs().__next__().digest]]
    assert uploads.manifests == ["1"]


def test_an_upload_that_the_registry_forgot_is_started_anew() -> None:
    content, root = small()
    uploads = Uploads()
    uploads.faults["PUT"] = [refusal(500, "UNKNOWN", "oops")]
    uploads.faults["GET"] = [refusal(404, "BLOB_UPLOAD_UNKNOWN", "gone")]
    with Faulty(uploads) as server:
        send(content, root, server.host, "a", "1")
    assert uploads.started == 2
    assert len(uploads.blobs) == 1


def test_the_state_in_a_location_survives() -> None:
    content, root = small()
    with Faulty(Uploads()) as server:
        send(content, root, server.host, "a", "1")
        target = next(one.target for one in server.seen("PUT", "/uploads/"))
    assert target == f"/v2/a/blobs/uploads/1?state=x%2By&digest={str(next(root.blobs()).digest).replace(':', '%3A')}"


def test_a_registry_that_stores_something_else_is_caught() -> None:
    content, root = small()
    uploads = Uploads()
    other = f"sha256:{'0' * 64}"
    uploads.faults["PUT"] = [Answer(201, [("Docker-Content-Digest", other)])]
    with Faulty(uploads) as server, pytest.raises(InvalidContent, match="under another digest: sha256:000"):
        send(content, root, server.host, "a", "1")
    assert uploads.manifests == []


def test_a_full_registry_says_so() -> None:
    content, root = small()
    uploads = Uploads()
    uploads.faults["POST"] = [refusal(507, "STORAGE_FULL", "no room")]
    with (
        Faulty(uploads) as server,
        pytest.raises(RegistryError, match=r"STORAGE_FULL: no room\); the registry's disk is full"),
    ):
        send(content, root, server.host, "a", "1")


@pytest.mark.parametrize("location", [None, "", "ftp://x/", "http://[/"])
def test_a_location_that_cannot_be_followed(location: str | None) -> None:
    content, root = small()
    uploads = Uploads()
    uploads.faults["POST"] = [Answer(202, [("Location", location)] if location is not None else [])]
    with Faulty(uploads) as server, pytest.raises(RemoteError):
        send(content, root, server.host, "a", "1")
    assert uploads.blobs == {}


def test_the_first_failure_ends_the_others_and_makes_no_tag() -> None:
    content = Content()
    root = content.image([layer_tar(str(number), noise(200_000, number)) for number in range(12)])
    uploads = Uploads()
    uploads.faults["POST"] = [refusal(403, "DENIED", "not yours") for _ in range(50)]
    with Faulty(uploads) as server, pytest.raises(RegistryError, match=r"DENIED: not yours.*may not do this"):
        send(content, root, server.host, "a", "1")
    assert len(server.seen("POST")) < 12
    assert uploads.manifests == []


def test_children_before_parents_and_the_tag_last() -> None:
    content = Content()
    root = multi(content)
    uploads = Uploads()
    with Faulty(uploads) as server:
        send(content, root, server.host, "a", "1")
        order = [one.target for one in server.requests if one.method in ("PUT", "PATCH")]
    first_manifest = next(index for index, target in enumerate(order) if "/manifests/" in target)
    assert all("/manifests/" in target for target in order[first_manifest:])
    assert sorted(uploads.manifests[:-1]) == sorted(str(entry.digest) for entry in root.manifests)
    assert uploads.manifests[-1] == "1"


def test_four_blobs_at_once() -> None:
    content = Content()
    root = content.image([layer_tar(str(number), noise(20_000, number)) for number in range(8)])
    together = threading.Barrier(4, timeout=20)

    class Waiting(Watch):
        def start(self, blob: Descriptor) -> None:
            super().start(blob)
            if len(self.counts) <= 4:
                together.wait()

    with Faulty(Uploads()) as server:
        send(content, root, server.host, "a", "1", Waiting())
    assert not together.broken


def test_a_manifest_goes_up_byte_for_byte(host: str) -> None:
    content = Content()
    config = content.blob(b"{}", mediatypes.OCI_CONFIG)
    fields = {"schemaVersion": 2, "mediaType": mediatypes.DOCKER_MANIFEST, "config": config.to_json(), "layers": []}
    raw = ("  " + json.dumps(fields, indent=7) + "\n\n").encode()
    root = Manifest.parse(raw)
    content.manifests[root.digest] = root
    send(content, root, host, "up/odd", "1")
    assert fetch_all(host, "up/odd", root, "1").manifests[root.digest].raw == raw
