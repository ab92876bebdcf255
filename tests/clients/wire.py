"""What a registry holds, asked over plain HTTP or TLS: the neutral witness of what a client pushed."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.images import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

ANY_MANIFEST = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))


@dataclass(frozen=True, slots=True)
class Witness:
    """A registry to ask, as whom (NAME:PASSWORD, "" for nobody), and the certificate that it has to prove itself by; None: plain HTTP."""

    address: str
    credentials: str = field(default="", repr=False)
    authority: Path | None = None


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


def ask(at: Witness | str, method: str, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """One request on a connection of its own; an address alone is one of plain HTTP."""
    witness = Witness(at) if isinstance(at, str) else at
    host, _, port = witness.address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    if witness.authority:
        context = ssl.create_default_context(cafile=witness.authority)
        connection = http.client.HTTPSConnection(host, int(port), timeout=60, context=context)
    all_headers = dict(headers or {})
    if witness.credentials:
        all_headers["Authorization"] = f"Basic {base64.b64encode(witness.credentials.encode()).decode()}"
    try:
        connection.request(method, path, headers=all_headers)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def manifest(at: Witness | str, repository: str, reference: str) -> Answer:
    """GET of a manifest, any type. Its body has the digest that its header and the reference say, or AssertionError."""
    answer = ask(at, "GET", f"/v2/{repository}/manifests/{reference}", {"Accept": ANY_MANIFEST})
    if answer.status == 200:
        digest = "sha256:" + hashlib.sha256(answer.body).hexdigest()
        assert answer.headers["docker-content-digest"] == digest
        assert reference == digest or not reference.startswith("sha256:")
    return answer


def digest_of(at: Witness | str, repository: str, reference: str) -> str:
    """The digest of what a reference names, computed from its bytes."""
    answer = manifest(at, repository, reference)
    assert answer.status == 200, (repository, reference, answer)
    return answer.headers["docker-content-digest"]


def is_gone(at: Witness | str, repository: str, reference: str) -> bool:
    return manifest(at, repository, reference).status == 404


def tags(at: Witness | str, repository: str) -> list[str]:
    found: list[str] = ask(at, "GET", f"/v2/{repository}/tags/list").json["tags"]
    return found


def referrers(at: Witness | str, repository: str, digest: str) -> list[dict[str, Any]]:
    """The descriptors of the referrers API."""
    answer = ask(at, "GET", f"/v2/{repository}/referrers/{digest}")
    assert answer.status == 200
    assert answer.headers["content-type"] == OCI_INDEX
    found: list[dict[str, Any]] = answer.json["manifests"]
    return found
