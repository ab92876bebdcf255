"""Metadata and people on PostgreSQL: the same suites as on SQLite, and what is PostgreSQL's own of each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from oci.digest import Digest
from storage import sql_audit, sql_metadata, sql_people
from storage.database import Connection
from storage.people import Actor, Kind, PeopleExist, PeopleUnknown, Purpose
from storage.postgres import PostgresDatabase
from storage.sql_audit import SQLAudit
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople
from tests.postgres import Postgres
from tests.servers import wait_until
from tests.storage.metadata_conformance import BOB, A, MetadataConformance, manifest, subject_of
from tests.storage.people_conformance import HASH, ROOT, PeopleConformance, add, allow, credential, found, record

PRELUDE = """
import random, sys
from oci.digest import Digest
from storage.people import *
from storage.postgres import PostgresDatabase
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople
from tests.storage.metadata_conformance import A, manifest, subject_of
database = PostgresDatabase(sys.argv[1])
metadata, people, by = SQLMetadata(database), SQLPeople(database), Actor("local")
number = int(sys.argv[2])
random.seed(number)
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def database(postgres_url: str) -> Iterator[PostgresDatabase]:
    opened = PostgresDatabase(postgres_url)
    yield opened
    opened.close()


@pytest.fixture
def metadata(database: PostgresDatabase) -> SQLMetadata:
    return SQLMetadata(database)


@pytest.fixture
def audit(database: PostgresDatabase) -> SQLAudit:
    return SQLAudit(database)


@pytest.fixture
def people(database: PostgresDatabase) -> SQLPeople:
    return SQLPeople(database)


class TestMetadata(MetadataConformance):
    pass


class TestPeople(PeopleConformance):
    pass


