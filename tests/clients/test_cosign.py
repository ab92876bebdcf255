"""cosign: signatures beside an image, as referrers and as tags. Nothing is asked of a public service: the key is a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests import images
from tests.accounts import PASSWORD
from tests.clients import wire
from tests.clients.hubs import EVERY_HUB, USER, Hub
from tests.clients.test_crane import Crane
from tests.servers import ServerError

OFFLINE = ["--use-signing-config=false", "--tlog-upload=false", "--key=cosign.key"]
VERIFY = ["--key=cosign.pub", "--insecure-ignore-tlog"]


class Cosign:
    """cosign with a key pair and a configuration of its own, which is that of the crane beside it: they keep log-ins in one file."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self._hub, self._directory = hub, directory
        own = {"COSIGN_PASSWORD": "", "HOME": str(directory), "DOCKER_CONFIG": str(directory), "COSIGN_YES": "true"}
        self._environment = os.environ | own
        self._reach = f"--registry-cacert={hub.authority}" if hub.authority else "--allow-http-registry"
        self._run("generate-key-pair")

    def __call__(self, verb: str, *arguments: str) -> str:
        return self._run(verb, self._reach, *arguments)

    def login(self, name: str, password: str = PASSWORD) -> None:
        self._run("login", self._hub.address, "-u", name, "--password-stdin", stdin=password.encode())

    def _run(self, *arguments: str, stdin: bytes = b"") -> str:
        return self._hub.run("cosign", *arguments, environment=self._environment, cwd=self._directory, stdin=stdin)


@pytest.fixture
def crane(hub: Hub, tmp_path: Path) -> Crane:
    return Crane(hub, tmp_path)


@pytest.fixture
def cosign(hub: Hub, tmp_path: Path) -> Cosign:
    program = Cosign(hub, tmp_path)
    if hub.authority:
        program.login(USER)
    return program


@EVERY_HUB
def test_a_signature_is_a_referrer(cosign: Cosign, crane: Crane, hub: Hub, tmp_path: Path) -> None:
    sent = images.small("signed")
    name = f"{hub.address}/cosign/bundle"
    crane.push_image(sent, f"{name}:1")
    cosign("sign", *OFFLINE, "--new-bundle-format=true", f"{name}@{sent.digest}")
    (signature,) = wire.referrers(hub.witness, "cosign/bundle", sent.digest)
    assert signature["artifactType"].startswith("application/vnd.dev.sigstore.bundle")
    (verified,) = json.loads(cosign("verify", *VERIFY, "--new-bundle-format=true", f"{name}:1"))
    assert verified["critical"]["image"]["docker-manifest-digest"] == sent.digest
    layer = wire.manifest(hub.witness, "cosign/bundle", signature["digest"]).json["layers"][0]["digest"]
    assert layer in cosign("tree", f"{name}:1")


def test_a_signature_under_a_tag(cosign: Cosign, crane: Crane, hub: Hub, tmp_path: Path) -> None:
    sent = images.small("signed by tag")
    name = f"{hub.address}/cosign/tag"
    crane.push_image(sent, f"{name}:1")
    cosign("sign", *OFFLINE, "--new-bundle-format=false", f"{name}@{sent.digest}")
    assert wire.tags(hub.witness, "cosign/tag") == ["1", f"{sent.digest.replace(':', '-')}.sig"]
    (verified,) = json.loads(cosign("verify", *VERIFY, "--new-bundle-format=false", f"{name}:1"))
    assert verified["critical"]["image"]["docker-manifest-digest"] == sent.digest


def test_an_image_that_nobody_signed_is_refused(cosign: Cosign, crane: Crane, hub: Hub, tmp_path: Path) -> None:
    crane.push_image(images.small("unsigned"), f"{hub.address}/cosign/unsigned:1")
    with pytest.raises(ServerError, match="no signatures found"):
        cosign("verify", *VERIFY, f"{hub.address}/cosign/unsigned:1")


def test_an_attestation_and_a_whole_copy(cosign: Cosign, crane: Crane, hub: Hub, tmp_path: Path) -> None:
    sent = images.small("attested")
    name = f"{hub.address}/cosign/attested"
    crane.push_image(sent, f"{name}:1")
    (tmp_path / "predicate.json").write_text('{"built": "by tests"}')
    kind = ["--type=https://example.com/built"]
    cosign("attest", *OFFLINE, *kind, "--predicate=predicate.json", f"{name}@{sent.digest}")
    cosign("verify-attestation", *VERIFY, *kind, f"{name}:1")
    cosign("copy", f"{name}:1", f"{hub.address}/cosign/copied:1")
    assert wire.digest_of(hub.witness, "cosign/copied", "1") == sent.digest
