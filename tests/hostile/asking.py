"""What strangers and others send to a hub with accounts: credentials, forms, and a small image."""

from __future__ import annotations

import base64

from tests import images
from tests.accounts import PASSWORD
from tests.wire.client import Connection

FORM = {"content-type": "application/x-www-form-urlencoded"}
PULL = "/v2/team/app/manifests/1"
"""What `push` puts there."""


def basic(name: str, password: str = PASSWORD) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def push(wire: Connection, content: images.Content, headers: dict[str, str], repository: str = "team/app") -> None:
    """Push an image under the tag 1."""
    for digest, blob in content.blobs.items():
        if digest != content.digest:
            answer = wire.request("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", headers, blob)
            assert answer.status == 201, answer
    media_type = {"content-type": content.media_type}
    answer = wire.request("PUT", f"/v2/{repository}/manifests/1", headers | media_type, content.raw)
    assert answer.status == 201, answer