def at_once(url: str, code: str, processes: int = 4) -> list[str]:
    """Run ``code`` in several processes that begin together; what each printed. None may fail."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code, url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes
    return answers


def nothing_dangles(database: PostgresDatabase) -> None:
    """What must be so after whatever was done at once."""
    held = "SELECT 1 FROM repository_manifests h WHERE h.manifest_id = {}"
    here = held + " AND h.repository_id = {}"
    dangling = {
        "tags without their manifest": f"tags t WHERE NOT EXISTS ({here.format('t.manifest_id', 't.repository_id')})",
        "referrers without their manifest": f"referrers f WHERE NOT EXISTS ({here.format('f.manifest_id', 'f.repository_id')})",
        "manifests that nobody holds": f"manifests m WHERE NOT EXISTS ({held.format('m.id')})",
        "manifests without references": "manifests m WHERE NOT EXISTS (SELECT 1 FROM manifest_references WHERE manifest_id = m.id)",
    }
    assert {what: database.row(f"SELECT count(*) FROM {rows}", ()) for what, rows in dangling.items()} == dict.fromkeys(
        dangling, (0,)
    )


# -- writers at once


def test_manifests_that_repositories_share_are_put_and_deleted_at_once(
    database: PostgresDatabase, postgres_url: str
) -> None:
    at_once(
        postgres_url,
        "image = manifest('subject')\n"
        "shared = [manifest(str(i), **(subject_of(image) if i else {})) for i in range(3)]\n"
        "for turn in range(150):\n"
        "    repository, chosen = f'r{random.randrange(3)}', random.choice(shared)\n"
        "    if random.random() < 0.5:\n"
        "        metadata.put_manifest(repository, chosen, random.sample(['a', 'b', 'c', 'd'], 3), by)\n"
        "    else:\n"
        "        metadata.delete_manifest(repository, chosen.digest, by)\n",
    )
    nothing_dangles(database)


def test_tags_that_are_put_in_many_orders_at_once_block_nobody(
    metadata: SQLMetadata, postgres_url: str, postgres_server: Postgres
) -> None:
    at_once(
        postgres_url,
        "tags = [str(i) for i in range(20)]\n"
        "for turn in range(30):\n"
        "    random.shuffle(tags)\n"
        "    metadata.put_manifest('app', manifest(str(number)), tags)\n",
    )
    assert f"{name_of(postgres_url)} ERROR:  deadlock" not in postgres_server.log()
    page = metadata.list_tags("app", 100, "")
    assert page is not None
    assert len(page.names) == 20


def test_blobs_are_linked_mounted_and_unlinked_at_once(metadata: SQLMetadata, postgres_url: str) -> None:
    at_once(
        postgres_url,
        "for turn in range(200):\n"
        "    repository, act = f'r{random.randrange(2)}', random.randrange(3)\n"
        "    if act == 0: metadata.link_blob(repository, A, 5, by)\n"
        "    if act == 1: assert metadata.mount_blob(repository, A, random.choice([None, 'r0', 'r1']), by) in (None, 5)\n"
        "    if act == 2: metadata.unlink_blob(repository, A, by)\n",
    )
    holders = metadata.blob_holders(A)
    assert [metadata.find_blob(repository, A) for repository in ("r0", "r1")] == [
        5 if repository in holders else None for repository in ("r0", "r1")
    ]


def test_one_new_repository_is_made_by_many_at_once(metadata: SQLMetadata, postgres_url: str) -> None:
    at_once(
        postgres_url,
        "for turn in range(40):\n"
        "    if number % 2: metadata.link_blob(f'new/{turn:02}', A, 5)\n"
        "    else: metadata.put_manifest(f'new/{turn:02}', manifest(str(turn)), ['1'])\n",
    )
    names = metadata.list_repositories(100, "").names
    assert names == [f"new/{turn:02}" for turn in range(40)]
    assert all(metadata.find_blob(name, A) == 5 and metadata.find_manifest(name, "1") is not None for name in names)


def test_of_several_processes_one_gets_a_name(people: SQLPeople, postgres_url: str) -> None:
    answers = at_once(
        postgres_url,
        "for turn in range(20):\n"
        "    try: people.add_account(f'bob{turn}', Kind.USER, by); print(turn)\n"
        "    except PeopleExist: pass\n",
    )
    assert sorted(int(turn) for answer in answers for turn in answer.split()) == list(range(20))
    assert len({account.epoch for account in people.list_accounts()}) == len(people.find_records()) == 20
    with pytest.raises(PeopleExist):
        people.add_account("bob0", Kind.USER, ROOT)


def test_log_ins_and_changes_of_the_password_at_once_leave_no_credential_of_before(
    people: SQLPeople, postgres_url: str
) -> None:
    people.add_account("bob", Kind.USER, ROOT)
    at_once(
        postgres_url,
        "for turn in range(60):\n"
        "    if number == 0:\n"
        "        people.set_password('bob', f'{turn}', by)\n"
        "        continue\n"
        "    epoch = people.find_account('bob').epoch\n"
        "    refresh = Credential(0, 'bob', Purpose.REFRESH, str(epoch), 1.0, None, None)\n"
        "    try: people.add_credential(refresh, f'{number} {turn}', by, epoch=epoch)\n"
        "    except PeopleUnknown: pass\n"
        "    for kept in people.list_credentials('bob')[:1]: people.remove_credential('bob', kept.id, by)\n",
    )
    now = found(people, "bob").epoch
    assert {int(kept.name) for kept in people.list_credentials("bob")} <= {now}


# -- one write that meets another, step by step


def overtaken(database: PostgresDatabase, act: Callable[[], object], first: Callable[[Connection], object]) -> object:
    """What ``act`` answers, or raises, when it begins after ``first`` and before that is committed. It has to wait for it."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as connection:
            first(connection)
            answer = pool.submit(act)
            wait_until(lambda: answer.done() or database.row(waiting, ())[0] == 1, "the second waits for the first")
            assert not answer.done(), answer.exception() or answer.result()
        return answer.exception() or answer.result()


