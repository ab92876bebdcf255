"""Administration over HTTP: every operation, who may ask it, what is refused and how, and the description of the same table."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from auth.names import secret_hash
from registry.operations import OPERATIONS, Operation, Who
from storage.people import Purpose
from storage.sql_people import SQLPeople
from tests import servers
from tests.accounts import PASSWORD, make, people_of, token
from tests.wire.client import Answer, Connection

BASE = "/api/v1"
JSON = {"content-type": "application/json"}
NUMBERS = itertools.count()


@dataclass
class Hub:
    """A hub with accounts: ann (admin), bob. ``api`` asks as ann by a personal token, and holds each answer against the description."""

    server: servers.Server
    people: SQLPeople
    wire: Connection
    ann: str
    bob: str
    described: Any

    def api(self, method: str, path: str, body: object = None, *, by: str | None = None) -> Answer:
        headers = {"authorization": f"Bearer {self.ann if by is None else by}"}
        raw = None
        if method in ("POST", "PUT", "PATCH"):
            headers |= JSON
            raw = json.dumps({} if body is None else body).encode()
        answer = self.wire.request(method, BASE + path, headers, raw)
        self.validate(method, path.partition("?")[0], answer)
        return answer

    def validate(self, method: str, path: str, answer: Answer) -> None:
        """Hold an answer against what the description says of its operation and status."""
        for template, operations in self.described["paths"].items():
            pattern = re.sub(r"{\w+}", "[^/]+", template)
            if re.fullmatch(pattern, path) and method.lower() in operations:
                operation = operations[method.lower()]
                break
        else:
            raise AssertionError(f"{method} {path} is not described")
        content = operation["responses"][str(answer.status)].get("content")
        if content is None:
            assert answer.body == b""
            return
        assert answer.header("content-type") == "application/json"
        schema = content["application/json"]["schema"] | {"components": self.described["components"]}
        Draft202012Validator(schema).validate(answer.json)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("api")
    with people_of(root) as people:
        make(people, "bob", admin="ann")
        with servers.portside(root, "--floor", "0") as server, Connection(server.address) as wire:
            described = wire.request("GET", f"{BASE}/openapi.json").json
            yield Hub(server, people, wire, token(people, "ann"), token(people, "bob"), described)


@pytest.fixture
def hub(shared: Hub) -> Iterator[Hub]:
    """With a connection of the test's own: one that was refused in the middle of a body is closed."""
    with Connection(shared.server.address) as shared.wire:
        yield shared


def new(kind: str) -> str:
    """A name that no other test has."""
    return f"{kind}{next(NUMBERS)}"


def basic(name: str, password: str = PASSWORD) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


# -- the operations


def test_users(hub: Hub) -> None:
    name = new("user")
    added = hub.api("POST", "/users", {"name": name})
    assert added.status == 201
    assert added.header("cache-control") == "no-store"
    password = added.json["password"]
    assert added.json["user"] | {"created_at": 0} == {
        "name": name,
        "kind": "user",
        "is_admin": False,
        "is_disabled": False,
        "groups": [],
        "created_at": 0,
    }
    assert hub.wire.request("GET", f"{BASE}/self", basic(name, password)).json["name"] == name
    assert hub.api("GET", f"/users/{name}").json == added.json["user"]
    assert added.json["user"] in hub.api("GET", "/users").json["users"]
    assert hub.api("POST", "/users", {"name": name}).status == 409
    assert hub.api("POST", "/users", {"name": new("user"), "password": PASSWORD}).json["password"] is None
    assert hub.api("PATCH", f"/users/{name}", {"is_disabled": True}).json["is_disabled"]
    assert hub.wire.request("GET", f"{BASE}/self", basic(name, password)).status == 401
    assert not hub.api("PATCH", f"/users/{name}", {"is_disabled": False, "is_admin": None}).json["is_disabled"]
    assert hub.api("PUT", f"/users/{name}/password", {"password": "another horse"}).json == {"password": None}
    assert hub.wire.request("GET", f"{BASE}/self", basic(name, password)).status == 401
    assert hub.wire.request("GET", f"{BASE}/self", basic(name, "another horse")).status == 200
    assert len(hub.api("PUT", f"/users/{name}/password").json["password"]) >= 20
    assert hub.api("DELETE", f"/users/{name}").status == 204
    assert hub.api("GET", f"/users/{name}").status == 404
    assert hub.api("PATCH", "/users/ann", {"is_admin": False}).status == 409


