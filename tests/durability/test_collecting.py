"""Collecting beside real servers and clients: what was acknowledged and not deleted is whole at every moment, and in the end nothing is
left over. `make soak` sets how often it is collected.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import os
import random
import subprocess
import threading
import time
from pathlib import Path

import pytest

from oci.digest import Digest
from tests.accounts import PASSWORD, make, people_of, rule
from tests.images import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, noise
from tests.servers import portside, run, wait_until
from tests.storage.collecting import Storage
from tests.tools import tool
from tests.wire.client import Connection, ask, head
from tests.wire.content import blob, descriptor, digest_of, image, push_blob, push_manifest, start_upload

COLLECTIONS = int(os.environ.get("PORTSIDE_SOAK_COLLECTIONS", "50"))
SEED = int(os.environ.get("PORTSIDE_SEED", "20260711"))
WINDOW = 4.0
"""Seconds. A client that needs longer than half of them for one image was promised nothing."""
LAYERS = [noise(4000 + 900 * (number % 40), 77 + number) for number in range(250)]
"""What the images share: so many that each is in no image for longer than a window, now and then."""
KEPT = 8
"""Images that are left after deletions."""
REPOSITORIES = ("one", "two")


class Images:
    """The images that were acknowledged and that nobody has begun to delete: (repository, tag) -> manifest."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[bytes, list[bytes]]] = {}
        self._lock = threading.Lock()
        self.acknowledged = self.verified = 0

    def keep(self, key: tuple[str, str], raw: bytes, blobs: list[bytes]) -> None:
        with self._lock:
            self._kept[key] = (raw, blobs)
            self.acknowledged += 1

    def take(self, rng: random.Random) -> tuple[str, str, bytes] | None:
        """One to delete; it is not asked for any more."""
        with self._lock:
            if len(self._kept) <= KEPT:
                return None
            key = rng.choice(sorted(self._kept))
            return (*key, self._kept.pop(key)[0])

    def names(self) -> list[tuple[str, str]]:
        with self._lock:
            return sorted(self._kept)

    def verify(self, connection: Connection, key: tuple[str, str]) -> None:
        """Pull an image; AssertionError where it is not whole and nobody has deleted it meanwhile."""
        with self._lock:
            if key not in self._kept:
                return
            raw, blobs = self._kept[key]
        fault = _pull(connection, *key, raw, blobs)
        with self._lock:
            assert fault is None or key not in self._kept, f"{key} was acknowledged and nobody deleted it: {fault}"
            self.verified += 1


def _pull(connection: Connection, repository: str, tag: str, raw: bytes, blobs: list[bytes]) -> str | None:
    answer = connection.request("GET", f"/v2/{repository}/manifests/{tag}")
    if (answer.status, answer.body) != (200, raw):
        return f"its manifest is answered {answer.status}"
    for data in blobs:
        answer = connection.request("GET", f"/v2/{repository}/blobs/{digest_of(data)}")
        if (answer.status, answer.body) != (200, data):
            return f"its blob {digest_of(data)} is answered {answer.status}"
    return None


