"""Servers set up with accounts and with TLS, and the rows that need it: Portside's, and distribution's with the same clients."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import accounts, requests, secure
from bench.content import ACCEPT, Sources
from bench.filesystem import LoopFilesystem
from bench.remote import Remote
from bench.requests import ONE
from bench.sampling import Sample, Session, Tools, compile_client
from bench.servers import DISTRIBUTION, Server, portside, running
from bench.setups import PASSWORD, USER, Material, Passwords, Setup, Tls, Tokens, make_material
from tests.tools import tool

SIZE = 3_000_000


class Folder(LoopFilesystem):
    """A directory that is there already."""

    def __init__(self, path: Path) -> None:
        self.path = self.memory = path

    def settle(self) -> None:
        pass


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return make_material(tmp_path_factory.mktemp("bench") / "material")


def server_of(kind: str) -> Server:
    return portside() if kind == "portside" else Server(DISTRIBUTION, DISTRIBUTION, (str(tool("registry")),))


@contextlib.contextmanager
def session_on(server: Server, setup: Setup, folder: Path, material: Material, row: str) -> Iterator[Session]:
    """A turn of a server, in which measurements are short."""
    sources = Sources(folder)
    tools = Tools(
        Folder(folder), sources, compile_client("load"), compile_client("bulk"), material, 0.2, None, None, print
    )
    try:
        with running(server, folder / "root", setup) as started:
            yield Session(tools, started, row, 0)
    finally:
        sources.close()


def assert_measured(sample: Sample) -> None:
    assert sample.value is not None
    assert sample.value > 10
    assert sample.detail["statuses"] == {"200": sample.work}
    assert sample.cpu_seconds > 0


@pytest.mark.parametrize("kind", ["portside", "distribution"])
@pytest.mark.parametrize(
    ("setup", "row", "status", "tls"),
    [
        (Tokens, accounts.manifest_token, 401, "none"),
        (Passwords, accounts.manifest_basic, 401, "none"),
        (Tls, requests.manifest, 200, "TLSv1.3"),
    ],
)
def test_manifests_are_asked_for_as_the_setup_wants_it(
    kind: str,
    setup: Callable[[Material], Setup],
    row: Callable[[Session], None],
    status: int,
    tls: str,
    tmp_path: Path,
    material: Material,
) -> None:
    with session_on(server_of(kind), setup(material), tmp_path, material, "row") as session:
        row(session)
        with session.connect() as connection:
            assert connection.request("GET", ONE, {"Accept": ACCEPT}).status == status
    assert_measured(session.sample)
    assert session.sample.detail["tls"].startswith(tls)


def test_tokens_are_issued_in_three_ways(tmp_path: Path, material: Material) -> None:
    with session_on(portside(), Tokens(material), tmp_path, material, "row") as session:
        for row in (accounts.token_get, accounts.token_post, accounts.token_refresh):
            session.sample = Sample("row", "portside", 0)
            row(session)
            assert_measured(session.sample)


@pytest.mark.parametrize("kind", ["portside", "distribution"])
def test_large_blobs_over_tls(kind: str, tmp_path: Path, material: Material) -> None:
    with session_on(server_of(kind), Tls(material), tmp_path, material, "row") as session:
        blob = session.source(SIZE).blob()
        assert secure.put_blob(session, blob)["bytes"] == SIZE
        assert secure.get_blob(session, blob, 2)["bytes"] == 2 * SIZE
        session.requests_per_second([], ["-h"])
    assert session.sample.value is not None
    assert session.sample.value > 10


def test_log_ins_are_half_of_them_right() -> None:
    seen = Counter(
        base64.b64decode(request.partition(b"Authorization: Basic ")[2].strip()).decode()
        for request in accounts.log_ins(["a", "b", "c"])
    )
    wrong = f"not {PASSWORD}"
    assert list(seen) == [f"a:{PASSWORD}", f"b:{wrong}", f"c:{PASSWORD}", f"a:{wrong}", f"b:{PASSWORD}", f"c:{wrong}"]
    assert set(seen.values()) == {1}


def test_a_token_of_the_benchmark_names_one_repository(material: Material) -> None:
    claims = json.loads(base64.urlsafe_b64decode(material.token("bench/x").split(".")[1] + "=="))
    assert claims["sub"] == USER
    assert claims["access"] == [{"type": "repository", "name": "bench/x", "actions": ["pull", "push"]}]


def test_no_secret_is_shown(material: Material) -> None:
    assert "signing" not in repr(material)


@pytest.mark.parametrize("kind", ["portside", "distribution"])
def test_servers_on_s3(kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    short = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))  # a socket's path has 107 bytes
    try:
        short.chmod(0o711)
        material = make_material(tmp_path_factory.mktemp("bench") / "material", tool("versitygw"))
        with session_on(server_of(kind), Remote(material), short, material, "row") as session:
            requests.manifest(session)
            assert_measured(session.sample)
            assert (short / "root-beside/s3/bench").is_dir()
            assert any((short / "root-beside/s3/bench").iterdir()), "what was pushed is in the bucket"
    finally:
        shutil.rmtree(short)
