"""Copies between registries, layouts and archives, read and written by the tools that people have."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from oci.descriptor import Descriptor, Platform
from oci.digest import Digest
from oci.manifest import Manifest
from remote.archive import ArchiveSource
from remote.copy import copy
from remote.errors import InvalidContent, InvalidLocation
from remote.layout import LayoutSource
from remote.locations import parse_location
from remote.transport import Policy, Registry
from tests.remote.content import Content, layer_tar, multi, noise, sample
from tests.servers import Containers, Docker, Server
from tests.servers import run as run_program
from tests.tools import tool

AMD64 = Platform("amd64", "linux")


def run(source: str, destination: str, platform: Platform | None = None) -> Descriptor:
    """A copy as the command line does it."""
    with contextlib.ExitStack() as stack:
        registries: dict[str, Registry] = {}

        def connect(host: str) -> Registry:
            if host not in registries:
                found = Registry(host, credential=lambda name: None, policy=Policy(attempts=2, pause=0.01))
                registries[host] = stack.enter_context(found)
            return registries[host]

        origin = parse_location(source)
        reader, target = origin.source(connect)
        stack.callback(reader.close)
        writer, tag = parse_location(destination).destination(connect, origin)
        stack.callback(writer.close)
        return copy(reader, target, writer, tag, platform=platform)


def everything(source: str) -> Content:
    """What is at a place, read with our own code: its manifests and blobs."""
    out = Content()
    with contextlib.ExitStack() as stack:
        registries: list[Registry] = []

        def connect(host: str) -> Registry:
            registries.append(stack.enter_context(Registry(host, credential=lambda name: None)))
            return registries[-1]

        reader, target = parse_location(source).source(connect)
        stack.callback(reader.close)

        def visit(manifest: Manifest) -> None:
            out.manifests[manifest.digest] = manifest
            for child in manifest.manifests:
                visit(reader.manifest(child.digest))
            for blob in manifest.blobs():
                data = b"".join(bytes(piece) for piece in reader.open(blob, 0))
                assert blob.digest.matches(data)
                out.blobs[blob.digest] = data

        visit(reader.manifest(target))
    return out


def same(one: Content, other: Content) -> bool:
    raws = [{digest: manifest.raw for digest, manifest in content.manifests.items()} for content in (one, other)]
    return raws[0] == raws[1] and one.blobs == other.blobs


@pytest.fixture
def image(tmp_path: Path) -> tuple[Content, Manifest, Path]:
    """A multi-platform image, and a layout that holds it as 1."""
    content = Content()
    root = multi(content)
    content.write_layout(tmp_path / "layout", root, "1")
    return content, root, tmp_path / "layout"


def test_round_the_houses(image: tuple[Content, Manifest, Path], hub: Server, tmp_path: Path) -> None:
    content, root, layout = image
    places = [
        f"oci:{layout}:1",
        f"{hub.address}/copy/one:1",
        f"{hub.address}/copy/two:2",
        f"archive:{tmp_path}/a.tar:demo/app:3",
        f"oci:{tmp_path}/again:4",
        f"archive:{tmp_path}/b.tar",
        f"{hub.address}/copy/three:5",
    ]
    for source, destination in itertools.pairwise(places):
        assert run(source, destination) == root.descriptor
        assert same(everything(destination), content), destination


def test_one_platform(image: tuple[Content, Manifest, Path], tmp_path: Path) -> None:
    _, root, layout = image
    got = run(f"oci:{layout}:1", f"oci:{tmp_path}/out:1", Platform("arm", "linux", "v7"))
    assert got.digest == root.manifests[2].digest
    assert set(everything(f"oci:{tmp_path}/out:1").manifests) == {got.digest}
    with pytest.raises(InvalidContent, match="nothing for linux/s390x"):
        run(f"oci:{layout}:1", f"oci:{tmp_path}/none:1", Platform("s390x", "linux"))


def test_other_tools_read_what_is_written(
    image: tuple[Content, Manifest, Path], tmp_path: Path, containers: Containers
) -> None:
    _, root, layout = image
    run(f"oci:{layout}:1", f"archive:{tmp_path}/all.tar:demo/app:3")
    run(f"oci:{layout}:1", f"oci:{tmp_path}/out:7")
    for place in (f"oci-archive:{tmp_path}/all.tar", f"oci-archive:{tmp_path}/all.tar:3", f"oci:{tmp_path}/out:7"):
        raw = containers("skopeo", "inspect", "--raw", place)
        assert hashlib.sha256(raw.encode()).hexdigest() == root.digest.hex, place
    containers("skopeo", "copy", f"docker-archive:{tmp_path}/all.tar", f"dir:{tmp_path}/dir")
    containers("skopeo", "copy", "--all", f"oci-archive:{tmp_path}/all.tar:3", f"oci:{tmp_path}/skopeo:1")
    assert everything(f"oci:{tmp_path}/skopeo:1").blobs == everything(f"oci:{layout}:1").blobs
    run_program([str(tool("regctl")), "manifest", "get", f"ocidir://{tmp_path}/out:7"], {"HOME": str(tmp_path)})


def busybox(content: Content) -> Manifest:
    """An image that really runs."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind in (("bin", tarfile.DIRTYPE), ("bin/true", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            data = b"#!/none\n" if kind == tarfile.REGTYPE else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.image([out.getvalue(), layer_tar("etc/more", b"more")])


