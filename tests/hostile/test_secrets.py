"""No secret is ever in a log: a hub does everything that it can with secrets, and all that it leaves behind is searched for each of them.

What is searched: the servers' logs in both forms, what commands print, what refusals answer, every file of the root, and what others see of
the processes. Not what is shown once on purpose: the answer that makes a token, and the line of a command that does.
"""

from __future__ import annotations

import base64
import json
import os
from urllib.parse import quote, urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests import servers
from tests.hostile.confiding import (
    ADMIN,
    USER,
    Hub,
    basic,
    by_broken_http,
    by_commands,
    by_commands_elsewhere,
    by_log_ins,
    by_portside_as_a_client,
    by_the_api,
    by_urls,
    by_wrong_credentials,
    served,
)
from tests.hostile.leaks import Secrets, files_below, leaks, process


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> tuple[Secrets, dict[str, bytes]]:
    """All secrets of a run, and everything that it left."""
    directory = tmp_path_factory.mktemp("secrets")
    hub = Hub(directory / "root")
    admin, password = by_commands(hub)
    with served(hub, directory / "log") as (server, terminal):
        for number, address in enumerate(hub.addresses):
            token = by_log_ins(hub, address, password)
            by_the_api(hub, address, admin)
            by_commands_elsewhere(hub, address, admin)
            (directory / str(number)).mkdir()
            by_portside_as_a_client(hub, address, password, directory / str(number))
            by_urls(hub, address, admin, token)
            by_wrong_credentials(hub, address, password, token)
            by_broken_http(hub, address)
        hub.portside("audit", "--since", "never")
        hub.portside("user", "disable", USER)
        places = files_below(hub.root)
        for process_id in (server.process.pid, terminal.process.pid):
            places |= {f"{name} {process_id}": content for name, content in process(process_id).items()}
    places |= {f"afterwards/{name}": content for name, content in files_below(hub.root).items()}
    places |= hub.said | {"log": (directory / "log").read_bytes(), "terminal": terminal.text().encode()}
    for path in (*(hub.root / "auth/keys").glob("*.pem"), *(hub.root / "tls").glob("*.key")):
        assert path.stat().st_mode & 0o777 == 0o600, path
        hub.secrets.add_key(f"root/{path.relative_to(hub.root)}", path.read_bytes())
    return hub.secrets, places


def test_no_secret_is_anywhere(evidence: tuple[Secrets, dict[str, bytes]]) -> None:
    secrets, places = evidence
    found = leaks(secrets, places)
    assert not found, "\n".join(found)


def test_the_run_was_one_of_everything(evidence: tuple[Secrets, dict[str, bytes]]) -> None:
    """What was searched is what it is meant to be: there are logs, and in them what was done."""
    secrets, places = evidence
    assert len(secrets.all) > 60
    for log in ("log", "terminal"):
        for word in (b"/auth/token?service=portside&***", b"/api/v1/users?***", b"https://***@", b"/v2/?***&n=1"):
            assert word in places[log], (log, word)
        assert places[log].count(b"the name or the password is wrong") > 3, log
    assert b"argon2id" in places["root/metadata.db-wal"] + places["afterwards/root/metadata.db"]
    assert b"user:psp_***" in places["afterwards/root/metadata.db"]
    for word in (b"login", b"denied", b"credential", b"REFUSED"):
        assert any(word in content for name, content in places.items() if "portside audit" in name), word
    assert sum(name.startswith("cmdline of a server") for name in places) == 2
    assert sum("answer 401" in name for name in places) > 20


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Secrets, dict[str, bytes]]:
    """A hub that is made to leave a secret in each of the places."""
    directory = tmp_path_factory.mktemp("planted")
    hub = Hub(directory / "root")
    secret = hub.secrets.add("planted", f"planted-{os.urandom(9).hex()}")
    hub.portside("init", "--admin", ADMIN, shows="one-time password")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED", secret)
        with served(hub, directory / "log", "--service", secret) as (server, terminal):
            hub.portside("access", secret, "team/app", code=1)
            for address in hub.addresses:
                with hub.connect(address) as wire:
                    hub.note("a name", wire.request("GET", f"/v2/{secret}/tags/list"))
                    wire.request("GET", "/v2/", basic(secret, "wrong password"))
            servers.wait_until(lambda: secret in hub.portside("audit"), "the trail has it", 10)
            places = files_below(hub.root) | process(server.process.pid)
    return hub.secrets, places | hub.said | {
        "log": (directory / "log").read_bytes(),
        "terminal": terminal.text().encode(),
    }


@pytest.mark.parametrize(
    "place",
    [
        "cmdline of a server",
        "environ of a server",
        "log",
        "terminal",
        "root/metadata.db",
        "portside audit",
        "errors of",
        "answer 401",
    ],
)
def test_a_secret_that_is_somewhere_is_found(planted: tuple[Secrets, dict[str, bytes]], place: str) -> None:
    secrets, places = planted
    found = leaks(secrets, places)
    assert any(line.startswith("planted, ") and place in line.partition(" in ")[2] for line in found), found
    assert not any(line.startswith("one-time") for line in found), found


SAMPLE = "pä/5+\"'%é and more"


@pytest.mark.parametrize(
    "written",
    [
        SAMPLE,
        base64.b64encode(SAMPLE.encode()).decode(),
        *(base64.b64encode(f"{'x' * size}:{SAMPLE}".encode()).decode() for size in range(3)),
        *(base64.urlsafe_b64encode(f"{'x' * size}?>~:{SAMPLE}?>~".encode()).decode() for size in range(3)),
        quote(SAMPLE),
        quote(SAMPLE, safe="").lower(),
        urlencode({"password": SAMPLE}),
        json.dumps({"password": SAMPLE}),
        json.dumps({"password": SAMPLE}, ensure_ascii=False),
        json.dumps(SAMPLE.encode().decode("latin-1")),
        repr([SAMPLE]),
        repr(SAMPLE.encode()),
        SAMPLE.encode().hex(),
    ],
)
def test_a_secret_is_found_however_it_is_written(written: str) -> None:
    secrets = Secrets()
    secrets.add("sample", SAMPLE)
    assert leaks(secrets, {"here": f"before {written} after".encode()}) != []
    middle = len(written) // 2
    assert leaks(secrets, {"here": f"before {written[:middle]} after {written[middle + 1 :]}".encode()}) == []


def test_a_key_is_found_outside_its_file() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    secrets = Secrets()
    secrets.add_key("root/key.pem", pem)
    number = key.private_numbers().private_value.to_bytes(32, "big")
    jwk = base64.urlsafe_b64encode(number).rstrip(b"=")
    assert leaks(secrets, {"root/key.pem": pem, "afterwards/root/key.pem": pem}) == []
    for copy in (pem, pem.splitlines()[1], jwk, number.hex().encode()):
        assert leaks(secrets, {"root/key.pem": pem, "log": b"a log: " + copy}) != []
