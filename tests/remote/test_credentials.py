"""Credentials from files as `docker login` and `podman login` write them, and from helpers that are real programs."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from remote import credentials
from remote.credentials import Credential, credential_files, find_credential
from remote.errors import CredentialError


def auth(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) if not isinstance(value, str) else value)
    return path


def helper(folder: Path, name: str, script: str) -> None:
    program = folder / f"docker-credential-{name}"
    folder.mkdir(exist_ok=True)
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize(
    ("auths", "host", "expected"),
    [
        ({"a.example": {"auth": auth("u:p:q")}}, "a.example", Credential("u", "p:q")),
        ({"https://a.example": {"auth": auth("u:p")}}, "a.example", Credential("u", "p")),
        ({"https://a.example/v1/": {"auth": auth("u:p")}}, "a.example", Credential("u", "p")),
        ({"http://a.example:5000/v2/": {"auth": auth("u:p")}}, "a.example:5000", Credential("u", "p")),
        ({"a.example:5000": {"auth": auth("u:p")}}, "a.example", None),
        ({"a.example": {"username": "u", "password": "p"}}, "a.example", Credential("u", "p")),
        ({"a.example": {"auth": auth("u:p\0\0")}}, "a.example", Credential("u", "p")),
        ({"a.example": {"auth": auth("u:"), "identitytoken": "t"}}, "a.example", Credential("u", "", "t")),
        ({"https://index.docker.io/v1/": {"auth": auth("u:p")}}, "docker.io", Credential("u", "p")),
        ({"docker.io": {"auth": auth("u:p")}}, "docker.io", Credential("u", "p")),
        ({"a.example": {}}, "a.example", None),
        ({}, "a.example", None),
    ],
)
def test_a_host_is_found_under_each_of_its_names(
    tmp_path: Path, auths: dict[str, Any], host: str, expected: Credential | None
) -> None:
    assert find_credential(host, [write(tmp_path / "config.json", {"auths": auths})]) == expected


def test_the_first_file_with_an_entry_wins(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"auths": {"b": {"auth": auth("x:y")}}})
    two = write(tmp_path / "two", {"auths": {"a": {"auth": auth("u:p")}, "b": {"auth": auth("no:no")}}})
    files = [tmp_path / "missing", write(tmp_path / "empty", ""), one, two]
    assert find_credential("a", files) == Credential("u", "p")
    assert find_credential("b", files) == Credential("x", "y")


def test_where_files_are_looked_for() -> None:
    found = credential_files({"HOME": "/h", "XDG_RUNTIME_DIR": "/run/u"})
    assert found == [
        Path("/h/.docker/config.json"),
        Path("/run/u/containers/auth.json"),
        Path("/h/.config/containers/auth.json"),
    ]
    found = credential_files({"HOME": "/h", "DOCKER_CONFIG": "/d", "REGISTRY_AUTH_FILE": "/r.json"})
    assert found[:2] == [Path("/d/config.json"), Path("/r.json")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ('{"auths":{"a":{"auth":"***"}}}', "not base64"),
        (json.dumps({"auths": {"a": {"auth": auth("nocolon")}}}), "no colon"),
        ('{"auths":{"a":{"username":1,"password":"x"}}}', "must be strings"),
        ('{"auths":{"a":{}},"auths":{}}', "twice"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "config.json", text)
    with pytest.raises(CredentialError, match=said) as caught:
        find_credential("a", [path])
    assert str(path) in str(caught.value)


def test_a_helper_is_asked_as_docker_does(tmp_path: Path, programs: Path) -> None:
    helper(programs, "mine", 'test "$1" = get && host=$(cat) && printf \'{"Username":"me","Secret":"for %s"}\' "$host"')
    config = write(
        tmp_path / "c", {"credHelpers": {"a.example": "mine"}, "auths": {"b.example": {"auth": auth("u:p")}}}
    )
    assert find_credential("a.example", [config]) == Credential("me", "for a.example")
    assert find_credential("b.example", [config]) == Credential("u", "p")
    store = write(tmp_path / "s", {"credsStore": "mine"})
    assert find_credential("docker.io", [store]) == Credential("me", "for https://index.docker.io/v1/")


def test_an_identity_token_of_a_helper(tmp_path: Path, programs: Path) -> None:
    helper(programs, "idp", 'printf \'{"ServerURL":"x","Username":"<token>","Secret":"long"}\'')
    config = write(tmp_path / "c", {"credsStore": "idp"})
    assert find_credential("a", [config]) == Credential("", "", "long")


def test_a_helper_that_knows_nothing_is_no_error(tmp_path: Path, programs: Path) -> None:
    helper(programs, "none", "echo credentials not found in native keychain; exit 1")
    config = write(tmp_path / "c", {"credsStore": "none", "auths": {"a": {"auth": auth("u:p")}}})
    assert find_credential("a", [config]) == Credential("u", "p")
    assert find_credential("b", [config]) is None


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo the vault is locked; exit 1", "the vault is locked"),
        ("exit 3", "it says nothing"),
        ("echo not json", "cannot be read"),
        ('echo \'{"Username":1,"Secret":"x"}\'', "without Username and Secret"),
    ],
)
def test_a_helper_that_fails_says_what(tmp_path: Path, programs: Path, script: str, said: str) -> None:
    helper(programs, "bad", script)
    config = write(tmp_path / "c", {"credsStore": "bad"})
    with pytest.raises(CredentialError, match=said):
        find_credential("a", [config])


def test_a_missing_helper_and_a_path_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match=r"docker-credential-gone, which .* is not installed"):
        find_credential("a", [write(tmp_path / "c", {"credsStore": "gone"})])
    with pytest.raises(CredentialError, match="refused"):
        find_credential("a", [write(tmp_path / "c", {"credsStore": "../../bin/sh"})])


def test_a_helper_that_hangs(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "HELPER_TIMEOUT", 0.2)
    helper(programs, "slow", "exec tail -f /dev/null")
    with pytest.raises(CredentialError, match="no answer"):
        find_credential("a", [write(tmp_path / "c", {"credsStore": "slow"})])


def test_no_secret_in_a_repr() -> None:
    assert "geheim" not in repr(Credential("u", "geheim", "geheim"))
