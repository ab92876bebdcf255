"""GET, HEAD, PUT and DELETE of manifests (distribution-spec end-3, end-7, end-9).

Cases of the OCI suite that are held here: missing-manifest by digest and by tag, invalid-digest-format put and get, push, head,
pull and delete by tag and digest (sha256, sha512), the tag parameter, and its data: image, uncompressed, large manifest, index,
nested index, empty index, artifact, artifact without layers, artifact index, data field, non-distributable layers, custom fields,
no layers, sparse, sha512.
"""

from __future__ import annotations

import json

import pytest

from tests.images import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
)
from tests.wire.client import Connection
from tests.wire.content import (
    artifact,
    blob,
    descriptor,
    digest_of,
    image,
    index,
    push_blob,
    push_image,
    push_manifest,
    query,
    small_image,
)

ALGORITHMS = pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
CONFIG = b'{"architecture":"amd64","os":"linux"}'
LAYER = blob("a layer")
PLATFORM = {"architecture": "amd64", "os": "linux"}


def _docker_image() -> bytes:
    fields = {
        "config": descriptor(DOCKER_CONFIG, CONFIG),
        "layers": [descriptor(DOCKER_LAYER, LAYER)],
    }
    return json.dumps({"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, **fields}, indent=3).encode()


def _docker_list() -> bytes:
    entry = descriptor(DOCKER_MANIFEST, _docker_image(), platform=PLATFORM)
    return json.dumps({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [entry]}, indent=3).encode()


def _plain(media_type: str = OCI_LAYER, **more: object) -> bytes:
    return image(descriptor(OCI_CONFIG, CONFIG), [descriptor(media_type, LAYER)], **more)


def _without_media_type() -> bytes:
    value = json.loads(_plain())
    del value["mediaType"]
    return json.dumps(value).encode()


MISSING = {"digest": digest_of(b"never pushed"), "size": 12}
INNER = index([descriptor(OCI_MANIFEST, _plain(), platform=PLATFORM)])
KINDS: dict[str, tuple[str, bytes]] = {
    "image": (OCI_MANIFEST, _plain()),
    "uncompressed": (OCI_MANIFEST, _plain("application/vnd.oci.image.layer.v1.tar")),
    "odd white space": (OCI_MANIFEST, b"\n {" + _plain()[1:] + b"\r\n\t "),
    "without mediaType": (OCI_MANIFEST, _without_media_type()),
    "large": (OCI_MANIFEST, _plain(annotations={f"large-{n}": "A" * 10_000 for n in range(390)})),
    "over 4 MiB": (OCI_MANIFEST, _plain(annotations={"large": "A" * (4 * 1024 * 1024)})),
    "index": (OCI_INDEX, INNER),
    "nested index": (OCI_INDEX, index([descriptor(OCI_INDEX, INNER), descriptor(OCI_INDEX, index([]))])),
    "empty index": (OCI_INDEX, index([])),
    "artifact": (OCI_MANIFEST, artifact("kinds", "application/vnd.example+type")),
    "artifact without artifactType": (OCI_MANIFEST, artifact("kinds", None)),
    "artifact index": (OCI_INDEX, index([], artifactType="application/vnd.example+type")),
    "data field": (OCI_MANIFEST, image(descriptor(OCI_EMPTY, b"{}", data="e30="), [])),
    "non-distributable": (
        OCI_MANIFEST,
        image(
            descriptor(OCI_CONFIG, CONFIG),
            [
                {"mediaType": f"application/vnd.oci.image.layer.nondistributable.v1.tar{form}", **MISSING}
                | {"urls": [f"https://store.example.com/blobs/{MISSING['digest']}"]}
                for form in ("", "+gzip")
            ],
        ),
    ),
    "custom fields": (OCI_MANIFEST, _plain(org_example={"a": [1, 2.5, None, True, {"b": "\u00fc\U0001f6a2"}]})),
    "no layers": (OCI_MANIFEST, image(descriptor(OCI_CONFIG, CONFIG), [])),
    "sparse image": (
        OCI_MANIFEST,
        image(descriptor(OCI_CONFIG, CONFIG), [{"mediaType": OCI_LAYER, **MISSING}]),
    ),
    "sparse index": (OCI_INDEX, index([{"mediaType": OCI_MANIFEST, **MISSING, "platform": PLATFORM}])),
    "sha512 within": (
        OCI_MANIFEST,
        image(descriptor(OCI_CONFIG, CONFIG, "sha512"), [descriptor(OCI_LAYER, LAYER, "sha512")]),
    ),
    "docker schema 2": (DOCKER_MANIFEST, _docker_image()),
    "docker list": (DOCKER_LIST, _docker_list()),
    "any other type": ("application/vnd.example.thing.v7+json", b'{"hello": ["world"]}'),
}


@ALGORITHMS
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_comes_back_byte_for_byte(
    wire: Connection, repository: str, kind: str, algorithm: str, streamed: bool
) -> None:
    media_type, raw = KINDS[kind]
    for data in (CONFIG, LAYER, b"{}"):
        push_blob(wire, repository, data)
    digest = digest_of(raw, algorithm)
    target = f"/v2/{repository}/manifests/{digest}?tag=one"
    headers = {"Content-Type": media_type}
    if streamed:
        parts = [raw[at : at + 30_000] for at in range(0, len(raw), 30_000)]
        created = wire.request("PUT", target, headers, chunks=parts)
    else:
        created = wire.request("PUT", target, headers, raw)
    assert (created.status, created.body) == (201, b""), created
    assert created.header("docker-content-digest") == digest
    assert created.header("location") == f"/v2/{repository}/manifests/{digest}"
    assert created.header("oci-subject") is None
    for reference in (digest, "one"):
        for method in ("HEAD", "GET"):
            answer = wire.request(method, f"/v2/{repository}/manifests/{reference}")
            assert (answer.status, answer.body) == (200, raw if method == "GET" else b"")
            assert answer.header("content-type") == media_type
            assert answer.header("content-length") == str(len(raw))
            assert answer.header("docker-content-digest") == digest
            assert answer.header("etag") == f'"{digest}"'


def test_a_tag_pushed_by_name_is_of_sha256_and_moves(wire: Connection, repository: str) -> None:
    first, second = push_image(wire, repository, "v1", "one"), small_image("two")[0]
    assert wire.request("GET", f"/v2/{repository}/manifests/v1").body == first
    created = push_manifest(wire, repository, "v1", second)
    assert created.header("docker-content-digest") == digest_of(second)
    assert created.header("oci-tag") is None
    assert wire.request("GET", f"/v2/{repository}/manifests/v1").body == second
    assert wire.request("GET", f"/v2/{repository}/manifests/{digest_of(first)}").body == first


@pytest.mark.parametrize(
    "accept",
    [[], ["*/*"], [OCI_MANIFEST, OCI_INDEX], [DOCKER_MANIFEST], ["application/json, text/html;q=0.5"]],
    ids=str,
)
def test_accept_never_changes_the_bytes(wire: Connection, repository: str, accept: list[str]) -> None:
    raw = push_image(wire, repository, "v1")
    answer = wire.request("GET", f"/v2/{repository}/manifests/v1", [("Accept", value) for value in accept])
    assert (answer.status, answer.header("content-type"), answer.body) == (200, OCI_MANIFEST, raw)


def test_tag_parameters(wire: Connection, repository: str) -> None:
    raw = small_image(repository)[0]
    digest = digest_of(raw)
    target = f"/v2/{repository}/manifests/{digest}?{query(tag='a')}&{query(tag='b')}&tag=a"
    created = wire.request("PUT", target, {"Content-Type": OCI_MANIFEST}, raw)
    assert created.status == 201
    listed = [tag.strip() for value in created.all("oci-tag") for tag in value.split(",")]
    assert listed == ["a", "b"]
    assert created.header("docker-content-digest") == digest
    for tag in ("a", "b"):
        assert wire.request("HEAD", f"/v2/{repository}/manifests/{tag}").header("docker-content-digest") == digest
    assert wire.request("GET", f"/v2/{repository}/tags/list").json["tags"] == ["a", "b"]


@ALGORITHMS
def test_a_tag_answers_the_digest_that_it_was_pushed_by(wire: Connection, repository: str, algorithm: str) -> None:
    raw = small_image(repository)[0]
    digest = digest_of(raw, algorithm)
    target = f"/v2/{repository}/manifests/{digest}?tag=v1"
    assert wire.request("PUT", target, {"Content-Type": OCI_MANIFEST}, raw).status == 201
    for reference in ("v1", digest):
        answer = wire.request("GET", f"/v2/{repository}/manifests/{reference}")
        assert (answer.body, answer.header("docker-content-digest")) == (raw, digest)


def test_bytes_of_another_digest_are_refused(wire: Connection, repository: str) -> None:
    raw, other = small_image("one")[0], digest_of(small_image("two")[0])
    target = f"/v2/{repository}/manifests/{other}?tag=v1"
    refused = wire.request("PUT", target, {"Content-Type": OCI_MANIFEST}, raw)
    assert (refused.status, refused.error) == (400, "DIGEST_INVALID")
    for reference in (other, digest_of(raw), "v1"):
        assert wire.request("GET", f"/v2/{repository}/manifests/{reference}").error == "MANIFEST_UNKNOWN"


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
@pytest.mark.parametrize("reference", ["sha256:baddigeststring", "md5:" + "0" * 32, "sha256:" + "g" * 64])
def test_a_malformed_digest_is_400(wire: Connection, repository: str, method: str, reference: str) -> None:
    body = small_image("any")[0] if method == "PUT" else None
    answer = wire.request(method, f"/v2/{repository}/manifests/{reference}", {"Content-Type": OCI_MANIFEST}, body)
    assert answer.status == 400
    if method != "HEAD":
        assert answer.error == "DIGEST_INVALID"


@pytest.mark.parametrize("reference", ["missing", digest_of(b"never"), digest_of(b"never", "sha512")])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_what_was_never_pushed_is_404(wire: Connection, repository: str, method: str, reference: str) -> None:
    push_image(wire, repository, "v1")
    for name in (repository, f"{repository}/never"):
        answer = wire.request(method, f"/v2/{name}/manifests/{reference}")
        assert answer.status == 404
        if method != "HEAD":
            assert answer.error == "MANIFEST_UNKNOWN"


@ALGORITHMS
def test_deleting_a_digest_takes_its_tags(wire: Connection, repository: str, algorithm: str) -> None:
    raw = small_image(repository)[0]
    digest = digest_of(raw, algorithm)
    target = f"/v2/{repository}/manifests/{digest}?tag=a&tag=b"
    assert wire.request("PUT", target, {"Content-Type": OCI_MANIFEST}, raw).status == 201
    other = push_image(wire, repository, "other")
    push_manifest(wire, f"{repository}/second", "v1", raw)
    deleted = wire.request("DELETE", f"/v2/{repository}/manifests/{digest}")
    assert (deleted.status, deleted.body) == (202, b"")
    for reference in (digest, "a", "b"):
        assert wire.request("HEAD", f"/v2/{repository}/manifests/{reference}").status == 404
    assert wire.request("GET", f"/v2/{repository}/tags/list").json["tags"] == ["other"]
    assert wire.request("GET", f"/v2/{repository}/manifests/other").body == other
    assert wire.request("GET", f"/v2/{repository}/second/manifests/v1").body == raw
    assert wire.request("DELETE", f"/v2/{repository}/manifests/{digest}").status == 404


def test_deleting_a_tag_leaves_its_manifest(wire: Connection, repository: str) -> None:
    raw = push_image(wire, repository, "a")
    push_manifest(wire, repository, "b", raw)
    assert wire.request("DELETE", f"/v2/{repository}/manifests/a").status == 202
    assert wire.request("HEAD", f"/v2/{repository}/manifests/a").status == 404
    for reference in ("b", digest_of(raw)):
        assert wire.request("GET", f"/v2/{repository}/manifests/{reference}").body == raw
    assert wire.request("DELETE", f"/v2/{repository}/manifests/a").error == "MANIFEST_UNKNOWN"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_if_none_match(wire: Connection, repository: str, method: str) -> None:
    raw = push_image(wire, repository, "v1")
    target, tag = f"/v2/{repository}/manifests/v1", f'"{digest_of(raw)}"'
    for value in (tag, "*", f'"x", {tag}'):
        answer = wire.request(method, target, {"If-None-Match": value})
        assert (answer.status, answer.body, answer.header("etag")) == (304, b"", tag)
    other = wire.request(method, target, {"If-None-Match": '"x"'})
    assert (other.status, other.header("content-length")) == (200, str(len(raw)))


def _broken(**changes: object) -> bytes:
    return json.dumps({**json.loads(_plain()), **changes}).encode()


BAD = {
    "no JSON": b"hello",
    "nothing": b"",
    "no object": b"[]",
    "cut": _plain()[:-1],
    "more behind": _plain() + b"{}",
    "no UTF-8": b'{"schemaVersion":2,"x":"\xff"}',
    "a byte order mark": b"\xef\xbb\xbf" + _plain(),
    "NaN": _plain()[:-1] + b',"x":NaN}',
    "a key twice": _plain()[:-1] + b',"config":{}}',
    "a lone surrogate": _plain()[:-1] + b',"annotations":{"x":"\\ud800"}}',
    "deep": _plain()[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a huge number": _plain()[:-1] + b',"x":' + b"9" * 100_000 + b"}",
    "schemaVersion text": _broken(schemaVersion="2"),
    "schemaVersion true": _broken(schemaVersion=True),
    "schemaVersion 3": _broken(schemaVersion=3),
    "no config": _broken(config=None),
    "config a list": _broken(config=[]),
    "layers an object": _broken(layers={}),
    "a layer without digest": _broken(layers=[{"mediaType": OCI_LAYER, "size": 1}]),
    "a bad digest within": _broken(layers=[{"mediaType": OCI_LAYER, "size": 1, "digest": "sha256:../../x"}]),
    "a size below 0": _broken(layers=[{**MISSING, "mediaType": OCI_LAYER, "size": -1}]),
    "a size of text": _broken(layers=[{**MISSING, "mediaType": OCI_LAYER, "size": "12"}]),
    "a size beyond 63 bits": _broken(layers=[{**MISSING, "mediaType": OCI_LAYER, "size": 2**70}]),
    "annotations of numbers": _broken(annotations={"a": 1}),
    "annotations a list": _broken(annotations=["a"]),
    "subject a text": _broken(subject="sha256:x"),
    "subject without digest": _broken(subject={"mediaType": OCI_MANIFEST, "size": 1}),
    "artifactType a number": _broken(artifactType=1),
    "mediaType a number": _broken(mediaType=1),
    "mediaType another": _broken(mediaType=DOCKER_MANIFEST),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_manifest_is_refused_and_nothing_is_kept(wire: Connection, repository: str, kind: str) -> None:
    raw = BAD[kind]
    refused = wire.request("PUT", f"/v2/{repository}/manifests/v1", {"Content-Type": OCI_MANIFEST}, raw)
    assert (refused.status, refused.error) == (400, "MANIFEST_INVALID")
    assert "manifest" in refused.message.lower() or "Content-Type" in refused.message
    for reference in ("v1", digest_of(raw)):
        assert wire.request("GET", f"/v2/{repository}/manifests/{reference}").status == 404
    assert wire.request("GET", f"/v2/{repository}/tags/list").status == 404


@pytest.mark.parametrize("content_type", ["", "x", "a/b/c", "text/\xe4", "application/ json", "a" * 300 + "/b"])
def test_a_bad_media_type_is_refused(wire: Connection, repository: str, content_type: str) -> None:
    raw = b'{"hello":"world"}'
    refused = wire.request("PUT", f"/v2/{repository}/manifests/v1", {"Content-Type": content_type}, raw)
    assert (refused.status, refused.error) == (400, "MANIFEST_INVALID")


def test_parameters_of_the_content_type_are_no_part_of_it(wire: Connection, repository: str) -> None:
    raw = small_image(repository)[0]
    headers = {"Content-Type": f"{OCI_MANIFEST}; charset=utf-8"}
    assert wire.request("PUT", f"/v2/{repository}/manifests/v1", headers, raw).status == 201
    assert wire.request("GET", f"/v2/{repository}/manifests/v1").header("content-type") == OCI_MANIFEST


SCHEMA1 = b'{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[],"history":[],"signatures":[]}'


@pytest.mark.parametrize("kind", ["json", "manifest.v1+json", "manifest.v1+prettyjws"])
def test_schema_1_is_refused_by_name(wire: Connection, repository: str, kind: str) -> None:
    media_type = "application/json" if kind == "json" else f"application/vnd.docker.distribution.{kind}"
    refused = wire.request("PUT", f"/v2/{repository}/manifests/v1", {"Content-Type": media_type}, SCHEMA1)
    assert (refused.status, refused.error) == (400, "MANIFEST_INVALID")
    assert "schema 1" in refused.message


@pytest.mark.parametrize("streamed", [False, True])
def test_a_manifest_above_the_limit_is_413(wire: Connection, repository: str, streamed: bool) -> None:
    raw = _plain(annotations={"x": "A" * (8 * 1024 * 1024)})
    target, headers = f"/v2/{repository}/manifests/v1", {"Content-Type": OCI_MANIFEST}
    if streamed:
        parts = [raw[at : at + 500_000] for at in range(0, len(raw), 500_000)]
        refused = wire.request("PUT", target, headers, chunks=parts)
    else:
        refused = wire.request("PUT", target, headers, raw)
    assert (refused.status, refused.error) == (413, "MANIFEST_TOO_LARGE")


@pytest.mark.parametrize("tag", ["a", "_", "0", "A.b-c_D", "v" * 128])
def test_every_lawful_tag(wire: Connection, repository: str, tag: str) -> None:
    raw = small_image(repository)[0]
    push_manifest(wire, repository, tag, raw)
    assert wire.request("GET", f"/v2/{repository}/manifests/{tag}").body == raw


@pytest.mark.parametrize("tag", ["-a", ".a", "v" * 129, "a%20b", "a%2Bb", "%C3%BC", "a@b", "%2e%2e", "a,b", "a%0Ab"])
@pytest.mark.parametrize("way", ["path", "parameter"])
def test_every_other_tag_is_refused(wire: Connection, repository: str, tag: str, way: str) -> None:
    raw = small_image(repository)[0]
    reference = tag if way == "path" else f"{digest_of(raw)}?tag={tag}"
    refused = wire.request("PUT", f"/v2/{repository}/manifests/{reference}", {"Content-Type": OCI_MANIFEST}, raw)
    assert (refused.status, refused.error) == (400, "TAG_INVALID")
    assert wire.request("GET", f"/v2/{repository}/manifests/{digest_of(raw)}").status == 404
