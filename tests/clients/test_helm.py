"""helm: charts as OCI artifacts."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.accounts import PASSWORD
from tests.clients import wire
from tests.clients.hubs import EVERY_HUB, USER, Hub
from tests.tools import tool


class Helm:
    """helm with every directory of its own below one. ``reach``: the option by which its verbs speak with the hub."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self._hub, self._directory = hub, directory
        self.reach = f"--ca-file={hub.authority}" if hub.authority else "--plain-http"
        homes = {f"HELM_{kind}_HOME": str(directory / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        self._environment = os.environ | homes | {"DOCKER_CONFIG": str(directory), "HOME": str(directory)}

    def __call__(self, *arguments: str, stdin: bytes = b"") -> str:
        """Run helm; what it said on both outputs, since it reports digests on the one or the other."""
        command = ("sh", "-c", '"$0" "$@" 2>&1', str(tool("helm")), *arguments)
        return self._hub.run(*command, environment=self._environment, cwd=self._directory, stdin=stdin)

    def login(self, name: str, password: str = PASSWORD) -> None:
        log_in = ("registry", "login", self._hub.address, "-u", name, "--password-stdin", self.reach)
        self(*log_in, stdin=password.encode())

    def logout(self) -> None:
        self("registry", "logout", self._hub.address)


@pytest.fixture
def helm(hub: Hub, tmp_path: Path) -> Helm:
    program = Helm(hub, tmp_path)
    if hub.authority:
        program.login(USER)
    return program


def package(helm: Helm, directory: Path, version: str, name: str = "chart") -> bytes:
    """Package a chart of one version; its bytes, which lie at DIRECTORY/NAME-VERSION.tgz."""
    source = directory / "source" / version / name
    (source / "templates").mkdir(parents=True)
    (source / "Chart.yaml").write_text(f"apiVersion: v2\nname: {name}\nversion: {version}\n")
    (source / "templates/note.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: note}\ndata: {said: {{ .Values.said | quote }}}\n"
    )
    (source / "values.yaml").write_text(f"said: version {version}\n")
    helm("package", str(source))
    return (directory / f"{name}-{version}.tgz").read_bytes()


def said_digest(output: str) -> str:
    said = re.search(r"Digest: (sha256:[0-9a-f]{64})", output)
    assert said, output
    return said[1]


@EVERY_HUB
def test_push_then_pull_by_version_and_digest(helm: Helm, hub: Hub, tmp_path: Path) -> None:
    name = f"oci://{hub.address}/helm"
    charts = {version: package(helm, tmp_path, version) for version in ("0.1.0", "0.2.0+build.5")}
    digests = {}
    for version, chart in charts.items():
        digests[version] = said_digest(helm("push", helm.reach, f"chart-{version}.tgz", name))
        tag = version.replace("+", "_")
        answer = wire.manifest(hub.witness, "helm/chart", tag)
        assert answer.headers["docker-content-digest"] == digests[version]
        assert answer.json["config"]["mediaType"] == "application/vnd.cncf.helm.config.v1+json"
        (tmp_path / "by-tag").mkdir(exist_ok=True)
        pulled = helm("pull", helm.reach, f"{name}/chart", "--version", version, "-d", "by-tag")
        assert said_digest(pulled) == digests[version]
        assert (tmp_path / "by-tag" / f"chart-{version}.tgz").read_bytes() == chart
    assert wire.tags(hub.witness, "helm/chart") == ["0.1.0", "0.2.0_build.5"]
    helm("pull", helm.reach, f"{name}/chart@{digests['0.1.0']}", "-d", "by-tag", "--untar")
    assert (tmp_path / "by-tag/chart/values.yaml").read_text() == "said: version 0.1.0\n"


def test_the_newest_version_is_found_and_rendered(helm: Helm, hub: Hub, tmp_path: Path) -> None:
    """Without ``--version`` helm lists the tags and takes the greatest."""
    name = f"oci://{hub.address}/helm-newest"
    for version in ("1.0.0", "1.10.0", "1.9.0"):
        package(helm, tmp_path, version)
        helm("push", helm.reach, f"chart-{version}.tgz", name)
    assert "version 1.10.0" in helm("template", helm.reach, "release", f"{name}/chart")
    assert "version: 1.9.0" in helm("show", "chart", helm.reach, f"{name}/chart", "--version", "~1.9")