@pytest.mark.parametrize("way", ["docker", "podman"])
def test_docker_and_podman_load_what_is_written_and_what_they_save_is_read(
    way: str, tmp_path: Path, docker: Docker, containers: Containers
) -> None:
    content = Content()
    root = busybox(content)
    content.write_layout(tmp_path / "layout", root, "1")
    run(f"oci:{tmp_path}/layout:1", f"archive:{tmp_path}/out.tar:demo.example/app:3")

    def engine(*arguments: str) -> str:
        return docker(*arguments) if way == "docker" else containers("podman", *arguments)

    assert "demo.example/app:3" in engine("load", "-i", str(tmp_path / "out.tar"))
    assert root.config is not None
    # Docker's image id is the digest of the config, which is kept byte for byte.
    found = engine("image", "inspect", "demo.example/app:3", "--format", "{{.Id}}").strip()
    assert found.removeprefix("sha256:") == root.config.digest.hex
    engine("tag", "demo.example/app:3", "other.example/app:4")
    engine("save", "-o", str(tmp_path / "saved.tar"), "demo.example/app:3")
    run(f"archive:{tmp_path}/saved.tar:demo.example/app:3", f"oci:{tmp_path}/back:1")
    back = everything(f"oci:{tmp_path}/back:1")
    (manifest,) = back.manifests.values()
    assert [back.blobs[layer.digest] for layer in manifest.layers] == [
        gzip.decompress(content.blobs[layer.digest]) for layer in root.layers
    ]
    engine("image", "rm", "-f", "demo.example/app:3", "other.example/app:4")


# Docker's older archives


def legacy(
    path: Path, images: list[dict[str, Any]], files: dict[str, bytes], links: dict[str, str] | None = None
) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in {**files, "manifest.json": json.dumps(images).encode()}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return path


def config_of(layers: list[bytes]) -> bytes:
    diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in layers]
    return json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()


def test_an_older_archive_keeps_config_and_layers(tmp_path: Path) -> None:
    layers = [layer_tar("a", noise(5000)), layer_tar("b", b"b"), layer_tar("a", noise(5000))]
    config = config_of(layers)
    images = [
        {"Config": "c.json", "RepoTags": ["demo/app:1"], "Layers": ["x/layer.tar", "y/layer.tar.gz", "z/layer.tar"]}
    ]
    packed = gzip.compress(layers[1])
    files = {"c.json": config, "x/layer.tar": layers[0], "y/layer.tar.gz": packed}
    path = legacy(tmp_path / "old.tar", images, files, {"z/layer.tar": "../x/layer.tar"})
    run(f"archive:{path}", f"oci:{tmp_path}/out:1")
    found = everything(f"oci:{tmp_path}/out:1")
    (manifest,) = found.manifests.values()
    assert manifest.config is not None
    assert found.blobs[manifest.config.digest] == config
    assert [found.blobs[layer.digest] for layer in manifest.layers] == [layers[0], packed, layers[0]]
    assert [layer.media_type.rpartition(".")[2] for layer in manifest.layers] == ["tar", "tar+gzip", "tar"]


