"""Who may do what, on the wire: challenges, tokens, refusals, and what a stranger cannot find out."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import jwt
import pytest

from auth.passwords import hash_password
from oci.digest import Digest
from storage.people import Effect, Kind
from storage.sql_people import SQLPeople
from tests import servers
from tests.accounts import BY, PASSWORD, make, people_of, rule, token
from tests.wire.client import Answer, Connection

LAYER = b"the bytes of a layer"
DIGEST = Digest.of(LAYER)
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(Digest.of(b"{}")), "size": 2},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": str(DIGEST), "size": len(LAYER)}],
    }
).encode()
TYPE = {"content-type": "application/vnd.oci.image.manifest.v1+json"}


@dataclass
class Hub:
    """A hub with accounts: root (admin), bob, eve, and what was pushed to team/app, secret/app and public/app."""

    server: servers.Server
    people: SQLPeople
    wire: Connection

    def get_token(self, *scopes: str, who: str = "", password: str = PASSWORD, **more: str) -> Answer:
        query = urlencode([("service", "portside"), *(("scope", scope) for scope in scopes), *more.items()])
        headers = {"authorization": basic(who, password)} if who else {}
        return self.wire.request("GET", f"/auth/token?{query}", headers)

    def bearer(self, *scopes: str, who: str = "") -> dict[str, str]:
        answer = self.get_token(*scopes, who=who)
        assert answer.status == 200, answer
        return {"authorization": f"Bearer {answer.json['token']}"}

    def post(self, **form: str) -> Answer:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        return self.wire.request("POST", "/auth/token", headers, urlencode(form).encode())


def basic(name: str, password: str = PASSWORD) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def access_of(answer: Answer) -> list[dict[str, object]]:
    access: list[dict[str, object]] = jwt.decode(answer.json["token"], options={"verify_signature": False})["access"]
    return access


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[servers.Server, SQLPeople]]:
    root: Path = tmp_path_factory.mktemp("accounts")
    with people_of(root) as people:
        make(people, "bob", "eve")
        rule(people, "bob", "team/*", "pull,push")
        rule(people, "everyone", "public/*", "pull")
        with servers.portside(root, "--floor", "0") as server:
            with Connection(server.address) as wire:
                for repository in ("team/app", "secret/app", "public/app"):
                    push(wire, repository, {"authorization": basic("root")})
            yield server, people


@pytest.fixture
def hub(served: tuple[servers.Server, SQLPeople]) -> Iterator[Hub]:
    with Connection(served[0].address) as wire:
        yield Hub(*served, wire)


def push(wire: Connection, repository: str, headers: dict[str, str]) -> None:
    for blob in (LAYER, b"{}"):
        answer = wire.request("POST", f"/v2/{repository}/blobs/uploads/?digest={Digest.of(blob)}", headers, blob)
        assert answer.status == 201, answer
    answer = wire.request("PUT", f"/v2/{repository}/manifests/1", headers | TYPE, MANIFEST)
    assert answer.status == 201, answer


def challenge(answer: Answer) -> dict[str, str]:
    assert answer.status == 401, answer
    assert answer.error == "UNAUTHORIZED"
    assert answer.header("docker-distribution-api-version") == "registry/2.0", "Docker 20.10 counts on it"
    value = answer.header("www-authenticate")
    assert value is not None
    assert value.startswith("Bearer ")
    return dict(re.findall(r'(\w+)="([^"]*)"', value))


# -- challenges


def test_the_ping_asks_for_a_log_in_and_says_where(hub: Hub) -> None:
    asked = challenge(hub.wire.request("GET", "/v2/"))
    assert asked == {"realm": f"http://{hub.server.address}/auth/token", "service": "portside"}


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v2/team/app/manifests/1", "repository:team/app:pull"),
        ("HEAD", "/v2/team/app/manifests/1", "repository:team/app:pull"),
        ("GET", f"/v2/team/app/blobs/{DIGEST}", "repository:team/app:pull"),
        ("HEAD", f"/v2/team/app/blobs/{DIGEST}", "repository:team/app:pull,push"),
        ("GET", "/v2/team/app/tags/list", "repository:team/app:pull"),
        ("GET", f"/v2/team/app/referrers/{DIGEST}", "repository:team/app:pull"),
        ("PUT", "/v2/team/app/manifests/1", "repository:team/app:pull,push"),
        ("POST", "/v2/team/app/blobs/uploads/", "repository:team/app:pull,push"),
        (
            "POST",
            f"/v2/team/app/blobs/uploads/?mount={DIGEST}&from=lib/x",
            "repository:team/app:pull,push repository:lib/x:pull",
        ),
        ("PATCH", "/v2/team/app/blobs/uploads/abc", "repository:team/app:pull,push"),
        ("DELETE", "/v2/team/app/blobs/uploads/abc", "repository:team/app:pull,push"),
        ("DELETE", "/v2/team/app/manifests/1", "repository:team/app:delete"),
        ("DELETE", f"/v2/team/app/blobs/{DIGEST}", "repository:team/app:delete"),
        ("GET", "/v2/ghost/app/manifests/1", "repository:ghost/app:pull"),
    ],
)
def test_a_challenge_names_what_is_needed(hub: Hub, method: str, path: str, scope: str) -> None:
    answer = hub.wire.request(method, path, {"content-length": "0"} if method in ("PUT", "PATCH", "POST") else {})
    if method == "HEAD":
        assert answer.status == 401
        assert f'scope="{scope}"' in (answer.header("www-authenticate") or "")
    else:
        assert challenge(answer)["scope"] == scope


def test_quotes_in_a_mounts_source_do_not_reach_the_header(hub: Hub) -> None:
    source = quote('x"\r\ny: z,error="', safe="")
    asked = challenge(hub.wire.request("POST", f"/v2/team/app/blobs/uploads/?mount={DIGEST}&from={source}"))
    assert asked["scope"] == "repository:team/app:pull,push"


def test_a_hostile_host_header_does_not_reach_the_realm(hub: Hub) -> None:
    for host in ('evil"x', "a b", "user@evil", "evil/path", "a,b", "[::1"):
        hub.wire.send(f"GET /v2/ HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        assert challenge(hub.wire.read())["realm"] == "http://localhost/auth/token"


def test_forwarded_headers_of_strangers_do_not_count(hub: Hub) -> None:
    headers = {"x-forwarded-host": "evil", "x-forwarded-proto": "https", "x-forwarded-for": "1.2.3.4"}
    assert challenge(hub.wire.request("GET", "/v2/", headers))["realm"] == f"http://{hub.server.address}/auth/token"


# -- tokens


def test_a_token_holds_what_is_asked_and_allowed(hub: Hub) -> None:
    answer = hub.get_token("repository:team/app:pull,push,delete", "repository:secret/app:pull", who="bob")
    assert answer.status == 200
    assert answer.header("cache-control") == "no-store"
    assert answer.json["token"] == answer.json["access_token"]
    assert answer.json["expires_in"] >= 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", answer.json["issued_at"])
    assert "refresh_token" not in answer.json
    assert access_of(answer) == [{"type": "repository", "name": "team/app", "actions": ["pull", "push"]}]
    claims = jwt.decode(answer.json["token"], options={"verify_signature": False})
    assert (claims["iss"], claims["aud"], claims["sub"]) == ("portside", "portside", "bob")
    assert claims["nbf"] <= claims["iat"] < claims["exp"]
    assert claims["jti"]


def test_a_token_verifies_by_the_published_keys(hub: Hub) -> None:
    keys = hub.wire.request("GET", "/auth/jwks.json").json["keys"]
    text = hub.get_token(who="bob").json["token"]
    (key,) = (jwt.PyJWK(key) for key in keys if key["kid"] == jwt.get_unverified_header(text)["kid"])
    assert jwt.decode(text, key.key, ["ES256"], audience="portside", issuer="portside")["sub"] == "bob"
    assert not any("d" in key for key in keys), "no private key is published"


@pytest.mark.parametrize(
    ("scopes", "access"),
    [
        ([], []),
        ([""], []),
        (["repository:team/a:pull repository:team/b:push"], [("team/a", ["pull"]), ("team/b", ["push"])]),
        (["repository(plugin):team/a:pull"], [("team/a", ["pull"])]),
        (["repository:team/a:*"], [("team/a", ["pull", "push"])]),
        (["repository:team/a:fly,pull"], [("team/a", ["pull"])]),
        (["repository:hub.lan:5000/team/a:pull"], []),
        (["repository:Team/A:pull"], []),
        (["volume:team/a:pull"], []),
        (["registry:catalog:*"], [("catalog", ["*"])]),
        (["registry:other:*"], []),
    ],
)
def test_scopes(hub: Hub, scopes: list[str], access: list[tuple[str, list[str]]]) -> None:
    found = access_of(hub.get_token(*scopes, who="bob"))
    assert [(entry["name"], entry["actions"]) for entry in found] == access


@pytest.mark.parametrize(
    "scope", ["repository:a,b", "repository", "repository:ä:pull", "repository:a:pull " * 101, ":::", 'a"b:c:d']
)
def test_what_is_no_scope_is_said_so(hub: Hub, scope: str) -> None:
    answer = hub.get_token(scope, who="bob")
    assert answer.status == 400
    assert answer.error == "REQUEST_INVALID"
    assert "scope" in answer.message


def test_ten_thousand_scopes_are_refused(hub: Hub) -> None:
    answer = hub.post(grant_type="password", username="bob", password=PASSWORD, scope="repository:a:pull " * 2500)
    assert answer.status == 400
    assert "2500 scopes" in answer.message
    answer = hub.post(grant_type="password", username="bob", password=PASSWORD, scope="repository:a:pull " * 10_000)
    assert answer.status == 413


def test_a_token_that_no_header_would_hold_is_refused(hub: Hub) -> None:
    scopes = " ".join(f"repository:team/{'x' * 240}{number}:pull" for number in range(90))
    answer = hub.post(grant_type="password", username="bob", password=PASSWORD, scope=scopes)
    assert answer.status == 400
    assert "ask for fewer scopes at once" in answer.message


def test_another_service_gets_no_token(hub: Hub) -> None:
    answer = hub.wire.request("GET", "/auth/token?service=other", {"authorization": basic("bob")})
    assert answer.status == 400
    assert "not issued here, for 'portside' they are" in answer.message
    assert "other" not in answer.message


def test_wrong_credentials_are_refused_in_both_clients_forms(hub: Hub) -> None:
    for answer in (
        hub.get_token(who="bob", password="wrong password"),
        hub.get_token(who="nobody", password="wrong password"),
        hub.post(grant_type="password", username="bob", password="wrong password", service="portside"),
    ):
        assert answer.status == 401
        assert answer.json["error"] == "invalid_grant"
        assert answer.json["error_description"] == answer.json["errors"][0]["message"]
        assert answer.json["errors"][0]["code"] == "UNAUTHORIZED"
        assert answer.json["errors"][0]["detail"]["request_id"]
        assert (answer.header("www-authenticate") or "").startswith("Basic")


def test_a_form_gets_a_token_and_a_refresh_token_another(hub: Hub) -> None:
    first = hub.post(
        grant_type="password",
        username="bob",
        password=PASSWORD,
        service="portside",
        client_id="docker",
        access_type="offline",
        scope="repository:team/app:pull repository:secret/app:pull",
    )
    assert first.status == 200
    assert first.json["scope"] == "repository:team/app:pull"
    second = hub.post(
        grant_type="refresh_token",
        refresh_token=first.json["refresh_token"],
        service="portside",
        client_id="docker",
        scope="repository:team/app:push",
    )
    assert second.status == 200
    assert second.json["scope"] == "repository:team/app:push"
    assert "refresh_token" not in second.json
    wrong = hub.post(
        grant_type="refresh_token", refresh_token=first.json["refresh_token"][:-1] + "A", service="portside"
    )
    assert wrong.status == 401


def test_offline_token_by_get(hub: Hub) -> None:
    answer = hub.get_token(who="bob", offline_token="true")
    secret = answer.json["refresh_token"]
    assert secret.startswith("psr_")
    assert hub.post(grant_type="refresh_token", refresh_token=secret).status == 200
    assert hub.wire.request("GET", "/v2/", {"authorization": basic("bob", secret)}).status == 401, "it is no password"
    assert hub.wire.request("GET", "/v2/", {"authorization": f"Bearer {secret}"}).status == 401, "nor a token"


def test_a_secret_of_ours_is_kept_by_its_holder_and_makes_no_other(hub: Hub) -> None:
    answer = hub.get_token(who="bob", password=token(hub.people, "bob"), offline_token="true")
    assert answer.status == 200
    assert "refresh_token" not in answer.json, "it would outlive the one that it was made from"


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"grant_type=password&username=a&username=b", "application/x-www-form-urlencoded"),
        (b"grant_type=magic", "application/x-www-form-urlencoded"),
        (b"\xff\xfe", "application/x-www-form-urlencoded"),
        (b"&".join(b"a%d=1" % n for n in range(50)), "application/x-www-form-urlencoded"),
        (b'{"grant_type": "password"}', "application/json"),
        (b"", "application/x-www-form-urlencoded"),
    ],
)
def test_a_bad_form(hub: Hub, body: bytes, content_type: str) -> None:
    answer = hub.wire.request("POST", "/auth/token", {"content-type": content_type}, body)
    assert answer.status == 400
    assert answer.error == "REQUEST_INVALID"


def test_other_paths_and_methods_of_the_token_service(hub: Hub) -> None:
    assert hub.wire.request("PUT", "/auth/token", {"content-length": "0"}).header("allow") == "GET, POST"
    assert hub.wire.request("GET", "/auth/else").status == 404
    assert hub.wire.request("GET", "/auth/token?redirect_uri=http://evil/").status == 200


# -- what may be done


def test_a_token_opens_what_it_holds(hub: Hub) -> None:
    headers = hub.bearer("repository:team/app:pull", who="bob")
    for _ in range(2):  # the second is a kept answer
        answer = hub.wire.request("GET", "/v2/team/app/manifests/1", headers)
        assert (answer.status, answer.body) == (200, MANIFEST)
    assert hub.wire.request("GET", f"/v2/team/app/blobs/{DIGEST}", headers).body == LAYER
    assert hub.wire.request("GET", "/v2/team/app/tags/list", headers).json["tags"] == ["1"]
    assert hub.wire.request("GET", "/v2/", headers).status == 200
    refused = hub.wire.request("POST", "/v2/team/app/blobs/uploads/", headers)
    assert challenge(refused)["error"] == "insufficient_scope"
    assert challenge(refused)["scope"] == "repository:team/app:pull,push"
    other = hub.wire.request("GET", "/v2/team/other/manifests/1", headers)
    assert challenge(other)["error"] == "insufficient_scope"


def test_a_kept_answer_is_only_for_who_may_see_it(hub: Hub) -> None:
    good, bad = {"authorization": basic("bob")}, {"authorization": basic("eve")}
    path = "/v2/team/app/manifests/1"
    assert hub.wire.request("GET", path, good).status == 200
    assert hub.wire.request("GET", path, good).status == 200
    assert hub.wire.request("GET", path, bad).status == 404
    assert hub.wire.request("GET", path).status == 401
    assert hub.wire.request("GET", path, good).status == 200
    assert hub.wire.request("GET", "/v2/", good).status == 200
    assert hub.wire.request("GET", "/v2/").status == 401


def test_basic_is_enough_for_everything(hub: Hub) -> None:
    push(hub.wire, "team/basic", {"authorization": basic("bob")})
    denied = hub.wire.request("DELETE", "/v2/team/basic/manifests/1", {"authorization": basic("bob")})
    assert (denied.status, denied.error) == (403, "DENIED")
    assert "Bearer realm=" in (denied.header("www-authenticate") or ""), "another account's token may do"
    assert "bob may not delete in team/basic" in denied.message
    assert "portside access bob team/basic" in denied.message
    assert hub.wire.request("DELETE", "/v2/team/basic/manifests/1", {"authorization": basic("root")}).status == 202


@pytest.mark.parametrize(
    "path",
    [
        "manifests/1",
        f"manifests/{DIGEST}",
        f"blobs/{DIGEST}",
        f"blobs/{Digest.of(b'none')}",
        "tags/list",
        f"referrers/{DIGEST}",
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_what_may_not_be_seen_is_as_if_it_were_not(hub: Hub, method: str, path: str) -> None:
    eve, bob = {"authorization": basic("eve")}, {"authorization": basic("bob")}
    there = hub.wire.request(method, f"/v2/secret/app/{path}", eve)
    absent = hub.wire.request(method, f"/v2/absent/ap/{path}", eve)
    missing = hub.wire.request(method, f"/v2/team/gone/{path}", bob)  # bob may see it, and it is not there

    def plain(answer: Answer) -> tuple[int, list[tuple[str, str]], bytes]:
        body = re.sub(rb"secret/app|absent/ap|team/gone", b"NAME", answer.body)
        body = re.sub(rb'"request_id": "\w+"', b"", body)
        return answer.status, [pair for pair in answer.headers if pair[0] not in ("date", "content-length")], body

    assert plain(there) == plain(absent)
    if method != "DELETE" or path.startswith(("tags", "referrers")):
        assert plain(absent) == plain(missing)
    assert there.status in (200, 404, 405)


def test_a_push_is_denied_alike_whether_the_repository_is_there_or_not(hub: Hub) -> None:
    eve = {"authorization": basic("eve")}
    for repository in ("secret/app", "absent/app", "public/app"):
        for method, path in (
            ("POST", "blobs/uploads/"),
            ("PUT", "manifests/2"),
            ("PATCH", "blobs/uploads/x"),
            ("GET", "blobs/uploads/x"),
        ):
            answer = hub.wire.request(method, f"/v2/{repository}/{path}", eve | {"content-length": "0"})
            assert (answer.status, answer.error) == (403, "DENIED"), (repository, method)


def test_public_repositories_are_for_everybody(hub: Hub) -> None:
    assert hub.wire.request("GET", "/v2/public/app/manifests/1").body == MANIFEST
    headers = hub.bearer("repository:public/app:pull,push", "repository:team/app:pull")
    assert hub.wire.request("GET", "/v2/public/app/manifests/1", headers).body == MANIFEST
    assert hub.wire.request("GET", "/v2/", headers).status == 200
    assert (
        challenge(hub.wire.request("GET", "/v2/team/app/manifests/1", headers))["scope"] == "repository:team/app:pull"
    )
    assert challenge(hub.wire.request("POST", "/v2/public/app/blobs/uploads/", headers))
    assert hub.wire.request("GET", "/v2/public/app/tags/list", {"authorization": basic("eve")}).status == 200


def test_the_catalogue_shows_each_what_they_may_pull(hub: Hub) -> None:
    def catalog(headers: dict[str, str], query: str = "") -> list[str]:
        answer = hub.wire.request("GET", f"/v2/_catalog{query}", headers)
        assert answer.status == 200, answer
        names: list[str] = answer.json["repositories"]
        return names

    push(hub.wire, "team/zoo", {"authorization": basic("bob")})
    bob = catalog({"authorization": basic("bob")})
    assert {"team/app", "team/zoo", "public/app"} <= set(bob)
    assert not any(name.startswith("secret") for name in bob)
    assert catalog({"authorization": basic("eve")}) == ["public/app"]
    assert catalog(hub.bearer("registry:catalog:*")) == ["public/app"]
    assert challenge(hub.wire.request("GET", "/v2/_catalog"))["scope"] == "registry:catalog:*"
    assert "secret/app" in catalog({"authorization": basic("root")})
    assert catalog(hub.bearer("registry:catalog:*", who="bob")) == bob
    refused = hub.wire.request("GET", "/v2/_catalog", hub.bearer("repository:team/app:pull", who="bob"))
    assert challenge(refused)["scope"] == "registry:catalog:*"
    first = hub.wire.request("GET", "/v2/_catalog?n=1", {"authorization": basic("bob")})
    assert first.json["repositories"] == bob[:1]
    assert first.header("link") == f'</v2/_catalog?n=1&last={quote(bob[0], safe="")}>; rel="next"'
    assert catalog({"authorization": basic("bob")}, f"?last={quote(bob[0])}") == bob[1:]


# -- mounts


def test_a_mount_needs_pull_on_its_source(hub: Hub) -> None:
    bob = {"authorization": basic("bob")}
    for source, status in (("public/app", 201), ("secret/app", 202), ("absent/app", 202)):
        answer = hub.wire.request("POST", f"/v2/team/m-{status}/blobs/uploads/?mount={DIGEST}&from={source}", bob)
        assert answer.status == status, source
    assert hub.wire.request("GET", f"/v2/team/m-202/blobs/{DIGEST}", bob).status == 404
    assert hub.wire.request("GET", f"/v2/team/m-201/blobs/{DIGEST}", bob).body == LAYER


def test_a_token_mounts_only_from_what_it_holds(hub: Hub) -> None:
    path = f"/v2/team/t/blobs/uploads/?mount={DIGEST}&from=public/app"
    without = hub.bearer("repository:team/t:pull,push", who="bob")
    asked = challenge(hub.wire.request("POST", path, without))
    assert asked["scope"] == "repository:team/t:pull,push repository:public/app:pull"
    assert asked["error"] == "insufficient_scope"
    assert hub.wire.request("POST", path.replace("public/app", "secret/app"), without).status == 202
    root = hub.bearer("repository:team/t:pull,push", who="root")
    assert hub.wire.request("POST", path.replace("public/app", "Public"), root).status == 400
    both = hub.bearer("repository:team/t:pull,push", "repository:public/app:pull", who="bob")
    assert hub.wire.request("POST", path, both).status == 201


def test_knowing_a_digest_gives_no_bytes(hub: Hub) -> None:
    secret = b"only in the secret repository"
    digest, root, bob = Digest.of(secret), {"authorization": basic("root")}, {"authorization": basic("bob")}
    assert hub.wire.request("POST", f"/v2/secret/app/blobs/uploads/?digest={digest}", root, secret).status == 201
    assert hub.wire.request("POST", f"/v2/team/k/blobs/uploads/?mount={digest}", bob).status == 202
    assert hub.wire.request("POST", f"/v2/team/k/blobs/uploads/?mount={digest}&from=secret/app", bob).status == 202
    manifest = MANIFEST.replace(str(DIGEST).encode(), str(digest).encode())
    assert hub.wire.request("PUT", "/v2/team/k/manifests/1", bob | TYPE, manifest).status == 201
    assert hub.wire.request("GET", f"/v2/team/k/blobs/{digest}", bob).status == 404
    assert hub.wire.request("GET", f"/v2/team/k/manifests/{Digest.of(MANIFEST)}", bob).status == 404
    assert hub.wire.request("POST", f"/v2/team/k/blobs/uploads/?mount={digest}", root).status == 201


# -- credentials


def test_a_personal_token_is_a_password_and_a_bearer(hub: Hub) -> None:
    secret = token(hub.people, "bob")
    path = "/v2/team/app/manifests/1"
    assert hub.wire.request("GET", path, {"authorization": basic("bob", secret)}).status == 200
    assert hub.wire.request("GET", path, {"authorization": f"Bearer {secret}"}).status == 200
    assert hub.wire.request("GET", path, {"authorization": basic("eve", secret)}).status == 401
    limited = token(hub.people, "bob", "team/x*:pull")
    assert hub.wire.request("GET", path, {"authorization": basic("bob", limited)}).status == 404
    assert access_of(
        hub.get_token("repository:team/app:pull", "repository:team/xy:pull,push", who="bob", password=limited)
    ) == [{"type": "repository", "name": "team/xy", "actions": ["pull"]}]


@pytest.mark.parametrize(
    "header",
    ["Bearer", "Bearer x", "Bearer a.b.c", "Basic", "Basic !", "Basic Ym9i", "Digest x", "", "Bearer " + "a" * 20_000],
)
def test_bad_credentials_are_a_challenge(hub: Hub, header: str) -> None:
    assert challenge(hub.wire.request("GET", "/v2/public/app/manifests/1", {"authorization": header}))


def test_two_authorization_headers_are_refused(hub: Hub) -> None:
    headers = [("authorization", basic("bob")), ("authorization", basic("root"))]
    assert challenge(hub.wire.request("GET", "/v2/team/app/manifests/1", headers))
    assert hub.wire.request("GET", "/auth/token", headers).status == 400


# -- cutting off


@pytest.fixture
def tom(hub: Hub, request: pytest.FixtureRequest) -> str:
    """An account that only one test uses, with all rights on cut/*."""
    name = "tom" + Digest.of(request.node.nodeid.encode()).hex[:8]
    hub.people.add_account(name, Kind.USER, BY)
    hub.people.set_password(name, hash_password(PASSWORD), BY)
    rule(hub.people, name, "cut/*", "*")
    push(hub.wire, "cut/app", {"authorization": basic(name)})
    return name


def test_a_right_that_is_taken_away_is_gone_at_once(hub: Hub, tom: str) -> None:
    headers = hub.bearer("repository:cut/app:pull,push", who=tom)
    assert hub.wire.request("GET", "/v2/cut/app/manifests/1", headers).status == 200
    rule(hub.people, tom, "cut/*", "push", Effect.DENY)
    denied = hub.wire.request("POST", "/v2/cut/app/blobs/uploads/", headers)
    assert (denied.status, denied.error) == (403, "DENIED")
    assert hub.wire.request("GET", "/v2/cut/app/manifests/1", headers).status == 200
    rule(hub.people, tom, "cut/*", "")
    assert hub.wire.request("GET", "/v2/cut/app/manifests/1", headers).status == 404


@pytest.mark.parametrize("cut", ["disable", "remove", "password"])
def test_who_is_cut_off_is_out_at_once(hub: Hub, tom: str, cut: str) -> None:
    headers = hub.bearer("repository:cut/app:pull", who=tom)
    refresh = hub.get_token(who=tom, offline_token="true").json["refresh_token"]
    path = "/v2/cut/app/manifests/1"
    assert hub.wire.request("GET", path, headers).status == 200
    assert hub.wire.request("GET", path, {"authorization": basic(tom)}).status == 200
    if cut == "disable":
        hub.people.set_account(tom, BY, is_disabled=True)
    elif cut == "remove":
        hub.people.remove_account(tom, BY)
    else:
        hub.people.set_password(tom, hash_password("another password"), BY)
    assert challenge(hub.wire.request("GET", path, headers))["error"] == "invalid_token"
    assert hub.wire.request("GET", path, {"authorization": basic(tom)}).status == 401
    assert hub.post(grant_type="refresh_token", refresh_token=refresh).status == 401
    assert hub.get_token(who=tom).status in (401, 429)


def test_a_new_account_of_an_old_name_inherits_no_token(hub: Hub, tom: str) -> None:
    headers = hub.bearer("repository:cut/app:pull", who=tom)
    hub.people.remove_account(tom, BY)
    hub.people.add_account(tom, Kind.USER, BY)
    rule(hub.people, tom, "cut/*", "*")
    assert hub.wire.request("GET", "/v2/cut/app/manifests/1", headers).status == 401


def test_a_revoked_credential_takes_its_tokens_with_it(hub: Hub, tom: str) -> None:
    secret = token(hub.people, tom)
    answer = hub.get_token("repository:cut/app:pull", who=tom, password=secret)
    headers = {"authorization": f"Bearer {answer.json['token']}"}
    assert hub.wire.request("GET", "/v2/cut/app/manifests/1", headers).status == 200
    (credential,) = hub.people.list_credentials(tom)
    hub.people.remove_credential(tom, credential.id, BY)
    for header in (headers, {"authorization": basic(tom, secret)}, {"authorization": f"Bearer {secret}"}):
        assert hub.wire.request("GET", "/v2/cut/app/manifests/1", header).status == 401


def test_an_access_token_ends_with_the_credential_that_it_was_issued_for(hub: Hub, tom: str) -> None:
    ends = time.time() + 3.0
    secret = token(hub.people, tom, ends=ends)
    text = hub.get_token("repository:cut/app:pull", who=tom, password=secret).json["token"]
    path, headers = "/v2/cut/app/manifests/1", {"authorization": f"Bearer {text}"}
    assert hub.wire.request("GET", path, headers).status == 200
    servers.wait_until(lambda: time.time() > ends, "the credential has expired")
    for header in (headers, {"authorization": basic(tom, secret)}, {"authorization": f"Bearer {secret}"}):
        assert hub.wire.request("GET", path, header).status == 401


def test_when_a_credential_was_used_is_known(hub: Hub, tom: str) -> None:
    secret = token(hub.people, tom)
    (credential,) = hub.people.list_credentials(tom)
    assert credential.used_at is None
    assert hub.wire.request("GET", "/v2/", {"authorization": basic(tom, secret)}).status == 200
    servers.wait_until(lambda: hub.people.list_credentials(tom)[0].used_at is not None, "the use is noted", 10)


# -- the trail


def test_what_happened_can_be_read_back(hub: Hub, tom: str) -> None:
    hub.get_token("repository:cut/app:pull", who=tom)
    hub.get_token(who=tom, password="not the password")
    hub.wire.request("GET", "/v2/", {"authorization": basic(tom, token(hub.people, tom))})
    hub.wire.request("GET", "/v2/", {"authorization": basic(tom, "not the password either")})
    hub.wire.request("POST", "/v2/secret/x/blobs/uploads/", {"authorization": basic(tom)})
    hub.wire.request("DELETE", "/v2/cut/app/manifests/1", {"authorization": basic(tom)})

    def found() -> set[tuple[str, str, str, bool]]:
        records = hub.people.find_records(who=tom, limit=1000)
        assert all(
            record.address == "127.0.0.1" and record.request_id for record in records if record.kind != "account"
        )
        return {(record.kind, record.who, record.subject, record.is_success) for record in records}

    digest = Digest.of(MANIFEST)
    expected = {
        ("push", tom, f"cut/app@{DIGEST}", True),
        ("push", tom, f"cut/app@{digest}", True),
        ("login", tom, f"user:{tom}", True),
        ("login", tom, f"user:{tom}", False),
        ("denied", tom, "push secret/x", False),
        ("delete", tom, "cut/app:1", True),
    }
    servers.wait_until(lambda: expected <= found(), f"the trail holds {expected}, not {found()}", 10)
    logins = [record for record in hub.people.find_records(who=tom, kind="login") if record.detail == "without a token"]
    assert [record.is_success for record in logins] == [True, True], "by the password for the push, and by the token"
    failed = [record for record in hub.people.find_records(who=tom, kind="login") if not record.is_success]
    assert len(failed) == 2
