"""Log-ins at one server of many, and what is got for them."""

from __future__ import annotations

import base64
import json
from urllib.parse import urlencode

from tests.accounts import PASSWORD
from tests.wire.client import Answer, ask


def basic(name: str, secret: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def log_in(address: str, name: str, scope: str = "", secret: str = PASSWORD) -> str:
    """An access token, for a name and a password or a token of the user's own."""
    answer = ask(
        address, "GET", f"/auth/token?{urlencode({'service': 'portside', 'scope': scope})}", basic(name, secret)
    )
    assert answer.status == 200, answer
    return str(answer.json["token"])


def log_in_for_long(address: str, name: str) -> str:
    """A refresh token."""
    form = {"grant_type": "password", "username": name, "password": PASSWORD, "access_type": "offline"}
    answer = _post(address, form)
    assert answer.status == 200, answer
    return str(answer.json["refresh_token"])


def refresh(address: str, token: str, scope: str = "") -> Answer:
    """What a refresh token is answered with."""
    return _post(address, {"grant_type": "refresh_token", "refresh_token": token, "scope": scope})


def key_of(token: str) -> str:
    """The id of the key that signed an access token."""
    head = token.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])


def _post(address: str, form: dict[str, str]) -> Answer:
    body = urlencode({"service": "portside", "client_id": "tests", **form}).encode()
    return ask(address, "POST", "/auth/token", {"Content-Type": "application/x-www-form-urlencoded"}, body)