def test_which_image_of_an_archive(tmp_path: Path) -> None:
    layer = layer_tar("a", b"a")
    files = {"c.json": config_of([layer]), "d.json": config_of([layer]) + b" ", "l.tar": layer}
    images = [
        {"Config": "c.json", "RepoTags": ["demo/app:1", "docker.io/demo/app:2"], "Layers": ["l.tar"]},
        {"Config": "d.json", "RepoTags": ["other/app:3"], "Layers": ["l.tar"]},
    ]
    path = legacy(tmp_path / "old.tar", images, files)
    for name, config in [
        ("demo/app:1", "c.json"),
        ("docker.io/demo/app:1", "c.json"),
        ("demo/app:2", "c.json"),
        ("3", "d.json"),
    ]:
        source = ArchiveSource(path)
        found = source.manifest(name).config
        source.close()
        assert found is not None
        assert found.digest.matches(files[config])
    for wanted in (None, "demo/app:9"):
        source = ArchiveSource(path)
        with pytest.raises(InvalidLocation, match=r"demo/app:1, docker\.io/demo/app:2, other/app:3"):
            source.manifest(wanted)
        source.close()


def test_a_layer_that_is_not_its_diff_id_is_refused(tmp_path: Path) -> None:
    layer = layer_tar("a", b"a")
    images = [{"Config": "c.json", "RepoTags": None, "Layers": ["l.tar"]}]
    path = legacy(tmp_path / "old.tar", images, {"c.json": config_of([layer]), "l.tar": layer_tar("a", b"b")})
    with pytest.raises(InvalidContent, match="arrived with the digest"):
        run(f"archive:{path}", f"oci:{tmp_path}/out:1")
    assert not [one for one in (tmp_path / "out/blobs").rglob("*") if one.is_file() and one.stat().st_size > 1000]
    assert not (tmp_path / "out/index.json").exists()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "lists no image"),
        ([5], "without a Config"),
        ([{"Config": 5, "Layers": []}], "without a Config"),
        ([{"Config": "c.json", "Layers": "l.tar"}], "no list of names"),
        ([{"Config": "c.json", "Layers": [5]}], "no list of names"),
        ([{"Config": "gone.json", "Layers": []}], "has no file 'gone.json'"),
        ([{"Config": "../c.json", "Layers": []}], "has no file"),
        ([{"Config": "/etc/passwd", "Layers": []}], "has no file"),
        ([{"Config": "c.json", "Layers": []}], "the image has 0 layers, but its config 1"),
        ([{"Config": "c.json", "Layers": ["../../etc/passwd"]}], "has no file"),
        ([{"Config": "c.json", "Layers": ["loop"]}], "has no file"),
        ([{"Config": "c.json", "Layers": ["out"]}], "has no file"),
        ([{"Config": "l.tar", "Layers": ["l.tar"]}], "the image config cannot be read"),
    ],
)
def test_an_older_archive_that_lies(tmp_path: Path, images: Any, said: str) -> None:
    layer = layer_tar("a", b"a")
    links = {"loop": "loop", "out": "../../../../etc/passwd"}
    path = legacy(tmp_path / "old.tar", images, {"c.json": config_of([layer]), "l.tar": layer}, links)
    with pytest.raises(InvalidContent, match=said):
        run(f"archive:{path}", f"oci:{tmp_path}/out:1")


# Archives and layouts that lie


def test_a_compressed_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(InvalidLocation, match="gunzip"):
        ArchiveSource(tmp_path / "a.tar.gz")
    (tmp_path / "b.tar").write_bytes(layer_tar("a", b"a"))
    with pytest.raises(InvalidLocation, match="holds no images"):
        ArchiveSource(tmp_path / "b.tar")
    with pytest.raises(InvalidLocation, match="No such file"):
        ArchiveSource(tmp_path / "gone.tar")


