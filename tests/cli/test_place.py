"""Where a hub is, by the command line, the environment or a file; and what is said where that cannot be."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import s3
from tests.cli.running import call, run
from tests.servers import Server, portside, start_portside
from tests.wire.client import Connection, ask
from tests.wire.content import push_blob

KEYS = {"AWS_ACCESS_KEY_ID": s3.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": s3.SECRET_KEY}


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with s3.s3_server("versitygw", tmp_path_factory.mktemp("s3")) as server:
        yield server


def push(server: Server, data: bytes) -> str:
    with Connection(server.address) as connection:
        return push_blob(connection, "app", data)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_hub_is_named_by_the_line_the_environment_or_a_file_in_this_order(tmp_path: Path, postgres_url: str) -> None:
    config = write(tmp_path / "hub.toml", f'root = "{tmp_path / "file"}"\nlisten = "127.0.0.1:1"\nname = ["hub.lan"]\n')
    assert f"the root {tmp_path / 'file'}." in call("init", "--admin", "ann", "--config", config).stderr
    assert call("user", "ls", env={"PORTSIDE_CONFIG": str(config)}).rows[1][0] == "ann"
    here = {"PORTSIDE_CONFIG": str(config), "PORTSIDE_ROOT": str(tmp_path / "environment")}
    assert f"the root {tmp_path / 'environment'}." in call("init", "--admin", "ben", env=here).stderr
    assert call("user", "ls", env=here).rows[1][0] == "ben"
    assert call("user", "ls", "--root", tmp_path / "file", env=here).rows[1][0] == "ann"
    call("init", "--admin", "cal", env={"PORTSIDE_DATABASE": postgres_url, "PORTSIDE_ROOT": str(tmp_path / "none")})
    assert call("user", "ls", "--database", postgres_url).rows[1][0] == "cal"
    assert not (tmp_path / "none").exists()


def test_what_is_meant_for_serve_is_no_other_commands(tmp_path: Path) -> None:
    config = write(tmp_path / "hub.toml", f'root = "{tmp_path}"\nname = ["hub.lan"]\naudience = ["x"]\n')
    call("init", "--admin", "ann", "--config", config)
    told = call("robot", "add", "--grant", "app:pull", "--expires", "1d", "--config", config, code=2).stderr
    assert "name" in told.lower(), "the robot's name is asked for, and not taken from the file"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("databse = 'x'", "there is no option --databse"),
        ("[serve]\nlisten = 'x'", "there is no option --serve"),
        ("listen = [1]", "listen is a string, a number, true or false, or a list of strings"),
        ("listen =", "is no TOML"),
        ("inherited = 3", "there is no option --inherited"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    told = call("user", "ls", "--config", write(tmp_path / "hub.toml", text), code=2).stderr
    assert said in told
    assert str(tmp_path / "hub.toml") in told


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "No such file" in call("user", "ls", "--config", tmp_path / "none.toml", code=2).stderr


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    assert "goes with --store" in call("check", "--s3-endpoint", "http://x", "--root", tmp_path, code=2).stderr
    assert "takes a URL like postgresql://" in call("user", "ls", "--database", "mysql://x", code=2).stderr
    call("init", "--admin", "ann", "--root", tmp_path)
    assert "--rebuild goes with --store" in call("check", "--rebuild", "--root", tmp_path, code=2).stderr
    for store, said in (
        ("http://x", "is not like s3://BUCKET"),
        ("s3://Bucket", "is not like"),
        ("s3://bbb/a b", "prefix"),
    ):
        assert said in call("check", "--store", store, "--root", tmp_path, code=1).stderr


def test_a_bucket_that_cannot_be_used_is_told_at_the_start(bucket: Server, tmp_path: Path) -> None:
    options = ("serve", "--root", tmp_path / "root", "--listen", "127.0.0.1:0", "--s3-endpoint", bucket.url)
    told = run(*options, "--store", "s3://no-such-bucket", env=KEYS, code=1).stderr
    assert "s3://no-such-bucket" in told
    assert "bucket" in told
    told = run(
        *options, "--store", f"s3://{s3.BUCKET}", env=KEYS | {"AWS_SECRET_ACCESS_KEY": "mistyped-secret"}, code=1
    ).stderr
    assert "mistyped-secret" not in told
    assert "Correct the access key and the secret key" in told
    assert s3.BUCKET in told


def test_a_hub_in_a_bucket_and_a_database(
    bucket: Server, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers that share neither a directory nor a word, by files of settings; then everything is checked, and found again."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    place = f'database = "{postgres_url}"\nstore = "s3://{s3.BUCKET}/two"\ns3-endpoint = "{bucket.url}"\n'
    config = write(tmp_path / "hub.toml", place + "s3-redirect = true\n")
    data = bytes(range(256)) * 4096
    with (
        portside(tmp_path / "one", "--config", str(config)) as one,
        portside(tmp_path / "two", "--config", str(config)) as two,
    ):
        digest = push(one, data)
        small = push(two, b"small")
        assert ask(one.address, "GET", f"/v2/app/blobs/{small}").body == b"small", "small ones are sent from here"
        sent_on = ask(two.address, "GET", f"/v2/app/blobs/{digest}")
        assert sent_on.status == 307
        location = sent_on.header("location") or ""
        assert location.startswith(f"{bucket.url}/{s3.BUCKET}/two/")
        with urllib.request.urlopen(location) as answer:
            assert answer.read() == data
        assert ask(one.address, "GET", "/healthz").status == 200
    assert not (tmp_path / "one").exists() or not any((tmp_path / "one").iterdir()), "nothing is kept in a directory"
    assert "2 blobs" in call("check", "--config", config).stdout
    assert str(digest) in call("why", str(digest), "--config", config).stdout
    assert "0 B freed" in call("gc", "--now", "--config", config).stdout


def test_a_lost_database_finds_its_blobs_again(bucket: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    options = ("--store", f"s3://{s3.BUCKET}/lost", "--s3-endpoint", bucket.url)
    with portside(tmp_path / "before", *options) as server:
        digest = push(server, b"found again" * 10_000)
    call("check", "--root", tmp_path / "after", *options, code=1)
    with portside(tmp_path / "after", *options) as server:
        assert ask(server.address, "GET", f"/v2/app/blobs/{digest}").status == 404
    told = call("check", "--rebuild", "--root", tmp_path / "after", *options).stdout
    assert told.startswith("1 blobs were found again")
    with portside(tmp_path / "after", *options) as server:
        mounted = ask(server.address, "POST", f"/v2/app/blobs/uploads/?digest={digest}")
        assert mounted.status in (201, 202, 400), (
            "the repository has to hold it again: an image is pushed again, its bytes are there"
        )


def test_a_server_without_its_database_is_not_healthy(
    tmp_path: Path, postgres_server: object, postgres_url: str
) -> None:
    from tests.postgres import Postgres

    assert isinstance(postgres_server, Postgres)
    server = start_portside(tmp_path / "root", tmp_path / "log", "--database", postgres_url)
    try:
        postgres_server.stop()
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"http://{server.address}/healthz")
        assert caught.value.code == 503
        assert json.loads(caught.value.read())
        answer = ask(server.address, "GET", "/v2/app/manifests/1")
        assert answer.status == 503
        assert answer.header("retry-after") is not None
    finally:
        postgres_server.start()
        server.terminate()
