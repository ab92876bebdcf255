"""Clients that are sent to S3 itself for large blobs (``--s3-redirect``), from TLS here to plain HTTP there.

MinIO is the one that refuses a request with an Authorization beside the signature in its URL, so none of those that pull sends it there.
regctl goes from https to https only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests import images, servers
from tests.accounts import PASSWORD
from tests.clients.hubs import USER, Hub, scaled_hub
from tests.clients.wire import ask
from tests.postgres import Postgres
from tests.servers import Containers, Docker, ServerError

LAYER = 1
"""Megabytes."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, postgres_server: Postgres) -> Iterator[Hub]:
    with scaled_hub(tmp_path_factory.mktemp("redirecting"), postgres_server, "--s3-redirect", kind="minio") as running:
        yield running


@pytest.fixture
def content(hub: Hub, tmp_path: Path) -> images.Content:
    """A large image, pushed as ``app:1``."""
    environment = client_environment(hub, tmp_path)
    made = images.large(LAYER)
    layout = images.write_layout(tmp_path / "layout", only=made)
    hub.run("crane", "push", str(layout), f"{hub.address}/app:1", environment=environment, cwd=tmp_path)
    return made


def client_environment(hub: Hub, directory: Path) -> dict[str, str]:
    """For crane and regctl, logged in."""
    own = {"DOCKER_CONFIG": str(directory), "HOME": str(directory), "REGCTL_CONFIG": str(directory / "regctl.json")}
    environment = os.environ | own
    log_in = ("auth", "login", hub.address, "-u", USER, "--password-stdin")
    hub.run("crane", *log_in, environment=environment, cwd=directory, stdin=PASSWORD.encode())
    return environment


def test_what_is_sent_elsewhere(hub: Hub, content: images.Content) -> None:
    layer, config = content.json["layers"][0]["digest"], content.json["config"]["digest"]
    answer = ask(hub.witness, "GET", f"/v2/app/blobs/{layer}")
    assert answer.status == 307
    there = urlsplit(answer.headers["location"])
    assert (there.scheme, there.hostname) == ("http", "127.0.0.1")
    for headers, status in (({}, 200), ({"Authorization": "Bearer a-token"}, 400)):
        assert ask(there.netloc, "GET", f"{there.path}?{there.query}", headers).status == status
    assert ask(hub.witness, "GET", f"/v2/app/blobs/{config}").status == 200
    assert ask(hub.witness, "HEAD", f"/v2/app/blobs/{layer}").status == 200


def test_crane(hub: Hub, content: images.Content, tmp_path: Path) -> None:
    environment = client_environment(hub, tmp_path)
    hub.run("crane", "pull", "--format=oci", f"{hub.address}/app:1", "back", environment=environment, cwd=tmp_path)
    check_layout(tmp_path / "back", content)


def test_regctl_leaves_tls_for_nobody(hub: Hub, content: images.Content, tmp_path: Path) -> None:
    environment = client_environment(hub, tmp_path)
    copy = ("image", "copy", f"{hub.address}/app:1", "ocidir://back")
    with pytest.raises(ServerError, match="redirect from an https to non-https server is not allowed"):
        hub.run("regctl", *copy, environment=environment, cwd=tmp_path)


def test_docker(hub: Hub, content: images.Content, docker: Docker) -> None:
    docker("login", hub.address, "-u", USER, "--password-stdin", stdin=PASSWORD.encode())
    docker("pull", f"{hub.address}/app:1")
    (pulled,) = json.loads(docker("image", "inspect", f"{hub.address}/app:1"))
    assert pulled["RepoDigests"] == [f"{hub.address}/app@{content.digest}"]
    docker("rmi", f"{hub.address}/app:1")


@pytest.fixture(scope="module")
def containers(hub: Hub) -> Iterator[Containers]:
    with servers.containers(trusting=hub.authority) as surroundings:
        log_in = ("login", "-u", USER, "--password-stdin", "--tls-verify=true", hub.address)
        surroundings("podman", *log_in, stdin=PASSWORD.encode())
        yield surroundings


def test_podman(hub: Hub, content: images.Content, containers: Containers) -> None:
    containers("podman", "pull", "-q", f"{hub.address}/app:1")
    assert json.loads(containers("podman", "image", "inspect", f"{hub.address}/app:1"))[0]["Digest"] == content.digest


def test_skopeo(hub: Hub, content: images.Content, containers: Containers, tmp_path: Path) -> None:
    containers("skopeo", "copy", "--preserve-digests", f"docker://{hub.address}/app:1", f"oci:{tmp_path}/back:1")
    check_layout(tmp_path / "back", content)


def check_layout(directory: Path, content: images.Content) -> None:
    for digest, data in content.blobs.items():
        assert (directory / "blobs" / digest.replace(":", "/")).read_bytes() == data
