"""Clients that push while what they push to is killed, and write down what was acknowledged."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tests.durability.ledger import Ledger, Reach
from tests.images import OCI_MANIFEST, noise
from tests.tools import tool
from tests.wire.client import Answer, Connection
from tests.wire.content import digest_of, query, small_image

SEED = int(os.environ.get("PORTSIDE_SEED", "20260711"))
PAUSE = 0.02
"""Seconds before something is tried again."""


class Pusher(threading.Thread):
    """Pushes blobs, manifests and tags into a repository of its own, one after the other; a cut one is resumed, else begun again."""

    def __init__(self, number: int, reach: Reach, ledger: Ledger) -> None:
        super().__init__(name=f"pusher-{number}", daemon=True)
        self.repository = f"raw/{number}"
        self._reach, self._ledger = reach, ledger
        self._random = random.Random(SEED + number)
        self.is_ending = threading.Event()
        self.quiet = threading.Lock()
        """Held while anything is under way."""
        self.failure: BaseException | None = None
        self.resumed = self.finished = 0

    def run(self) -> None:
        try:
            for step in itertools.count():
                if self.is_ending.is_set():
                    return
                with self.quiet:
                    self._push(step)
                self.finished += 1
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
            with contextlib.suppress(OSError), self._reach.connect() as connection:
                location = location or self._start(connection)
                answer = self._send_rest(connection, location, data, digest)
                if answer.status == 404:  # finished, and the answer was lost; or begun when the server died
                    location = ""
                    continue
                assert answer.status == 201, (answer, len(data))
                self._ledger.blob(self.repository, digest, len(data))
                return
            self.is_ending.wait(PAUSE)

    def _start(self, connection: Connection) -> str:
        answer = self._reach.request(connection, "POST", f"/v2/{self.repository}/blobs/uploads/", {}, b"")
        assert answer.status == 202, answer
        return urlsplit(answer.header("location") or "").path

    def _send_rest(self, connection: Connection, location: str, data: bytes, digest: str) -> Answer:
        status = self._reach.request(connection, "GET", location)
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
            answer = self._reach.request(connection, "PATCH", location, span, data[offset:half])
            assert answer.status == 202, answer
        return self._reach.request(connection, "PUT", f"{location}?{query(digest=digest)}", {}, data[half:])

    def _once(self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
        """The status, again and again while there is none; 0 when it is to end."""
        while not self.is_ending.is_set():
            with contextlib.suppress(OSError), self._reach.connect() as connection:
                answer = self._reach.request(connection, method, target, headers or {}, body)
                assert answer.status < 500, answer
                return answer.status
            self.is_ending.wait(PAUSE)
        return 0


class Crane(threading.Thread):
    """Pushes images with crane; each exit code of 0 is an acknowledgement, and each other one that it is tried again.

    ``options`` and ``environment`` are crane's.
    """

    def __init__(
        self,
        address: str,
        ledger: Ledger,
        directory: Path,
        options: Sequence[str] = ("--insecure",),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name="crane", daemon=True)
        self._address, self._ledger, self._directory = address, ledger, directory
        self._options, self._environment = options, environment
        self.is_ending = threading.Event()
        self.finished = self.cut = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            for step in itertools.count():
                while not self.is_ending.is_set() and not self._push(step):
                    self.cut += 1
                    self.is_ending.wait(PAUSE)
                if self.is_ending.is_set():
                    return
        except BaseException as error:
            self.failure = error

    def _push(self, step: int) -> bool:
        reference = f"{self._address}/crane/image:{step}"
        layer = self._directory / "layer.tar"
        layer.write_bytes(noise(400_000, step))
        command = [str(tool("crane")), "append", *self._options, "-f", str(layer), "-t", reference]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment)
        out, _ = process.communicate()
        if process.returncode != 0:
            return False  # cut: it may be there or not
        digest = out.decode().strip().rpartition("@")[2]
        self._ledger.tag("crane/image", str(step), digest)
        self.finished += 1
        return True