def test_a_log_in_waits_for_a_change_and_is_refused_by_it(people: SQLPeople, database: PostgresDatabase) -> None:
    before = people.add_account("bob", Kind.USER, ROOT)
    late = credential("bob", "late", Purpose.REFRESH)
    refused = overtaken(
        database,
        lambda: people.add_credential(late, "hash of late", ROOT, epoch=before.epoch),
        lambda connection: connection.execute("UPDATE accounts SET epoch = epoch + 1 WHERE name = ?", ("bob",)),
    )
    assert isinstance(refused, PeopleUnknown)
    assert people.list_credentials("bob") == []


def test_a_change_waits_for_a_log_in_and_takes_its_credential(people: SQLPeople, database: PostgresDatabase) -> None:
    bob = people.add_account("bob", Kind.USER, ROOT)

    def log_in(connection: Connection) -> None:
        connection.execute("SELECT 1 FROM accounts WHERE id = ? FOR UPDATE", (bob.id,))
        connection.execute(
            "INSERT INTO credentials (account_id, purpose, name, secret_hash, created_at, limits)"
            " VALUES (?, 'refresh', 'docker', 'hash', 0, '[]')",
            (bob.id,),
        )

    assert overtaken(database, lambda: people.set_password("bob", HASH, ROOT), log_in) is None
    assert people.list_credentials("bob") == []


def test_changes_of_people_take_turns(people: SQLPeople, database: PostgresDatabase) -> None:
    people.add_account("bob", Kind.USER, ROOT)
    people.put_rule(allow("bob", "*", "pull"), ROOT)
    with ThreadPoolExecutor(8) as pool:
        rules = [allow("bob", "*", "pull", str(number)) for number in range(8)]
        done = list(pool.map(lambda rule: people.put_rule(rule, ROOT, before=["pull"]), rules))
    assert sorted(done) == [False] * 7 + [True]
    assert people.list_rules() == [rules[done.index(True)]]


def test_a_removal_waits_for_an_adder_and_removes_what_it_added(
    metadata: SQLMetadata, database: PostgresDatabase
) -> None:
    image = manifest()
    metadata.put_manifest("app", image, ["1"])

    def add_tag(connection: Connection) -> None:
        key = connection.execute("SELECT id FROM repositories WHERE name = 'app' FOR KEY SHARE").fetchone()
        held = connection.execute("SELECT id FROM manifests").fetchone()
        connection.execute("INSERT INTO tags VALUES (?, '2', ?, 0)", (*key, *held))

    assert overtaken(database, lambda: metadata.delete_manifest("app", image.digest), add_tag) is True
    assert database.rows("SELECT name FROM tags", ()) == []
    nothing_dangles(database)


def test_a_manifest_that_another_repository_takes_meanwhile_stays(
    metadata: SQLMetadata, database: PostgresDatabase
) -> None:
    image = manifest()
    metadata.put_manifest("one", image, ["1"])
    metadata.link_blob("two", A, 1)

    def take(connection: Connection) -> None:
        connection.execute(
            "INSERT INTO repository_manifests (repository_id, manifest_id, media_type, pushed_at)"
            " SELECT r.id, m.id, 'x', 0 FROM repositories r CROSS JOIN manifests m WHERE r.name = 'two'"
        )

    assert overtaken(database, lambda: metadata.delete_manifest("one", image.digest), take) is True
    assert metadata.find_manifest("two", image.digest) is not None


def test_a_manifest_that_goes_meanwhile_is_put_anew(metadata: SQLMetadata, database: PostgresDatabase) -> None:
    image = manifest()
    metadata.put_manifest("one", image, ["1"])

    def delete(connection: Connection) -> None:
        for table in ("tags", "repository_manifests", "manifest_references", "manifests"):
            connection.execute(f"DELETE FROM {table}")

    assert overtaken(database, lambda: metadata.put_manifest("two", image, ["1"]), delete) is None
    assert metadata.find_manifest("two", "1") is not None
    nothing_dangles(database)


def test_a_blob_that_is_collected_meanwhile_is_not_mounted(metadata: SQLMetadata, database: PostgresDatabase) -> None:
    """The foreign key stops the mount, and the second time it finds nothing."""
    metadata.link_blob("one", A, 5)

    def collect(connection: Connection) -> None:
        connection.execute("DELETE FROM repository_blobs")
        connection.execute("DELETE FROM blobs")

    assert overtaken(database, lambda: metadata.mount_blob("two", A, "one"), collect) is None
    assert metadata.list_repositories(10, "").names == ["one"]


