"""What a registry holds, asked over plain HTTP: the neutral witness of what a client pushed."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.images import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

ANY_MANIFEST = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers by lower-case name, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.body)
        return parsed


def ask(address: str, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """One request on a connection of its own."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def manifest(address: str, repository: str, reference: str) -> Answer:
    """GET of a manifest, any type. Its body has the digest that its header and the reference say, or AssertionError."""
    answer = ask(address, "GET", f"/v2/{repository}/manifests/{reference}", {"Accept": ANY_MANIFEST})
    if answer.status == 200:
        digest = "sha256:" + hashlib.sha256(answer.body).hexdigest()
        assert answer.headers["docker-content-digest"] == digest
        assert reference == digest or not reference.startswith("sha256:")
    return answer


def digest_of(address: str, repository: str, reference: str) -> str:
    """The digest of what a reference names, computed from its bytes."""
    answer = manifest(address, repository, reference)
    assert answer.status == 200, (repository, reference, answer)
    return answer.headers["docker-content-digest"]


def is_gone(address: str, repository: str, reference: str) -> bool:
    return manifest(address, repository, reference).status == 404


def tags(address: str, repository: str) -> list[str]:
    found: list[str] = ask(address, "GET", f"/v2/{repository}/tags/list").json["tags"]
    return found


def referrers(address: str, repository: str, digest: str) -> list[dict[str, Any]]:
    """The descriptors of the referrers API."""
    answer = ask(address, "GET", f"/v2/{repository}/referrers/{digest}")
    assert answer.status == 200
    assert answer.headers["content-type"] == OCI_INDEX
    found: list[dict[str, Any]] = answer.json["manifests"]
    return found