class Client(threading.Thread):
    """Pushes, as docker does: asks for each blob first, and counts on the answer. Now and then deletes an image, or pulls one."""

    def __init__(self, number: int, address: str, images: Images) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self._number, self._address, self._images = number, address, images
        self._random = random.Random(SEED * 100 + number)
        self.is_ending = threading.Event()
        self.failure: BaseException | None = None
        self.counted_on = 0

    def run(self) -> None:
        try:
            with Connection(self._address) as connection:
                for step in itertools.count():
                    if self.is_ending.is_set():
                        return
                    self._push(connection, step)
                    self._remove(connection)
                    if keys := self._images.names():
                        self._images.verify(connection, self._random.choice(keys))
        except BaseException as error:
            self.failure = error

    def _push(self, connection: Connection, step: int) -> None:
        repository = self._random.choice(REPOSITORIES)
        began = time.monotonic()
        config = f'{{"architecture": "amd64", "os": "linux", "client": {self._number}, "step": {step}}}'.encode()
        layers = self._random.sample(LAYERS, self._random.randint(1, 3))
        for data in (config, *layers):
            self._push_blob(connection, repository, data)
        raw = image(descriptor(OCI_CONFIG, config), [descriptor(OCI_LAYER, data) for data in layers])
        key = (repository, f"{self._number}-{step}")
        push_manifest(connection, *key, raw)
        if time.monotonic() - began < WINDOW / 2:  # slower, it was promised nothing
            self._images.keep(key, raw, [config, *layers])
        else:
            connection.request("DELETE", f"/v2/{repository}/manifests/{digest_of(raw)}")

    def _push_blob(self, connection: Connection, repository: str, data: bytes) -> None:
        digest = digest_of(data)
        if connection.request("HEAD", f"/v2/{repository}/blobs/{digest}").status == 200:
            self.counted_on += 1
            return
        if self._random.random() < 0.5:
            other = REPOSITORIES[1 - REPOSITORIES.index(repository)]
            target = f"/v2/{repository}/blobs/uploads/?mount={digest}&from={other}"
            if connection.request("POST", target, body=b"").status == 201:
                return
        push_blob(connection, repository, data)

    def _remove(self, connection: Connection) -> None:
        while (found := self._images.take(self._random)) is not None:
            answer = connection.request("DELETE", f"/v2/{found[0]}/manifests/{digest_of(found[2])}")
            assert answer.status == 202, answer


def collect(root: Path, rng: random.Random) -> bool:
    """A collection with no grace, which is killed at some moment, or ends; whether it ended."""
    command = [str(tool("portside")), "gc", "--root", str(root), "--now", "--window", f"{int(WINDOW)}s"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if rng.random() < 0.5:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.2, 0.8))
        process.kill()
    _, errors = process.communicate()
    assert process.returncode in (0, -9), errors.decode()
    return process.returncode == 0


def test_collections_beside_pushes_mounts_and_deletes(tmp_path: Path) -> None:
    root, images = tmp_path / "root", Images()
    options = ("--floor", "0", "--workers", "2", "--push-window", f"{int(WINDOW)}s")
    rng, ended = random.Random(SEED), 0
    with portside(root, *options, "--gc-interval", "0.5", "--gc-grace", "0") as server:
        clients = [Client(number, server.address, images) for number in range(3)]
        for client in clients:
            client.start()
        try:
            for _ in range(COLLECTIONS):
                ended += collect(root, rng)
                assert not [client.failure for client in clients if client.failure is not None]
        finally:
            for client in clients:
                client.is_ending.set()
            for client in clients:
                client.join(60)
        assert not [client.failure for client in clients if client.failure is not None]
        with Connection(server.address) as connection:
            for key in images.names():
                images.verify(connection, key)
        assert "is missing or damaged" not in server.log.read_text()
    run([str(tool("portside")), "check", "--root", str(root)])
    run([str(tool("portside")), "gc", "--root", str(root), "--now", "--window", "0"])
    storage = Storage.open(root)
    files, rows, references, left = storage.left()
    storage.metadata.close()
    assert files == rows == references
    assert left == []
    assert 0 < ended < COLLECTIONS
    assert images.acknowledged > COLLECTIONS
    assert sum(client.counted_on for client in clients) > 0
    print(f"{COLLECTIONS} collections, {ended} to their end; {images.acknowledged} images, {images.verified} pulled")


