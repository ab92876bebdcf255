"""GET, HEAD and DELETE of blobs (distribution-spec end-2, end-10).

Cases of the OCI suite that are held here: blob get-missing, range requests (500-1499, 500-, -500, 2000-5000, 500-0, 5000-10000), head,
pull and delete of blobs of sha256 and sha512, the empty blob, the digest header, delete at once though another repository holds it.
"""

from __future__ import annotations

import pytest

from tests.servers import Server
from tests.wire.client import Connection
from tests.wire.content import blob, digest_of, push_blob

SIZE = 2048


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [0, 1, 2, 64 * 1024, 64 * 1024 + 1, 1_500_000])
def test_a_blob_comes_back_whole_with_its_length_and_digest(
    wire: Connection, repository: str, algorithm: str, size: int
) -> None:
    data = blob(repository, size)
    digest = push_blob(wire, repository, data, algorithm)
    got = wire.request("GET", f"/v2/{repository}/blobs/{digest}")
    head = wire.request("HEAD", f"/v2/{repository}/blobs/{digest}")
    assert (got.status, got.body) == (200, data)
    assert (head.status, head.body) == (200, b"")
    for answer in (got, head):
        assert answer.header("content-length") == str(size)
        assert answer.header("content-type") == "application/octet-stream"
        assert answer.header("docker-content-digest") == digest
        assert answer.header("etag") == f'"{digest}"'
        assert answer.header("accept-ranges") == "bytes"
        assert answer.header("content-encoding") is None
        assert answer.header("transfer-encoding") is None


RANGES = [
    ("bytes=500-1499", 500, 1500),
    ("bytes=500-", 500, SIZE),
    ("bytes=-500", SIZE - 500, SIZE),
    ("bytes=2000-5000", 2000, SIZE),
    ("bytes=0-0", 0, 1),
    ("bytes=0-", 0, SIZE),
    (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
    ("bytes=-1", SIZE - 1, SIZE),
    ("bytes=-999999999999999999", 0, SIZE),
    ("bytes=0-999999999999999999", 0, SIZE),
    ("Bytes=1-2", 1, 3),
]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize(("asked", "first", "end"), RANGES)
def test_a_range_is_obeyed(wire: Connection, repository: str, asked: str, first: int, end: int, algorithm: str) -> None:
    data = blob(repository, SIZE)
    digest = push_blob(wire, repository, data, algorithm)
    answer = wire.request("GET", f"/v2/{repository}/blobs/{digest}", {"Range": asked})
    assert (answer.status, answer.body) == (206, data[first:end])
    assert answer.header("content-range") == f"bytes {first}-{end - 1}/{SIZE}"
    assert answer.header("content-length") == str(end - first)
    assert answer.header("docker-content-digest") == digest


@pytest.mark.parametrize(
    "asked", ["bytes=500-0", "bytes=5000-10000", f"bytes={SIZE}-", "bytes=-0", "bytes=-", "bytes=a-b"]
)
def test_a_range_that_is_not_there_is_416(wire: Connection, repository: str, asked: str) -> None:
    digest = push_blob(wire, repository, blob(repository, SIZE))
    answer = wire.request("GET", f"/v2/{repository}/blobs/{digest}", {"Range": asked})
    assert (answer.status, answer.error) == (416, "RANGE_INVALID")
    assert answer.header("content-range") == f"bytes */{SIZE}"


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "lines=1-2", ""])
def test_several_ranges_and_other_units_get_the_whole(wire: Connection, repository: str, asked: str) -> None:
    data = blob(repository, SIZE)
    digest = push_blob(wire, repository, data)
    answer = wire.request("GET", f"/v2/{repository}/blobs/{digest}", {"Range": asked})
    assert (answer.status, answer.body) == (200, data)


def test_no_byte_of_the_empty_blob_can_be_asked_for(wire: Connection, repository: str) -> None:
    digest = push_blob(wire, repository, b"")
    answer = wire.request("GET", f"/v2/{repository}/blobs/{digest}", {"Range": "bytes=0-0"})
    assert (answer.status, answer.header("content-range")) == (416, "bytes */0")


def test_a_range_deep_in_a_large_blob(wire: Connection, repository: str) -> None:
    data = blob(repository, 3_000_000)
    digest = push_blob(wire, repository, data)
    answer = wire.request("GET", f"/v2/{repository}/blobs/{digest}", {"Range": "bytes=1234567-2345678"})
    assert (answer.status, answer.body) == (206, data[1234567:2345679])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("form", ['"{0}"', 'W/"{0}"', "*", '"other", "{0}"'])