def test_groups(hub: Hub) -> None:
    name = new("group")
    assert hub.api("POST", "/groups", {"name": name}).json == {"name": name, "members": []}
    assert hub.api("PUT", f"/groups/{name}/members/bob").status == 204
    assert {"name": name, "members": ["bob"]} in hub.api("GET", "/groups").json["groups"]
    assert name in hub.api("GET", "/users/bob").json["groups"]
    assert hub.api("PUT", f"/groups/{name}/members/nobody").status == 404
    assert hub.api("DELETE", f"/groups/{name}/members/bob").status == 204
    assert {"name": name, "members": []} in hub.api("GET", "/groups").json["groups"]
    assert hub.api("DELETE", f"/groups/{name}").status == 204
    assert hub.api("DELETE", f"/groups/{name}").status == 404


def test_robots(hub: Hub) -> None:
    name = new("robot")
    added = hub.api("POST", "/robots", {"name": name, "grants": ["team/*:pull,push"], "expires": "90d"})
    assert added.status == 201
    robot, secret = added.json["robot"], added.json["secret"]
    assert robot["expires_at"] - robot["created_at"] == pytest.approx(90 * 86400, abs=5)
    assert robot["grants"] == ["team/*:pull,push"]
    credential = hub.people.find_credential(secret_hash(secret))
    assert credential is not None
    assert credential.account == name
    assert robot in hub.api("GET", "/robots").json["robots"]
    assert hub.wire.request("GET", f"{BASE}/self", basic(name, secret)).json["kind"] == "robot"
    renewed = hub.api("POST", f"/robots/{name}/secret", {"expires": "never"})
    assert renewed.status == 200
    assert renewed.json["robot"]["expires_at"] is None
    assert hub.wire.request("GET", f"{BASE}/self", basic(name, secret)).status == 401
    assert hub.wire.request("GET", f"{BASE}/self", basic(name, renewed.json["secret"])).status == 200
    assert hub.api("DELETE", f"/robots/{name}").status == 204
    assert hub.api("DELETE", "/robots/ann").status == 404


def test_tokens(hub: Hub) -> None:
    name = new("token")
    path = "/users/bob/tokens"
    added = hub.api("POST", path, {"name": name, "expires": "1h", "limits": ["team/*:pull"]}, by=hub.bob)
    assert added.status == 201
    assert added.json["token"]["user"] == "bob"
    assert hub.people.find_credential(secret_hash(added.json["secret"])) is not None
    for answer in (hub.api("GET", path, by=hub.bob), hub.api("GET", path), hub.api("GET", "/tokens")):
        assert added.json["token"] in answer.json["tokens"]
    assert hub.api("DELETE", f"{path}/{name}", by=hub.bob).status == 204
    assert hub.people.find_credential(secret_hash(added.json["secret"])) is None
    assert hub.api("DELETE", f"{path}/{name}").status == 404
    assert hub.api("POST", "/users/nobody/tokens", {"name": name, "expires": "1h"}).status == 404


def test_rules_and_why(hub: Hub) -> None:
    group = new("group")
    hub.api("POST", "/groups", {"name": group})
    rule = {"subject": f"group:{group}", "pattern": "team/*", "effect": "allow"}
    wanted = {"who": f"group:{group}", "pattern": "team/*", "actions": "pull,push"}
    assert hub.api("POST", "/rules/grant", wanted).json == {**rule, "actions": ["pull", "push"]}
    assert {**rule, "actions": ["pull", "push"]} in hub.api("GET", "/rules").json["rules"]
    hub.api("PUT", f"/groups/{group}/members/bob")
    denied = hub.api("POST", "/rules/grant", {**wanted, "who": "bob", "actions": "push", "effect": "deny"})
    assert denied.json == {"subject": "bob", "pattern": "team/*", "effect": "deny", "actions": ["push"]}
    found = hub.api("GET", "/access?who=bob&repository=team/app").json
    assert found["groups"] == [group]
    assert [(one["action"], one["is_allowed"]) for one in found["actions"]][:2] == [("pull", True), ("push", False)]
    assert hub.api("POST", "/rules/revoke", {**wanted, "actions": "*"}).json["actions"] == []
    assert hub.api("POST", "/rules/revoke", {**wanted, "actions": "*"}).status == 404
    assert hub.api("POST", "/rules/revoke", {**wanted, "who": "bob", "effect": "deny"}).json["actions"] == []
    assert hub.api("GET", "/access?who=bob&repository=Team").status == 400