def test_a_failed_archive_leaves_nothing(tmp_path: Path) -> None:
    content = Content()
    root = sample(content)
    content.write_layout(tmp_path / "layout", root, "1")
    victim = tmp_path / "layout/blobs/sha256" / root.layers[0].digest.hex
    victim.write_bytes(bytes(root.layers[0].size))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidContent, match="arrived with the digest"):
        run(f"oci:{tmp_path}/layout:1", f"archive:{tmp_path}/out.tar:a:1")
    victim.write_bytes(b"short")
    with pytest.raises(InvalidContent, match="has 5 bytes; its manifest says"):
        run(f"oci:{tmp_path}/layout:1", f"archive:{tmp_path}/out.tar:a:1")
    victim.unlink()
    with pytest.raises(InvalidContent, match="is missing"):
        run(f"oci:{tmp_path}/layout:1", f"archive:{tmp_path}/out.tar:a:1")
    assert sorted(tmp_path.iterdir()) == before


def test_an_archive_is_replaced_whole(tmp_path: Path) -> None:
    content = Content()
    content.write_layout(tmp_path / "layout", sample(content), "1")
    out = tmp_path / "out.tar"
    out.write_bytes(b"old")
    run(f"oci:{tmp_path}/layout:1", f"archive:{out}:a:1")
    first = out.read_bytes()
    run(f"oci:{tmp_path}/layout:1", f"archive:{out}:a:1")
    assert len(first) == len(out.read_bytes()) > 300_000


def test_a_layout_keeps_its_other_images(tmp_path: Path) -> None:
    content, other = Content(), Content()
    one, two = sample(content), sample(other, 1000)
    content.write_layout(tmp_path / "one", one, "1")
    other.write_layout(tmp_path / "two", two, "2")
    for source, tag in (("one:1", "a"), ("two:2", "b"), ("two:2", "a"), ("one:1", "c")):
        run(f"oci:{tmp_path}/{source}", f"oci:{tmp_path}/out:{tag}")
    reader = LayoutSource(tmp_path / "out")
    assert [reader.manifest(tag).digest for tag in "abc"] == [two.digest, two.digest, one.digest]
    with pytest.raises(InvalidLocation, match="say which one: it has a, b, c"):
        reader.manifest(None)
    with pytest.raises(InvalidLocation, match="no image 'd'"):
        reader.manifest("d")


def test_copies_into_one_layout_at_once_lose_no_name(tmp_path: Path) -> None:
    content = Content()
    content.write_layout(tmp_path / "one", sample(content, 1000), "1")
    threads = [
        threading.Thread(target=run, args=(f"oci:{tmp_path}/one:1", f"oci:{tmp_path}/out:t{number}"))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = json.loads((tmp_path / "out/index.json").read_text())["manifests"]
    assert {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in names} == {f"t{n}" for n in range(8)}


@pytest.mark.parametrize(
    "raw", [b"{", b"[]", b'{"manifests":5}', b'{"manifests":[{"digest":"sha256:../../x"}]}', b"\xff" * 100]
)
def test_an_index_json_that_is_none(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "index.json").write_bytes(raw)
    with pytest.raises(InvalidContent):
        LayoutSource(tmp_path).manifest(None)


def test_where_no_layout_can_be_written(tmp_path: Path) -> None:
    content = Content()
    content.write_layout(tmp_path / "layout", sample(content, 1000), "1")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/precious").write_text("x")
    with pytest.raises(InvalidLocation, match="not empty and no OCI layout"):
        run(f"oci:{tmp_path}/layout:1", f"oci:{tmp_path}/home:1")
    with pytest.raises(InvalidLocation, match="not a directory"):
        run(f"oci:{tmp_path}/layout:1", f"oci:{tmp_path}/home/precious:1")
    with pytest.raises(InvalidLocation, match="no OCI layout"):
        run(f"oci:{tmp_path}/home:1", f"oci:{tmp_path}/x:1")
    with pytest.raises(InvalidLocation, match="cannot be written"):
        run(f"oci:{tmp_path}/layout:1", f"archive:{tmp_path}/gone/out.tar")


def test_a_damaged_manifest_in_a_layout(tmp_path: Path) -> None:
    content = Content()
    root = sample(content, 1000)
    content.write_layout(tmp_path, root, "1")
    (tmp_path / "blobs/sha256" / root.digest.hex).write_bytes(root.raw + b" ")
    with pytest.raises(InvalidContent, match="not the content that its name says"):
        LayoutSource(tmp_path).manifest("1")


def test_digests_of_a_layout_are_paths_of_the_grammar_only(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"manifests":[]}')
    with pytest.raises(InvalidContent, match="is missing"):
        LayoutSource(tmp_path).manifest(Digest.of(b"x"))
