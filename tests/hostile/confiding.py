"""A hub does everything that it can with secrets, rightly and wrongly, by commands and over the wire, and notes each of them."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

from oci.digest import Digest
from tests import images, servers
from tests.hostile.leaks import Secrets
from tests.lan.network import Terminal, at_a_terminal
from tests.secure import SecureConnection
from tests.servers import free_port
from tests.tools import tool
from tests.wire.client import Answer, head

ADMIN, USER = "ann", "bob"
JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
REFUSED = (400, 401, 403, 404, 405, 409, 413, 415, 429)


@dataclass
class Hub:
    """A root with accounts, the servers on it, and what has been seen of secrets and said by programs."""

    root: Path
    secrets: Secrets = field(default_factory=Secrets)
    said: dict[str, bytes] = field(default_factory=dict)
    addresses: list[str] = field(default_factory=list)
    _names: Iterator[int] = field(default_factory=itertools.count)

    def fresh(self, what: str) -> str:
        """A new secret, of characters that each way of writing it treats otherwise."""
        return self.secrets.add(f"{what} {next(self._names)}", f'pä {next(self._names)}/{os.urandom(9).hex()}+"%é')

    def portside(
        self, *arguments: str | Path, stdin: str = "", token: str = "", shows: str = "", code: int = 0, **env: str
    ) -> str:
        """A command. ``shows``: what the line on its standard output is, which nobody else may see."""
        command = [str(tool("portside")), *map(str, arguments)]
        if not any(word.startswith("--server") or word.startswith("copy") for word in command):
            command += ["--root", str(self.root)]
        environment = {**os.environ, **env} | ({"PORTSIDE_TOKEN": token} if token else {})
        done = subprocess.run(command, input=stdin.encode(), env=environment, capture_output=True, timeout=60)
        assert done.returncode == code, (command, done.stdout, done.stderr)
        name = f"{next(self._names)} portside {' '.join(command[1:3])}"
        self.said[f"errors of {name}"] = done.stderr
        if shows:
            return self.secrets.add(shows, done.stdout.decode().removesuffix("\n"))
        self.said[f"output of {name}"] = done.stdout
        return done.stdout.decode()

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.root / "tls/ca.pem")

    def connect(self, address: str) -> SecureConnection:
        return SecureConnection(address, 30, self.context())

    def note(self, what: str, answer: Answer) -> Answer:
        """Keep a refusal: whoever may not come in is told no secret."""
        if answer.status >= 400:
            self.said[f"{next(self._names)} answer {answer.status} to {what}"] = (
                repr(answer.headers).encode() + answer.body
            )
        return answer


@contextlib.contextmanager
def served(hub: Hub, log: Path, *options: str) -> Iterator[tuple[servers.Server, Terminal]]:
    """Two servers on the root: one writes its log as JSON to a file, the other for eyes to a terminal."""
    tls = ("--tls", "auto", "--name", "hub.lan", "--floor", "0", *options)
    port = free_port()
    command = ("serve", "--root", str(hub.root), "--listen", f"127.0.0.1:{port}", *tls)

    def is_up(address: str) -> bool:
        with contextlib.suppress(OSError), hub.connect(address):
            return True
        return False

    with (
        servers.portside(hub.root, *tls, log=log, is_up=is_up) as server,
        at_a_terminal(tool("portside"), *command) as terminal,
    ):
        servers.wait_until(lambda: is_up(f"127.0.0.1:{port}"), "the second server listens")
        hub.addresses[:] = [server.address, f"127.0.0.1:{port}"]
        yield server, terminal


def basic(name: str, password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


# -- everything that is done with secrets


def by_commands(hub: Hub) -> tuple[str, str]:
    """On the hub's machine, before servers run; the passwords of the admin and of a user."""
    first, own = hub.fresh("first admin's password"), hub.fresh("user's password")
    hub.portside("init", "--admin", ADMIN, "--password-stdin", stdin=f"{first}\n")
    hub.portside("user", "add", USER, "--password-stdin", stdin=f"{hub.fresh('password until changed')}\n")
    hub.portside("user", "passwd", USER, "--password-stdin", stdin=f"{own}\n")
    hub.portside("grant", USER, "team/*", "pull,push")
    hub.portside("user", "add", "carl", shows="one-time password")
    hub.portside("user", "passwd", "carl", "--generate", shows="generated password")
    hub.portside("robot", "add", "ci", "--grant", "team/*:pull", shows="robot's first secret")
    hub.portside("robot", "renew", "ci", shows="robot's second secret")
    hub.portside("token", "new", "old", "--user", USER, shows="token that is revoked")
    for arguments in (("user", "ls"), ("robot", "ls"), ("token", "ls"), ("rules",), ("access", USER, "team/app")):
        hub.portside(*arguments)
    hub.portside("token", "rm", "old", "--user", USER)
    short = hub.secrets.add("password that is too short, twice", "sh0rt!!\nsh0rt!!")
    hub.portside("user", "add", "dora", "--password-stdin", stdin=short, code=1)
    hub.portside("user", "add", USER, "--password-stdin", stdin=f"{hub.fresh('password of a taken name')}\n", code=1)
    hub.portside("key", "rotate")
    return first, own


