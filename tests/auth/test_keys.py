"""Signing keys on disk: made once, shared by processes, rotated without a refused token."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from auth.key_files import KeyFiles
from auth.keys import RETIREMENT_MARGIN, KeyRing, KeysUnusable
from auth.tokens import InvalidToken, TokenIssuer, TokenVerifier
from storage.generation import Generation
from tests.auth.forging import PrivateKey, b64
from tests.durability.tracing import traced
from tests.servers import wait_until

LIFETIME = 300.0
HOME = Path(__file__).parents[2]

PEER = """
import sys, time
from pathlib import Path
from auth.key_files import KeyFiles
from auth.keys import KeyRing
from auth.tokens import InvalidToken, TokenIssuer, TokenVerifier

print("imported", flush=True)
sys.stdin.readline()
ring = KeyRing(KeyFiles(Path(sys.argv[1])), 300)
issuer, verifier = TokenIssuer(ring, "hub"), TokenVerifier(ring, "hub", "hub")
print(ring.signing().kid, flush=True)
for line in sys.stdin:
    verb, _, argument = line.strip().partition(" ")
    if verb == "issue":
        token = issuer.issue(subject="a", audience="hub", access=[], epoch=0, credential=None, now=time.time())
        print(token.text, flush=True)
    elif verb == "verify":
        try:
            print(verifier.verify(argument, time.time()).subject, flush=True)
        except InvalidToken as error:
            print(error, flush=True)
    elif verb == "find":
        print(ring.find(argument) is not None, flush=True)
    elif verb == "rotate":
        print(ring.rotate(), flush=True)
"""


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Peer:
    """Another process with the same keys. ``kid``: of the key that signed when it opened them."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PEER, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=HOME,
            text=True,
            bufsize=1,
        )
        self.kid = ""

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, line: str) -> str:
        self.say(line)
        return self.hear()


@contextlib.contextmanager
def peers(directory: Path, count: int) -> Iterator[list[Peer]]:
    """Processes that have imported everything and are told to open the keys at once."""
    made = [Peer(directory) for _ in range(count)]
    try:
        for one in made:
            assert one.hear() == "imported"
        for one in made:
            one.say("open")
        for one in made:
            one.kid = one.hear()
        yield made
    finally:
        for one in made:
            one.process.communicate(timeout=30)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "auth/keys"


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.pem"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def pem(key: PrivateKey, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def put(path: Path, data: bytes, bits: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(bits)
    return path


