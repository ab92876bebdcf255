"""Rows of a registry with accounts: requests with a token and with a password, tokens issued, log-ins beside requests."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from urllib.parse import urlencode

from bench.content import ACCEPT
from bench.filesystem import BenchError
from bench.prepare import SEED
from bench.requests import ONE, seed
from bench.sampling import Session
from bench.servers import PORTSIDE
from bench.setups import PASSWORD, SERVICE, USER, add_people, basic
from bench.transfers import PROBE_CONNECTIONS, PROBES_PER_SECOND
from bench.wire import Connection, gets, message

TOKEN = "/auth/token"
PULL = f"repository:{SEED}:pull"

PEOPLE = 500
"""Accounts that log in beside the probes, each once with the right password and once with a wrong one, and so on."""
LOG_INS_PER_SECOND = 200
LOG_IN_CONNECTIONS = 256
"""Enough for those that wait for the password to be verified, beside those that are sent away."""


def manifest_token(session: Session) -> None:
    authorization = _bearer(session)
    seed(session, authorization)
    session.requests_per_second(gets([ONE], ACCEPT, authorization))


def manifest_basic(session: Session) -> None:
    seed(session, basic())
    session.requests_per_second(gets([ONE], ACCEPT, basic()))


def token_get(session: Session) -> None:
    """As Docker's daemon asks for one when it pulls."""
    session.requests_per_second(gets([_target(scope=PULL)], authorization=basic()))


def token_post(session: Session) -> None:
    """As containerd does."""
    form = {"grant_type": "password", "username": USER, "password": PASSWORD, "scope": PULL}
    session.requests_per_second([_post(form)])


def token_refresh(session: Session) -> None:
    """As Docker's daemon does after a log-in that was answered with a refresh token."""
    with session.connect(basic()) as connection:
        refresh = _ask(connection, _target(offline_token="true"))["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": refresh, "scope": PULL}
    session.requests_per_second([_post(form)])


def fair_log_ins(session: Session) -> None:
    """Manifest GETs with a token at a fixed rate beside log-ins as Docker makes them; the value is their p99 in ms."""
    names = [f"person{number:03d}" for number in range(PEOPLE)]
    add_people(session.running.root, names)
    authorization = _bearer(session)
    seed(session, authorization)
    probes, seconds = gets([ONE], ACCEPT, authorization), max(8.0, session.tools.seconds)
    session.load(probes, PROBE_CONNECTIONS, 1.0, PROBES_PER_SECOND)
    flags = ["-c", "-s", "-a", "-e"]
    with session.meter() as sample:
        with session.loading(
            list(log_ins(names)), LOG_IN_CONNECTIONS, seconds + 2.0, LOG_INS_PER_SECOND, flags
        ) as flood:
            time.sleep(1.0)  # until passwords are waiting to be verified; the clock of the probes starts after it
            report = session.load(probes, PROBE_CONNECTIONS, seconds, PROBES_PER_SECOND)
            seen = flood()
        sample.value = report["p99_us"] / 1000
        sample.work = report["requests"]
        sample.detail = report | {"log_ins": seen["statuses"], "unanswered": seen["unanswered"]}
    if not {"200", "401"} <= set(seen["statuses"]):
        raise BenchError(f"of the log-ins none was let in, or none was refused: {seen['statuses']}")


def log_ins(names: list[str]) -> Iterator[bytes]:
    """Right and wrong passwords in turn, all accounts with one before the first comes with the other."""
    for lap, (number, name) in itertools.product(range(2), enumerate(names)):
        password = f"not {PASSWORD}" if (number + lap) % 2 else PASSWORD
        target = _target(account=name, client_id="docker", offline_token="true")
        yield from gets([target], authorization=basic(name, password))


def _bearer(session: Session) -> str:
    """A token for `SEED`, as the value of an Authorization header: of the server's own issue where it issues any."""
    if session.running.server.kind != PORTSIDE:
        return f"Bearer {session.tools.material.token(SEED)}"
    with session.connect(basic()) as connection:
        return f"Bearer {_ask(connection, _target(scope=f'repository:{SEED}:pull,push'))['token']}"


def _ask(connection: Connection, target: str) -> dict[str, str]:
    answer: dict[str, str] = json.loads(connection.request("GET", target).expect(200, f"GET {target}").body)
    return answer


def _target(**fields: str) -> str:
    return f"{TOKEN}?{urlencode({'service': SERVICE} | fields)}"


def _post(form: dict[str, str]) -> bytes:
    body = urlencode({"service": SERVICE, "client_id": "bench"} | form).encode("ascii")
    fields = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(body))}
    return message("POST", TOKEN, "127.0.0.1", fields, body)