def test_the_trail_names_who_from_where_and_the_request(hub: Hub) -> None:
    name = new("user")
    answer = hub.api("POST", "/groups", {"name": name})
    assert answer.status == 201
    records = hub.api("GET", "/audit?who=ann&kind=group&since=0").json["records"]
    (record,) = [one for one in records if one["subject"] == f"group:{name}"]
    assert (record["who"], record["address"], record["is_success"]) == ("ann", "127.0.0.1", True)
    assert record["request_id"]
    after = record["sequence"]
    assert hub.api("GET", f"/audit?kind=group&after={after}").json["records"] == []
    assert len(hub.api("GET", "/audit?limit=3").json["records"]) == 3
    assert hub.api("GET", "/audit?kind=nothing").status == 400


def test_settings(hub: Hub) -> None:
    assert hub.api("PATCH", "/settings", {"personal_namespaces": True}).json == {"personal_namespaces": True}
    assert hub.api("GET", "/access?who=bob&repository=bob/app").json["actions"][0]["is_allowed"]
    assert hub.api("PATCH", "/settings", {}).json == {"personal_namespaces": True}
    assert hub.api("PATCH", "/settings", {"personal_namespaces": False}).json == {"personal_namespaces": False}
    assert hub.api("GET", "/settings").json == {"personal_namespaces": False}


def test_keys(hub: Hub) -> None:
    (first, *_) = hub.api("GET", "/keys").json["keys"]
    second = hub.api("POST", "/keys/rotate").json["keys"][0]
    assert second["is_signing"]
    assert second["kid"] != first["kid"]
    assert hub.wire.request("GET", "/auth/jwks.json").json["keys"][0]["kid"] == second["kid"]
    assert hub.api("GET", "/audit?kind=key").json["records"][-1]["subject"] == f"key:{second['kid']}"


def test_ones_own_password(hub: Hub) -> None:
    name = new("user")
    old = hub.api("POST", "/users", {"name": name}).json["password"]
    mine = token(hub.people, name)

    def change(old: str, password: str) -> Answer:
        return hub.api("PUT", "/self/password", {"old_password": old, "password": password}, by=mine)

    wrong = change("not the one", "brand new horse")
    assert (wrong.status, wrong.error, wrong.message) == (403, "DENIED", "the present password is wrong")
    assert change(mine, "brand new horse").status == 403, "a token is no password"
    assert change(old, "short").status == 400
    assert change(old, "brand new horse").status == 204
    assert hub.wire.request("GET", f"{BASE}/self", basic(name, "brand new horse")).status == 200
    assert hub.wire.request("GET", f"{BASE}/self", basic(name, old)).status == 401
    for _ in range(12):
        slowed = change("not the one", "brand new horse")
        if slowed.status == 429:
            break
    assert (slowed.status, slowed.error) == (429, "TOOMANYREQUESTS")
    assert int(slowed.header("retry-after") or 0) >= 1

    def is_written() -> bool:
        return any(
            (one.subject, one.detail, one.is_success) == (f"user:{name}", "the present password is wrong", False)
            for one in hub.people.find_records(who=name, kind="login")
        )

    servers.wait_until(is_written, "the wrong password is in the trail", 10)


# -- who may ask


def example(operation: Operation[Any, Any]) -> str:
    return operation.path.format(user="ann", token="x", group="x", member="x", robot="x")


@pytest.mark.parametrize("operation", OPERATIONS, ids=[one.name for one in OPERATIONS])
def test_who_may_ask(hub: Hub, operation: Operation[Any, Any]) -> None:
    path, method = BASE + example(operation), operation.method
    body = b"{}" if operation.has_body else None
    nobody = hub.wire.request(method, path, JSON, body)
    assert (nobody.status, nobody.error) == (401, "UNAUTHORIZED")
    assert nobody.header("www-authenticate") == 'Basic realm="portside"'
    if operation.who is not Who.ANYBODY:
        bob = hub.wire.request(method, path, {**JSON, "authorization": f"Bearer {hub.bob}"}, body)
        assert (bob.status, bob.error) == (403, "DENIED")
        assert "bob may not do this: it is for administrators" in bob.message
    for user in ("ann", "bob"):  # a token that is limited could lift its limits
        limited = token(hub.people, user, "*:*")
        refused = hub.wire.request(method, path, {**JSON, "authorization": f"Bearer {limited}"}, body)
        assert (refused.status, refused.error) == (403, "DENIED")
    access = hub.wire.request("GET", "/auth/token?service=portside&scope=registry:catalog:*", basic("ann"))
    by_access = hub.wire.request(method, path, {**JSON, "authorization": f"Bearer {access.json['token']}"}, body)
    assert (by_access.status, by_access.error) == (401, "UNAUTHORIZED")
    assert "access tokens are for images" in by_access.message


