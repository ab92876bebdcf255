"""What a stranger sends does not come back where it does harm: no header is added to an answer, no answer leads to another host."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oci.digest import Digest
from tests import images, servers
from tests.accounts import make, people_of, rule
from tests.hostile.asking import basic, push
from tests.wire.client import Connection


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A hub with root, an administrator, and an image that all may pull."""
    root = tmp_path_factory.mktemp("echoes")
    with people_of(root) as people:
        make(people)
        rule(people, "everyone", "team/*", "pull")
    with servers.portside(root, "--floor", "0") as server:
        with Connection(server.address) as wire:
            push(wire, images.small(), basic("root"))
        yield server


BENT = [
    "\r\nx-injected: yes",
    'x"\r\nx-injected: yes',
    "\nx-injected: yes",
    "\rx-injected: yes",
    "é",
    "\0",
    "\x7f",
    '",x="y',
    "a" * 3000,
]


@pytest.mark.parametrize("who", ["", "root"])
@pytest.mark.parametrize("text", BENT, ids=ascii)
def test_no_header_is_injected(hub: servers.Server, text: str, who: str) -> None:
    """Whatever stands in a path, a query or a name: an answer's headers are those that it has anyway."""
    bent = urlencode({"": text})[1:]
    headers = basic(who) if who else {}
    for method, target in (
        ("GET", f"/auth/token?service={bent}"),
        ("GET", f"/auth/token?scope={bent}"),
        ("GET", f"/auth/token?scope=repository:{bent}:pull&client_id={bent}&account={bent}&offline_token=true"),
        ("GET", f"/auth/{bent}"),
        ("GET", f"/v2/{bent}/tags/list"),
        ("GET", f"/v2/team/app/manifests/{bent}"),
        ("PUT", f"/v2/team/app/manifests/1?tag={bent}"),
        ("POST", f"/v2/{bent}/blobs/uploads/"),
        ("POST", f"/v2/team/app/blobs/uploads/?mount={bent}&from={bent}"),
        ("POST", f"/v2/team/app/blobs/uploads/?mount={Digest.of(b'x')}&from={bent}"),
        ("POST", f"/v2/team/app/blobs/uploads/?digest={bent}"),
        ("GET", f"/v2/team/app/blobs/uploads/{bent}"),
        ("GET", f"/v2/team/app/tags/list?n=1&last={bent}"),
        ("GET", f"/v2/_catalog?n=1&last={bent}"),
        ("GET", f"/v2/team/app/referrers/{Digest.of(b'x')}?artifactType={bent}"),
        ("GET", f"/api/v1/users/{bent}"),
        ("GET", f"/api/v1/access?who={bent}&repository={bent}"),
        ("GET", f"/{bent}"),
    ):
        with Connection(hub.address) as wire:
            answer = wire.request(method, target, headers, b"" if method in ("PUT", "POST") else None)
        assert answer.status < 500, (target, answer)
        names = [name for name, _ in answer.headers]
        assert "x-injected" not in names, (target, answer)
        for _, value in answer.headers:
            assert value.isascii(), (target, answer)
            assert value.isprintable(), (target, answer)


BEFORE = ["", "/", "//evil.example", "/%2f%2fevil.example", "/\\evil.example", "/..", "/@evil.example"]
PATHS = ["/", "/healthz", "/api/v1", "/api/v1/users", "/auth/token", "/v2", "/v2/_catalog", "/v2/team/app/tags/list"]
AFTER = [
    "",
    "/",
    "//",
    "/.",
    "/..",
    "/%2e%2e",
    "//evil.example",
    "?next=//evil.example/",
    "?redirect_uri=https://evil.example/",
]
WORDS = "/ // \\ %2f %5c .. evil.example @ https: ? & = next v2 auth token api v1 users team app 1"
PIECES = st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=12).map("".join)


def leads_nowhere(wire: Connection, method: str, target: str, host: str, who: str) -> None:
    """Ask, and see that no header of the answer leads to another host."""
    headers = {"host": host, "referer": "https://evil.example/", "x-forwarded-host": "evil.example"}
    answer = wire.request(
        method, target, headers | (basic(who) if who else {}), b"" if method in ("POST", "PUT") else None
    )
    assert answer.status < 500, (target, answer)
    assert not 300 <= answer.status < 400, (target, answer)
    for name in ("location", "content-location", "refresh", "link"):
        for value in answer.all(name):
            led_to = value.partition("<")[2] if name == "link" else value
            assert led_to.startswith("/"), (target, answer)
            assert not led_to.startswith(("//", "/\\")), (target, answer)


@pytest.mark.parametrize("who", ["", "root"])
def test_no_path_of_ours_leads_to_another_host(hub: servers.Server, who: str) -> None:
    with Connection(hub.address) as wire:
        for before, path, after in itertools.product(BEFORE, PATHS, AFTER):
            for method in ("GET", "HEAD"):
                leads_nowhere(wire, method, f"{before}{path}{after}", "evil.example", who)


def test_locations_stay_here_whatever_host_is_named(hub: servers.Server) -> None:
    """Those of an upload, of a blob and of a manifest."""
    blob, content = b"a blob", images.small()
    for method, target, body, status in (
        ("POST", "/v2/team/app/blobs/uploads/", b"", 202),
        ("POST", f"/v2/team/app/blobs/uploads/?digest={Digest.of(blob)}", blob, 201),
        ("POST", f"/v2/team/other/blobs/uploads/?mount={Digest.of(blob)}&from=team/app", b"", 201),
        ("PUT", "/v2/team/app/manifests/1", content.raw, 201),
    ):
        headers = {"host": "evil.example", "x-forwarded-host": "evil.example", "content-type": content.media_type}
        with Connection(hub.address) as wire:
            answer = wire.request(method, target, headers | basic("root"), body)
        assert answer.status == status, answer
        assert (answer.header("location") or "").startswith("/v2/team/"), answer


def test_no_target_leads_to_another_host(hub: servers.Server) -> None:
    hosts = ["evil.example", "127.0.0.1", "evil.example:80", hub.address]
    methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]

    @settings(max_examples=400, deadline=None, database=None)
    @given(st.sampled_from(methods), PIECES, st.sampled_from(hosts), st.booleans(), st.sampled_from(["", "root"]))
    def check(method: str, pieces: str, host: str, is_absolute: bool, who: str) -> None:
        target = f"http://{host}/{pieces}" if is_absolute else f"/{pieces}"
        with Connection(hub.address) as wire:
            leads_nowhere(wire, method, target, host, who)

    check()
