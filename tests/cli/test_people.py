"""`portside init`, `user`, `group`, `robot`, `token`, `grant`, …: on a root, and by a server that runs on it."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from auth.names import secret_hash
from cli.main import app
from cli.people import NAMES
from storage.people import AuditRecord
from tests import servers
from tests.accounts import PASSWORD, make, people_of, token
from tests.cli.running import Done, call, command, run
from tests.wire.client import ask

GENERATED = re.compile(r"[2-9a-z]{5}(-[2-9a-z]{5}){3,4}\n\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """Where commands act. ``who`` the audit trail names for it."""

    options: tuple[str, ...]
    env: dict[str, str]
    who: str
    server: servers.Server

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0) -> Done:
        return call(*arguments, *self.options, stdin=stdin, env=self.env, code=code)

    def log_in(self, name: str, secret: str) -> int:
        """The status that a log-in by name and secret gets."""
        header = "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()
        return ask(self.server.address, "GET", "/v2/", {"authorization": header}).status


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[servers.Server, str]]:
    """A hub whose administrator is ann, and a token of hers."""
    root = tmp_path_factory.mktemp("people")
    with people_of(root) as people:
        make(people, "bob", admin="ann")
        secret = token(people, "ann")
    with servers.portside(root, "--floor", "0") as server:
        yield server, secret


@pytest.fixture(params=["root", "server"])
def place(request: pytest.FixtureRequest, served: tuple[servers.Server, str]) -> Place:
    server, secret = served
    if request.param == "root":
        return Place(("--root", str(server.root)), {}, "local", server)
    return Place(("--server", server.url), {"PORTSIDE_TOKEN": secret}, "ann", server)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """One that no other test has."""
    return "x" + secret_hash(request.node.nodeid)[:12]


def verbs() -> Iterator[tuple[str, ...]]:
    """Every command about people, as it is typed."""
    group: Any = typer.main.get_command(app)
    for noun in NAMES:
        found = group.get_command(None, noun)
        if hasattr(found, "list_commands"):
            yield from ((noun, verb) for verb in found.list_commands(None))
        else:
            yield (noun,)


# -- first start


def test_the_first_start(tmp_path: Path) -> None:
    root = tmp_path / "not/there/yet"
    done = run("init", "--root", root, "--admin", "ann")
    assert GENERATED.match(done.stdout)
    assert "ann is its administrator" in done.stderr
    again = run("init", "--root", root, "--admin", "eve", code=1)
    assert again.stdout == ""
    assert "accounts already" in again.stderr
    with servers.portside(root, "--floor", "0") as server:
        header = "Basic " + base64.b64encode(f"ann:{done.stdout.strip()}".encode()).decode()
        assert ask(server.address, "GET", "/v2/", {"authorization": header}).status == 200
        assert ask(server.address, "GET", "/v2/").status == 401
        assert done.stdout.strip() not in server.log.read_text()


def test_the_first_start_with_a_password(tmp_path: Path) -> None:
    done = call(
        "init", "--root", tmp_path, "--admin", "ann", "--password-stdin", "--personal-namespaces", stdin=f"{PASSWORD}\n"
    )
    assert done.stdout == ""
    assert PASSWORD not in done.stderr
    assert ["personal-namespaces", "true"] in call("settings", "--root", tmp_path).rows


def test_the_first_start_on_a_hub_that_is_open_already(tmp_path: Path) -> None:
    with servers.portside(tmp_path, "--floor", "0") as server:
        assert ask(server.address, "GET", "/v2/").status == 200
        call("user", "add", "bob", "--root", tmp_path, code=1)
        call("init", "--root", tmp_path, "--admin", "ann")
        assert ask(server.address, "GET", "/v2/").status == 401


# -- each verb, both ways


def test_users(place: Place, name: str) -> None:
    done = place("user", "add", name)
    assert GENERATED.match(done.stdout)
    secret = done.stdout.strip()
    assert place.log_in(name, secret) == 200
    assert [name, "user", "active", "-"] in [row[:4] for row in place("user", "ls").rows]
    place("user", "disable", name)
    assert place.log_in(name, secret) == 401
    assert [name, "user", "disabled", "-"] in [row[:4] for row in place("user", "ls").rows]
    place("user", "enable", name)
    assert place.log_in(name, secret) == 200
    place("user", "admin", name)
    (listed,) = [
        one for one in map(json.loads, place("user", "ls", "--json").stdout.splitlines()) if one["name"] == name
    ]
    assert listed["is_admin"]
    place("user", "admin", name, "--off")
    assert [name, "user"] in [row[:2] for row in place("user", "ls").rows]
    assert place("user", "passwd", name, "--password-stdin", stdin="another horse\n").stdout == ""
    assert place.log_in(name, secret) == 401
    assert place.log_in(name, "another horse") == 200
    generated = place("user", "passwd", name, "--generate")
    assert GENERATED.match(generated.stdout)
    assert place.log_in(name, generated.stdout.strip()) == 200
    assert (
        place("user", "add", name, code=1).stderr
        == f"portside: the name {name} is taken: there is a user that bears it\n"
    )
    place("user", "rm", name)
    assert place("user", "rm", name, code=1).stderr == f"portside: there is no user {name}\n"
    assert place.log_in(name, generated.stdout.strip()) == 401


def test_an_admin_with_a_password(place: Place, name: str) -> None:
    assert place("user", "add", name, "--admin", "--password-stdin", stdin="pass word 1\n").stdout == ""
    assert place.log_in(name, "pass word 1") == 200
    assert [name, "admin"] in [row[:2] for row in place("user", "ls").rows]
    place("user", "rm", name)


def test_groups(place: Place, name: str) -> None:
    place("group", "add", name)
    place("user", "add", f"{name}-eve")
    place("group", "join", name, "bob", f"{name}-eve")
    assert [name, f"bob,{name}-eve"] in place("group", "ls").rows
    place("group", "leave", name, "bob")
    assert {"name": name, "members": [f"{name}-eve"]} in map(
        json.loads, place("group", "ls", "--json").stdout.splitlines()
    )
    assert "no user or robot nobody" in place("group", "join", name, "nobody", code=1).stderr
    place("group", "rm", name)
    assert "no group" in place("group", "rm", name, code=1).stderr


def test_robots(place: Place, name: str) -> None:
    done = place(
        "robot", "add", "--name", name, "--grant", "team/*:pull,push", "--grant", "base:pull", "--expires", "1y"
    )
    secret = done.stdout.strip()
    assert done.stdout == f"{secret}\n"
    assert secret.startswith("psb_")
    assert secret not in done.stderr
    assert place.log_in(name, secret) == 200
    (row,) = [row for row in place("robot", "ls").rows if row[0] == name]
    assert row[-2:] == ["base:pull", "team/*:pull,push"]
    until = time.strptime(row[1], "%Y-%m-%d")
    assert 364 <= (time.mktime(until) - time.time()) / 86400 <= 366
    renewed = place("robot", "renew", name, "--expires", "never").stdout.strip()
    assert place.log_in(name, secret) == 401
    assert place.log_in(name, renewed) == 200
    (listed,) = [
        one for one in map(json.loads, place("robot", "ls", "--json").stdout.splitlines()) if one["name"] == name
    ]
    assert listed["expires_at"] is None
    place("robot", "rm", name)
    assert place.log_in(name, renewed) == 401
    assert place("robot", "add", f"{name}-2").stdout.startswith("psb_")
    assert "is not a duration" in place("robot", "add", name, "--expires", "soon", code=1).stderr
    assert "name the robot, once" in place("robot", "add", code=2).stderr
    assert "name the robot, once" in place("robot", "add", "a", "--name", "b", code=2).stderr


def test_tokens(place: Place, name: str) -> None:
    done = place("token", "new", name, "--user", "bob", "--limit", "team/*:pull", "--expires", "12h")
    secret = done.stdout.strip()
    assert secret.startswith("psp_")
    assert secret not in done.stderr
    assert place.log_in("bob", secret) == 200
    for rows in (place("token", "ls", "--user", "bob").rows, call("token", "ls", "--root", place.server.root).rows):
        (row,) = [row for row in rows if row[1] == name]
        assert (row[0], row[-1]) == ("bob", "team/*:pull")
    place("token", "rm", name, "--user", "bob")
    assert place.log_in("bob", secret) == 401
    assert f"bob has no token {name}" in place("token", "rm", name, "--user", "bob", code=1).stderr


def test_rights(place: Place, name: str) -> None:
    place("group", "add", name)
    assert (
        place("grant", f"group:{name}", f"{name}/*", "pull,push").stderr == f"group:{name} may pull,push on {name}/*\n"
    )
    said = place("grant", "bob", f"{name}/*", "push", "--deny").stderr
    assert said == f"bob may not push on {name}/*\n"
    rows = place("rules").rows
    assert [f"group:{name}", "allow", "pull,push", f"{name}/*"] in rows
    assert ["bob", "deny", "push", f"{name}/*"] in rows
    rule = {"subject": "bob", "pattern": f"{name}/*", "effect": "deny", "actions": ["push"]}
    assert rule in map(json.loads, place("rules", "--json").stdout.splitlines())
    place("group", "join", name, "bob")
    lines = place("access", "bob", f"{name}/app").stdout.splitlines()
    assert lines[0].startswith("bob is in ")
    assert name in lines[0]
    assert f"pull    yes  the rule that allows group:{name} pull,push on {name}/*" in lines
    assert f"push    no   the rule that denies bob push on {name}/*" in lines
    assert json.loads(place("access", "bob", f"{name}/app", "--json").stdout)["actions"][0]["is_allowed"]
    assert place("revoke", f"group:{name}", f"{name}/*", "push").stderr == f"group:{name} may pull on {name}/*\n"
    said = place("revoke", "bob", f"{name}/*", "*", "--deny").stderr
    assert said == f"no rule denies bob anything on {name}/* any more\n"
    assert "there is no rule" in place("revoke", "bob", f"{name}/*", "*", "--deny", code=1).stderr
    assert "is not an action" in place("grant", "bob", "x", "fly", code=1).stderr
    place("group", "rm", name)


def test_the_trail(place: Place, name: str) -> None:
    place("group", "add", name)
    (line,) = [line for line in place("audit", "--kind", "group").stdout.splitlines() if name in line]
    assert f"{place.who} " in line
    assert "REFUSED" not in line
    records = [
        json.loads(line) for line in place("audit", "--since", "1h", "--user", place.who, "--json").stdout.splitlines()
    ]
    assert {record["who"] for record in records} == {place.who}
    (record,) = [record for record in records if record["subject"] == f"group:{name}"]
    assert record["address"] == ("" if place.who == "local" else "127.0.0.1")
    assert "is not a kind" in place("audit", "--kind", "x", code=1).stderr
    assert "is not a duration" in place("audit", "--since", "yesterday", code=2).stderr


def test_a_long_trail_is_read_to_its_end_and_printed_harmlessly(place: Place, name: str) -> None:
    hostile = AuditRecord(
        0, time.time(), "login", name, "192.0.2.7", "", "user:\x1b[2J\x07\nroot\u202e", False, "wrong"
    )
    with people_of(place.server.root) as people:
        people.add_records([hostile] * 2500)
    done = place("audit", "--user", name)
    lines = done.stdout.splitlines()
    assert len(lines) == 2500
    assert {line[21:] for line in lines} == {
        f"{name:<12}  login       REFUSED  user:\\x1b[2J\\x07\\nroot\\u202e  wrong  from 192.0.2.7"
    }


def test_keys_and_settings(place: Place) -> None:
    before = place("key", "ls").rows[1][0]
    rotated = place("key", "rotate").stderr.split()[0]
    rows = place("key", "ls").rows
    assert rows[1] == [rotated, "signs", "and", "verifies"]
    assert [before, "verifies"] in rows
    keys = json.loads(ask(place.server.address, "GET", "/auth/jwks.json").body)["keys"]
    assert keys[0]["kid"] == rotated
    assert json.loads(place("key", "ls", "--json").stdout.splitlines()[0]) == {"kid": rotated, "is_signing": True}
    assert place("settings", "--personal-namespaces").rows[1] == ["personal-namespaces", "true"]
    assert place("settings", "--no-personal-namespaces").rows[1] == ["personal-namespaces", "false"]


# -- ones own


def test_what_a_user_does_for_themselves(served: tuple[servers.Server, str], name: str) -> None:
    server, _ = served
    place = Place(("--root", str(server.root)), {}, "local", server)
    old = place("user", "add", name).stdout.strip()
    first = place("token", "new", "first", "--user", name).stdout.strip()
    mine = Place(("--server", server.address), {"PORTSIDE_TOKEN": first}, name, server)
    second = mine("token", "new", "second").stdout.strip()
    assert mine.log_in(name, second) == 200
    assert [row[:2] for row in mine("token", "ls").rows[1:]] == [[name, "first"], [name, "second"]]
    mine("token", "rm", "second")
    assert mine.log_in(name, second) == 401
    mine("user", "passwd", "--password-stdin", stdin=f"{old}\nbrand new horse\n")
    assert mine.log_in(name, "brand new horse") == 200
    wrong = mine("user", "passwd", "--password-stdin", stdin=f"{old}\nbrand new horse\n", code=1)
    assert "the present password is wrong" in wrong.stderr
    assert f"{name} may not do this: it is for administrators" in mine("user", "ls", code=1).stderr
    by_stdin = call("token", "ls", "--server", server.url, "--token-stdin", stdin=f"{first}\n")
    assert by_stdin.rows[1][:2] == [name, "first"]
    with_both = ("user", "passwd", "--server", server.url, "--token-stdin", "--password-stdin")
    call(*with_both, stdin=f"{first}\nbrand new horse\nthird horse\n")
    assert mine.log_in(name, "third horse") == 200


def test_on_a_root_one_says_whose(served: tuple[servers.Server, str]) -> None:
    root = ("--root", str(served[0].root))
    assert "--user NAME" in call("token", "new", "laptop", *root, code=2).stderr
    assert "say whose password" in call("user", "passwd", *root, code=2).stderr
    assert "--generate goes with" in call("user", "passwd", "--generate", *root, code=2).stderr
    assert (
        "--generate goes with" in call("user", "passwd", "bob", "--generate", "--password-stdin", *root, code=2).stderr
    )


# -- terminals


class Terminal:
    """A program at a terminal of its own: what it writes there, and what is typed."""

    def __init__(self, *arguments: str) -> None:
        self._outside, inside = pty.openpty()
        self.process = subprocess.Popen(
            command(arguments), stdin=inside, stdout=subprocess.PIPE, stderr=inside, start_new_session=True
        )
        os.close(inside)
        self.shown = ""

    def wait_for(self, text: str) -> None:
        while text not in self.shown:
            self.shown += os.read(self._outside, 1000).decode()

    def type(self, text: str) -> None:
        os.write(self._outside, f"{text}\n".encode())

    def end(self) -> tuple[int, str]:
        """Exit code and standard output."""
        out, _ = self.process.communicate(timeout=30)
        try:
            while more := os.read(self._outside, 1000):
                self.shown += more.decode()
        except OSError:  # the terminal's other side is gone (man 4 pty)
            pass
        os.close(self._outside)
        return self.process.returncode, out.decode()


@pytest.mark.parametrize("is_same", [True, False])
def test_a_password_is_asked_for_twice_and_not_shown(
    served: tuple[servers.Server, str], name: str, is_same: bool
) -> None:
    server, _ = served
    terminal = Terminal("user", "add", name, "--prompt", "--root", str(server.root))
    terminal.wait_for(f"New password of {name}: ")
    terminal.type("typed horse")
    terminal.wait_for("The same again: ")
    terminal.type("typed horse" if is_same else "another horse")
    code, out = terminal.end()
    assert (code, out) == (0 if is_same else 1, "")
    assert "horse" not in terminal.shown
    assert ("the two are not the same" in terminal.shown) is not is_same
    place = Place((), {}, "local", server)
    assert place.log_in(name, "typed horse") == (200 if is_same else 401)


def test_without_a_terminal_nobody_is_asked(served: tuple[servers.Server, str], name: str) -> None:
    done = run("user", "add", name, "--prompt", "--root", served[0].root, code=2)
    assert "--password-stdin" in done.stderr
    done = run("user", "add", name, "--password-stdin", "--root", served[0].root, code=2)
    assert "the input ended before the password came" in done.stderr


def test_the_trail_is_followed(served: tuple[servers.Server, str], name: str) -> None:
    server, _ = served
    process = subprocess.Popen(
        command(["audit", "--root", server.root, "--kind", "group", "--follow"]), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for number in range(3):
        call("group", "add", f"{name}-{number}", "--root", server.root)
        while f"group:{name}-{number}" not in process.stdout.readline():
            assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


# -- all of them


@pytest.mark.parametrize("verb", list(verbs()), ids=" ".join)
def test_help_fits_a_screen_and_has_an_example(verb: tuple[str, ...]) -> None:
    lines = call(*verb, "--help").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    assert any(f"Example: portside {' '.join(verb)}" in line for line in lines)


@pytest.mark.parametrize("noun", ["user", "group", "robot", "token", "key"])
def test_a_noun_alone_lists_its_verbs(noun: str) -> None:
    done = call(noun, code=2)
    assert "Commands:" in done.stdout + done.stderr


def test_no_option_takes_a_secret() -> None:
    group: Any = typer.main.get_command(app)
    checked = 0
    for verb in verbs():
        found = group
        for word in verb:
            found = found.get_command(None, word)
        for parameter in found.params:
            if re.search("pass|secret|token", parameter.name):
                checked += 1
                assert parameter.is_flag or parameter.name == "token", f"{verb}: {parameter.name}"
    assert checked > 20