def test_a_denial_is_in_the_trail(hub: Hub) -> None:
    assert hub.api("GET", "/users", by=hub.bob).status == 403

    def is_written() -> bool:
        found = hub.people.find_records(who="bob", kind="denied")
        return any(record.subject == "GET /api/v1/users" and not record.is_success for record in found)

    servers.wait_until(is_written, "the denial is in the trail", 10)


def test_a_robot_is_nobody_who_holds_tokens(hub: Hub) -> None:
    name = new("robot")
    secret = hub.api("POST", "/robots", {"name": name, "expires": "1h"}).json["secret"]
    assert hub.api("GET", "/self", by=secret).json["name"] == name
    assert hub.api("POST", f"/users/{name}/tokens", {"name": "x", "expires": "1h"}, by=secret).status == 404
    credentials = hub.people.list_credentials(name)
    assert [one.purpose for one in credentials] == [Purpose.ROBOT]


def test_a_hub_without_accounts(tmp_path: Path) -> None:
    with servers.portside(tmp_path, "--floor", "0") as server, Connection(server.address) as wire:
        for operation in OPERATIONS:
            answer = wire.request(operation.method, BASE + example(operation), JSON, b"{}")
            assert (answer.status, answer.error) == (409, "CONFLICT")
            assert "portside init" in answer.message
        assert wire.request("GET", f"{BASE}/openapi.json").status == 200


# -- what is refused


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "name: it is missing"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"name": "x", "name": "y"}', "stands twice"),
        (b'{"name": "x", "root": true}', "the field 'root' is not known here"),
        (b'{"name": 1}', "name: it is not a string"),
        (b'{"name": null}', "name: it is not a string"),
        (b'{"name": "%s"}' % (b"x" * 65), "name: it is longer than 64 characters"),
        (b'{"name": "Bob"}', "cannot be a name"),
        (b'{"name": "everyone"}', "means something else"),
        (b'{"name": "x", "is_admin": "yes"}', "is_admin: it is neither true nor false"),
        (b'{"name": "x", "is_admin": 1}', "is_admin: it is neither true nor false"),
        (b'{"name": "x", "password": "geheim"}', "too short"),
        (b'{"name": "x", "password": ["geheim"]}', "password: it is not a string"),
        (b'{"name": "x", "password": "%s"}' % (b"geheim" * 200), "password: it is longer than 1024"),
        (b'{"name": "x", "password": "geheim\\ud800"}', "surrogate"),
        (b'{"a": ' * 500 + b"1" + b"}" * 500, "nested"),
        (b'{"name": "x"}' + b" " * 65536, "longer than 65536 bytes"),
    ],
)
def test_questions_that_are_refused(hub: Hub, body: bytes, said: str) -> None:
    before = hub.people.list_accounts()
    headers = {**JSON, "authorization": f"Bearer {hub.ann}"}
    answer = hub.wire.request("POST", f"{BASE}/users", headers, body)
    assert (answer.status, answer.error) == (400, "REQUEST_INVALID")
    assert said in answer.message
    assert "geheim" not in answer.body.decode()
    assert hub.people.list_accounts() == before


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/robots", {"name": "x", "expires": "soon"}),
        ("POST", "/robots", {"name": "x", "expires": "1d", "grants": "team:pull"}),
        ("POST", "/robots", {"name": "x", "expires": "1d", "grants": [1]}),
        ("POST", "/robots", {"name": "x", "expires": "1d", "grants": ["a:pull"] * 101}),
        ("POST", "/rules/grant", {"who": "bob", "pattern": "a", "actions": "pull", "effect": "maybe"}),
        ("POST", "/rules/grant?deny=1", {"who": "bob", "pattern": "a", "actions": "pull"}),
        ("PATCH", "/users/bob", {"user": "ann", "is_admin": True}),
        ("GET", "/users?admin=true", None),
        ("GET", "/audit?limit=0", None),
        ("GET", "/audit?limit=1001", None),
        ("GET", "/audit?limit=ten", None),
        ("GET", "/audit?limit=1&limit=2", None),
        ("GET", "/audit?since=-1", None),
        ("GET", "/audit?since=nan", None),
        ("GET", "/audit?after=99999999999999999999", None),
        ("GET", "/access?who=bob", None),
    ],
)
def test_more_that_is_refused(hub: Hub, method: str, target: str, body: object) -> None:
    assert hub.api(method, target, body).error == "REQUEST_INVALID"
    assert not hub.people.rules_of(["bob"])
    assert not any(
        account.name == "x" or (account.name == "bob" and account.is_admin) for account in hub.people.list_accounts()
    )


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
@pytest.mark.parametrize("path", ["/keys/rotate", "/groups"])
def test_what_a_web_page_could_send_is_refused(hub: Hub, media_type: str, path: str) -> None:
    name = new("group")
    headers = {"authorization": f"Bearer {hub.ann}"} | ({"content-type": media_type} if media_type else {})
    before = hub.api("GET", "/keys").json
    answer = hub.wire.request("POST", BASE + path, headers, json.dumps({"name": name}).encode())
    assert (answer.status, answer.error) == (400, "REQUEST_INVALID")
    assert "application/json" in answer.message
    assert name not in dict(hub.people.list_groups())
    assert hub.api("GET", "/keys").json == before


