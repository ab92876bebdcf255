from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci.digest import Digest
from oci.errors import ErrorCode
from registry.errors import RequestError
from registry.messages import BadRequest, Request
from registry.routes import METHODS, Endpoint, Route, match

D = Digest.of(b"x")


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("GET", "/v2/", Route(Endpoint.PING)),
        ("GET", "/v2", Route(Endpoint.PING)),
        ("GET", "/v2/_catalog", Route(Endpoint.CATALOG)),
        ("GET", "/v2/a/tags/list", Route(Endpoint.TAGS, "a")),
        ("HEAD", "/v2/a/b/manifests/v1", Route(Endpoint.MANIFEST, "a/b", "v1")),
        ("PUT", f"/v2/a/manifests/{D}", Route(Endpoint.MANIFEST, "a", D)),
        ("DELETE", f"/v2/a/blobs/{D}", Route(Endpoint.BLOB, "a", D)),
        ("GET", f"/v2/a/referrers/{D}", Route(Endpoint.REFERRERS, "a", D)),
        ("POST", "/v2/a/blobs/uploads/", Route(Endpoint.UPLOADS, "a")),
        ("POST", "/v2/a/blobs/uploads", Route(Endpoint.UPLOADS, "a")),
        ("PATCH", "/v2/a/b/blobs/uploads/1-2", Route(Endpoint.UPLOAD, "a/b", "1-2")),
        # Names may hold the words of the table.
        ("GET", "/v2/blobs/manifests/manifests/latest", Route(Endpoint.MANIFEST, "blobs/manifests", "latest")),
        ("GET", "/v2/tags/list/tags/list", Route(Endpoint.TAGS, "tags/list")),
        ("GET", f"/v2/uploads/blobs/{D}", Route(Endpoint.BLOB, "uploads", D)),
        ("POST", "/v2/blobs/uploads/blobs/uploads/", Route(Endpoint.UPLOADS, "blobs/uploads")),
    ],
)
def test_the_table(method: str, path: str, route: Route) -> None:
    assert match(method, path) == route


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/", ErrorCode.NOT_FOUND),
        ("GET", "/v2/a", ErrorCode.NOT_FOUND),
        ("GET", "/v2/a/tags", ErrorCode.NOT_FOUND),
        ("GET", "/v3/", ErrorCode.NOT_FOUND),
        ("GET", "/v2/A/tags/list", ErrorCode.NAME_INVALID),
        ("GET", "/v2/../etc/manifests/x", ErrorCode.NAME_INVALID),
        ("GET", "/v2//manifests/x", ErrorCode.NAME_INVALID),
        ("GET", "/v2/" + "a" * 256 + "/manifests/x", ErrorCode.NAME_INVALID),
        ("GET", "/v2/a/manifests/.x", ErrorCode.TAG_INVALID),
        ("GET", "/v2/a/manifests/sha256:x", ErrorCode.DIGEST_INVALID),
        ("GET", "/v2/a/blobs/x", ErrorCode.DIGEST_INVALID),
        ("GET", "/v2/a/referrers/x", ErrorCode.DIGEST_INVALID),
        ("POST", "/v2/a/manifests/x", ErrorCode.UNSUPPORTED),
        ("DELETE", "/v2/a/tags/list", ErrorCode.UNSUPPORTED),
        ("BREW", "/v2/", ErrorCode.UNSUPPORTED),
    ],
)
def test_what_has_no_route(method: str, path: str, code: ErrorCode) -> None:
    with pytest.raises(RequestError) as caught:
        match(method, path)
    assert caught.value.code is code
    if code is ErrorCode.UNSUPPORTED:
        assert caught.value.headers[0][0] == b"allow"


@given(st.sampled_from(["GET", "PUT", "POST", "PATCH", "DELETE", "HEAD", "OPTIONS"]), st.text(max_size=80))
def test_any_path_has_a_route_or_is_refused(method: str, text: str) -> None:
    for path in (text, f"/v2/{text}", f"/v2/a/{text}", f"/v2/a/blobs/{text}", f"/v2/{text}/manifests/x"):
        try:
            route = match(method, path)
        except RequestError:
            continue
        assert method in METHODS[route.endpoint]


def request(target: bytes, *headers: tuple[bytes, bytes]) -> Request:
    return Request(b"GET", target, list(headers), client="local", keep_alive=True, started=0.0, request_id="1")


@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=50))
def test_paths_and_queries_are_decoded_once(text: str) -> None:
    asked = request(f"/{quote(text, safe='/')}?k={quote(text, safe='')}&k=2".encode())
    assert asked.path == f"/{text}"
    assert asked.query("k") == [text, "2"]
    with pytest.raises(BadRequest, match="2 times"):
        asked.parameter("k")


@given(st.binary(max_size=40))
def test_any_target_is_read_or_refused(target: bytes) -> None:
    asked = request(target)
    try:
        assert "\0" not in asked.path
        assert "\0" not in (asked.parameter("n") or "")
    except BadRequest:
        return


@pytest.mark.parametrize("target", [b"/%", b"/%g0", b"/%ff", b"/%00", b"/\xff", b"/?a=%"])
def test_targets_that_are_refused(target: bytes) -> None:
    asked = request(target)
    with pytest.raises(BadRequest):
        assert asked.path.endswith("?") or asked.query("a")


def test_absolute_targets_and_headers() -> None:
    asked = request(b"http://host:5000/v2/?n=1", (b"range", b" x "), (b"a", b"1"), (b"a", b"2"))
    assert asked.path == "/v2/"
    assert asked.parameter("n") == "1"
    assert asked.header(b"range") == "x"
    assert asked.header(b"none") is None
    with pytest.raises(BadRequest, match="twice"):
        asked.header(b"a")