def by_commands_elsewhere(hub: Hub, address: str, admin: str) -> None:
    """The same from another machine, by a token."""
    at = ("--server", f"https://{address}", "--ca", hub.root / "tls/ca.pem")
    name = f"elsewhere-{address.rpartition(':')[2]}"
    token = hub.portside("token", "new", name, "--user", ADMIN, shows=f"admin's token {name}")
    hub.portside("user", "ls", *at, token=token)
    hub.portside("user", "ls", *at, "--token-stdin", stdin=f"{token}\n")
    hub.portside("user", "add", name, *at, shows=f"password of {name}", token=token)
    hub.portside("robot", "add", f"robot-{name}", *at, shows=f"robot of {name}", token=token)
    changed = hub.fresh("admin's next password")
    hub.portside("user", "passwd", *at, "--password-stdin", stdin=f"{admin}\n{changed}\n", token=token)
    hub.portside("user", "passwd", *at, "--password-stdin", stdin=f"{changed}\n{admin}\n", token=token)
    wrong = hub.fresh("wrong present password")
    hub.portside("user", "passwd", *at, "--password-stdin", stdin=f"{wrong}\n{changed}\n", token=token, code=1)
    mistyped = hub.secrets.add("mistyped token", token[:-1] + ("0" if token[-1] != "0" else "1"))
    hub.portside("user", "ls", *at, token=mistyped, code=1)
    hub.portside("user", "ls", *at, "--token-stdin", stdin=f"{hub.fresh('no token')}\n", code=2)
    hub.portside("audit", "--since", "1h", "--json", *at, token=token)


def by_portside_as_a_client(hub: Hub, address: str, password: str, directory: Path) -> None:
    """Our own client, with credentials as `docker login` keeps them, right and wrong."""
    layout = images.write_layout(directory / "layout", small=images.small())
    for number, (secret, code) in enumerate(((password, 0), (hub.fresh("client's wrong password"), 1))):
        config = directory / f"config-{number}"
        config.mkdir()
        entry = base64.b64encode(f"{USER}:{secret}".encode()).decode()
        (config / "config.json").write_text(json.dumps({"auths": {address: {"auth": entry}}}))
        environment = {"DOCKER_CONFIG": str(config), "SSL_CERT_FILE": str(hub.root / "tls/ca.pem")}
        hub.portside("copy", "--tls", f"oci:{layout}:small", f"{address}/team/app:{number}", code=code, **environment)


def by_log_ins(hub: Hub, address: str, password: str) -> str:
    """Each way to log in, and what is got by it; an access token."""
    scope = {"service": "portside", "scope": "repository:team/app:pull,push", "client_id": "tests"}
    secrets = hub.secrets
    with hub.connect(address) as wire:
        asked = wire.request(
            "GET", f"/auth/token?{urlencode(scope | {'offline_token': 'true'})}", basic(USER, password)
        )
        secrets.add_token("token by Basic", asked.json["token"])
        secrets.add("refresh token by Basic", asked.json["refresh_token"])
        form = scope | {"grant_type": "password", "username": USER, "password": password, "access_type": "offline"}
        posted = wire.request("POST", "/auth/token", FORM, urlencode(form).encode())
        secrets.add_token("token by form", posted.json["access_token"])
        refresh = secrets.add("refresh token by form", posted.json["refresh_token"])
        form = scope | {"grant_type": "refresh_token", "refresh_token": refresh}
        refreshed = wire.request("POST", "/auth/token", FORM, urlencode(form).encode())
        token = secrets.add_token("token by a refresh token", refreshed.json["token"])
        content = images.small()
        for blob in content.blobs.values():
            target = f"/v2/team/app/blobs/uploads/?digest={Digest.of(blob)}"
            assert wire.request("POST", target, bearer(token), blob).status == 201
        headers = bearer(token) | {"content-type": content.media_type}
        assert wire.request("PUT", "/v2/team/app/manifests/1", headers, content.raw).status == 201
        name = f"wire-{address.rpartition(':')[2]}"
        personal = hub.portside("token", "new", name, "--user", USER, shows=f"personal token {name}")
        robot = hub.portside("robot", "add", name, "--grant", "team/*:pull", shows=f"secret of robot {name}")
        for headers in (bearer(token), bearer(personal), basic(USER, personal), bearer(robot), basic(name, robot)):
            assert wire.request("GET", "/v2/team/app/tags/list", headers).status == 200
        asked = wire.request("GET", f"/auth/token?{urlencode(scope)}", basic(name, robot))
        secrets.add_token("token of a robot", asked.json["token"])
    return token