def test_paths_and_methods_that_are_none(hub: Hub) -> None:
    by = {**JSON, "authorization": f"Bearer {hub.ann}"}
    for path in ("/", "/nothing", "/users/", "/users/a/b", "/users/bob/tokens/", "/users//tokens"):
        answer = hub.wire.request("GET", BASE + path, by)
        assert (answer.status, answer.error) == (404, "NOT_FOUND"), path
    answer = hub.wire.request("DELETE", f"{BASE}/users", by)
    assert (answer.status, answer.error) == (405, "UNSUPPORTED")
    allowed = {method.strip() for method in (answer.header("allow") or "").split(",")}
    assert allowed == {"GET", "HEAD", "POST"}
    head = hub.wire.request("HEAD", f"{BASE}/users", by)
    assert head.status == 200
    assert head.body == b""


def test_names_from_the_path_are_decoded_once(hub: Hub) -> None:
    for name in ("%2e%2e", "bob%00", "bob%0a", "%25", "b%C3%B6b", "x" * 2000, "%1b[2J"):
        answer = hub.wire.request("GET", f"{BASE}/users/{name}", {"authorization": f"Bearer {hub.ann}"})
        assert answer.status in (400, 404)
        assert "\x1b" not in answer.message


# -- the description


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for one in value.values():
            yield from refs(one)
    elif isinstance(value, list):
        for one in value:
            yield from refs(one)


def test_the_description_is_whole(hub: Hub) -> None:
    described = hub.described
    assert described["openapi"] == "3.1.0"
    assert described["servers"] == [{"url": BASE}]
    schemas = described["components"]["schemas"]
    assert {ref.removeprefix("#/components/schemas/") for ref in refs(described)} == schemas.keys()
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    found = {}
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            found[operation["operationId"]] = (method.upper(), path)
            in_path = [one["name"] for one in operation["parameters"] if one["in"] == "path"]
            assert sorted(in_path) == sorted(re.findall(r"{(\w+)}", path))
            assert ("requestBody" in operation) == (method in ("post", "put", "patch"))
    assert found == {one.name: (one.method, one.path) for one in OPERATIONS}


def test_what_the_description_forbids_is_refused(hub: Hub) -> None:
    """A question of one field too many, and one without each field that is required."""
    for operation in OPERATIONS:
        body = hub.described["paths"][operation.path][operation.method.lower()].get("requestBody")
        if body is None or operation.who is not Who.ADMIN:
            continue
        schema = body["content"]["application/json"]["schema"]
        assert schema["additionalProperties"] is False
        answer = hub.api(operation.method, example(operation), {"unheard-of": 1})
        assert "'unheard-of' is not known here" in answer.message
        for name in schema.get("required", []):
            question = {one: "x" for one in schema["required"] if one != name}
            assert hub.api(operation.method, example(operation), question).message == f"{name}: it is missing"


def test_secrets_are_shown_once(hub: Hub) -> None:
    """The log, and every file of the root, after all of the above."""
    name = new("robot")
    secret = hub.api("POST", "/robots", {"name": name, "expires": "1h"}).json["secret"]
    assert secret not in hub.api("GET", "/robots").body.decode()
    wanted = [secret.encode(), hub.ann.encode(), PASSWORD.encode(), b"another horse", b"brand new horse", b"geheim"]
    files = [path for path in hub.server.root.rglob("*") if path.is_file()]
    for path in [hub.server.log, *files]:
        content = path.read_bytes()
        assert not [one for one in wanted if one in content], path
