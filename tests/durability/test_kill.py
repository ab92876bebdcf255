"""kill -9 at random moments while real clients push: what was answered 201 reads back whole, and the store is sound.

``PORTSIDE_SOAK_KILLS`` sets how often (`make soak`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import threading
import time
from pathlib import Path

from tests.durability.ledger import Ledger
from tests.images import OCI_MANIFEST, noise
from tests.servers import Server, free_port, run, start_portside, wait_until
from tests.tools import tool
from tests.wire.client import Answer, Connection
from tests.wire.content import digest_of, query, small_image

KILLS = int(os.environ.get("PORTSIDE_SOAK_KILLS", "50"))
SEED = int(os.environ.get("PORTSIDE_SEED", "20260711"))
RAW_CLIENTS = 3


class Pusher(threading.Thread):
    """Pushes blobs, manifests and tags into a repository of its own, one after the other; a cut one is resumed, else begun again."""

    def __init__(self, number: int, address: str, ledger: Ledger) -> None:
        super().__init__(name=f"pusher-{number}", daemon=True)
        self.repository = f"raw/{number}"
        self._address, self._ledger = address, ledger
        self._random = random.Random(SEED + number)
        self.is_ending = threading.Event()
        self.quiet = threading.Lock()
        """Held while anything is under way."""
        self.failure: BaseException | None = None
        self.resumed = 0

    def run(self) -> None:
        try:
            for step in itertools.count():
                if self.is_ending.is_set():
                    return
                with self.quiet:
                    self._push(step)
        except BaseException as error:
            self.failure = error

    def _push(self, step: int) -> None:
        raw, blobs = small_image(f"{self.repository}/{step}", annotations={"step": str(step)})
        blobs.append(noise(int(self._random.expovariate(1 / 150_000)), SEED + step))
        for data in blobs:
            self._push_blob(data)
        tag, digest = f"t{self._random.randrange(8)}", digest_of(raw)
        self._ledger.try_tag(self.repository, tag, digest)
        if self._once("PUT", f"/v2/{self.repository}/manifests/{tag}", raw, {"Content-Type": OCI_MANIFEST}) == 201:
            self._ledger.manifest(self.repository, raw)
            self._ledger.tag(self.repository, tag, digest)
        if self._random.random() < 0.2:
            self._ledger.try_tag(self.repository, tag, None)
            if self._once("DELETE", f"/v2/{self.repository}/manifests/{tag}") in (202, 404):
                self._ledger.tag(self.repository, tag, None)

    def _push_blob(self, data: bytes) -> None:
        digest = digest_of(data, self._random.choice(["sha256", "sha512"]))
        if self._random.random() < 0.3:
            target = f"/v2/{self.repository}/blobs/uploads/?{query(digest=digest)}"
            if self._once("POST", target, data) == 201:
                self._ledger.blob(self.repository, digest, len(data))
            return
        location = ""
        while not self.is_ending.is_set():
            with contextlib.suppress(OSError), Connection(self._address) as connection:
                location = location or self._start(connection)
                answer = self._send_rest(connection, location, data, digest)
                if answer.status == 404:  # finished, and the answer was lost; or begun when the server died
                    location = ""
                    continue
                assert answer.status == 201, (answer, len(data))
                self._ledger.blob(self.repository, digest, len(data))
                return

    def _start(self, connection: Connection) -> str:
        answer = connection.request("POST", f"/v2/{self.repository}/blobs/uploads/", body=b"")
        assert answer.status == 202, answer
        return answer.header("location") or ""

    def _send_rest(self, connection: Connection, location: str, data: bytes, digest: str) -> Answer:
        status = connection.request("GET", location)
        if status.status == 404:
            return status
        end = int((status.header("range") or "0-0").partition("-")[2])
        offset = end + 1 if end else 0
        self.resumed += bool(offset)
        half = offset + (len(data) - offset) // 2
        if offset or half - offset < 2:  # below two bytes "0-0" would not say which
            half = offset
        if half > offset:
            span = {"Content-Range": f"{offset}-{half - 1}"}
            answer = connection.request("PATCH", location, span, data[offset:half])
            assert answer.status == 202, answer
        return connection.request("PUT", f"{location}?{query(digest=digest)}", {}, data[half:])

    def _once(self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
        """The status, 0 when the server went away."""
        try:
            with Connection(self._address) as connection:
                answer = connection.request(method, target, headers or {}, body)
        except OSError:
            return 0
        assert answer.status < 500, answer
        return answer.status


class Crane(threading.Thread):
    """Pushes images with crane; each exit code of 0 is an acknowledgement."""

    def __init__(self, address: str, ledger: Ledger, directory: Path) -> None:
        super().__init__(name="crane", daemon=True)
        self._address, self._ledger, self._directory = address, ledger, directory
        self.is_ending = threading.Event()
        self.pushed = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            for step in itertools.count():
                if self.is_ending.is_set():
                    return
                self._push(step)
        except BaseException as error:
            self.failure = error

    def _push(self, step: int) -> None:
        reference = f"{self._address}/crane/image:{step}"
        layer = self._directory / "layer.tar"
        layer.write_bytes(noise(400_000, step))
        command = [str(tool("crane")), "append", "--insecure", "-f", str(layer), "-t", reference]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, _ = process.communicate()
        if process.returncode != 0:
            return  # cut: it may be there or not
        digest = out.decode().strip().rpartition("@")[2]
        self._ledger.tag("crane/image", str(step), digest)
        self.pushed += 1


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    root, log, ledger = tmp_path / "root", tmp_path / "log", Ledger()
    server = start_portside(root, log, "--floor", "0", port=free_port())
    pushers = [Pusher(number, server.address, ledger) for number in range(RAW_CLIENTS)]
    crane = Crane(server.address, ledger, tmp_path)
    clients: list[Pusher | Crane] = [*pushers, crane]
    for client in clients:
        client.start()
    try:
        between = 0
        try:
            for kill in range(KILLS):
                server, count = _kill_once(server, ledger, clients, random.Random(f"{SEED} {kill}"))
                between += count
        finally:
            for client in clients:
                client.is_ending.set()
            deadline = time.monotonic() + 60
            for client in clients:
                client.join(max(deadline - time.monotonic(), 0.1))
        assert not [client.name for client in clients if client.is_alive()]
        assert not _failed(clients), _failed(clients)
        whole = ledger.verify(server.address, ledger.paths())
        assert server.terminate() == 0
    finally:
        server.kill()
    assert "Traceback" not in log.read_text(errors="replace")
    run([str(tool("portside")), "check", "--root", str(root)])
    assert whole == len(ledger) > KILLS
    assert crane.pushed > 0
    assert sum(pusher.resumed for pusher in pushers) > 0, (
        "no upload was resumed: the kills came at no interesting moment"
    )
    print(f"{KILLS} kills, {whole} acknowledged ({crane.pushed} images by crane), {between} read in between")


def _kill_once(server: Server, ledger: Ledger, clients: list[Pusher | Crane], rng: random.Random) -> tuple[Server, int]:
    """Kill the server while its clients push, start it again, and read back what it had answered 201 last, and a sample of the rest."""
    _wait_for(ledger, len(ledger) + rng.randint(1, 12), clients)
    threading.Event().wait(rng.uniform(0.0, 0.03))  # any moment of a request, not only its end
    server.kill()
    known = ledger.paths()
    started = start_portside(server.root, server.log, "--floor", "0", port=server.port)
    try:
        sample = known[-40:] + rng.sample(known, min(len(known), 20))
        count = ledger.verify(started.address, [path for path in sample if path not in ledger.tags])
        assert not _failed(clients), _failed(clients)
    except BaseException:
        started.kill()
        raise
    return started, count


def _wait_for(ledger: Ledger, goal: int, clients: list[Pusher | Crane]) -> None:
    wait_until(lambda: len(ledger) >= goal or bool(_failed(clients)), "the clients push on")


def _failed(clients: list[Pusher | Crane]) -> list[BaseException]:
    return [client.failure for client in clients if client.failure is not None]
