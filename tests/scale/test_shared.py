"""Any server of a scaled hub takes the next request of anything, and all of them let in the same people."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import pytest

from auth.names import secret_hash
from storage.database import Topic
from storage.people import Purpose
from tests.accounts import BY, add, rule, token
from tests.images import OCI_MANIFEST, noise
from tests.scale.asking import basic, bearer, key_of, log_in, log_in_for_long, refresh
from tests.scale.hub import SERVERS, Scaled
from tests.servers import wait_until
from tests.wire.client import Connection, Headers, ask
from tests.wire.content import artifact, blob, descriptor, digest_of, query, small_image

MIB = 1024 * 1024
ID_PREFIX = 8
"""Characters of a request id that all requests of one process share."""
HEARD_SECONDS = 5.0
"""After which every server has heard of any change of people."""


@pytest.fixture
def user(hub: Scaled) -> str:
    """Somebody who may do everything below ``NAME/``."""
    name = f"user-{uuid.uuid4().hex[:8]}"
    with hub.people() as people:
        add(people, name)
        rule(people, name, f"{name}/*", "pull,push,delete")
    return name


@pytest.fixture
def servers(hub: Scaled) -> Iterator[list[Connection]]:
    """A connection to each of its servers."""
    with ExitStack() as stack:
        yield [stack.enter_context(Connection(server.address)) for server in hub.servers]


def process_of(connection: Connection) -> str:
    answer = connection.request("GET", "/v2/none/manifests/none")
    assert answer.status == 401
    return str(answer.json["errors"][0]["detail"]["request_id"])[:ID_PREFIX]


def status(address: str, path: str, headers: Headers) -> int:
    return ask(address, "HEAD", path, headers).status


def is_refused(addresses: Sequence[str], path: str, ways: Sequence[Headers]) -> bool:
    """Whether every server refuses every one of some credentials."""
    return all(status(address, path, way) == 401 for address in addresses for way in ways)


# -- content


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("size", [3, 70_000, 9 * MIB])
def test_each_request_of_an_upload_is_another_servers(
    hub: Scaled, user: str, servers: list[Connection], algorithm: str, size: int
) -> None:
    assert len({process_of(connection) for connection in servers}) == SERVERS
    granted = bearer(log_in(hub.servers[0].address, user, f"repository:{user}/app:pull,push"))
    parts = [blob(f"{algorithm}{size}{n}", size + n) for n in range(4)]
    data, offset = b"".join(parts), 0
    location = servers[0].request("POST", f"/v2/{user}/app/blobs/uploads/", granted, b"").header("location")
    assert location is not None
    path = location.removeprefix(f"https://{hub.address}")
    for number, part in enumerate(parts, 1):
        span = {"Content-Range": f"{offset}-{offset + len(part) - 1}", **granted}
        offset += len(part)
        assert servers[number % SERVERS].request("PATCH", path, span, part).status == 202
        asked = servers[(number + 1) % SERVERS].request("GET", path, granted)
        assert (asked.status, asked.header("range")) == (204, f"0-{offset - 1}")
    digest = digest_of(data, algorithm)
    assert servers[2].request("PUT", f"{path}?{query(digest=digest)}", granted, b"").status == 201
    for connection in servers:
        assert connection.request("GET", f"/v2/{user}/app/blobs/{digest}", granted).body == data
        assert connection.request("GET", path, granted).status == 404


def test_a_client_of_nginx_is_sent_from_server_to_server(hub: Scaled, user: str) -> None:
    parts = [noise(400_000, number) for number in range(6)]
    digest, offset = digest_of(b"".join(parts)), 0
    with hub.connect() as connection:
        assert len({process_of(connection) for _ in range(SERVERS)}) == SERVERS
        answer = connection.request("POST", f"/v2/{user}/app/blobs/uploads/", basic(user), b"")
        location = answer.header("location") or ""
        for part in parts:
            span = {"Content-Range": f"{offset}-{offset + len(part) - 1}", **basic(user)}
            offset += len(part)
            answer = connection.request("PATCH", location.removeprefix(f"https://{hub.address}"), span, part)
            assert answer.status == 202, answer
            location = answer.header("location") or ""
        path = location.removeprefix(f"https://{hub.address}")
        assert connection.request("PUT", f"{path}?{query(digest=digest)}", basic(user), b"").status == 201
        assert connection.request("GET", f"/v2/{user}/app/blobs/{digest}", basic(user)).body == b"".join(parts)


def test_lists_are_the_same_everywhere_and_at_once(user: str, servers: list[Connection]) -> None:
    repository = f"{user}/lists"
    granted = basic(user)
    for number in range(9):
        writer = servers[number % SERVERS]
        raw, blobs = small_image(f"{user}{number}")
        note = artifact(f"note {number}", "application/vnd.example", descriptor(OCI_MANIFEST, raw))
        for data in (*blobs, b"{}"):
            target = f"/v2/{repository}/blobs/uploads/?digest={digest_of(data)}"
            assert writer.request("POST", target, granted, data).status == 201
        for reference, manifest in ((f"t{number}", raw), (digest_of(note), note)):
            put = {"Content-Type": OCI_MANIFEST, **granted}
            assert writer.request("PUT", f"/v2/{repository}/manifests/{reference}", put, manifest).status == 201
        paths = ("/v2/_catalog", f"/v2/{repository}/tags/list", f"/v2/{repository}/referrers/{digest_of(raw)}")
        for path in paths:
            answers = [connection.request("GET", path, granted) for connection in servers]
            assert {answer.status for answer in answers} == {200}
            assert len({answer.body for answer in answers}) == 1, path
        assert [one["digest"] for one in answers[0].json["manifests"]] == [digest_of(note)]
        tags = servers[0].request("GET", paths[1], granted).json["tags"]
        assert tags == [f"t{each}" for each in range(number + 1)]
        removed = f"/v2/{repository}/manifests/{digest_of(note)}"
        assert writer.request("DELETE", removed, granted).status == 202
        assert {connection.request("HEAD", removed, granted).status for connection in servers} == {404}
    assert repository in servers[1].request("GET", "/v2/_catalog", granted).json["repositories"]


# -- people


def test_tokens_of_one_server_are_good_on_all(hub: Scaled, user: str, servers: list[Connection]) -> None:
    scope, digest = f"repository:{user}/app:pull,push", digest_of(b"bytes")
    for server in hub.servers:
        granted = [log_in(server.address, user, scope)]
        lasting = log_in_for_long(server.address, user)
        for other in hub.servers:
            answer = refresh(other.address, lasting, scope)
            assert answer.status == 200, answer
            granted.append(answer.json["access_token"])
        for connection in servers:
            for one in granted:
                target = f"/v2/{user}/app/blobs/uploads/?digest={digest}"
                assert connection.request("POST", target, bearer(one), b"bytes").status == 201


@pytest.mark.parametrize("change", ["disabled", "removed", "another password"])
def test_a_person_is_cut_off_on_all_servers(hub: Scaled, user: str, change: str) -> None:
    """Refresh tokens at once, everything else when the other servers have heard of it, which takes them a second or two."""
    path, addresses = f"/v2/{user}/none/manifests/none", [server.address for server in hub.servers]
    with hub.people() as people:
        own = token(people, user)
        scope = f"repository:{user}/none:pull"
        ways = [bearer(log_in(addresses[0], user, scope))]
        once = [basic(user)]
        if change != "another password":  # which leaves a user's own tokens as they are
            ways += [bearer(own), bearer(log_in(addresses[1], user, scope, own))]
            once.append(basic(user, own))
        lasting = log_in_for_long(addresses[1], user)
        for address in addresses:
            assert [status(address, path, way) for way in (*once, *ways)] == [404] * len([*once, *ways])
            assert refresh(address, lasting).status == 200
        if change == "disabled":
            people.set_account(user, BY, is_disabled=True)
        elif change == "removed":
            people.remove_account(user, BY)
        else:
            people.set_password(user, "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ$c29tZWhhc2g", BY)
        assert [refresh(address, lasting).status for address in addresses] == [401] * SERVERS
        began = time.monotonic()
        wait_until(lambda: is_refused(addresses, path, ways), "every server has heard of it", HEARD_SECONDS)
        print(f"heard of after {time.monotonic() - began:.1f} s")
        # These once only: what is wrong with a name beside it counts as a guess, and guesses are slowed down.
        assert {status(address, path, way) for address in addresses for way in once} == {401}


def test_a_token_of_ones_own_that_is_removed_ends_on_all_servers(hub: Scaled, user: str) -> None:
    path, addresses = f"/v2/{user}/none/manifests/none", [server.address for server in hub.servers]
    with hub.people() as people:
        own, other = token(people, user), token(people, user)
        granted = log_in(addresses[0], user, f"repository:{user}/none:pull", own)
        ways = [bearer(own), bearer(granted)]
        for address in addresses:
            assert [status(address, path, way) for way in (basic(user, own), *ways)] == [404] * 3
        held = people.find_credential(secret_hash(own))
        assert held is not None
        assert held.purpose is Purpose.PERSONAL
        people.remove_credential(user, held.id, BY)
        wait_until(lambda: is_refused(addresses, path, ways), "it is refused everywhere", HEARD_SECONDS)
        assert {status(address, path, basic(user, own)) for address in addresses} == {401}
        assert [status(address, path, basic(user, other)) for address in addresses] == [404] * SERVERS


def test_keys_are_rotated_and_no_token_is_refused(hub: Scaled, user: str) -> None:
    """Tokens of each server at each other one, from before the new key to when all sign with it."""
    path, addresses = f"/v2/{user}/none/manifests/none", [server.address for server in hub.servers]
    scope, seen, refused = f"repository:{user}/none:pull", [set[str]() for _ in addresses], list[str]()
    is_ending, before = threading.Event(), log_in(addresses[0], user, scope)

    def go_round(number: int) -> None:
        while not is_ending.is_set():
            granted = log_in(addresses[number], user, scope)
            refused.extend(address for address in addresses if status(address, path, bearer(granted)) != 404)
            seen[number].add(key_of(granted))

    threads = [threading.Thread(target=go_round, args=[number]) for number in range(SERVERS)]
    for thread in threads:
        thread.start()
    try:
        hub.command("key", "rotate", "--database", hub.database)
        with hub.people() as people, people.database.transaction(Topic.PEOPLE) as connection:
            # As if it had been made that long ago: it is to sign in three seconds, when all have heard of it.
            newest = "(SELECT max(number) FROM signing_keys)"
            connection.execute(f"UPDATE signing_keys SET created_at = created_at - 62 WHERE number = {newest}")
        wait_until(lambda: all(len(keys) == 2 for keys in seen), "all sign with the new key", 20)
    finally:
        is_ending.set()
        for thread in threads:
            thread.join()
    assert refused == []
    assert len(set.union(*seen)) == 2
    assert [status(address, path, bearer(before)) for address in addresses] == [404] * SERVERS
