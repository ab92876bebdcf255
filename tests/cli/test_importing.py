"""What distribution itself has stored, on a disk or in a bucket, becomes a hub's."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.place import Place
from oci.digest import Digest
from storage import s3_copying
from storage.database import Database
from storage.sql_metadata import SQLMetadata
from tests import images, s3
from tests.cli.running import Done, call, command
from tests.clients import wire
from tests.clients.hubs import Hub
from tests.clients.test_crane import Crane
from tests.clients.wire import Witness
from tests.postgres import Postgres
from tests.servers import Containers, Docker, Server, distribution, portside, wait_until

LAYOUT = "docker/registry/v2"
SMALL = images.small("imported")
MULTI = images.multi_platform("imported too")
MULTI_LAYER = json.loads(MULTI.blobs[MULTI.manifests[1]])["layers"][1]["digest"]
LARGE = images.large(20)
DOCKER = images.small("by docker", is_docker=True)
SIGNATURE = images.artifact(b"signed", "application/vnd.example.signature", SMALL)
COUNTED = "4 repositories with 9 manifests and 6 tags"
PUSHED = {
    "team/app:1": SMALL,
    "team/app:latest": SMALL,
    "team/app/nested:1": LARGE,
    "team/multi:all": MULTI,
    "old:1": DOCKER,
}

TAGS = ["1", "latest", SMALL.digest.replace(":", "-")]


@pytest.fixture(scope="module", params=s3.SERVERS)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3.s3_server(request.param, tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(autouse=True)
def keys_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET_KEY)


def crane_of(server: Server, directory: Path) -> Crane:
    directory.mkdir(exist_ok=True)
    return Crane(Hub(server.address, Witness(server.address)), directory)


def fill(server: Server, directory: Path) -> dict[str, str]:
    """Push with crane; tag, and delete a tag and a manifest, as people do. The digests by name (crane makes an index of an index)."""
    crane = crane_of(server, directory)
    digests = {name: crane.push_image(content, f"{server.address}/{name}") for name, content in PUSHED.items()}
    gone = images.small("gone")
    crane.push_image(gone, f"{server.address}/team/app:gone")
    crane("tag", f"{server.address}/team/app:1", "untagged")
    crane("delete", f"{server.address}/team/app@{gone.digest}")
    assert wire.ask(server.address, "DELETE", "/v2/team/app/manifests/untagged").status == 202
    layout = images.write_layout(directory / "signature", only=SIGNATURE)
    crane(
        "push", str(layout), f"{server.address}/team/app@{SIGNATURE.digest}"
    )  # with a tag that stands in for the referrers API
    return digests


@dataclass(frozen=True, slots=True)
class Filled:
    """A volume that distribution wrote, which has been stopped; the digests of what was pushed, by name."""

    path: Path
    digests: dict[str, str]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    directory = tmp_path_factory.mktemp("volume")
    with distribution(directory / "volume") as server:
        return Filled(directory / "volume", fill(server, directory / "crane"))


def import_from(source: str | Path, place: Place, *more: str, code: int = 0) -> Done:
    given = {
        "root": str(place.root),
        "database": place.database,
        "store": place.store,
        "s3-endpoint": place.s3_endpoint,
    }
    options = [word for name, value in given.items() if value for word in (f"--{name}", value)]
    return call("import", "distribution", source, *options, *more, code=code)


def data_in(volume: Path, text: str) -> Path:
    digest = Digest.parse(text)
    return volume / LAYOUT / "blobs/sha256" / digest.hex[:2] / digest.hex / "data"


def blob_in(place: Place, text: str) -> Path:
    digest = Digest.parse(text)
    return place.root / "blobs/sha256" / digest.hex[:2] / digest.hex


def damage(path: Path) -> None:
    path.chmod(0o600)
    path.write_bytes(b"other bytes")


def see_all(place: Place, digests: dict[str, str], directory: Path) -> None:
    """Serve a place, and pull everything."""
    given = [] if not place.database else ["--database", place.database]
    given += ["--store", place.store, "--s3-endpoint", place.s3_endpoint] if place.store else []
    with portside(place.root, *given, "--floor", "0") as server:
        crane = crane_of(server, directory)
        for name, content in PUSHED.items():
            whole, repository = f"{server.address}/{name}", name.partition(":")[0]
            assert crane("digest", whole).strip() == digests[name]
            for reference in (whole, f"{server.address}/{repository}@{digests[name]}"):
                crane("validate", "--remote", reference)
            assert (
                crane("manifest", f"{server.address}/{repository}@{content.manifests[0]}").encode()
                in content.blobs.values()
            )
            for digest in content.manifests[:-1]:
                assert wire.digest_of(Witness(server.address), repository, digest) == digest
        assert crane("ls", f"{server.address}/team/app").split() == TAGS
        assert sorted(crane("catalog", server.address).split()) == ["old", "team/app", "team/app/nested", "team/multi"]
        answer = wire.ask(server.address, "GET", f"/v2/team/app/referrers/{SMALL.digest}")
        assert [one["digest"] for one in answer.json["manifests"]] == [SIGNATURE.digest]
    check = call("check", "--root", place.root, *given).stdout
    assert "0 references to what was never pushed" in check, check


def test_files_are_linked_and_served(filled: Filled, tmp_path: Path) -> None:
    place = Place(tmp_path / "hub")
    said = import_from(filled.path, place).stdout
    assert said == f"{COUNTED}; 15 blobs (20 MB) were verified and 15 of them linked or copied in place, 2 were there\n"
    again = import_from(filled.path, place).stdout
    assert again == f"{COUNTED}; 0 blobs (0 B) were verified and 0 of them linked or copied in place, 17 were there\n"
    for digest in LARGE.blobs.keys() - {LARGE.digest}:
        mine = blob_in(place, digest)
        assert mine.samefile(data_in(filled.path, digest))
        assert mine.stat().st_mode & 0o222 == 0
    see_all(place, filled.digests, tmp_path / "crane")
    with distribution(filled.path) as server:
        assert crane_of(server, tmp_path / "other")("ls", f"{server.address}/team/app").split() == TAGS


def driver(service: Server, prefix: str) -> str:
    """How distribution's configuration names a prefix of a bucket."""
    return (
        f"s3: {{regionendpoint: '{service.url}', region: us-east-1, bucket: {s3.BUCKET}, accesskey: {s3.ACCESS_KEY}, "
        f"secretkey: {s3.SECRET_KEY}, rootdirectory: /{prefix}, secure: false, forcepathstyle: true}}"
    )