def by_the_api(hub: Hub, address: str, admin: str) -> None:
    """Every operation that takes or makes a secret, and their ways to fail."""
    name = f"api-{address.rpartition(':')[2]}"
    with hub.connect(address) as wire:

        def ask(method: str, path: str, body: object = None) -> Answer:
            raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            answer = wire.request(method, f"/api/v1{path}", basic(ADMIN, admin) | JSON, raw)
            return hub.note(f"{method} {path.partition('?')[0]}", answer)

        assert ask("POST", "/users", {"name": name, "password": hub.fresh("password by the API")}).status == 201
        hub.secrets.add("password made by the API", ask("POST", "/users", {"name": f"{name}-2"}).json["password"])
        assert ask("PUT", f"/users/{name}/password", {"password": hub.fresh("next password")}).status == 200
        changed = ask("PUT", f"/users/{name}/password", {})
        hub.secrets.add("next password made by the API", changed.json["password"])
        made = ask("POST", f"/users/{name}/tokens", {"name": "t", "expires": "1d"})
        hub.secrets.add("token by the API", made.json["secret"])
        made = ask("POST", "/robots", {"name": f"{name}-3", "expires": "1d"})
        hub.secrets.add("robot by the API", made.json["secret"])
        made = ask("POST", f"/robots/{name}-3/secret", {})
        hub.secrets.add("robot by the API, renewed", made.json["secret"])
        assert ask("POST", "/keys/rotate").status == 200
        for path in ("/users", "/tokens", "/robots", "/rules", "/settings", "/keys", "/audit"):
            answer = ask("GET", path)
            assert answer.status == 200, path
            hub.said[f"list {path} by {address}"] = answer.body
        secret = hub.fresh("password in a refused question")
        mistakes: list[tuple[str, str, object]] = [
            ("POST", "/users", {"name": name, "password": secret}),
            ("POST", "/users", {"name": "No Name", "password": secret}),
            ("POST", "/users", {"name": f"{name}-4", "password": [secret]}),
            ("POST", "/users", {"name": f"{name}-4", "pasword": secret}),
            ("POST", "/users", {"name": f"{name}-4", "password": secret * 40}),
            ("POST", "/users", f'{{"name": "{name}-4", "password": "{secret}'.encode()),
            ("POST", "/users", f'{{"password": "{secret[:4]}", "password": "{secret}"}}'.encode()),
            ("PUT", "/me/password", {"old_password": secret, "password": secret}),
        ]
        for method, path, body in mistakes:
            assert ask(method, path, body).status in REFUSED, (method, path)


def by_wrong_credentials(hub: Hub, address: str, password: str, token: str) -> None:
    """What is almost right, and not: it is as secret as what it was meant to be."""
    wrong, unknown = hub.fresh("wrong password"), hub.fresh("password of nobody")
    malformed = hub.fresh("password in a malformed header").encode().decode("latin-1")
    plain = hub.secrets.add("password in plain where base64 is meant", f"plain-{os.urandom(9).hex()}")
    changed = hub.secrets.add_token("changed token", token[:-4] + token[-4:].swapcase() + "x")
    mistakes: list[tuple[str, str, Mapping[str, str] | list[tuple[str, str]], bytes | None]] = [
        ("GET", "/v2/", basic(USER, wrong), None),
        ("GET", "/v2/team/app/manifests/1", basic("nobody", unknown), None),
        ("GET", "/auth/token", basic(USER, wrong), None),
        ("GET", "/api/v1/users", basic(USER, wrong), None),
        ("GET", "/api/v1/users", basic(USER, password), None),
        ("GET", "/v2/", bearer(changed), None),
        ("GET", "/v2/", bearer(f"{token} {plain}"), None),
        ("GET", "/api/v1/users", bearer(token), None),
        ("GET", "/v2/", {"authorization": malformed}, None),
        ("GET", "/v2/", {"authorization": f"Basic {USER}:{plain}"}, None),
        ("GET", "/v2/", {"authorization": f"Basic {base64.b64encode(plain.encode()).decode()}"}, None),
        ("GET", "/v2/", {"authorization": f"Digest {plain}"}, None),
        ("GET", "/auth/token", {"authorization": f"Digest {plain}"}, None),
        ("GET", "/v2/", [*basic(USER, wrong).items(), *basic(ADMIN, password).items()], None),
        ("GET", "/v2/", {"cookie": f"session={plain}", "x-password": plain, "proxy-authorization": plain}, None),
        (
            "POST",
            "/auth/token",
            FORM,
            urlencode({"grant_type": "password", "username": USER, "password": wrong}).encode(),
        ),
        ("POST", "/auth/token", FORM, urlencode({"grant_type": "refresh_token", "refresh_token": plain}).encode()),
        ("POST", "/auth/token", FORM, f"grant_type=password&password={plain}&password={plain}".encode()),
        ("POST", "/auth/token", FORM, f"password={plain}".encode()),
        ("POST", "/auth/token", FORM, f"{plain}".encode()),
        ("POST", "/auth/token", FORM, f"password={plain}{'x' * 70_000}".encode()),
        ("POST", "/auth/token", JSON, json.dumps({"grant_type": "password", "password": wrong}).encode()),
    ]
    for method, target, headers, body in mistakes:
        with hub.connect(address) as wire:
            answer = hub.note(f"{method} {target}", wire.request(method, target, headers, body))
            assert answer.status in REFUSED, (method, target, answer)


