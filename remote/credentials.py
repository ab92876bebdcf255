"""Credentials as ``docker login`` and ``podman login`` leave them: a JSON file, and helper programs that it names.

What is read, in this order: ``$DOCKER_CONFIG/config.json`` (else ``~/.docker/config.json``), ``$REGISTRY_AUTH_FILE``,
``$XDG_RUNTIME_DIR/containers/auth.json``, ``~/.config/containers/auth.json``. A helper is spoken to by Docker's protocol
(docker-credential-helpers): ``docker-credential-NAME get``, the server on its standard input, JSON on its output.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oci.reference import DEFAULT_HOST
from oci.strictjson import InvalidJSON, parse_object
from remote.errors import CredentialError

FILE_MAX = 4 * 1024 * 1024
HELPER_TIMEOUT = 30.0
"""Seconds; a helper may ask a person for a password or a cloud for a token."""

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_IDENTITY_USER = "<token>"
"""The user name with which a helper says that its secret is an identity token."""


@dataclass(frozen=True, slots=True)
class Credential:
    """Who we are to one registry. ``identity_token`` is an OAuth2 refresh token that takes the password's place."""

    username: str
    password: str = field(repr=False)
    identity_token: str | None = field(default=None, repr=False)

    def basic(self) -> str:
        """Name and password as Authorization and Proxy-Authorization have them (RFC 7617 section 2), in UTF-8."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


def credential_files(environment: Mapping[str, str]) -> list[Path]:
    """The files that Docker and podman keep credentials in, the first to be asked first; they need not exist."""
    home = Path(environment.get("HOME") or Path.home())
    docker = environment.get("DOCKER_CONFIG")
    out = [(Path(docker) if docker else home / ".docker") / "config.json"]
    if named := environment.get("REGISTRY_AUTH_FILE"):
        out.append(Path(named))
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        out.append(Path(runtime) / "containers/auth.json")
    out.append(Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json")
    return out


def find_credential(host: str, files: Sequence[Path] | None = None) -> Credential | None:
    """The credential for a registry (``host[:port]``) by the first file that has one; CredentialError where one cannot be read."""
    for path in credential_files(os.environ) if files is None else files:
        config = _read(path)
        if config is not None and (found := _look_up(config, host, path)) is not None:
            return found
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CredentialError(f"the credential file {path} cannot be read: {error.strerror}") from error
    if not raw.strip():
        return None
    try:
        return parse_object(raw, FILE_MAX)
    except InvalidJSON as error:
        raise CredentialError(f"the credential file {path} cannot be read: {error}") from error


def _look_up(config: Mapping[str, Any], host: str, path: Path) -> Credential | None:
    keys = list(_keys(host))
    helpers = config.get("credHelpers")
    names = [helpers[key] for key in keys if isinstance(helpers, dict) and helpers.get(key)] or [
        config.get("credsStore")
    ]
    if isinstance(names[0], str) and names[0] and (found := _ask_helper(names[0], keys[0])) is not None:
        return found
    auths = config.get("auths")
    if not isinstance(auths, dict):
        return None
    by_host = {_host_of(key): entry for key, entry in auths.items()}
    for entry in [auths.get(key) for key in keys] + [by_host.get(_host_of(key)) for key in keys]:
        if isinstance(entry, dict) and (found := _from_entry(entry, f"{path}, entry for {host}")) is not None:
            return found
    return None


def _keys(host: str) -> Iterator[str]:
    """Under which names a file or helper may keep a host; the one that is asked of a helper comes first."""
    if host == DEFAULT_HOST:
        yield DOCKER_HUB_KEY
        yield "index.docker.io"
        yield "registry-1.docker.io"
    yield host


def _host_of(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _from_entry(entry: Mapping[str, Any], where: str) -> Credential | None:
    username, password = entry.get("username") or "", entry.get("password") or ""
    if encoded := entry.get("auth"):
        try:
            text = base64.b64decode(encoded, validate=True).decode("utf-8")
        except (binascii.Error, ValueError, TypeError) as error:
            raise CredentialError(f"{where}: `auth` is not base64 of user:password; log in again") from error
        username, colon, password = text.partition(":")
        if not colon:
            raise CredentialError(f"{where}: `auth` has no colon between user and password; log in again")
        password = password.rstrip("\0")  # Docker strips them: old clients padded
    token = entry.get("identitytoken") or None
    if not all(isinstance(text, str) for text in (username, password, token or "")):
        raise CredentialError(f"{where}: user, password and identity token must be strings; log in again")
    if not (username and password) and token is None:
        return None
    return Credential(username, password, token)


def _ask_helper(name: str, server: str) -> Credential | None:
    program = f"docker-credential-{name}"
    if not _HELPER_NAME.match(name):
        raise CredentialError(
            f"the credential helper's name {name[:100]!r} is refused: it would not be a plain program name"
        )
    try:
        done = subprocess.run(
            [program, "get"], input=server.encode(), capture_output=True, timeout=HELPER_TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise CredentialError(
            f"the credential helper {program}, which the Docker configuration names, is not installed"
        ) from error
    except OSError as error:
        raise CredentialError(f"the credential helper {program} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise CredentialError(f"the credential helper {program} gave no answer in {HELPER_TIMEOUT:.0f} s") from error
    if done.returncode != 0:
        said = (done.stdout or done.stderr).decode("utf-8", "replace").strip()
        if "credentials not found" in said.lower():
            return None
        raise CredentialError(f"the credential helper {program} failed for {server}: {said[:500] or 'it says nothing'}")
    try:
        answer = parse_object(done.stdout, FILE_MAX)
    except InvalidJSON as error:
        raise CredentialError(f"the credential helper {program} gave an answer that cannot be read: {error}") from error
    username, secret = answer.get("Username"), answer.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise CredentialError(f"the credential helper {program} gave an answer without Username and Secret")
    if username == _IDENTITY_USER:
        return Credential("", "", secret)
    return Credential(username, secret) if username or secret else None
