"""The line of a request: what of its target and of the answer's message is kept, and what is not because it may be a secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.log import AccessLog
from registry.messages import Request, without_body

TOKEN = "psp_" + "0aZ" * 16 + "7"


def lines(path: Path, target: str, message: str = "") -> list[str]:
    """The line for a terminal, and the target and the message of the one in JSON."""
    request = Request(
        b"GET", target.encode(), [], client="192.0.2.1:5", keep_alive=True, started=1.0, request_id="abc1"
    )
    response = without_body(404)
    response.message = message
    with path.open("w") as stream:
        logs = [AccessLog(stream, is_human) for is_human in (True, False)]
        for log in logs:
            log.record(request, response, 1.5)
        human, written = (log.take().decode() for log in logs)
    parsed = json.loads(written)
    return [human, parsed["target"], parsed.get("message", "")]


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/v2/team/app/tags/list?n=10&last=a", "/v2/team/app/tags/list?n=10&last=a"),
        ("/v2/a/blobs/uploads/?mount=sha256:1&from=b/c", "/v2/a/blobs/uploads/?mount=sha256:1&from=b/c"),
        ("/auth/token?service=s&scope=a:b:c&account=bob", "/auth/token?service=s&scope=a:b:c&account=bob"),
        ("/auth/token?service=s&password=hunter2", "/auth/token?service=s&***"),
        ("/auth/token?%70assword=hunter2&service=s", "/auth/token?***&service=s"),
        ("/v2/?access_token=hunter2", "/v2/?***"),
        ("/v2/?hunter2", "/v2/?***"),
        ("/v2/?", "/v2/?"),
        ("/v2/?n=1?password=hunter2&last", "/v2/?***&last"),
        ("/v2/?n=1;password=hunter2#password=hunter2&last=", "/v2/?***&last="),
        ("http://bob:hunter2@hub.lan/v2/?n=1", "http://***@hub.lan/v2/?n=1"),
        ("https://hunter2@hub.lan/", "https://***@hub.lan/"),
        ("/v2/a@b/", "/v2/a@b/"),
        (f"/api/v1/users/bob/tokens/{TOKEN}", "/api/v1/users/bob/tokens/psp_***"),
        (f"/v2/?n={TOKEN}x", "/v2/?n=psp_***"),
        ("/v2/psp_team/manifests/1", "/v2/psp_team/manifests/1"),
        ('/v2/"\\\n', '/v2/"\\\n'),
    ],
)
def test_a_target(tmp_path: Path, target: str, shown: str) -> None:
    human, written, _ = lines(tmp_path / "log", target)
    assert written == shown
    assert f" 404 {json.dumps(shown)[1:-1]} 0 B 500.0 ms 192.0.2.1:5 abc1" in human


def test_a_message(tmp_path: Path) -> None:
    human, _, message = lines(tmp_path / "log", "/v2/", f"there is no tag {TOKEN} here")
    assert message == "there is no tag psp_*** here"
    assert human.endswith("  there is no tag psp_*** here\n")