def test_an_event_is_told_when_none_can_come_before_it(metadata: SQLMetadata, database: PostgresDatabase) -> None:
    """Numbers are given before the commit, so the second may be there before the first: who reads on after it would miss that."""
    metadata.link_blob("app", A, 1)
    with database.transaction() as connection:
        connection.execute("UPDATE blobs SET size = 2")
        connection.execute(
            "INSERT INTO outbox (at, kind, repository, subject, detail) VALUES (0, 'slow', '', '', '{}')"
        )
        metadata.put_manifest("app", manifest(), [])
        assert [event.kind for event in metadata.events(0, 10)] == ["blob.push"]
    assert [event.kind for event in metadata.events(0, 10)] == ["blob.push", "slow", "manifest.push"]


# -- queries


def plan_of(database: PostgresDatabase, query: str) -> str:
    """How PostgreSQL goes about it where it would rather do anything than read a whole table."""
    with database.transaction() as connection:
        connection.execute("SET LOCAL enable_seqscan = off")
        rows = connection.execute(f"EXPLAIN {query}", ("1",) * query.count("?")).fetchall()
    return "\n".join(line for (line,) in rows)


def test_every_look_up_goes_by_an_index(database: PostgresDatabase, metadata: SQLMetadata, people: SQLPeople) -> None:
    with database.transaction() as connection:
        for statement in (
            "INSERT INTO repositories SELECT i, i, 0 FROM generate_series(1, 2000) i",
            "INSERT INTO blobs SELECT i, i, 0, 0 FROM generate_series(1, 2000) i",
            "INSERT INTO repository_blobs SELECT i, i, 0 FROM generate_series(2, 2000) i",
            "INSERT INTO repository_blobs SELECT i, 1, 0 FROM generate_series(1, 2000) i",
            "INSERT INTO manifests SELECT i, i, '', '{}', 1, '' FROM generate_series(1, 2000) i",
            "INSERT INTO repository_manifests SELECT i, i, '', 0 FROM generate_series(2, 2000) i",
            "INSERT INTO repository_manifests SELECT i, 1, '', 0 FROM generate_series(1, 2000) i",
            "INSERT INTO tags SELECT 1, i, i, 0 FROM generate_series(1, 2000) i",
            "INSERT INTO tags SELECT i, 'latest', 1, 0 FROM generate_series(1, 2000) i",
            "INSERT INTO accounts SELECT i, i, 'user', false, false, 1, 0 FROM generate_series(1, 2000) i",
            "INSERT INTO audit SELECT i, i, '', i, '', '', '', true, '' FROM generate_series(1, 2000) i",
            "ANALYZE",
        ):
            connection.execute(statement)
    queries = [
        value
        for module in (sql_metadata, sql_people, sql_audit)
        for name, value in vars(module).items()
        if name.startswith(("_FIND", "_LIST", "_DROP", "_TRIM")) and isinstance(value, str)
    ]
    assert len(queries) == 19
    queries += [sql_people._rules_query(count) for count in (1, 3)]
    queries += [sql_audit._list_query(columns) for columns in ([], ["who"], ["kind"], ["who", "kind"])]
    for query in queries:
        plan = plan_of(database, query)
        assert "Index" in plan, plan
        assert "Seq Scan" not in plan, plan
    for query, index in (
        (sql_metadata._FIND_BLOB, "pk_repository_blobs"),
        (sql_metadata._FIND_BY_TAG, "pk_tags"),
        (sql_metadata._FIND_BY_TAG, "pk_repository_manifests"),
        (sql_metadata._FIND_BY_DIGEST, "pk_repository_manifests"),
    ):
        assert f"using {index}" in plan_of(database, query), "a layer that all repositories hold is one row too"


