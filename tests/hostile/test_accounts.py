"""Strangers at a hub with accounts, over real connections: forged tokens, and secrets that are no longer good."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from auth.key_files import KeyFiles
from auth.keys import KeyRing
from auth.tokens import TokenIssuer, TokenVerifier
from oci.digest import Digest
from storage.people import Kind
from storage.sql_people import SQLPeople
from tests import images, servers
from tests.accounts import BY, PASSWORD, make, people_of, rule, token
from tests.auth import hubs, test_hostile_tokens
from tests.auth.hubs import HUB
from tests.auth.test_hostile_tokens import HOSTILE
from tests.hostile.asking import FORM, PULL, basic, bearer, push
from tests.wire.client import Answer, Connection, Headers


@dataclass
class Hub:
    """A hub with two server processes, and who is there: root (an administrator), alice, bob and eve, who has no rights."""

    servers: tuple[servers.Server, ...]
    people: SQLPeople
    root: Path

    def ask(self, method: str, target: str, headers: Headers = (), body: bytes | None = None, at: int = 0) -> Answer:
        """A request on a connection of its own; no server fails."""
        with Connection(self.servers[at].address) as wire:
            answer = wire.request(method, target, headers, body)
        assert answer.status < 500, answer
        return answer

    def log_in(self, who: str, password: str = PASSWORD, at: int = 0) -> Answer:
        """A token for team/app, and a refresh token."""
        query = urlencode({"service": HUB, "scope": "repository:team/app:pull,push", "offline_token": "true"})
        return self.ask("GET", f"/auth/token?{query}", basic(who, password), at=at)

    def refresh(self, refresh_token: str, at: int = 0) -> Answer:
        form = {"grant_type": "refresh_token", "service": HUB, "refresh_token": refresh_token}
        return self.ask("POST", "/auth/token", FORM, urlencode(form).encode(), at)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("accounts")
    with contextlib.ExitStack() as stack:
        people = stack.enter_context(people_of(root))
        make(people, "alice", "bob", "eve")
        for name in ("alice", "bob"):
            rule(people, name, "team/*", "pull,push")
        options = ("--service", HUB, "--floor", "0")
        started = tuple(stack.enter_context(servers.portside(root, *options)) for _ in range(2))
        with Connection(started[0].address) as wire:
            push(wire, images.small(), basic("root"))
        yield Hub(started, people, root)


# -- token confusion

ELSEWHERE = {
    "white space behind": "the end of a line is HTTP's",
    "white space before": "HTTP has white space there",
    "exp of 5,000 digits": "made for a fixed clock",
    "exp infinite": "made for a fixed clock",
    "exp Infinity": "made for a fixed clock",
    "exp NaN": "made for a fixed clock",
    "our key for the foreign issuer": "this hub trusts none",
    "a lone surrogate": "no bytes",
}
"""What is no case on the wire, and why; see `tests.auth.test_hostile_tokens`."""


class Forger(hubs.Hub):
    """A hub's own keys in a stranger's hands: what is forged differs from a good token of alice in one thing alone."""

    epoch: int
    credential: int

    def claims(self, **more: Any) -> dict[str, Any]:
        return super().claims(**({"portside": {"epoch": self.epoch, "credential": self.credential}} | more))


@pytest.fixture
def forger(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forger]:
    now = float(int(time.time()))
    for module in (hubs, test_hostile_tokens):
        monkeypatch.setattr(module, "NOW", now)
    keys = KeyRing(KeyFiles(hub.root / "auth/keys"), 300)
    keys.signing()
    if not hub.people.list_credentials("alice"):
        token(hub.people, "alice")
    (credential,) = hub.people.list_credentials("alice")
    account = hub.people.find_account("alice")
    assert account is not None
    (path,) = (hub.root / "auth/keys").glob("*.pem")
    stranger = ec.generate_private_key(ec.SECP256R1())
    made = Forger(keys, path, TokenIssuer(keys, HUB), TokenVerifier(keys, HUB, HUB), stranger)
    object.__setattr__(made, "epoch", account.epoch)
    object.__setattr__(made, "credential", credential.id)
    yield made
    keys.close()


def test_what_is_forged_is_made_from_what_is_good(hub: Hub, forger: Forger) -> None:
    for text in (forger.token(), forger.headed(), forger.token(jti="y")):
        for target in (PULL, "/v2/"):
            assert hub.ask("GET", target, bearer(text)).status == 200


@pytest.mark.parametrize("case", [case for case in HOSTILE if case not in ELSEWHERE])
def test_a_forged_token_is_a_challenge(hub: Hub, forger: Forger, case: str) -> None:
    make, reason = HOSTILE[case]
    raw = make(forger).encode()
    is_too_long = len(raw) > 30_000
    for target in (PULL, "/v2/", "/v2/_catalog", "/api/v1/users", "/v2/team/app/blobs/uploads/"):
        method = "POST" if target.endswith("uploads/") else "GET"
        with Connection(hub.servers[0].address) as wire:
            head = f"{method} {target} HTTP/1.1\r\nHost: {wire.address}\r\nContent-Length: 0\r\nAuthorization: Bearer "
            wire.send(head.encode() + raw + b"\r\n\r\n")
            answer = wire.read()
        if is_too_long:
            assert answer.status == 431, answer
            continue
        assert answer.status == 401, answer
        assert reason in answer.message
        assert (answer.header("www-authenticate") or "").startswith(
            f'Bearer realm="http://{wire.address}/auth/token",service="{HUB}"'
        )
    if not is_too_long:
        form = {"grant_type": "refresh_token", "refresh_token": raw.decode()}
        assert hub.ask("POST", "/auth/token", FORM, urlencode(form).encode()).status == 401


def test_each_secret_is_good_for_what_it_was_made_for(hub: Hub) -> None:
    """No kind of secret passes for another."""
    logged_in = hub.log_in("bob")
    access, refresh = logged_in.json["token"], logged_in.json["refresh_token"]
    personal = token(hub.people, "bob")
    for headers in (
        bearer(refresh),
        basic("bob", access),
        basic("bob", refresh),
        basic("", personal),
        basic("eve", personal),
    ):
        assert hub.ask("GET", PULL, headers).status in (401, 429), headers
    for text in (access, personal, PASSWORD, "", "null"):
        assert hub.refresh(text).status == 401, text
    for headers in (bearer(access), bearer(personal), bearer(refresh)):
        assert hub.ask("GET", "/auth/token", headers).status == 401
    assert hub.ask("GET", "/api/v1/users", bearer(access)).status == 401
    for scheme in ("Token", "Negotiate", "Bearer,Basic", "Bearer:", "Basic"):
        assert hub.ask("GET", PULL, {"authorization": f"{scheme} {access}"}).status == 401, scheme


@pytest.mark.parametrize(
    ("claims", "is_good"),
    [
        ({"exp": -50}, True),
        ({"exp": -70}, False),
        ({"nbf": 50}, True),
        ({"nbf": 70}, False),
        ({"iat": 50}, True),
        ({"iat": 70}, False),
    ],
)
def test_clocks_may_differ_by_a_minute(hub: Hub, forger: Forger, claims: dict[str, int], is_good: bool) -> None:
    now = time.time()
    text = forger.token(**{name: now + seconds for name, seconds in claims.items()})
    for at in range(2):
        assert hub.ask("GET", PULL, bearer(text), at=at).status == (200 if is_good else 401)


# -- what is no longer good


@pytest.fixture
def tom(hub: Hub, request: pytest.FixtureRequest) -> str:
    """An account that only one test uses, with rights on team/*."""
    name = f"tom-{Digest.of(request.node.nodeid.encode()).hex[:8]}"
    hub.people.add_account(name, Kind.USER, BY)
    set_password(hub, name)
    rule(hub.people, name, "team/*", "pull,push")
    return name


def set_password(hub: Hub, name: str) -> None:
    """The password that all have; its hash is anybody's."""
    hashed = hub.people.password_hash("bob")
    assert hashed is not None
    hub.people.set_password(name, hashed, BY)


@dataclass(frozen=True)
class LogIn:
    """All that somebody got by logging in."""

    access: str
    refresh: str
    personal: str

    def statuses(self, hub: Hub, who: str) -> set[int]:
        """Of each secret, in each of its ways, at each server."""
        found = set()
        for at in range(2):
            for headers in (bearer(self.access), bearer(self.personal), basic(who, self.personal)):
                found.add(hub.ask("GET", PULL, headers, at=at).status)
            found.add(hub.refresh(self.refresh, at).status)
        return found


def all_secrets(hub: Hub, who: str) -> LogIn:
    answer = hub.log_in(who)
    made = LogIn(answer.json["token"], answer.json["refresh_token"], token(hub.people, who))
    assert made.statuses(hub, who) == {200}
    return made


def test_what_was_cut_off_stays_cut_off(hub: Hub, tom: str) -> None:
    """A refresh token is not replayed when its account is let in again."""
    old = all_secrets(hub, tom)
    hub.people.set_account(tom, BY, is_disabled=True)
    assert old.statuses(hub, tom) == {401}
    hub.people.set_account(tom, BY, is_disabled=False)
    for at in range(2):
        assert hub.refresh(old.refresh, at).status == 401
        assert hub.ask("GET", PULL, bearer(old.access), at=at).status == 401
        assert hub.ask("GET", PULL, bearer(old.personal), at=at).status == 200, "which was disabled, not revoked"
    assert hub.log_in(tom).status == 200


def test_a_refresh_token_is_not_replayed_after_its_log_in_was_revoked(hub: Hub, tom: str) -> None:
    kept, revoked = hub.log_in(tom).json["refresh_token"], hub.log_in(tom).json["refresh_token"]
    assert {hub.refresh(text, at).status for text in (kept, revoked) for at in range(2)} == {200}
    first, second = sorted(hub.people.list_credentials(tom), key=lambda credential: credential.id)
    assert hub.people.remove_credential(tom, second.id, BY)
    assert first.id < second.id
    for at in range(2):
        assert hub.refresh(revoked, at).status == 401
        assert hub.refresh(kept, at).status == 200


def test_a_password_that_changed_ends_what_was_got_by_the_old_one(hub: Hub, tom: str) -> None:
    old = hub.log_in(tom)
    set_password(hub, tom)
    for at in range(2):
        assert hub.refresh(old.json["refresh_token"], at).status == 401
        assert hub.ask("GET", PULL, bearer(old.json["token"]), at=at).status == 401


def test_another_of_the_same_name_and_password_gets_nothing_of_who_was_removed(hub: Hub, tom: str) -> None:
    old = all_secrets(hub, tom)
    hub.people.remove_account(tom, BY)
    assert old.statuses(hub, tom) == {401}
    hub.people.add_account(tom, Kind.USER, BY)
    set_password(hub, tom)
    rule(hub.people, tom, "team/*", "pull,push")
    assert old.statuses(hub, tom) == {401}
    assert hub.log_in(tom).status == 200


def test_the_connection_and_the_upload_of_who_was_removed(hub: Hub, tom: str) -> None:
    """The next request on the same connection is refused, and nobody without rights goes on with the upload."""
    headers = bearer(hub.log_in(tom).json["token"])
    with Connection(hub.servers[0].address) as wire:
        started = wire.request("POST", "/v2/team/app/blobs/uploads/", headers, b"")
        assert started.status == 202
        location = urlsplit(started.header("location") or "").path
        assert wire.request("PATCH", location, headers, b"first").status == 202
        hub.people.remove_account(tom, BY)
        assert wire.request("PATCH", location, headers, b"second").status == 401
        assert wire.request("GET", PULL, headers).status == 401
        digest = Digest.of(b"first")
        assert wire.request("PUT", f"{location}?digest={digest}", headers, b"").status == 401
        assert wire.request("PUT", f"{location}?digest={digest}", basic("eve"), b"").status == 403
        assert wire.request("GET", f"/v2/team/app/blobs/{digest}", basic("bob")).status == 404
