"""cosign: signatures beside an image, as referrers and as tags. Nothing is asked of a public service: the key is a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import images
from tests.clients import wire
from tests.clients.test_crane import push
from tests.servers import Server, ServerError, run
from tests.tools import tool


class Cosign:
    """cosign with a key pair and a configuration of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        own = {"COSIGN_PASSWORD": "", "HOME": str(directory), "DOCKER_CONFIG": str(directory), "COSIGN_YES": "true"}
        self._environment = os.environ | own
        self("generate-key-pair")

    def __call__(self, *arguments: str) -> str:
        return run([str(tool("cosign")), *arguments], self._environment, cwd=self._directory)


@pytest.fixture
def cosign(tmp_path: Path) -> Cosign:
    return Cosign(tmp_path)


OFFLINE = ["--use-signing-config=false", "--tlog-upload=false", "--key=cosign.key", "--allow-http-registry"]
VERIFY = ["--key=cosign.pub", "--insecure-ignore-tlog", "--allow-http-registry"]


def test_a_signature_is_a_referrer(cosign: Cosign, hub: Server, tmp_path: Path) -> None:
    sent = images.small("signed")
    name = f"{hub.address}/cosign/bundle"
    push(sent, f"{name}:1", tmp_path)
    cosign("sign", *OFFLINE, "--new-bundle-format=true", f"{name}@{sent.digest}")
    (signature,) = wire.referrers(hub.address, "cosign/bundle", sent.digest)
    assert signature["artifactType"].startswith("application/vnd.dev.sigstore.bundle")
    (verified,) = json.loads(cosign("verify", *VERIFY, "--new-bundle-format=true", f"{name}:1"))
    assert verified["critical"]["image"]["docker-manifest-digest"] == sent.digest
    layer = wire.manifest(hub.address, "cosign/bundle", signature["digest"]).json["layers"][0]["digest"]
    assert layer in cosign("tree", "--allow-http-registry", f"{name}:1")


def test_a_signature_under_a_tag(cosign: Cosign, hub: Server, tmp_path: Path) -> None:
    sent = images.small("signed by tag")
    name = f"{hub.address}/cosign/tag"
    push(sent, f"{name}:1", tmp_path)
    cosign("sign", *OFFLINE, "--new-bundle-format=false", f"{name}@{sent.digest}")
    assert wire.tags(hub.address, "cosign/tag") == ["1", f"{sent.digest.replace(':', '-')}.sig"]
    (verified,) = json.loads(cosign("verify", *VERIFY, "--new-bundle-format=false", f"{name}:1"))
    assert verified["critical"]["image"]["docker-manifest-digest"] == sent.digest


def test_an_image_that_nobody_signed_is_refused(cosign: Cosign, hub: Server, tmp_path: Path) -> None:
    push(images.small("unsigned"), f"{hub.address}/cosign/unsigned:1", tmp_path)
    with pytest.raises(ServerError, match="no signatures found"):
        cosign("verify", *VERIFY, f"{hub.address}/cosign/unsigned:1")


def test_an_attestation_and_a_whole_copy(cosign: Cosign, hub: Server, tmp_path: Path) -> None:
    sent = images.small("attested")
    name = f"{hub.address}/cosign/attested"
    push(sent, f"{name}:1", tmp_path)
    (tmp_path / "predicate.json").write_text('{"built": "by tests"}')
    kind = ["--type=https://example.com/built"]
    cosign("attest", *OFFLINE, *kind, "--predicate=predicate.json", f"{name}@{sent.digest}")
    cosign("verify-attestation", *VERIFY, *kind, f"{name}:1")
    cosign("copy", "--allow-http-registry", f"{name}:1", f"{hub.address}/cosign/copied:1")
    assert wire.digest_of(hub.address, "cosign/copied", "1") == sent.digest
