"""Pushing blobs (distribution-spec end-4, end-5, end-6, end-11, end-13, end-14).

Cases of the OCI suite that are held here, each for sha256 and sha512: post only, post+put, chunked single, chunked multi, chunked
multi and put chunk, chunked out-of-order (and put chunk), stream, mount, mount anonymous, mount missing, post cancel; the same
with a bad digest; the empty blob and ``{}`` through every way of pushing; the Location of each 201 fetched and compared.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.wire.client import Answer, Connection
from tests.wire.content import blob, digest_of, push_blob, query, start_upload

ALGORITHMS = pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
CHUNK = 1000


def finish(
    wire: Connection, location: str, digest: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Answer:
    return wire.request("PUT", f"{location}?{query(digest=digest)}", headers or {}, body)


def post_only(wire: Connection, repository: str, data: bytes, digest: str) -> Answer:
    return wire.request("POST", f"/v2/{repository}/blobs/uploads/?{query(digest=digest)}", body=data)


def post_only_chunked(wire: Connection, repository: str, data: bytes, digest: str) -> Answer:
    return wire.request("POST", f"/v2/{repository}/blobs/uploads/?{query(digest=digest)}", chunks=pieces(data))


def post_put(wire: Connection, repository: str, data: bytes, digest: str) -> Answer:
    return finish(wire, start_upload(wire, repository), digest, data, {"Content-Type": "application/octet-stream"})


def post_put_chunked(wire: Connection, repository: str, data: bytes, digest: str) -> Answer:
    target = f"{start_upload(wire, repository)}?{query(digest=digest)}"
    return wire.request("PUT", target, chunks=pieces(data))


def pieces(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]


def patch_all(wire: Connection, location: str, parts: list[bytes], form: str = "{}-{}") -> int:
    """Send the parts as chunks with Content-Range; the offset then."""
    offset = 0
    for part in parts:
        span = form.format(offset, offset + len(part) - 1)
        answer = wire.request("PATCH", location, {"Content-Range": span} if part else {}, part)
        offset += len(part)
        assert answer.status == 202, answer
        assert answer.header("range") == f"0-{max(offset - 1, 0)}"
        assert answer.header("location") == location
    return offset


def chunked(wire: Connection, repository: str, data: bytes, digest: str) -> Answer:
    location = start_upload(wire, repository)
    patch_all(wire, location, pieces(data) or [b""])
    return finish(wire, location, digest)


def chunked_rfc(wire: Connection, repository: str, data: bytes, digest: str) -> Answer:
    location = start_upload(wire, repository)
    patch_all(wire, location, pieces(data) or [b""], "bytes {}-{}/*")
    return finish(wire, location, digest)


def chunked_last_on_put(wire: Connection, repository: str, data: bytes, digest: str) -> Answer:
    location = start_upload(wire, repository)
    *first, last = pieces(data) or [b""]
    offset = patch_all(wire, location, first)
    span = {"Content-Range": f"{offset}-{offset + len(last) - 1}"} if last else {}
    return finish(wire, location, digest, last, span)


def streamed(wire: Connection, repository: str, data: bytes, digest: str) -> Answer:
    """As Docker does: one PATCH, chunked, without Content-Range or Content-Length."""
    location = start_upload(wire, repository)
    answer = wire.request("PATCH", location, {"Content-Type": "application/octet-stream"}, chunks=pieces(data))
    assert answer.status == 202, answer
    assert answer.header("range") == f"0-{max(len(data) - 1, 0)}"
    return finish(wire, location, digest)


WAYS: dict[str, Callable[[Connection, str, bytes, str], Answer]] = {
    "post only": post_only,
    "post only, streamed": post_only_chunked,
    "post+put": post_put,
    "post+put, streamed": post_put_chunked,
    "chunked": chunked,
    "chunked, bytes a-b/*": chunked_rfc,
    "chunked, the last on the put": chunked_last_on_put,
    "stream": streamed,
}
EVERY_WAY = pytest.mark.parametrize("way", WAYS)


@ALGORITHMS
@pytest.mark.parametrize("size", [0, 2, 512, 3 * CHUNK - 5, 300_000])
@EVERY_WAY
def test_a_blob_arrives_by_every_way(wire: Connection, repository: str, way: str, size: int, algorithm: str) -> None:
    data = b"{}" if size == 2 else blob(repository, size)
    digest = digest_of(data, algorithm)
    created = WAYS[way](wire, repository, data, digest)
    assert (created.status, created.body) == (201, b""), created
    assert created.header("location") == f"/v2/{repository}/blobs/{digest}"
    assert created.header("docker-content-digest") == digest
    assert created.header("content-length") == "0"
    assert wire.request("GET", f"/v2/{repository}/blobs/{digest}").body == data
    assert wire.request("DELETE", f"/v2/{repository}/blobs/{digest}").status == 202
    assert wire.request("GET", f"/v2/{repository}/blobs/{digest}").status == 404


@ALGORITHMS
@pytest.mark.parametrize("size", [0, 512, 300_000])
@EVERY_WAY
def test_bytes_of_another_digest_are_refused(
    wire: Connection, repository: str, way: str, size: int, algorithm: str
) -> None:
    announced = digest_of(blob(repository, size), algorithm)
    refused = WAYS[way](wire, repository, blob(repository, size) + b"oh no", announced)
    assert (refused.status, refused.error) == (400, "DIGEST_INVALID")
    assert announced in refused.message
    assert wire.request("GET", f"/v2/{repository}/blobs/{announced}").error == "BLOB_UNKNOWN"
    actual = digest_of(blob(repository, size) + b"oh no", algorithm)
    assert wire.request("GET", f"/v2/{repository}/blobs/{actual}").error == "BLOB_UNKNOWN"


def test_a_new_upload_says_where_it_is_and_that_it_is_empty(wire: Connection, repository: str) -> None:
    answer = wire.request("POST", f"/v2/{repository}/blobs/uploads/", body=b"")
    assert (answer.status, answer.body, answer.header("range")) == (202, b"", "0-0")
    location, uuid = answer.header("location"), answer.header("docker-upload-uuid")
    assert uuid
    assert location == f"/v2/{repository}/blobs/uploads/{uuid}", "state in the path: some clients drop a query"
    assert start_upload(wire, repository) != location


@pytest.mark.parametrize("target", ["/v2/{}/blobs/uploads", "/v2/{}/blobs/uploads/?digest-algorithm=sha512"])
def test_other_forms_of_the_post(wire: Connection, repository: str, target: str) -> None:
    answer = wire.request("POST", target.format(repository))
    assert answer.status == 202
    data = blob(repository)
    assert finish(wire, answer.header("location") or "", digest_of(data, "sha512"), data).status == 201


def test_an_unknown_digest_algorithm_is_refused_at_the_post(wire: Connection, repository: str) -> None:
    answer = wire.request("POST", f"/v2/{repository}/blobs/uploads/?digest-algorithm=md5", body=b"")
    assert (answer.status, answer.error) == (400, "DIGEST_INVALID")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_status_follows_the_upload(wire: Connection, repository: str, method: str) -> None:
    location = start_upload(wire, repository)
    for sent, expected in ((b"", "0-0"), (b"x", "0-0"), (b"yz", "0-2"), (b"", "0-2")):
        assert wire.request("PATCH", location, body=sent).status == 202
        answer = wire.request(method, location)
        assert (answer.status, answer.header("range"), answer.header("location")) == (204, expected, location)
        assert answer.header("content-length") is None, "RFC 9110 section 8.6: a 204 has none"
    assert finish(wire, location, digest_of(b"xyz")).status == 201


@ALGORITHMS
@pytest.mark.parametrize("span", ["2000-2999", "0-999", "1001-2000", "99999999999999999-99999999999999999"])
def test_a_chunk_out_of_order_is_416_and_the_upload_lives(
    wire: Connection, repository: str, algorithm: str, span: str
) -> None:
    data = blob(repository, 3 * CHUNK)
    location = start_upload(wire, repository)
    patch_all(wire, location, [data[:CHUNK]])
    for method, target in (("PATCH", location), ("PUT", f"{location}?{query(digest=digest_of(data, algorithm))}")):
        refused = wire.request(method, target, {"Content-Range": span}, data[2 * CHUNK :])
        assert (refused.status, refused.error) == (416, "RANGE_INVALID")
        assert (refused.header("location"), refused.header("range")) == (location, f"0-{CHUNK - 1}")
        status = wire.request("GET", location)
        assert (status.status, status.header("range")) == (204, f"0-{CHUNK - 1}")
    assert wire.request("PATCH", location, {"Content-Range": "1000-2999"}, data[CHUNK:]).status == 202
    assert finish(wire, location, digest_of(data, algorithm)).status == 201
    assert wire.request("GET", f"/v2/{repository}/blobs/{digest_of(data, algorithm)}").body == data


def test_the_first_chunk_out_of_order(wire: Connection, repository: str) -> None:
    location = start_upload(wire, repository)
    assert wire.request("PATCH", location, {"Content-Range": "1000-1999"}, blob(repository, CHUNK)).status == 416
    assert wire.request("GET", location).header("range") == "0-0"


@pytest.mark.parametrize("span", ["0-1999", "0-98"])
def test_a_chunk_whose_range_and_length_differ_is_refused_unread(wire: Connection, repository: str, span: str) -> None:
    location = start_upload(wire, repository)
    refused = wire.request("PATCH", location, {"Content-Range": span}, blob(repository, CHUNK))
    assert (refused.status, refused.error) == (400, "SIZE_INVALID")
    assert finish(wire, location, digest_of(b"")).status == 201, "nothing of it was kept"


@pytest.mark.parametrize("span", ["x", "5-1", "-5", "5-", "0-1-2", "bytes", "0x0-0x9", "\xb2-5", "1e3-2e3", "0-9/8-"])
def test_what_is_no_content_range_is_416(wire: Connection, repository: str, span: str) -> None:
    location = start_upload(wire, repository)
    refused = wire.request("PATCH", location, {"Content-Range": span}, b"0123456789")
    assert (refused.status, refused.error) == (416, "RANGE_INVALID")
    assert wire.request("GET", location).header("range") == "0-0"


def test_cancel(wire: Connection, repository: str) -> None:
    location = start_upload(wire, repository)
    assert wire.request("PATCH", location, body=b"some").status == 202
    cancelled = wire.request("DELETE", location)
    assert (cancelled.status, cancelled.body) == (204, b"")
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        answer = wire.request(method, f"{location}?{query(digest=digest_of(b'some'))}", body=b"")
        assert (answer.status, answer.error) == (404, "BLOB_UPLOAD_UNKNOWN"), method
    assert wire.request("GET", f"/v2/{repository}/blobs/{digest_of(b'some')}").status == 404


def test_a_finished_upload_is_no_upload_any_more(wire: Connection, repository: str) -> None:
    location = start_upload(wire, repository)
    assert finish(wire, location, digest_of(b"x"), b"x").status == 201
    assert wire.request("GET", location).error == "BLOB_UPLOAD_UNKNOWN"


def test_an_upload_belongs_to_its_repository(wire: Connection, repository: str) -> None:
    location = start_upload(wire, f"{repository}/a")
    foreign = location.replace(f"{repository}/a", f"{repository}/b")
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        answer = wire.request(method, f"{foreign}?{query(digest=digest_of(b'x'))}", body=b"x")
        assert (answer.status, answer.error) == (404, "BLOB_UPLOAD_UNKNOWN"), method
    assert finish(wire, location, digest_of(b"x"), b"x").status == 201


FORGED = ["0", "../x", "%2e%2e%2fx", "%2e%2e", ".", "a" * 5000, "f" * 32, "f" * 32 + "-" + "0" * 16, "%0a", "*"]


@pytest.mark.parametrize("upload_id", FORGED)
def test_a_forged_upload_id_is_404(wire: Connection, repository: str, upload_id: str) -> None:
    answer = wire.request("GET", f"/v2/{repository}/blobs/uploads/{upload_id}")
    assert answer.status == 404
    assert answer.error in ("BLOB_UPLOAD_UNKNOWN", "NOT_FOUND")


@pytest.mark.parametrize("digest", [None, "", "x", "sha256:baddigeststring", "md5:d41d8cd98f00b204e9800998ecf8427e"])
def test_a_closing_put_without_a_digest_leaves_the_upload(
    wire: Connection, repository: str, digest: str | None
) -> None:
    location = start_upload(wire, repository)
    assert wire.request("PATCH", location, body=b"some").status == 202
    target = location if digest is None else f"{location}?{query(digest=digest)}"
    refused = wire.request("PUT", target, body=b"")
    assert (refused.status, refused.error) == (400, "DIGEST_INVALID")
    assert finish(wire, location, digest_of(b"some")).status == 201


def test_two_digests_are_refused(wire: Connection, repository: str) -> None:
    location = start_upload(wire, repository)
    twice = f"{location}?{query(digest=digest_of(b'a'))}&{query(digest=digest_of(b'b'))}"
    assert wire.request("PUT", twice, body=b"a").error == "REQUEST_INVALID"


@pytest.mark.parametrize("data", [b"", b"again"])
def test_pushing_a_blob_again_is_201(wire: Connection, repository: str, data: bytes) -> None:
    for way in WAYS.values():
        assert way(wire, repository, data, digest_of(data)).status == 201


@ALGORITHMS
def test_mount(wire: Connection, repository: str, algorithm: str) -> None:
    data = blob(repository)
    source, target = f"{repository}/source", f"{repository}/target"
    digest = push_blob(wire, source, data, algorithm)
    for parameters in (query(**{"mount": digest, "from": source}), query(mount=digest)):
        mounted = wire.request("POST", f"/v2/{target}/blobs/uploads/?{parameters}", body=b"")
        assert (mounted.status, mounted.body) == (201, b"")
        assert mounted.header("location") == f"/v2/{target}/blobs/{digest}"
        assert mounted.header("docker-content-digest") == digest
        assert wire.request("GET", f"/v2/{target}/blobs/{digest}").body == data
        assert wire.request("DELETE", f"/v2/{target}/blobs/{digest}").status == 202
        assert wire.request("GET", f"/v2/{target}/blobs/{digest}").status == 404
    assert wire.request("GET", f"/v2/{source}/blobs/{digest}").body == data


@ALGORITHMS
@pytest.mark.parametrize("source", [None, "other", "no/such/repository"])
def test_mount_of_what_is_not_there_starts_an_upload(
    wire: Connection, repository: str, algorithm: str, source: str | None
) -> None:
    data = blob(repository)
    digest = digest_of(data, algorithm)
    parameters = {"mount": digest} | ({} if source is None else {"from": f"{repository}/{source}"})
    answer = wire.request("POST", f"/v2/{repository}/blobs/uploads/?{query(**parameters)}", body=b"")
    assert answer.status == 202
    assert finish(wire, answer.header("location") or "", digest, data).status == 201


def test_mount_from_a_repository_that_has_not_the_blob(wire: Connection, repository: str) -> None:
    digest = push_blob(wire, f"{repository}/has", blob(repository))
    push_blob(wire, f"{repository}/has-not", b"{}")
    parameters = query(**{"mount": digest, "from": f"{repository}/has-not"})
    assert wire.request("POST", f"/v2/{repository}/target/blobs/uploads/?{parameters}", body=b"").status == 202


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"mount": "sha256:x", "from": "a"}, "DIGEST_INVALID"),
        ({"mount": digest_of(b""), "from": "../../etc"}, "NAME_INVALID"),
        ({"mount": digest_of(b""), "from": "UPPER"}, "NAME_INVALID"),
        ({"digest": "sha256:x"}, "DIGEST_INVALID"),
    ],
)
def test_bad_parameters_of_the_post(wire: Connection, repository: str, parameters: dict[str, str], code: str) -> None:
    answer = wire.request("POST", f"/v2/{repository}/blobs/uploads/?{query(**parameters)}", body=b"")
    assert (answer.status, answer.error) == (400, code)


def test_bytes_that_are_not_committed_are_visible_to_nobody(wire: Connection, repository: str) -> None:
    data = blob(repository)
    location = start_upload(wire, repository)
    assert wire.request("PATCH", location, body=data).status == 202
    target = f"/v2/{repository}/blobs/{digest_of(data)}"
    assert wire.request("GET", target).status == 404
    assert (
        wire.request("POST", f"/v2/{repository}/blobs/uploads/?{query(mount=digest_of(data))}", body=b"").status == 202
    )
    assert finish(wire, location, digest_of(data)).status == 201
    assert wire.request("GET", target).body == data
