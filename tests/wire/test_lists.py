"""Tags, the catalogue and referrers (distribution-spec end-8, end-12; the catalogue is Docker's).

Cases of the OCI suite that are held here: empty tag list and empty referrers, tags with n, last and last without n, in byte
order; referrers with and without a filter, artifacts with subject, index with subject, missing subject, annotations copied,
artifactType from the config's media type.
"""

from __future__ import annotations

import json
import re

import pytest

from tests.images import OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from tests.servers import Server
from tests.wire.client import Answer, Connection
from tests.wire.content import (
    JSON,
    artifact,
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

NAMES = ["B", "a", "Z9", "_x", "a.1", "a-1", "a_1", "aa", "0", "10", "9", "latest"]
IN_BYTE_ORDER = sorted(NAMES, key=str.encode)


@pytest.fixture
def tagged(wire: Connection, repository: str) -> str:
    raw, _ = small_image(repository)
    for name in NAMES:
        push_manifest(wire, repository, name, raw)
    return repository


def follow(answer: Answer) -> str | None:
    """The target of the link to the next page."""
    link = answer.header("link")
    if link is None:
        return None
    found = re.fullmatch(r'<(/v2/[^>]+)>; rel="next"', link)
    assert found, link
    return found[1]


def test_all_tags_in_byte_order(wire: Connection, tagged: str) -> None:
    answer = wire.request("GET", f"/v2/{tagged}/tags/list")
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    assert answer.json == {"name": tagged, "tags": IN_BYTE_ORDER}
    assert answer.header("content-length") == str(len(answer.body))
    assert answer.header("link") is None
    head = wire.request("HEAD", f"/v2/{tagged}/tags/list")
    assert (head.status, head.body, head.header("content-length")) == (200, b"", str(len(answer.body)))


@pytest.mark.parametrize("size", [1, 5, 11, 12, 13])
def test_pages_of_tags(wire: Connection, tagged: str, size: int) -> None:
    target: str | None = f"/v2/{tagged}/tags/list?n={size}"
    pages: list[list[str]] = []
    while target is not None:
        answer = wire.request("GET", target)
        assert answer.status == 200
        pages.append(answer.json["tags"])
        target = follow(answer)
    assert pages == [IN_BYTE_ORDER[at : at + size] for at in range(0, len(NAMES), size)]


@pytest.mark.parametrize("last", [*NAMES, "A", "zzz", "a.0", "%00"[:0], "\u00fc"])
def test_last_without_n(wire: Connection, tagged: str, last: str) -> None:
    answer = wire.request("GET", f"/v2/{tagged}/tags/list?{query(last=last)}")
    assert answer.json["tags"] == [name for name in IN_BYTE_ORDER if name.encode() > last.encode()]


@pytest.mark.parametrize("path", ["/v2/{}/tags/list", "/v2/_catalog"])
def test_n_of_0_is_an_empty_page(wire: Connection, tagged: str, path: str) -> None:
    answer = wire.request("GET", path.format(tagged) + "?n=0")
    assert (answer.status, follow(answer)) == (200, None)
    assert [] in answer.json.values()


@pytest.mark.parametrize("path", ["/v2/{}/tags/list", "/v2/_catalog"])
@pytest.mark.parametrize("bad", ["-1", "x", "1.5", "", "%C2%B2", "1e3", "0x10", "+1", "1%20"])
def test_a_bad_n_is_400(wire: Connection, tagged: str, path: str, bad: str) -> None:
    answer = wire.request("GET", path.format(tagged) + f"?n={bad}")
    assert (answer.status, answer.error) == (400, "PAGINATION_NUMBER_INVALID")


@pytest.mark.parametrize("size", ["12", "10001", "99999999999999999999999", "0000000000000000012"])
def test_a_large_n_is_bounded_not_refused(wire: Connection, tagged: str, size: str) -> None:
    answer = wire.request("GET", f"/v2/{tagged}/tags/list?n={size}")
    assert answer.json["tags"] == IN_BYTE_ORDER


def test_tags_of_an_unknown_repository(wire: Connection, repository: str) -> None:
    answer = wire.request("GET", f"/v2/{repository}/tags/list")
    assert (answer.status, answer.error) == (404, "NAME_UNKNOWN")
    assert repository in answer.message


def test_a_repository_without_tags_has_an_empty_list(wire: Connection, repository: str) -> None:
    raw = push_image(wire, repository, "only")
    assert wire.request("DELETE", f"/v2/{repository}/manifests/only").status == 202
    assert wire.request("GET", f"/v2/{repository}/tags/list").json == {"name": repository, "tags": []}
    assert wire.request("GET", f"/v2/{repository}/manifests/{digest_of(raw)}").body == raw


def test_a_tag_is_listed_and_gone_at_once(wire: Connection, repository: str, hub: Server) -> None:
    raw, _ = small_image(repository)
    with Connection(hub.address) as other:
        for round_number in range(5):
            push_manifest(wire, repository, "t", raw)
            assert other.request("GET", f"/v2/{repository}/tags/list").json["tags"] == ["t"], round_number
            assert other.request("HEAD", f"/v2/{repository}/manifests/t").status == 200
            assert wire.request("DELETE", f"/v2/{repository}/manifests/t").status == 202
            assert other.request("GET", f"/v2/{repository}/tags/list").json["tags"] == []
            assert other.request("HEAD", f"/v2/{repository}/manifests/t").status == 404


def test_pages_of_the_catalogue(wire: Connection, repository: str) -> None:
    names = [f"{repository}/{name}" for name in ("a", "a-b", "a/b", "a.b", "a0", "b")]
    for name in names:
        push_blob(wire, name, b"{}")
    whole = wire.request("GET", "/v2/_catalog")
    assert (whole.status, whole.header("content-type")) == (200, "application/json")
    everything = whole.json["repositories"]
    assert everything == sorted(everything, key=str.encode)
    assert set(names) <= set(everything)
    target: str | None = f"/v2/_catalog?n=4&{query(last=repository)}"
    walked: list[str] = []
    while target is not None and len(walked) < len(names):
        answer = wire.request("GET", target)
        assert len(answer.json["repositories"]) <= 4
        walked += answer.json["repositories"]
        target = follow(answer)
    assert walked[: len(names)] == sorted(names, key=str.encode)


TYPES = ["application/vnd.example.one+json", "application/vnd.example.two"]


@pytest.fixture
def referred(wire: Connection, repository: str) -> tuple[JSON, dict[str, JSON]]:
    """A subject's descriptor, and the descriptors that its referrers must have, by digest."""
    subject = descriptor(OCI_MANIFEST, push_image(wire, repository, "subject"))
    push_blob(wire, repository, b"{}")
    expected: dict[str, JSON] = {}
    for artifact_type in TYPES:
        raw = artifact(artifact_type, artifact_type, subject, annotations={"a": "1", "ü": "x"})
        expected[digest_of(raw)] = descriptor(
            OCI_MANIFEST, raw, artifactType=artifact_type, annotations={"a": "1", "ü": "x"}
        )
        created = push_manifest(wire, repository, digest_of(raw), raw)
        assert created.header("oci-subject") == subject["digest"]
    by_config = image(descriptor(OCI_EMPTY, b"{}"), [], subject=subject)
    expected[digest_of(by_config)] = descriptor(OCI_MANIFEST, by_config, artifactType=OCI_EMPTY)
    an_index = index([], subject=subject, artifactType=TYPES[0], annotations={"i": "2"})
    expected[digest_of(an_index)] = descriptor(OCI_INDEX, an_index, artifactType=TYPES[0], annotations={"i": "2"})
    plain_index = index([], subject=subject)
    expected[digest_of(plain_index)] = descriptor(OCI_INDEX, plain_index)
    push_manifest(wire, repository, "by-config", by_config)
    push_manifest(wire, repository, "an-index", an_index, OCI_INDEX)
    push_manifest(wire, repository, "plain-index", plain_index, OCI_INDEX)
    return subject, expected


def test_referrers(wire: Connection, repository: str, referred: tuple[JSON, dict[str, JSON]]) -> None:
    subject, expected = referred
    answer = wire.request("GET", f"/v2/{repository}/referrers/{subject['digest']}")
    assert (answer.status, answer.header("content-type")) == (200, OCI_INDEX)
    assert answer.header("oci-filters-applied") is None
    assert answer.json["schemaVersion"] == 2
    assert answer.json["mediaType"] == OCI_INDEX
    assert {item["digest"]: item for item in answer.json["manifests"]} == expected
    head = wire.request("HEAD", f"/v2/{repository}/referrers/{subject['digest']}")
    assert (head.status, head.header("content-length")) == (200, str(len(answer.body)))


@pytest.mark.parametrize("artifact_type", [*TYPES, OCI_EMPTY, "application/vnd.nobody", "%"])
def test_referrers_of_one_type(
    wire: Connection, repository: str, referred: tuple[JSON, dict[str, JSON]], artifact_type: str
) -> None:
    subject, expected = referred
    target = f"/v2/{repository}/referrers/{subject['digest']}?{query(artifactType=artifact_type)}"
    answer = wire.request("GET", target)
    assert (answer.status, answer.header("oci-filters-applied")) == (200, "artifactType")
    wanted = {key: item for key, item in expected.items() if item.get("artifactType") == artifact_type}
    assert {item["digest"]: item for item in answer.json["manifests"]} == wanted


def test_a_deleted_referrer_is_gone_at_once(
    wire: Connection, repository: str, referred: tuple[JSON, dict[str, JSON]]
) -> None:
    subject, expected = referred
    for digest in list(expected):
        assert wire.request("DELETE", f"/v2/{repository}/manifests/{digest}").status == 202
        del expected[digest]
        answer = wire.request("GET", f"/v2/{repository}/referrers/{subject['digest']}")
        assert {item["digest"] for item in answer.json["manifests"]} == set(expected)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_missing_subject_has_referrers(wire: Connection, repository: str, algorithm: str) -> None:
    subject = descriptor(OCI_MANIFEST, b"missing content", algorithm)
    raw = artifact("x", TYPES[0], subject)
    created = push_manifest(wire, repository, "t", raw)
    assert created.header("oci-subject") == subject["digest"]
    answer = wire.request("GET", f"/v2/{repository}/referrers/{subject['digest']}")
    assert [item["digest"] for item in answer.json["manifests"]] == [digest_of(raw)]


@pytest.mark.parametrize("parameters", ["", "?artifactType=a/b", "?last=x"])
def test_referrers_of_what_nobody_knows_are_an_empty_index(wire: Connection, repository: str, parameters: str) -> None:
    answer = wire.request("GET", f"/v2/{repository}/referrers/{digest_of(b'')}{parameters}")
    assert (answer.status, answer.header("content-type")) == (200, OCI_INDEX)
    assert answer.json == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


def test_referrers_of_a_bad_digest(wire: Connection, repository: str) -> None:
    answer = wire.request("GET", f"/v2/{repository}/referrers/sha256:x")
    assert (answer.status, answer.error) == (400, "DIGEST_INVALID")


def test_referrers_of_another_repository_stay_there(
    wire: Connection, repository: str, referred: tuple[JSON, dict[str, JSON]]
) -> None:
    answer = wire.request("GET", f"/v2/{repository}/other/referrers/{referred[0]['digest']}")
    assert answer.json["manifests"] == []


def test_pages_of_referrers_are_at_most_4_mib(wire: Connection, repository: str) -> None:
    subject = descriptor(OCI_MANIFEST, b"large subject")
    expected = set()
    for number in range(6):
        raw = artifact("x", TYPES[number % 2], subject, annotations={"n": str(number), "x": "A" * 1_000_000})
        expected.add(digest_of(raw))
        push_manifest(wire, repository, digest_of(raw), raw)
    for parameters, wanted in (("", 6), (f"?{query(artifactType=TYPES[0])}", 3)):
        target: str | None = f"/v2/{repository}/referrers/{subject['digest']}{parameters}"
        found: list[str] = []
        pages = 0
        while target is not None:
            answer = wire.request("GET", target)
            assert len(answer.body) <= 4 * 1024 * 1024
            assert answer.header("oci-filters-applied") == ("artifactType" if parameters else None)
            found += [item["digest"] for item in json.loads(answer.body)["manifests"]]
            pages += 1
            target = follow(answer)
        assert len(found) == len(set(found)) == wanted
        assert set(found) <= expected
        assert pages == (2 if wanted == 6 else 1)