def test_a_pull_that_is_slow_ends_well_when_the_blob_is_collected(tmp_path: Path) -> None:
    root, data = tmp_path / "root", blob("slow", 30_000_000)
    with portside(root, "--floor", "0") as server, Connection(server.address) as wire:
        digest = push_blob(wire, "app", data)
        wire.send(f"GET /v2/app/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        received = wire.sock.recv(1 << 16)
        assert ask(server.address, "DELETE", f"/v2/app/blobs/{digest}").status == 202
        out = run([str(tool("portside")), "gc", "--root", str(root)])
        assert "30 MB freed" in out
        assert ask(server.address, "GET", f"/v2/app/blobs/{digest}").status == 404
        assert not list((root / "blobs").glob("*/*/*"))
        while part := wire.sock.recv(1 << 20):
            received += part
        assert hashlib.sha256(received.partition(b"\r\n\r\n")[2]).hexdigest() == digest[7:]
        with Connection(server.address) as again:
            push_blob(again, "app", data)
            assert again.request("GET", f"/v2/app/blobs/{digest}").body == data


def basic(name: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{PASSWORD}".encode()).decode()}


def test_asking_for_a_blob_is_a_promise_to_who_may_push(tmp_path: Path) -> None:
    root, data = tmp_path / "root", b"layer"
    with people_of(root) as people:
        make(people, "bob", "eve")
        rule(people, "bob", "app", "pull,push")
        rule(people, "eve", "app", "pull")
    with portside(root, "--floor", "0", "--push-window", "60m") as server, Connection(server.address) as wire:
        storage = Storage.open(root)
        digest = Digest.of(data)
        target = f"/v2/app/blobs/uploads/?digest={digest}"
        assert wire.request("POST", target, basic("bob"), body=data).status == 201

        def age() -> float:
            held = storage.metadata.find_link("app", digest)
            assert held is not None
            return time.time() - held.linked_at

        for name, minutes, is_renewed in (("bob", 29, False), ("eve", 2, False), ("bob", 0, True), ("bob", 31, True)):
            storage.pass_time(minutes * 60)
            before = age()
            answer = wire.request("HEAD", f"/v2/app/blobs/{digest}", basic(name))
            assert (answer.status, answer.header("content-length")) == (200, "5")
            assert (age() < before) == is_renewed, (name, minutes)
        raw = image(descriptor(OCI_CONFIG, data), [])
        put = {"Content-Type": OCI_MANIFEST, **basic("bob")}
        manifest = Digest.of(raw)
        assert wire.request("PUT", f"/v2/app/manifests/{manifest}", put, raw).status == 201
        for name, minutes, is_renewed in (("bob", 29, False), ("eve", 2, False), ("bob", 0, True), ("bob", 31, True)):
            storage.pass_time(minutes * 60)
            found = storage.metadata.find_manifest("app", manifest)
            assert found is not None
            answer = wire.request("HEAD", f"/v2/app/manifests/{manifest}", basic(name))
            assert (answer.status, answer.header("content-length")) == (200, str(len(raw)))
            again = storage.metadata.find_manifest("app", manifest)
            assert again is not None
            assert (again.pushed_at > found.pushed_at) == is_renewed, (name, minutes)
        storage.metadata.unlink_blob("app", digest)
        assert wire.request("HEAD", f"/v2/app/blobs/{digest}", basic("bob")).status == 404
        storage.metadata.close()


def test_the_server_collects_by_itself(tmp_path: Path) -> None:
    root = tmp_path / "root"
    storage = Storage.open(root)
    storage.metadata.unlink_blob("app", storage.push("app", b"x"))
    storage.metadata.close()
    gone = root / "blobs/sha256" / digest_of(b"x")[7:9] / digest_of(b"x")[7:]
    assert gone.exists()
    with portside(root, "--floor", "0", "--workers", "2", "--gc-interval", "0.2") as server:
        wait_until(lambda: "collected: 1 blobs (1 B)" in server.log.read_text(), "it is collected")
    assert not gone.exists()


def test_a_push_is_guarded_from_its_blobs_name_to_its_link(tmp_path: Path) -> None:
    """While a collector is alone, the bytes get no name; and the link comes before anybody is alone again."""
    root, data = tmp_path / "root", b"layer"
    digest = Digest.of(data)
    with portside(root, "--floor", "0") as server, Connection(server.address) as wire:
        storage = Storage.open(root)
        for target in (f"/v2/app/blobs/uploads/?digest={digest}", start_upload(wire, "app") + f"?digest={digest}"):
            with storage.files.alone():
                method = "POST" if target.startswith("/v2/app/blobs/uploads/?") else "PUT"
                wire.send(head(method, target, server.address, length=len(data)) + data)
                wire.sock.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    wire.sock.recv(1)
                assert storage.store.size(digest) is None
                assert storage.metadata.find_blob("app", digest) is None
            wire.sock.settimeout(30)
            assert wire.read(method).status == 201
            assert storage.has("app", data)
            storage.collect()
            assert storage.left() == (set(), set(), set(), [])
        storage.metadata.close()
