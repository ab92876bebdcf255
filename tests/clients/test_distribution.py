"""Tokens across registries: another registry takes this hub's, and this hub takes those of another issuer. Plain HTTP on the loopback.

Realms are of ``localhost``: crane asks no token service whose address is a private one in digits, unless it is the registry itself.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests import images, servers
from tests.accounts import PASSWORD, make, people_of, rule
from tests.auth.forging import PrivateKey, key_set, public_jwk
from tests.auth.publishing import Publisher, send
from tests.clients import wire
from tests.clients.hubs import Hub
from tests.clients.test_crane import Crane
from tests.clients.wire import Witness
from tests.servers import Docker, Server, ServerError

SERVICE = "distribution"
OTHER = images.small("other")
"""Of which nothing is there: a refused manifest crane sometimes sends again without its body, and then says nothing but that."""


def crane_of(server: Server, directory: Path, name: str = "") -> Crane:
    """crane, logged in to a server when there is a name."""
    directory.mkdir(exist_ok=True)
    crane = Crane(Hub(server.address, Witness(server.address)), directory)
    if name:
        crane.login(name)
    return crane


# Our tokens, another registry


@dataclass(frozen=True, slots=True)
class Pair:
    """Our hub, whose accounts count, and distribution, which asks it for tokens."""

    hub: Server
    other: Server


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("pair")
    root = directory / "hub"
    with people_of(root) as people:
        make(people, "ann", "bob")
        rule(people, "ann", "team/*", "pull,push,delete")
        rule(people, "bob", "team/*", "pull")
        rule(people, "everyone", "public/*", "pull")
    with servers.portside(root, "--audience", SERVICE, "--floor", "0") as hub:
        keys = directory / "jwks.json"
        keys.write_bytes(wire.ask(hub.address, "GET", "/auth/jwks.json").body)
        realm = f"http://localhost:{hub.port}/auth/token"
        token = f"realm: '{realm}', service: {SERVICE}, issuer: portside, jwks: {keys}"
        with servers.distribution(directory / "other", f"auth: {{token: {{{token}}}}}") as other:
            yield Pair(hub, other)


def test_crane_with_our_accounts_on_distribution(pair: Pair, tmp_path: Path) -> None:
    sent, name = images.small("across"), f"{pair.other.address}/team/crane"
    ann, bob, nobody = (crane_of(pair.other, tmp_path / (who or "nobody"), who) for who in ("ann", "bob", ""))
    assert ann.push_image(sent, f"{name}:1") == sent.digest
    assert bob("manifest", f"{name}:1").encode() == sent.raw
    refused = "UNAUTHORIZED: authentication required; .*"
    with pytest.raises(ServerError, match=f"{refused}Action:push"):
        bob.push_image(OTHER, f"{name}:2")
    with pytest.raises(ServerError, match=f"{refused}Action:delete"):
        bob("delete", f"{name}@{sent.digest}")
    for crane, repository in ((ann, "secret/crane"), (nobody, "team/crane")):
        with pytest.raises(ServerError, match=f"{refused}Action:pull.*Name:{repository}"):
            crane("manifest", f"{pair.other.address}/{repository}:1")
    with pytest.raises(ServerError, match="401 Unauthorized"):
        ann.push_image(sent, f"{pair.other.address}/secret/crane:1")
    ann("delete", f"{name}@{sent.digest}")
    ann.logout()
    with pytest.raises(ServerError, match=f"{refused}Action:pull"):
        ann("ls", name)


def test_public_and_administrators_on_distribution(pair: Pair, tmp_path: Path) -> None:
    root, ann, nobody = (crane_of(pair.other, tmp_path / (who or "nobody"), who) for who in ("root", "ann", ""))
    sent, name = images.small("public"), f"{pair.other.address}/public/crane:1"
    root.push_image(sent, name)
    assert nobody("manifest", name).encode() == sent.raw
    assert "public/crane" in root("catalog", pair.other.address).split()
    with pytest.raises(ServerError, match=r"UNAUTHORIZED: authentication required; .*Name:catalog"):
        ann("catalog", pair.other.address)


@pytest.mark.parametrize("hub", ["open"], indirect=True)
def test_docker_with_our_accounts_on_distribution(pair: Pair, hub: Hub, docker: Docker, tmp_path: Path) -> None:
    name = f"{pair.other.address}/team/docker:1"

    def as_user(who: str, *arguments: str, stdin: bytes = b"") -> str:
        return docker("--config", str(tmp_path / who), *arguments, stdin=stdin)

    docker("load", stdin=images.docker_archive(images.small("docker"), name))
    for who in ("ann", "bob"):
        log_in = ("login", "-u", who, "--password-stdin", pair.other.address)
        as_user(who, *log_in, stdin=PASSWORD.encode())
    with pytest.raises(ServerError, match="unauthorized: the name or the password is wrong"):
        as_user("eve", *log_in, stdin=b"wrong")
    as_user("ann", "push", name)
    with pytest.raises(ServerError, match="denied: requested access to the resource is denied"):
        as_user("bob", "push", name)
    docker("rmi", name)
    as_user("bob", "pull", name)
    docker("rmi", name)
    as_user("bob", "logout", pair.other.address)
    with pytest.raises(ServerError, match="pull access denied"):
        as_user("bob", "pull", name)


def test_a_token_is_for_one_registry(pair: Pair) -> None:
    """What is made out to the one does not open the other."""
    basic = "Basic " + base64.b64encode(f"root:{PASSWORD}".encode()).decode()
    for service, opens in (("portside", pair.hub), (SERVICE, pair.other)):
        answer = wire.ask(pair.hub.address, "GET", f"/auth/token?service={service}", {"Authorization": basic})
        bearer = {"Authorization": f"Bearer {answer.json['token']}"}
        for server in (pair.hub, pair.other):
            assert wire.ask(server.address, "GET", "/v2/", bearer).status == (200 if server is opens else 401)


# Another's tokens, our registry


ISSUER = "https://ci.example"
RIGHTS = {"ann": ("pull", "push"), "bob": ("pull",)}
KEYS: dict[str, PrivateKey] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
}
STRANGE = ec.generate_private_key(ec.SECP256R1())


@dataclass(slots=True)
class TokenService:
    """A service of tokens (distribution's token spec): whoever shows a name of `RIGHTS` may do that in every repository.

    ``algorithm`` and ``claims``: how it signs, and what its tokens say otherwise. ``key`` and ``kid``: by another key than it publishes.
    """

    url: str
    algorithm: str = "ES256"
    kid: str = ""
    key: PrivateKey | None = None
    claims: dict[str, object] = field(default_factory=dict)
    asked: int = 0

    @property
    def keys(self) -> bytes:
        return key_set(*(public_jwk(key, algorithm) for algorithm, key in KEYS.items()))

    def token(self, name: str, service: str, scopes: list[str]) -> str:
        self.asked += 1
        access = []
        for scope in " ".join(scopes).split():
            kind, repository, actions = scope.split(":")
            granted = [action for action in actions.split(",") if action in RIGHTS.get(name, ())]
            access.append({"type": kind, "name": repository, "actions": granted})
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": name,
            "aud": service,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "access": access,
        }
        key, kid = self.key or KEYS[self.algorithm], self.kid or self.algorithm
        return jwt.encode(claims | self.claims, key, self.algorithm, headers={"kid": kid})

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """``/token`` to whoever shows a name, any password will do; everything else is the keys."""
        url = urlsplit(handler.path)
        if url.path != "/token":
            return send(handler, self.keys)
        query = parse_qs(url.query)
        credentials = handler.headers.get("Authorization", "Basic Og==").removeprefix("Basic ")
        name = base64.b64decode(credentials).decode().partition(":")[0]
        token = self.token(name, query["service"][0], query.get("scope", []))
        return send(handler, json.dumps({"token": token}).encode())


@pytest.fixture(scope="module")
def service() -> Iterator[TokenService]:
    with Publisher().running() as publisher:
        made = TokenService(f"http://localhost:{publisher.port}")
        publisher.answer = made.answer
        yield made


@pytest.fixture(scope="module", params=["file", "url"])
def trusting(
    request: pytest.FixtureRequest, service: TokenService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Our registry without accounts of its own, which trusts that service by its keys from a file or from its address."""
    directory = tmp_path_factory.mktemp(f"by-{request.param}")
    place = f"{service.url}/jwks.json"
    if request.param == "file":
        place = str(directory / "jwks.json")
        Path(place).write_bytes(service.keys)
    trust = ("--trust-issuer", f"{ISSUER},{place},{service.url}/token")
    with servers.portside(directory / "root", *trust, "--floor", "0") as server:
        yield server


@contextlib.contextmanager
def signing(service: TokenService, **changes: object) -> Iterator[None]:
    """Its tokens are made so: ``algorithm``, ``kid``, ``is_strange`` (by a key that it does not publish), and claims."""
    service.algorithm = str(changes.pop("algorithm", "ES256"))
    service.kid, service.key = str(changes.pop("kid", "")), STRANGE if changes.pop("is_strange", False) else None
    service.claims = changes
    try:
        yield
    finally:
        service.algorithm, service.kid, service.key, service.claims = "ES256", "", None, {}


@pytest.mark.parametrize("algorithm", KEYS)
def test_crane_with_another_issuers_tokens(
    algorithm: str, trusting: Server, service: TokenService, tmp_path: Path
) -> None:
    sent, name = images.small("foreign"), f"{trusting.address}/foreign/{algorithm.lower()}"
    ann, bob, nobody = (crane_of(trusting, tmp_path / (who or "nobody"), who) for who in ("ann", "bob", ""))
    with signing(service, algorithm=algorithm):
        before = service.asked
        assert ann.push_image(sent, f"{name}:1") == sent.digest
        assert bob("manifest", f"{name}:1").encode() == sent.raw
        with pytest.raises(ServerError, match="UNAUTHORIZED: the token does not allow push in foreign/"):
            bob.push_image(OTHER, f"{name}:2")
        with pytest.raises(ServerError, match="UNAUTHORIZED: the token does not allow pull in foreign/"):
            nobody("manifest", f"{name}:1")
        assert service.asked - before >= 4
    assert wire.ask(trusting.address, "GET", "/v2/").status == 401


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "another audience": ({"aud": "another"}, "the token is meant for another service"),
    "no audience": ({"aud": []}, "the token is meant for another service"),
    "another issuer": ({"iss": "https://evil.example"}, "the token is of an issuer that is not trusted here"),
    "our own issuer": ({"iss": "portside"}, "the token is signed by a key that this hub does not have"),
    "an unknown key": ({"kid": "unknown"}, f"the token is signed by a key that its issuer, {ISSUER}, does not publish"),
    "a key of the name": ({"is_strange": True}, "the token's signature is wrong"),
    "expired": ({"exp": time.time() - 3600}, "the token has expired"),
    "not yet": ({"nbf": time.time() + 7200, "exp": time.time() + 9000}, "the token is not valid yet"),
}


@pytest.mark.parametrize("what", WRONG)
def test_another_issuers_wrong_tokens(what: str, trusting: Server, service: TokenService, tmp_path: Path) -> None:
    ann, name = crane_of(trusting, tmp_path / "ann", "ann"), f"{trusting.address}/foreign/right:1"
    ann.push_image(images.small("right"), name)
    changes, message = WRONG[what]
    with signing(service, **changes):
        with pytest.raises(ServerError, match=f"UNAUTHORIZED: {re.escape(message)}"):
            ann("manifest", name)
        with pytest.raises(ServerError, match="401 Unauthorized"):
            ann.push_image(images.small("wrong"), f"{trusting.address}/foreign/wrong:1")
    assert ann("ls", f"{trusting.address}/foreign/right").split() == ["1"]