# -- on disk


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_a_key_is_made_with_modes_of_its_own(directory: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        ring = KeyRing(KeyFiles(directory), LIFETIME)
    finally:
        os.umask(before)
    [path] = files(directory)
    assert mode(path) == 0o600
    assert mode(directory) == mode(directory.parent) == 0o700
    assert path.name.startswith("000001-")
    assert abs(int(path.stem.partition("-")[2]) - time.time()) < 60
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    assert ring.signing().key.private_numbers() == key.private_numbers()


def test_a_key_is_known_by_its_thumbprint_and_published_without_its_secret(directory: Path) -> None:
    ring = KeyRing(KeyFiles(directory), LIFETIME)
    key = load_pem_private_key(files(directory)[0].read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    point = key.public_key().public_numbers()
    x, y = (b64(number.to_bytes(32, "big")) for number in (point.x, point.y))
    # RFC 7638 section 3.2: the required members, in this order, without white space
    thumbprint = b64(hashlib.sha256(f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'.encode()).digest())
    assert ring.jwks() == {
        "keys": [
            {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": thumbprint, "use": "sig", "alg": "ES256"},
        ]
    }
    assert ring.signing().kid == thumbprint
    found = ring.find(thumbprint)
    assert found is not None
    assert found.algorithms == ("ES256",)
    secret = b64(key.private_numbers().private_value.to_bytes(32, "big"))
    assert secret not in json.dumps(ring.jwks())
    assert "Private" not in repr(ring.signing())


def test_a_second_ring_reads_the_key_of_the_first(directory: Path) -> None:
    first, second = KeyRing(KeyFiles(directory), LIFETIME), KeyRing(KeyFiles(directory), LIFETIME)
    assert first.signing().kid == second.signing().kid
    assert len(files(directory)) == 1
    first.close()
    second.close()


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620, 0o644, 0o601])
def test_a_key_file_that_others_can_use_is_refused(directory: Path, bits: int) -> None:
    KeyRing(KeyFiles(directory), LIFETIME)
    [path] = files(directory)
    path.chmod(bits)
    with pytest.raises(KeysUnusable, match=f"chmod 600 {path}") as caught:
        KeyRing(KeyFiles(directory), LIFETIME)
    assert caught.value.place == path
    path.chmod(0o600)
    KeyRing(KeyFiles(directory), LIFETIME)


@pytest.mark.parametrize("bits", [0o770, 0o702])
def test_a_directory_that_others_can_write_to_is_refused(directory: Path, bits: int) -> None:
    KeyRing(KeyFiles(directory), LIFETIME)
    directory.chmod(bits)
    with pytest.raises(KeysUnusable, match=f"chmod 700 {directory}"):
        KeyRing(KeyFiles(directory), LIFETIME)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n",
        b"\xff" * 100_000,
        pem(ec.generate_private_key(ec.SECP384R1())),
        pem(rsa.generate_private_key(65537, 2048)),
        pem(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"secret")),
    ],
    ids=["empty", "broken", "large", "P-384", "RSA", "encrypted"],
)
def test_a_file_that_is_no_key_is_named_and_not_quoted(directory: Path, content: bytes) -> None:
    KeyRing(KeyFiles(directory), LIFETIME)
    put(directory / "000002-1760000000.pem", content)
    with pytest.raises(KeysUnusable, match=r"000002-1760000000\.pem: this is no unencrypted P-256") as caught:
        KeyRing(KeyFiles(directory), LIFETIME)
    assert "c2VjcmV0" not in str(caught.value)


def test_a_file_in_the_place_of_the_directory(directory: Path) -> None:
    directory.parent.mkdir()
    directory.write_bytes(b"")
    with pytest.raises(KeysUnusable, match="file in the place of a directory"):
        KeyRing(KeyFiles(directory), LIFETIME)


def test_what_a_crash_left_unfinished_is_removed_and_never_signs(directory: Path) -> None:
    ring = KeyRing(KeyFiles(directory), LIFETIME)
    left = put(directory / "000002-1760000000.new", pem(ec.generate_private_key(ec.SECP256R1())))
    kid = KeyRing(KeyFiles(directory), LIFETIME).signing().kid
    assert kid == ring.signing().kid
    ring.rotate()
    assert not left.exists()
    assert len(files(directory)) == 2


def test_other_files_are_left_alone(directory: Path) -> None:
    ring = KeyRing(KeyFiles(directory), LIFETIME)
    for name in ("000009-1.pem.bak", "9-1.pem", "README", "-1.pem", "000009-x.pem"):
        put(directory / name, b"not a key", 0o644)
    kid = ring.rotate()
    assert KeyRing(KeyFiles(directory), LIFETIME).signing().kid == kid
    assert (directory / "README").exists()


def test_a_key_is_durable_before_it_has_its_name_and_before_anybody_hears_of_it(
    tmp_path: Path, directory: Path
) -> None:
    with peers(directory, 1) as [peer]:
        with traced(peer.process.pid, tmp_path / "trace") as calls:
            peer.ask("rotate")
        path = files(directory)[-1]
        steps = [
            ("openat", f'"{path.with_suffix(".new")}", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0600)'),
            ("write", f"<{path.with_suffix('.new')}>"),
            ("fsync", f"<{path.with_suffix('.new')}>"),
            ("rename", f'"{path}"'),
            ("fsync", f"<{directory}>"),
            ("write", "(1<"),
        ]
        line = -1
        for name, text in steps:
            found = [call for call in calls() if call.name == name and text in call.text and call.begin > line]
            assert found, f"no {name} of {text} after line {line}:\n{(tmp_path / 'trace').read_text()}"
            line = found[0].end


# -- several processes