def test_if_none_match_of_the_digest_is_304(wire: Connection, repository: str, method: str, form: str) -> None:
    digest = push_blob(wire, repository, blob(repository))
    answer = wire.request(method, f"/v2/{repository}/blobs/{digest}", {"If-None-Match": form.format(digest)})
    assert (answer.status, answer.body) == (304, b"")
    assert answer.header("etag") == f'"{digest}"'
    assert wire.request("GET", "/v2/").status == 200, "the connection goes on behind an answer without a body"


def test_if_none_match_of_another_digest_gets_the_blob(wire: Connection, repository: str) -> None:
    data = blob(repository)
    digest = push_blob(wire, repository, data)
    other = digest_of(b"other")
    answer = wire.request("GET", f"/v2/{repository}/blobs/{digest}", {"If-None-Match": f'"{other}"'})
    assert (answer.status, answer.body) == (200, data)


def test_if_range(wire: Connection, repository: str) -> None:
    data = blob(repository, SIZE)
    digest = push_blob(wire, repository, data)
    target = f"/v2/{repository}/blobs/{digest}"
    same = wire.request("GET", target, {"Range": "bytes=1-2", "If-Range": f'"{digest}"'})
    assert (same.status, same.body) == (206, data[1:3])
    for other in ('"sha256:0"', f'W/"{digest}"', "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = wire.request("GET", target, {"Range": "bytes=1-2", "If-Range": other})
        assert (answer.status, answer.body) == (200, data), other


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_a_blob_that_was_never_pushed_is_404(wire: Connection, repository: str, method: str, algorithm: str) -> None:
    push_blob(wire, repository, b"{}")
    answer = wire.request(method, f"/v2/{repository}/blobs/{digest_of(b'never pushed', algorithm)}")
    assert answer.status == 404
    if method != "HEAD":
        assert answer.error == "BLOB_UNKNOWN"


def test_a_blob_of_another_repository_is_not_here(wire: Connection, repository: str) -> None:
    digest = push_blob(wire, f"{repository}/a", blob(repository))
    assert wire.request("GET", f"/v2/{repository}/b/blobs/{digest}").error == "BLOB_UNKNOWN"
    assert wire.request("GET", f"/v2/{repository}/a/blobs/{digest}").status == 200


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_delete_is_seen_at_once_and_only_here(wire: Connection, repository: str, algorithm: str) -> None:
    data = blob(repository)
    for name in ("a", "b"):
        digest = push_blob(wire, f"{repository}/{name}", data, algorithm)
    assert wire.request("HEAD", f"/v2/{repository}/a/blobs/{digest}").status == 200
    deleted = wire.request("DELETE", f"/v2/{repository}/a/blobs/{digest}")
    assert (deleted.status, deleted.body, deleted.header("content-length")) == (202, b"", "0")
    assert wire.request("HEAD", f"/v2/{repository}/a/blobs/{digest}").status == 404
    assert wire.request("DELETE", f"/v2/{repository}/a/blobs/{digest}").status == 404
    assert wire.request("GET", f"/v2/{repository}/b/blobs/{digest}").body == data
    push_blob(wire, f"{repository}/a", data, algorithm)
    assert wire.request("GET", f"/v2/{repository}/a/blobs/{digest}").body == data


DIGESTS = [
    "sha256:baddigeststring",
    "sha256:" + "A" * 64,
    "sha256:" + "0" * 63,
    "md5:" + "0" * 32,
    "sha512:" + "0" * 64,
    "x",
    ":",
]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("bad", DIGESTS)
def test_what_is_no_digest_is_400(wire: Connection, repository: str, method: str, bad: str) -> None:
    answer = wire.request(method, f"/v2/{repository}/blobs/{bad}")
    assert (answer.status, answer.error) == (400, "DIGEST_INVALID")
    assert bad in answer.message


def test_many_downloads_on_one_connection_stay_apart(wire: Connection, repository: str, hub: Server) -> None:
    blobs = {
        push_blob(wire, repository, data): data for data in (blob(f"{repository}{n}", n * 40_000) for n in range(12))
    }
    with Connection(hub.address) as second:
        for digest, data in blobs.items():
            assert second.request("HEAD", f"/v2/{repository}/blobs/{digest}").header("content-length") == str(len(data))
            assert second.request("GET", f"/v2/{repository}/blobs/{digest}").body == data