def test_what_a_foreign_key_looks_for_is_found_by_an_index(database: PostgresDatabase) -> None:
    """PostgreSQL looks for rows that refer to one that is deleted: without an index through the whole table."""
    without = database.rows(
        "SELECT c.conrelid::regclass::text, c.conkey::text FROM pg_constraint c WHERE c.contype = 'f' AND NOT EXISTS"
        " (SELECT 1 FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1])",
        (),
    )
    assert without == []


def name_of(url: str) -> str:
    return urlsplit(url).path[1:]


def statements(server: Postgres, url: str, act: Callable[[SQLMetadata], object]) -> list[str]:
    """The first words of all that reaches the server for ``act``."""
    name = name_of(url)
    server.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
    opened = PostgresDatabase(url)
    began = len(server.log())
    try:
        act(SQLMetadata(opened))
    finally:
        opened.close()
    return re.findall(
        rf"^{name} LOG:  (?:statement|execute [^:]*):\s+(\w+(?: INTO \w+| FROM \w+)?)", server.log()[began:], re.M
    )


def test_what_is_asked_often_is_one_statement(
    metadata: SQLMetadata, postgres_server: Postgres, postgres_url: str
) -> None:
    image = manifest("1", **subject_of(manifest("2")))
    metadata.link_blob("app", A, 1)
    metadata.put_manifest("app", image, ["1"])
    look_ups: list[Callable[[SQLMetadata], object]] = [
        lambda fresh: fresh.find_manifest("app", "1"),
        lambda fresh: fresh.find_manifest("app", image.digest),
        lambda fresh: fresh.find_blob("app", A),
        lambda fresh: fresh.list_repositories(10, ""),
        lambda fresh: fresh.list_referrers("app", A, None, 10, ""),
    ]
    for look_up in look_ups:
        assert statements(postgres_server, postgres_url, look_up) == ["SELECT"]


def test_the_statements_of_a_push_are_few(metadata: SQLMetadata, postgres_server: Postgres, postgres_url: str) -> None:
    metadata.link_blob("app", A, 1)
    metadata.link_blob("other", Digest.of(b"b"), 1)
    written = ["INSERT INTO outbox", "INSERT INTO audit", "COMMIT"]
    link = ["BEGIN", "SELECT", "INSERT INTO blobs", "INSERT INTO repository_blobs", *written]
    mount = ["BEGIN", "SELECT", "SELECT", "INSERT INTO repository_blobs", *written]
    put = ["BEGIN", "SELECT", "SELECT", "INSERT INTO manifests", "INSERT INTO manifest_references"]
    put += ["INSERT INTO repository_manifests", "INSERT INTO tags", *written]
    acts: list[tuple[list[str], Callable[[SQLMetadata], object]]] = [
        (link, lambda fresh: fresh.link_blob("app", A, 1, BOB)),
        (mount, lambda fresh: fresh.mount_blob("other", A, "app", BOB)),
        (put, lambda fresh: fresh.put_manifest("app", manifest(), ["1"], BOB)),
    ]
    for expected, act in acts:
        assert statements(postgres_server, postgres_url, act) == expected


# -- text


@pytest.mark.parametrize("odd", ["bob\0", "\ud800bob", "b\udfffob\0"])
def test_text_that_cannot_be_stored_fails_no_write_and_no_look_up(people: SQLPeople, odd: str) -> None:
    by = Actor(odd, odd, odd)
    assert people.find_account(odd) is None
    assert people.password_hash(odd) is None
    assert people.rules_of([odd, f"group:{odd}"]) == []
    people.add_records([record(1.0, odd, odd, odd)])
    people.add_account("bob", Kind.USER, by)
    people.set_setting("motd", odd, by)
    add(people, "bob", odd)
    kept = odd.translate(dict.fromkeys((0, 0xD800, 0xDFFF), "\ufffd"))
    assert people.setting("motd") == kept
    assert [item.who for item in people.find_records()] == [kept, kept, kept, "root"]
    assert people.find_records()[0].detail == kept
    assert [item.name for item in people.list_credentials("bob")] == [kept]