def test_of_eight_processes_that_start_at_once_one_makes_the_key(directory: Path) -> None:
    with peers(directory, 8) as started:
        assert len({one.kid for one in started}) == 1
        assert len(files(directory)) == 1


def test_rotations_at_once_make_one_key_each(directory: Path) -> None:
    with peers(directory, 4) as started:
        for one in started:
            one.say("rotate")
        kids = {one.hear() for one in started}
        assert len(kids) == 4
        assert [path.name[:6] for path in files(directory)] == ["000001", "000002", "000003", "000004", "000005"]
        assert all(one.ask(f"find {kid}") == "True" for one in started for kid in kids)


def test_what_one_process_signs_by_a_new_key_another_verifies_at_once(directory: Path) -> None:
    ring = KeyRing(KeyFiles(directory), LIFETIME)
    issuer, verifier = TokenIssuer(ring, "hub"), TokenVerifier(ring, "hub", "hub")
    with peers(directory, 1) as [peer]:
        kept = []
        for number in range(10):
            subject = f"user{number}"
            assert peer.ask(f"find hostile{number}") == "False"  # it has looked just now
            kid = ring.rotate()
            token = issuer.issue(
                subject=subject, audience="hub", access=[], epoch=0, credential=None, now=time.time()
            ).text
            kept.append((subject, token))
            assert peer.ask(f"verify {token}") == subject
            assert verifier.verify(peer.ask("issue"), time.time()).subject == "a"
            # it signs by the new key as well, from now on
            assert ring.signing().kid == kid
        assert [peer.ask(f"verify {token}") for _, token in kept] == [subject for subject, _ in kept]


def test_a_rotation_by_another_process_is_followed(directory: Path) -> None:
    ring = KeyRing(KeyFiles(directory), LIFETIME)
    before = ring.signing().kid
    with peers(directory, 1) as [peer]:
        kid = peer.ask("rotate")
    assert kid != before
    assert ring.signing().kid == kid
    assert [entry["kid"] for entry in ring.jwks()["keys"]] == [kid, before]


# -- retirement


def test_an_old_key_verifies_until_its_last_token_has_expired(directory: Path) -> None:
    clock = Clock(1_000_000.0)
    ring = KeyRing(KeyFiles(directory), LIFETIME, clock=clock)
    issuer, verifier = TokenIssuer(ring, "hub", LIFETIME), TokenVerifier(ring, "hub", "hub")
    first = ring.signing().kid
    clock.now += 5_000_000
    last = issuer.issue(subject="a", audience="hub", access=[], epoch=0, credential=None, now=clock.now).text
    second = ring.rotate()
    clock.now += LIFETIME + 59
    assert KeyRing(KeyFiles(directory), LIFETIME, clock=clock).find(first) is not None
    assert verifier.verify(last, clock.now).subject == "a"

    clock.now = 6_000_000.0 + LIFETIME + RETIREMENT_MARGIN
    wait_until(lambda: ring.find(first) is None, "the old key has retired", 10)
    assert [path.name for path in files(directory)] == ["000002-6000000.pem"]
    assert [entry["kid"] for entry in ring.jwks()["keys"]] == [second]
    with pytest.raises(InvalidToken, match="does not have, or no longer"):
        verifier.verify(last, clock.now - RETIREMENT_MARGIN)
    # the one that signs never retires
    clock.now += 1e9
    assert KeyRing(KeyFiles(directory), LIFETIME, clock=clock).signing().kid == second


def test_each_key_of_many_retires_by_the_one_that_followed_it(directory: Path) -> None:
    clock = Clock(1000.0)
    ring = KeyRing(KeyFiles(directory), LIFETIME, clock=clock)
    kids = [ring.signing().kid]
    for _ in range(3):
        clock.now += 200
        kids.append(ring.rotate())
    # superseded at 1200, 1400, 1600: the first two are over
    clock.now = 1400 + LIFETIME + RETIREMENT_MARGIN
    other = KeyRing(KeyFiles(directory), LIFETIME, clock=clock)
    assert [kid for kid in kids if other.find(kid) is not None] == kids[2:]
    assert len(files(directory)) == 2


