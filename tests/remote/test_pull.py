"""Pulling into the engine's store: from honest servers, and over lines that break."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oci import mediatypes
from oci.descriptor import Descriptor, Platform
from oci.digest import Digest
from oci.reference import Reference
from remote.errors import Cancelled, InvalidContent, RemoteError
from remote.pull import RegistrySource, pull
from remote.transport import Policy, Registry
from runtime.images import ImageStore
from storage.filesystem import FilesystemBlobStore
from tests.remote.content import Content, layer_tar, multi, noise, sample
from tests.remote.faulty import Answer, CuttingProxy, Request, serving
from tests.remote.pulling import AMD64, BIG, QUICK, Watch, content_of, fetch, files_under


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "engine", floor=0)


def test_an_image_arrives_whole(store: ImageStore) -> None:
    content = Content()
    image = sample(content)
    content.tags["1"] = image.digest
    watch = Watch()
    with serving(content) as (server, _):
        descriptor = fetch(server.host, store, watch=watch)
        reference = Reference.parse(f"{server.host}/demo/image:1")
    assert descriptor == image.descriptor
    assert content_of(store) == {**content.blobs, image.digest: image.raw}
    assert set(watch.outcomes.values()) == {"done"}
    assert watch.counts == {digest: len(data) for digest, data in content.blobs.items()}
    found = store.resolve(reference, AMD64)
    assert found is not None
    assert (found.reference, found.descriptor, found.manifest.raw) == (reference, image.descriptor, image.raw)
    assert found.config.cmd == ("/bin/true",)


def test_what_is_there_is_not_fetched(store: ImageStore) -> None:
    content = Content()
    content.tags["1"] = sample(content).digest
    with serving(content) as (server, _):
        fetch(server.host, store)
        before = len(server.seen("GET", "/blobs/"))
        watch = Watch()
        fetch(server.host, store, watch=watch)
        assert len(server.seen("GET", "/blobs/")) == before
    assert set(watch.outcomes.values()) == {"exists"}


def test_one_platform_of_an_index(store: ImageStore) -> None:
    content = Content()
    index = multi(content)
    content.tags["1"] = index.digest
    with serving(content) as (server, _):
        descriptor = fetch(server.host, store, platform=Platform("arm64", "linux"))
        reference = Reference.parse(f"{server.host}/demo/image:1")
    assert descriptor == index.descriptor
    arm64 = content.manifests[index.manifests[1].digest]
    assert set(content_of(store)) == {index.digest, arm64.digest, *(blob.digest for blob in arm64.blobs())}
    found = store.resolve(reference, Platform("arm64", "linux", "v8"))
    assert found is not None
    assert found.manifest.raw == arm64.raw
    assert store.resolve(reference, AMD64) is None
    assert not store.is_whole(descriptor)


def test_all_platforms_of_an_index(store: ImageStore) -> None:
    content = Content()
    index = multi(content)
    content.tags["1"] = index.digest
    with serving(content) as (server, _):
        descriptor = fetch(server.host, store, platform=None)
    assert content_of(store) == {
        **content.blobs,
        **{digest: manifest.raw for digest, manifest in content.manifests.items()},
    }
    assert store.is_whole(descriptor)


def test_a_platform_that_is_not_there_is_named_with_those_that_are(store: ImageStore) -> None:
    content = Content()
    content.tags["1"] = multi(content).digest
    with (
        serving(content) as (server, _),
        pytest.raises(InvalidContent, match=r"nothing for linux/s390x; it has .*linux/arm64/v8"),
    ):
        fetch(server.host, store, platform=Platform("s390x", "linux"))
    assert files_under(store) == []


def test_by_digest(store: ImageStore) -> None:
    content = Content()
    image = sample(content)
    with serving(content) as (server, _):
        fetch(server.host, store, f"@{image.digest}")
        reference = Reference.parse(f"{server.host}/demo/image@{image.digest}")
        assert server.requests[0].target == f"/v2/demo/image/manifests/{image.digest}"
        assert server.requests[0].headers["accept"] == mediatypes.ACCEPT
    assert store.resolve(reference, AMD64) is not None
    assert store.names() == [str(reference)]


def test_sha512(store: ImageStore) -> None:
    content = Content()
    image = content.image([layer_tar("a", noise(2000))], algorithm="sha512")
    with serving(content) as (server, _):
        fetch(server.host, store, f"@{image.digest}")
    assert content_of(store) == {**content.blobs, image.digest: image.raw}


def test_the_empty_blob(store: ImageStore) -> None:
    content = Content()
    config = content.blob(b"{}", mediatypes.OCI_EMPTY)
    empty = content.blob(b"", "application/x-empty")
    value = {"schemaVersion": 2, "mediaType": mediatypes.OCI_MANIFEST, "artifactType": "a/b"}
    artifact = content.add({**value, "config": config.to_json(), "layers": [empty.to_json()]})
    content.tags["1"] = artifact.digest
    with serving(content) as (server, _):
        fetch(server.host, store)
        reference = Reference.parse(f"{server.host}/demo/image:1")
    assert content_of(store) == {**content.blobs, artifact.digest: artifact.raw}
    found = store.find(reference)
    assert found is not None
    assert store.is_whole(found)


def test_layers_that_may_not_be_distributed_are_skipped(store: ImageStore) -> None:
    content = Content()
    foreign = Descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Digest.of(b"windows"), 7)
    config = content.blob(b"{}", mediatypes.OCI_CONFIG)
    value = {"schemaVersion": 2, "mediaType": mediatypes.OCI_MANIFEST, "config": config.to_json()}
    content.tags["1"] = content.add({**value, "layers": [foreign.to_json()]}).digest
    watch = Watch()
    with serving(content) as (server, _):
        fetch(server.host, store, watch=watch)
    assert watch.outcomes[foreign.digest] == "skipped"


# Broken lines


def test_a_cut_download_goes_on_where_it_was_cut(store: ImageStore) -> None:
    content = Content()
    image = sample(content, BIG)
    content.tags["1"] = image.digest
    with serving(content) as (server, served):
        cuts = [1_000_000, 3_000_000, 500_001]

        def cut(request: Request) -> Answer | None:
            answer = served.right(request)
            if "/blobs/" in request.target and len(answer.body) > 3_000_000 and cuts:
                answer.cut = cuts.pop(0)
                return answer
            return None

        served.faults.append(cut)
        watch = Watch()
        fetch(server.host, store, watch=watch)
        ranges = [one.headers["range"] for one in server.requests if "range" in one.headers]
        total = sum(map(len, content.blobs.values())) + len(image.raw)
        assert server.served == total, "not one byte twice"
    assert ranges == ["bytes=1000000-", "bytes=4000000-", "bytes=4500001-"]
    assert content_of(store)[image.layers[0].digest] == content.blobs[image.layers[0].digest]
    assert watch.counts[image.layers[0].digest] == image.layers[0].size


def test_a_server_without_ranges_is_read_again_from_the_start(store: ImageStore) -> None:
    content = Content()
    image = sample(content, BIG)
    content.tags["1"] = image.digest
    with serving(content) as (server, served):
        cuts = [1_500_000]

        def no_ranges(request: Request) -> Answer | None:
            request.headers.pop("range", None)
            answer = served.right(request)
            if len(answer.body) > 3_000_000 and cuts:
                answer.cut = cuts.pop(0)
            return answer

        served.faults.append(no_ranges)
        fetch(server.host, store)
    assert image.layers[0].digest in content_of(store)


def test_a_line_that_never_holds_is_given_up(store: ImageStore) -> None:
    content = Content()
    image = sample(content, BIG)
    content.tags["1"] = image.digest
    with serving(content) as (server, served):

        def cut(request: Request) -> Answer | None:
            answer = served.right(request)
            answer.cut = 10 if len(answer.body) > 3_000_000 else None
            return answer

        served.faults.append(cut)
        with pytest.raises(RemoteError, match="closed the connection"):
            fetch(server.host, store)
        large = [one for one in server.requests if str(image.layers[0].digest) in one.target]
        assert len(large) == QUICK.attempts


def test_the_next_pull_goes_on_where_a_killed_one_ended(tmp_path: Path) -> None:
    content = Content()
    image = sample(content, BIG)
    content.tags["1"] = image.digest
    large = image.layers[0]
    root = tmp_path / "engine"
    with serving(content) as (server, served):

        def stall(request: Request) -> Answer | None:
            if str(large.digest) not in request.target:
                return None
            answer = served.right(request)
            return Answer(200, [], answer.body[:5_000_000], length=large.size, stall=True)

        served.faults.append(stall)
        process = multiprocessing.get_context("spawn").Process(target=_pull_in_process, args=(server.host, root))
        process.start()
        try:
            wait_for(
                lambda: any(
                    path.stat().st_size >= 4_400_000 for path in (root / "uploads").rglob("*") if path.is_file()
                )
            )
        finally:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        served.faults.clear()
        store = ImageStore(root, floor=0)
        assert store.size(large.digest) is None, "nothing half-written is a blob"
        assert store.names() == []
        before = len(server.requests)
        fetch(server.host, store)
        asked = [one for one in server.requests[before:] if str(large.digest) in one.target]
    assert len(asked) == 1
    offset = int(asked[0].headers["range"].removeprefix("bytes=").removesuffix("-"))
    assert 4_000_000 < offset <= 5_000_000
    assert content_of(store)[large.digest] == content.blobs[large.digest]
    assert not [name for name in files_under(store) if not name.startswith("blobs/")]


def _pull_in_process(host: str, root: Path) -> None:
    fetch(host, ImageStore(root, floor=0), policy=Policy())


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        pause.wait(0.01)


def test_kept_bytes_that_turn_out_bad_are_fetched_again(store: ImageStore) -> None:
    content = Content()
    image = sample(content, BIG)
    content.tags["1"] = image.digest
    large = image.layers[0]
    sink = store.begin(large)
    rotten = memoryview(b"rotten" * 300_000)
    sink.write(rotten)
    sink.hash(rotten)
    sink.close()
    watch = Watch()
    with serving(content) as (server, _):
        fetch(server.host, store, watch=watch)
        ranges = [one.headers.get("range") for one in server.requests if str(large.digest) in one.target]
    assert ranges == [f"bytes={len(rotten)}-", None]
    assert watch.counts[large.digest] == large.size
    assert content_of(store)[large.digest] == content.blobs[large.digest]


def test_more_kept_bytes_than_the_blob_has_are_dropped(store: ImageStore) -> None:
    content = Content()
    image = sample(content, BIG)
    content.tags["1"] = image.digest
    large = image.layers[0]
    sink = store.begin(large)
    sink.write(memoryview(bytes(large.size + 1)))
    sink.hash(memoryview(bytes(large.size + 1)))
    sink.close()
    with serving(content) as (server, _):
        fetch(server.host, store)
    assert content_of(store)[large.digest] == content.blobs[large.digest]


def test_two_pulls_of_one_image_at_once(store: ImageStore) -> None:
    content = Content()
    image = sample(content, BIG)
    content.tags["1"] = image.digest
    errors: list[BaseException] = []

    def one(host: str) -> None:
        try:
            fetch(host, ImageStore(store.root, floor=0))
        except BaseException as error:
            errors.append(error)

    with serving(content) as (server, _):
        threads = [threading.Thread(target=one, args=(server.host,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert content_of(store) == {**content.blobs, image.digest: image.raw}
    assert not [name for name in files_under(store) if name.startswith("uploads/")]


def test_stop_ends_a_pull_and_keeps_what_came(store: ImageStore) -> None:
    content = Content()
    image = sample(content, BIG)
    content.tags["1"] = image.digest
    large = image.layers[0]
    reached = threading.Event()

    class Stopping(Watch):
        def advance(self, blob: Descriptor, count: int) -> None:
            super().advance(blob, count)
            if blob.digest == large.digest and self.counts[blob.digest] >= 4_000_000:
                reached.set()

    with serving(content) as (server, served):

        def stall(request: Request) -> Answer | None:
            if str(large.digest) not in request.target or "range" in request.headers:
                return None
            return Answer(200, [], content.blobs[large.digest][:5_000_000], length=large.size, stall=True)

        served.faults.append(stall)
        reference = Reference.parse(f"{server.host}/demo/image:1")
        with Registry(server.host, credential=lambda name: None) as registry:

            def stop_when_reached() -> None:
                assert reached.wait(30)
                registry.stop()

            threading.Thread(target=stop_when_reached).start()
            start = time.monotonic()
            with pytest.raises((RemoteError, Cancelled)):
                pull(registry, reference, store, AMD64, Stopping())
            assert time.monotonic() - start < 30
        fetch(server.host, store)
        (asked,) = [one.headers["range"] for one in server.requests if "range" in one.headers]
    assert 4_000_000 < int(asked.removeprefix("bytes=").removesuffix("-")) <= 5_000_000
    assert content_of(store)[large.digest] == content.blobs[large.digest]


# One disk


def registry_root(tmp_path: Path, content: Content) -> Path:
    root = tmp_path / "hub"
    blobs = FilesystemBlobStore(root, floor=0)
    for digest, data in content.blobs.items():
        upload = blobs.start("demo/image")
        upload.write(data)
        upload.hash(data)
        upload.commit(digest)
        upload.close()
    return root


def test_blobs_of_a_registry_on_the_same_disk_are_linked(tmp_path: Path, store: ImageStore) -> None:
    content = Content()
    image = sample(content, BIG)
    content.tags["1"] = image.digest
    root = registry_root(tmp_path, content)
    watch = Watch()
    with serving(content) as (server, _):
        fetch(server.host, store, watch=watch, link_from=(root,))
        assert server.seen("GET", "/blobs/") == []
    assert set(watch.outcomes.values()) == {"linked"}
    for blob in image.blobs():
        part = Path("blobs") / blob.digest.algorithm / blob.digest.hex[:2] / blob.digest.hex
        assert (root / part).stat().st_ino == (store.root / part).stat().st_ino


def test_a_damaged_blob_is_not_linked(tmp_path: Path, store: ImageStore) -> None:
    content = Content()
    image = sample(content, BIG)
    content.tags["1"] = image.digest
    root = registry_root(tmp_path, content)
    large = image.layers[0].digest
    path = root / "blobs" / large.algorithm / large.hex[:2] / large.hex
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"damaged")
    watch = Watch()
    with serving(content) as (server, _):
        fetch(server.host, store, watch=watch, link_from=(root,))
    assert watch.outcomes[large] == "done"
    assert content_of(store)[large] == content.blobs[large]


def test_a_source_begins_where_it_is_told(store: ImageStore) -> None:
    content = Content()
    blob = content.blob(noise(700_000), mediatypes.OCI_LAYER)
    with serving(content) as (server, _), Registry(server.host, policy=QUICK) as registry:
        for offset in (0, 1, 699_999, 700_000):
            got = b"".join(bytes(piece) for piece in RegistrySource(registry, "demo/image").open(blob, offset))
            assert got == content.blobs[blob.digest][offset:]


def test_a_cut_through_a_real_line(store: ImageStore) -> None:
    content = Content()
    image = sample(content, BIG)
    content.tags["1"] = image.digest
    with serving(content) as (server, _), CuttingProxy(server.host, cuts_down=[2_000_000, 1_000_000]) as proxy:
        fetch(proxy.host, store)
        assert proxy.cuts_down == []
        assert proxy.down < sum(map(len, content.blobs.values())) + 100_000
    assert content_of(store) == {**content.blobs, image.digest: image.raw}


def test_json_of_the_names_is_readable_by_people(store: ImageStore) -> None:
    content = Content()
    image = sample(content)
    content.tags["1"] = image.digest
    with serving(content) as (server, _):
        fetch(server.host, store)
        name = f"{server.host}/demo/image:1"
    value = json.loads((store.root / "images.json").read_text())
    assert value["images"][name]["digest"] == str(image.digest)