def by_urls(hub: Hub, address: str, admin: str, token: str) -> None:
    """Secrets where they do not belong: others see URLs (RFC 6750 section 5.3, RFC 3986 section 3.2.1)."""
    secret = hub.fresh("password in a URL")
    personal = hub.portside(
        "token", "new", f"url-{address.rpartition(':')[2]}", "--user", USER, shows=f"token in a URL of {address}"
    )
    escaped = quote(secret, safe="")
    targets = [
        *(
            f"{path}?{name}={escaped}"
            for path in ("/auth/token", "/v2/", "/api/v1/users")
            for name in ("password", "token")
        ),
        f"/auth/token?grant_type=password&username={USER}&password={escaped}&service=portside&scope=repository:team/app:pull",
        f"/auth/token?service=portside&%70assword={escaped}",
        f"/auth/token?{escaped}",
        f"/auth/token?access_token={token}",
        f"/auth/token?refresh_token={personal}",
        f"/auth/{personal}",
        f"/v2/?access_token={token}&n=1",
        f"/v2/team/app/tags/list?access_token={personal}",
        f"/v2/team/app/manifests/{personal}",
        f"/{personal}",
        f"https://{USER}:{escaped}@{address}/v2/",
        f"https://{personal}@{address}/auth/token",
    ]
    for target in targets:
        with hub.connect(address) as wire:
            wire.request("GET", target)
            wire.request("POST", target, FORM, b"")
    for method, path in (
        ("POST", f"/users?password={escaped}"),
        ("GET", f"/users?password={escaped}"),
        ("GET", f"/users?{escaped}"),
        ("GET", f"/audit?kind={personal}"),
        ("DELETE", f"/users/{USER}/tokens/{personal}"),
        ("DELETE", f"/users/{personal}"),
        ("GET", f"/{personal}"),
    ):
        with hub.connect(address) as wire:
            answer = wire.request(
                method, f"/api/v1{path}", basic(ADMIN, admin) | JSON, b"{}" if method == "POST" else None
            )
            assert answer.status in REFUSED, (method, path, answer)
    with hub.connect(address) as wire:
        hub.note("a token as a name", wire.request("GET", "/auth/token", basic(personal, "x")))
        hub.note("a token as a name", wire.request("GET", "/v2/", basic(personal, "x")))
        hub.note("a token as a client's id", wire.request("GET", f"/auth/token?client_id={personal}"))
    with hub.connect(address) as wire:  # cut off in the middle of a request
        form = urlencode({"grant_type": "password", "username": USER, "password": secret}).encode()
        wire.send(head("POST", "/auth/token", address, FORM, len(form) + 10) + form)


def by_broken_http(hub: Hub, address: str) -> None:
    """What is no HTTP, and what is no TLS."""
    plain = hub.secrets.add("password in broken HTTP", f"broken-{os.urandom(9).hex()}")
    entry = base64.b64encode(f"{USER}:{plain}".encode())
    for raw in (
        b"GET /v2/ HTTP/1.1\r\nAuthorization Basic " + entry + b"\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Basic " + entry + b"\0\r\n\r\n",
        b"GET /v2/?password=" + plain.encode() + b" HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /v2/?password=" + plain.encode() + b"\x01 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"Authorization: Basic " + entry + b"\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Basic " + entry + b"x" * 100_000 + b"\r\n\r\n",
        plain.encode() + b"\r\n\r\n",
    ):
        with hub.connect(address) as wire, contextlib.suppress(OSError):
            wire.send(raw)
            hub.note("broken HTTP", wire.read())
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), 30) as sock, contextlib.suppress(OSError):
            sock.sendall(raw)  # a client that forgot the s of https
            hub.said[f"answer to plain HTTP {len(hub.said)}"] = sock.recv(65536)