@pytest.mark.parametrize("hub", ["a bucket", "a disk"])
def test_from_a_bucket(
    hub: str, service: Server, postgres_server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Server-side copies, of large objects in parts; or downloads."""
    prefix = uuid.uuid4().hex
    with distribution(tmp_path, storage=driver(service, prefix)) as server:
        digests = fill(server, tmp_path / "pushing")
    source, place = f"s3://{s3.BUCKET}/{prefix}", Place(tmp_path / "hub")
    more = ["--from-s3-endpoint", service.url]
    if hub == "a bucket":
        monkeypatch.setattr(s3_copying, "COPY_MAX", 10_000_000)
        monkeypatch.setattr(s3_copying, "PART_SIZE", 6_000_000)
        place, more = Place(tmp_path / "hub", postgres_server.database(), f"{source}-hub", service.url), []
    done = import_from(source, place, *more).stdout
    assert done.startswith(f"{COUNTED}; 15 blobs (20 MB) were verified and {15 * (hub == 'a bucket')} of them"), done
    assert "0 blobs (0 B) were verified" in import_from(source, place, *more).stdout
    see_all(place, digests, tmp_path / "crane")


def test_an_object_that_is_damaged_leaves_nothing(service: Server, tmp_path: Path) -> None:
    prefix = uuid.uuid4().hex
    with distribution(tmp_path, storage=driver(service, prefix)) as server:
        crane_of(server, tmp_path / "crane").push_image(SMALL, f"{server.address}/app:1")
    layer = Digest.parse(SMALL.json["layers"][1]["digest"])
    key = f"{prefix}/{LAYOUT}/blobs/sha256/{layer.hex[:2]}/{layer.hex}/data"
    s3.client(service.url).put_object(Bucket=s3.BUCKET, Key=key, Body=b"other bytes")
    place = Place(tmp_path / "hub", "", f"s3://{s3.BUCKET}/{prefix}-hub", service.url)
    done = import_from(f"s3://{s3.BUCKET}/{prefix}", place, code=1)
    assert f"broken: repository app: blob {layer} is damaged: its bytes are others" in done.stdout
    kept = [name for name in s3.objects(service.url, f"{prefix}-hub") if name.startswith("data/")]
    assert len(kept) == 2, "a layer and the config"


def test_an_import_that_is_killed_goes_on(service: Server, tmp_path: Path) -> None:
    place = Place(tmp_path / "hub", "", f"s3://{s3.BUCKET}/{uuid.uuid4().hex}", service.url)
    volume = tmp_path / "volume"
    with distribution(volume) as server:
        crane = crane_of(server, tmp_path / "crane")
        for number in range(12):
            crane.push_image(images.large(1, number), f"{server.address}/app{number}:1")
    options = ["--root", str(place.root), "--store", place.store, "--s3-endpoint", place.s3_endpoint]
    with contextlib.closing(place.open_database()) as database:
        for count in (3, 8):
            importing = subprocess.Popen(
                command(["import", "distribution", volume, *options]), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            try:
                query = "SELECT count(*) FROM tags"
                wait_until(functools.partial(_has_rows, database, query, count), "some images are there")
            finally:
                importing.kill()
                importing.communicate()
            assert importing.returncode == -signal.SIGKILL
    done = import_from(volume, place).stdout
    assert done.startswith("12 repositories with 12 manifests and 12 tags; ")
    assert int(done.split("; ")[1].split()[0]) < 16
    assert "24 blobs (12 MB), 12 manifests and 12 tags verified; 0 blobs that" in call("check", *options).stdout


def _has_rows(database: Database, query: str, count: int) -> bool:
    return int(database.row(query, ())[0]) >= count


def test_what_is_broken_is_told_by_name(filled: Filled, tmp_path: Path) -> None:
    volume, place = tmp_path / "volume", Place(tmp_path / "hub")
    shutil.copytree(filled.path, volume)
    small, large = SMALL.json["layers"][1]["digest"], LARGE.json["layers"][0]["digest"]
    data_in(volume, small).unlink()
    damage(data_in(volume, large))
    damage(data_in(volume, DOCKER.digest))
    for unreadable in (MULTI.manifests[0], MULTI_LAYER):
        data_in(volume, unreadable).unlink()
        data_in(volume, unreadable).mkdir()
    revisions = volume / LAYOUT / "repositories/team/multi/_manifests"
    (revisions / "tags/all/current/link").write_bytes(b"")
    (revisions / "tags/other/current").mkdir(parents=True)
    (revisions / "tags/other/current/link").write_text("sha256:" + "0" * 64)
    (revisions / "tags/none/current").mkdir(parents=True)
    (revisions / "tags/none/current/link").write_text("none")
    (volume / LAYOUT / "repositories/Bad/_layers/sha256/00").mkdir(parents=True)
    (volume / LAYOUT / "repositories/Bad/_layers/sha256/00/link").write_text("none")
    done = import_from(volume, place, code=1)
    broken = [line.removeprefix("broken: ") for line in done.stdout.splitlines()[1:]]
    assert sorted(broken) == sorted(
        [
            "repository 'Bad' has a name that the specification does not allow",
            f"repository old: manifest {DOCKER.digest} is damaged: its bytes are others",
            f"repository old: tag 1 is left out: it points at {DOCKER.digest}, which is not there",
            f"repository team/app/nested: blob {large} is damaged: its bytes are others",
            f"repository team/app/nested: manifest {LARGE.digest} (tags 1) is left out: it needs {large}",
            f"repository team/app: blob {small} is missing",
            f"repository team/app: manifest {SMALL.digest} (tags 1, latest) is left out: it needs {small}",
            f"repository team/multi: blob {MULTI_LAYER} cannot be read: Is a directory",
            f"repository team/multi: manifest {MULTI.manifests[0]} cannot be read: Is a directory",
            f"repository team/multi: manifest {MULTI.manifests[1]} is left out: it needs {MULTI_LAYER}",
            "repository team/multi: tag none is left out: its link has no digest",
            f"repository team/multi: tag other is left out: it points at sha256:{'0' * 64}, which is not there",
            "repository team/multi: the link team/multi/_manifests/tags/all/current/link is empty",
        ]
    )
    assert "13 things are broken" in done.stderr
    for digest in (small, large):
        data_in(volume, digest).unlink(missing_ok=True)
        shutil.copy(data_in(filled.path, digest), data_in(volume, digest))
    import_from(volume, place, code=1)
    with contextlib.closing(SQLMetadata(place.open_database())) as facts:
        assert facts.find_manifest("team/app", "1") is not None
        assert facts.find_manifest("team/app/nested", "1") is not None
        assert facts.find_manifest("old", "1") is None
    call("check", "--root", place.root)


def test_it_is_no_volume(tmp_path: Path, service: Server) -> None:
    place = Place(tmp_path / "hub")
    assert f"{tmp_path} is no storage of distribution" in import_from(tmp_path, place, code=1).stderr
    nothing = import_from(f"s3://{s3.BUCKET}/nothing", place, "--from-s3-endpoint", service.url, code=1)
    assert "is no storage of distribution" in nothing.stderr
    assert not place.root.exists()


def test_docker_pushed_it_and_skopeo(docker: Docker, containers: Containers, tmp_path: Path) -> None:
    """Volumes are as different as the clients that filled them."""
    place = Place(tmp_path / "hub")
    with distribution(tmp_path / "volume") as server:
        name = f"{server.address}/by/docker:1"
        docker("load", stdin=images.docker_archive(images.small("docker"), name))
        docker("push", name)
        docker("rmi", name)
        archive = tmp_path / "archive.tar"
        archive.write_bytes(images.docker_archive(images.small("skopeo"), "x:1"))
        options = ("copy", "--dest-tls-verify=false", "--format", "oci", f"docker-archive:{archive}")
        containers("skopeo", *options, f"docker://{server.address}/by/skopeo:1")
        crane = crane_of(server, tmp_path / "crane")
        digests = {name: crane("digest", f"{server.address}/by/{name}:1").strip() for name in ("docker", "skopeo")}
    import_from(tmp_path / "volume", place)
    with portside(place.root, "--floor", "0") as server:
        docker("pull", f"{server.address}/by/docker:1")
        docker("rmi", f"{server.address}/by/docker:1")
        target = f"dir:{tmp_path / 'pulled'}"
        containers("skopeo", "copy", "--src-tls-verify=false", f"docker://{server.address}/by/skopeo:1", target)
        crane = crane_of(server, tmp_path / "crane")
        for name, digest in digests.items():
            assert crane("digest", f"{server.address}/by/{name}:1").strip() == digest
            crane("validate", "--remote", f"{server.address}/by/{name}@{digest}")