# -- looking


@pytest.mark.parametrize(
    "kid",
    ["", "x", "../keys/000001-{created}.pem", "{path}", "000001-{created}", "\0", "é" * 10, "/etc/passwd", "a" * 10**6],
)
def test_a_kid_is_compared_and_nothing_else(directory: Path, kid: str) -> None:
    ring = KeyRing(KeyFiles(directory), LIFETIME)
    [path] = files(directory)
    assert ring.find(kid.replace("{path}", str(path)).replace("{created}", path.stem[7:])) is None


@pytest.mark.parametrize("is_broken", [False, True])
def test_unknown_kids_touch_no_disk(directory: Path, monkeypatch: pytest.MonkeyPatch, is_broken: bool) -> None:
    ring = KeyRing(KeyFiles(directory), LIFETIME)
    touched: list[str] = []
    if is_broken:  # somebody made a key, and then it cannot be read
        put(directory / "000002-1760000000.pem", b"")
        other = Generation(directory / "generation")
        other.begin()
        other.end()
    for name in ("stat", "listdir", "open", "scandir"):
        real = getattr(os, name)

        def counting(*arguments: object, real: object = real, name: str = name, **more: object) -> object:
            touched.append(name)
            return real(*arguments, **more)  # type: ignore[operator]

        monkeypatch.setattr(os, name, counting)
    start = time.monotonic()
    for number in range(50_000):
        assert ring.find(f"hostile{number}") is None
    seconds = time.monotonic() - start
    assert touched.count("stat") <= 2 * (2 + seconds)
    assert touched.count("listdir") <= (2 + seconds if is_broken else 0)


def test_keys_put_and_taken_away_by_hand_are_seen(directory: Path, tmp_path: Path) -> None:
    ring = KeyRing(KeyFiles(directory), LIFETIME)
    first = ring.signing().kid
    other = KeyRing(KeyFiles(tmp_path / "other"), LIFETIME)
    put(directory / f"000002-{int(time.time())}.pem", files(tmp_path / "other")[0].read_bytes())
    wait_until(lambda: ring.signing().kid == other.signing().kid, "the new file is seen", 10)
    files(directory)[-1].unlink()
    wait_until(lambda: ring.signing().kid == first, "and that it is gone", 10)
    files(directory)[0].unlink()
    wait_until(lambda: ring.signing().kid != first, "a key is made where there is none", 10)
    assert ring.find(first) is None
    assert len(files(directory)) == 1


def test_a_key_is_made_where_all_were_taken_away(directory: Path) -> None:
    ring = KeyRing(KeyFiles(directory), LIFETIME)
    files(directory)[0].unlink()
    kid = ring.rotate()
    assert ring.signing().kid == kid
    assert [path.name[:6] for path in files(directory)] == ["000001"]


def test_a_bad_file_beside_a_running_server_is_told_once_and_changes_nothing(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = KeyRing(KeyFiles(directory), LIFETIME)
    kid = ring.signing().kid
    exposed = put(directory / f"000002-{int(time.time())}.pem", pem(ec.generate_private_key(ec.SECP256R1())), 0o644)
    wait_until(lambda: (ring.signing(), bool(caplog.records))[1], "the file is complained of", 10)
    looked = time.monotonic()
    wait_until(lambda: (ring.signing(), time.monotonic() > looked + 2.2)[1], "two more looks", 10)
    assert ring.signing().kid == kid
    [record] = caplog.records
    assert f"chmod 600 {exposed}" in record.getMessage()
    exposed.chmod(0o600)
    wait_until(lambda: ring.signing().kid != kid, "the file is taken when it is mended", 10)


def test_keys_stay_in_use_when_their_directory_is_gone(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    ring = KeyRing(KeyFiles(directory), LIFETIME)
    kid = ring.signing().kid
    shutil.rmtree(directory)
    wait_until(lambda: (ring.signing(), bool(caplog.records))[1], "it is noticed", 10)
    assert ring.signing().kid == kid
    assert "stay in use" in caplog.text
    with pytest.raises(KeysUnusable, match="No such file"):
        ring.rotate()
