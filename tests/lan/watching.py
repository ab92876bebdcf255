"""A client that was let in and goes on asking: how soon does each server process refuse it?

    python -m tests.lan.watching HOST:PORT CA PATH SCOPE WORKERS     the log-in, NAME:PASSWORD, comes on the standard input

It logs in, opens connections until it has one to each of the server's processes, says ``watching``, and asks on all of them until
all refuse. Then it prints one line of JSON: for each process and each kind of credentials the status of the refusal, and when it came
by the machine's monotonic clock.
"""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import sys
import time
from urllib.parse import quote

from tests.secure import SecureConnection

CONNECTIONS_MAX = 200
"""How many are opened to meet all processes."""
SECONDS = 30.0


def main() -> None:
    address, authority, path, scope, workers = sys.argv[1:]
    context = ssl.create_default_context(cafile=authority)
    basic = {"authorization": "Basic " + base64.b64encode(sys.stdin.buffer.readline().strip()).decode()}
    with contextlib.ExitStack() as stack:
        servers: dict[str, SecureConnection] = {}
        for _ in range(CONNECTIONS_MAX):
            connection = stack.enter_context(SecureConnection(address, SECONDS, context))
            servers.setdefault(_process_of(connection), connection)
            if len(servers) == int(workers):
                break
        else:
            raise SystemExit(f"{CONNECTIONS_MAX} connections led to {len(servers)} server processes")
        issued = connection.request("GET", f"/auth/token?service=portside&scope={quote(scope)}", basic)
        assert issued.status == 200, issued
        bearer = {"authorization": f"Bearer {issued.json['token']}"}
        waiting = {
            f"{kind} {name}": (servers[name], headers)
            for name in servers
            for kind, headers in (("bearer", bearer), ("basic", basic))
        }
        for one, headers in waiting.values():
            answer = one.request("GET", path, headers)
            assert answer.status == 200, answer
        print("watching", flush=True)
        refused: dict[str, tuple[int, float]] = {}
        ends = time.monotonic() + SECONDS
        while waiting and time.monotonic() < ends:
            for name, (one, headers) in list(waiting.items()):
                status = one.request("GET", path, headers).status
                if status != 200:
                    refused[name] = (status, time.monotonic())
                    del waiting[name]
        assert not waiting, f"still let in after {SECONDS} s: {sorted(waiting)}"
        print(json.dumps(refused))


def _process_of(connection: SecureConnection) -> str:
    """Which server process a connection is to: its request ids begin alike (`registry.log.AccessLog`)."""
    answer = connection.request("GET", "/v2/")
    assert answer.error == "UNAUTHORIZED"
    request_id: str = answer.json["errors"][0]["detail"]["request_id"]
    return request_id[:8]


if __name__ == "__main__":
    main()
