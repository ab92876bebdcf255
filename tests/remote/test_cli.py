"""`portside pull`, `push`, `copy` and `images`, run as people run them."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from oci.digest import Digest
from oci.manifest import Manifest
from tests.remote.content import Content, multi, sample
from tests.remote.faulty import Answer, Request, serving
from tests.remote.test_copy import everything
from tests.servers import Server, portside, wait_until
from tests.tools import tool

Done = subprocess.CompletedProcess[str]


def command(*arguments: str | Path) -> list[str]:
    return [str(tool("portside")), *map(str, arguments)]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path / "docker"), "COLUMNS": "80"}


def run(tmp_path: Path, *arguments: str | Path, code: int = 0) -> Done:
    done = subprocess.run(
        command(*arguments), env=environment(tmp_path), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def layout(tmp_path: Path) -> tuple[Content, Manifest, str]:
    content = Content()
    root = multi(content)
    content.write_layout(tmp_path / "layout", root, "1")
    return content, root, f"oci:{tmp_path}/layout:1"


@pytest.mark.parametrize("verb", ["pull", "push", "copy", "images"])
def test_help_fits_a_screen_and_has_an_example(verb: str, tmp_path: Path) -> None:
    lines = run(tmp_path, verb, "--help").stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any(f"Example: portside {verb}" in line for line in lines)


def test_copy_pull_images_push(tmp_path: Path, hub: Server, layout: tuple[Content, Manifest, str]) -> None:
    content, root, place = layout
    name = f"{hub.address}/cli/app:1"
    hub_root = ("--root", tmp_path / "mine")
    done = run(tmp_path, "copy", place, name)
    assert done.stdout == f"{name}: {root.digest}\n"
    assert len(done.stderr.splitlines()) == len(content.blobs)

    done = run(tmp_path, "pull", name, *hub_root, "--platform", "linux/arm64")
    assert done.stdout == f"{hub.address}/cli/app@{root.digest}\n"
    lines = run(tmp_path, "images", *hub_root).stdout.splitlines()
    assert lines[0].split() == ["NAME", "DIGEST", "PLATFORMS", "SIZE"]
    assert lines[1].split()[:3] == [name, root.digest.hex[:12], "linux/arm64/v8"]

    # Only a part of the index is here: one platform goes up.
    done = run(tmp_path, "push", name, f"{hub.address}/cli/part:1", *hub_root, "--platform", "linux/arm64", "-q")
    assert done.stdout == f"{hub.address}/cli/part@{root.manifests[1].digest}\n"
    assert done.stderr == ""

    done = run(tmp_path, "pull", name, *hub_root, "--all-platforms")
    assert done.stderr.count("exists") == 3
    done = run(tmp_path, "push", name, f"{hub.address}/cli/whole:1", *hub_root)
    assert done.stdout == f"{hub.address}/cli/whole@{root.digest}\n"
    assert done.stderr.count("mounted") == len(content.blobs)
    assert everything(f"{hub.address}/cli/whole:1").blobs == content.blobs
    (fields,) = map(json.loads, run(tmp_path, "images", *hub_root, "--json").stdout.splitlines())
    assert fields["digest"] == str(root.digest)
    assert fields["platforms"] == ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"]
    total = sum(map(len, content.blobs.values())) + sum(len(one.raw) for one in content.manifests.values())
    assert fields["size"] == total


def test_a_pull_from_a_hub_on_the_same_disk_links(tmp_path: Path, layout: tuple[Content, Manifest, str]) -> None:
    content, root, place = layout
    folder = tmp_path / "hub"
    with portside(folder, "--floor", "0") as server:
        run(tmp_path, "copy", place, f"{server.address}/near/app:1")
        done = run(tmp_path, "pull", f"{server.address}/near/app:1", "--root", folder, "--all-platforms")
    assert done.stderr.count("linked") == len(content.blobs)
    for digest in content.blobs:
        part = Path("blobs") / digest.algorithm / digest.hex[:2] / digest.hex
        assert (folder / part).stat().st_ino == (folder / "engine" / part).stat().st_ino
    assert root.digest.hex[:12] in run(tmp_path, "images", "--root", folder).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["pull", "UP/per:1:2"], 2, "is not an image reference"),
        (["pull", "127.0.0.1:1/a:1"], 1, "127.0.0.1:1 does not answer: connection refused"),
        (["pull", "HUB/none/such:1"], 1, "404"),
        (["pull", "HUB/none/such:1", "--platform", "linux"], 2, "is not a platform"),
        (["push", "none/such:1"], 1, "see `portside images`"),
        (["copy", "archive:/gone.tar", "oci:/tmp/x"], 1, "/gone.tar cannot be read"),
        (["copy", "oci:", "oci:x"], 1, "needs a directory"),
        (["copy", "HUB/none/such:1"], 2, "DST"),
    ],
)
def test_what_goes_wrong_is_said(tmp_path: Path, hub: Server, arguments: list[str], code: int, said: str) -> None:
    words = [word.replace("HUB", hub.address) for word in arguments]
    options = ["--root", str(tmp_path / "mine")] if words[0] != "copy" else []
    done = run(tmp_path, *words, *options, code=code)
    assert said in done.stderr.replace("\n", " ")
    assert done.stdout == ""


def test_a_root_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = run(tmp_path, "images", "--root", tmp_path / "file", code=2)
    assert "file" in done.stderr
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/engine").write_text("x")
    done = run(tmp_path, "images", "--root", tmp_path / "mine", code=1)
    assert "choose another with --root" in done.stderr


def test_credentials_of_docker_login_are_used(tmp_path: Path) -> None:
    content = Content()
    content.tags["1"] = sample(content, 1000).digest
    (tmp_path / "docker").mkdir()
    with serving(content) as (server, served):
        auths = {"auths": {server.host: {"username": "me", "password": "geheim"}}}
        (tmp_path / "docker/config.json").write_text(json.dumps(auths))

        def guarded(request: Request) -> Answer | None:
            if request.headers.get("authorization") == "Basic bWU6Z2VoZWlt":
                return None
            return Answer(401, [("WWW-Authenticate", 'Basic realm="hub"')])

        served.faults.append(guarded)
        run(tmp_path, "pull", f"{server.host}/demo/image:1", "--root", tmp_path / "mine")
        (tmp_path / "docker/config.json").unlink()
        done = run(tmp_path, "pull", f"{server.host}/demo/image:1", "--root", tmp_path / "mine", code=1)
    assert "docker login" in done.stderr


@pytest.mark.parametrize("is_terminal", [False, True])
def test_ctrl_c_breaks_nothing_and_the_next_pull_resumes(tmp_path: Path, is_terminal: bool) -> None:
    content = Content()
    root = sample(content, 8_000_000)
    content.tags["1"] = root.digest
    large = root.layers[0]
    arguments = ("pull", "--root", str(tmp_path / "mine"))
    with serving(content) as (server, served):
        name = f"{server.host}/demo/image:1"

        def stall(request: Request) -> Answer | None:
            if str(large.digest) not in request.target:
                return None
            return Answer(200, [], content.blobs[large.digest][:5_000_000], length=large.size, stall=True)

        served.faults.append(stall)
        outside, inside = pty.openpty()
        error = inside if is_terminal else subprocess.PIPE
        process = subprocess.Popen(
            command(*arguments, name), env=environment(tmp_path), stdout=subprocess.PIPE, stderr=error, text=True
        )
        os.close(inside)
        uploads = tmp_path / "mine/engine/uploads"
        wait_until(
            lambda: any(path.stat().st_size > 4_400_000 for path in uploads.rglob("*") if path.is_file()), "bytes came"
        )
        process.send_signal(signal.SIGINT)
        if is_terminal:
            said = read_terminal(outside)
            assert large.digest.hex[:12] in said, "a bar for each layer"
            assert process.stdout is not None
            process.stdout.close()
        else:
            _, said = process.communicate(timeout=30)
        os.close(outside)
        assert process.wait(30) == 130
        assert "stopped; the next pull goes on where this one ended" in said
        assert "Traceback" not in said
        assert run(tmp_path, "images", "--root", tmp_path / "mine").stdout.count("\n") == 1
        served.faults.clear()
        run(tmp_path, *arguments, name)
        ranges = [one.headers["range"] for one in server.requests if "range" in one.headers]
    assert len(ranges) == 1
    assert int(ranges[0].removeprefix("bytes=").removesuffix("-")) > 4_000_000
    assert everything_in(tmp_path / "mine/engine") == {*content.blobs, root.digest}


def read_terminal(fd: int) -> str:
    """What is written to a terminal until its last writer has gone (Linux says EIO then, `man 7 pty`)."""
    out = b""
    try:
        while data := os.read(fd, 65536):
            out += data
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    return out.decode()


def everything_in(engine: Path) -> set[Digest]:
    return {Digest(path.parent.parent.name, path.name) for path in (engine / "blobs").glob("*/??/*")}
