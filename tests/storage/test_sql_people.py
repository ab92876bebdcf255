from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci.digest import Digest
from storage import sql_audit, sql_people
from storage.database import Database
from storage.people import Actor, Kind, PeopleExist, PeopleUnknown, Purpose
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople
from storage.sqlite import SQLiteDatabase
from tests.storage.people_conformance import HASH, ROOT, People, PeopleConformance, add, allow, found, record

PRELUDE = """
import sys
from pathlib import Path
from storage.sqlite import SQLiteDatabase
from storage.people import *
from storage.sql_people import SQLPeople
database = SQLiteDatabase(Path(sys.argv[1]))
people, by = SQLPeople(database), Actor("local")
"""


@pytest.fixture
def metadata(tmp_path: Path) -> Iterator[SQLMetadata]:
    opened = SQLMetadata(SQLiteDatabase(tmp_path / "root"))
    yield opened
    opened.close()


@pytest.fixture
def people(metadata: SQLMetadata) -> SQLPeople:
    return SQLPeople(metadata.database)


def as_protocol(people: SQLPeople) -> People:
    """For the type checker: it has every method with its types."""
    return people


class TestConformance(PeopleConformance):
    pass


def _sqlite(database: Database) -> SQLiteDatabase:
    assert isinstance(database, SQLiteDatabase)
    return database


def start(database: Database, code: str, *arguments: str) -> subprocess.Popen[str]:
    """Another process on the root, with ``people`` open."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PRELUDE + code, str(_sqlite(database).paths.root), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_change_is_seen_by_another_process_at_once(people: SQLPeople) -> None:
    process = start(
        people.database,
        "for line in sys.stdin:\n"
        "    account = people.find_account('bob')\n"
        "    print(people.people_generation(), account and account.is_disabled, *people.groups_of('bob'), flush=True)\n",
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ask() -> list[str]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        return process.stdout.readline().split()

    try:
        assert ask() == ["0", "None"]
        people.add_account("bob", Kind.USER, ROOT)
        assert ask() == ["2", "False"]
        people.add_group("dev", ROOT)
        people.set_member("dev", "bob", True, ROOT)
        assert ask() == ["6", "False", "dev"]
        people.set_account("bob", ROOT, is_disabled=True)
        assert ask() == ["8", "True", "dev"]
        people.remove_account("bob", ROOT)
        assert ask() == ["10", "None"]
    finally:
        process.communicate()
    assert process.returncode == 0


def test_of_several_processes_one_gets_a_name(people: SQLPeople) -> None:
    code = (
        "sys.stdin.readline()\n"
        "for number in range(20):\n"
        "    try: people.add_account(f'bob{number}', Kind.USER, by); print(number)\n"
        "    except PeopleExist: pass\n"
    )
    processes = [start(people.database, code) for _ in range(3)]
    answers = [process.communicate("go\n")[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(int(number) for answer in answers for number in answer) == list(range(20))
    epochs = {account.epoch for account in people.list_accounts()}
    assert len(epochs) == len(people.find_records()) == 20
    with pytest.raises(PeopleExist):
        people.add_account("bob0", Kind.USER, ROOT)


def facts(people: SQLPeople) -> list[object]:
    credentials = [people.list_credentials(account.name) for account in people.list_accounts()]
    hashes = [people.password_hash(account.name) for account in people.list_accounts()]
    lists = [people.list_accounts(), people.list_rules(), people.list_groups(), people.list_settings()]
    return [*lists, credentials, hashes, people.find_records()]


KILLED_AT = """
act = {act!r}
at, seen = int(sys.argv[2]), 0
def trace(statement):
    global seen
    seen += 1
    if seen == at:
        print(statement.split()[0], flush=True)
        sys.stdin.read()
database._writer.set_trace_callback(trace)
exec(act)
print("done", flush=True)
"""


@pytest.mark.parametrize(
    "act",
    [
        "people.remove_account('bob', by)",
        "people.set_password('bob', 'another', by)",
        "people.remove_group('dev', by)",
        "people.put_rule(Rule('bob', 'team/*', Effect.ALLOW, ('pull',)), by)",
    ],
)
def test_a_kill_in_mid_change_leaves_all_or_nothing(people: SQLPeople, act: str) -> None:
    """Killed before each statement of the change in turn, its COMMIT too: nothing of it is there, and the next write goes on."""
    people.add_account("bob", Kind.USER, ROOT)
    people.set_password("bob", HASH, ROOT)
    people.add_group("dev", ROOT)
    people.set_member("dev", "bob", True, ROOT)
    people.put_rule(allow("bob", "*", "pull"), ROOT)
    people.put_rule(allow("group:dev", "*", "pull"), ROOT)
    add(people, "bob", "laptop")
    add(people, "bob", "docker", Purpose.REFRESH)
    before, statements = facts(people), list[str]()
    while True:
        even = people.people_generation()
        process = start(people.database, KILLED_AT.format(act=act), str(len(statements) + 1))
        try:
            assert process.stdout is not None
            statement = process.stdout.readline().strip()
            if statement == "done":
                break
            assert people.people_generation() == even + 1
        finally:
            process.kill()
            process.communicate()
        statements.append(statement)
        assert facts(people) == before, statements
        people.note_use(0, 1.0)
        assert people.people_generation() == even + 2
    assert (statements[0], statements[-1]) == ("BEGIN", "COMMIT")
    assert len(statements) >= 5
    assert facts(people) != before


def test_the_two_faces_share_a_database_and_not_their_generations(metadata: SQLMetadata, people: SQLPeople) -> None:
    people.add_account("bob", Kind.USER, ROOT)
    assert (metadata.generation(), people.people_generation()) == (0, 2)
    metadata.link_blob("app", Digest.of(b"a"), 1, ROOT)
    assert (metadata.generation(), people.people_generation()) == (2, 2)
    people.add_records([record(1.0)])
    assert (metadata.generation(), people.people_generation()) == (2, 2)
    assert [item.kind for item in people.find_records()] == ["account", "push", "login"]


def test_every_look_up_goes_by_an_index(people: SQLPeople) -> None:
    queries = [
        value
        for module in (sql_people, sql_audit)
        for name, value in vars(module).items()
        if name.startswith(("_FIND", "_LIST", "_DROP", "_TRIM"))
    ]
    assert len(queries) == 9
    queries += [sql_people._rules_query(count) for count in (1, 3)]
    queries += [sql_audit._list_query(columns) for columns in ([], ["who"], ["kind"], ["who", "kind"])]
    for query in queries:
        plan = [row[3] for row in people.database.rows(f"EXPLAIN QUERY PLAN {query}", ("1",) * query.count("?"))]
        expected: tuple[str, ...] = ("SEARCH", "LIST SUBQUERY")
        if query in (sql_people._LIST_GROUPS_OF, sql_people._LIST_CREDENTIALS):
            expected += ("USE TEMP B-TREE FOR ORDER BY",)  # few: one account's
        assert all(step.startswith(expected) for step in plan), (query, plan)


def transactions(people: SQLPeople) -> list[str]:
    """Filled with the beginning of each that follows."""
    begun: list[str] = []
    _sqlite(people.database)._writer.set_trace_callback(
        lambda line: begun.append(line) if line.startswith("BEGIN") else None
    )
    return begun


def test_the_oldest_are_trimmed_in_small_transactions_with_pauses(
    people: SQLPeople, monkeypatch: pytest.MonkeyPatch
) -> None:
    people.add_records([record(float(number)) for number in range(1201)])
    begun, pauses = transactions(people), list[float]()
    monkeypatch.setattr("storage.sql_audit.time.sleep", pauses.append)
    assert people.trim_records(1201.0) == 1201
    assert len(begun) == 3
    assert len(pauses) == 2
    assert min(pauses) > 0


def test_a_thousand_records_are_one_transaction(people: SQLPeople) -> None:
    begun = transactions(people)
    people.add_records([record(float(number)) for number in range(1000)])
    people.add_records([])
    assert len(begun) == 1


def test_an_account_that_is_not_there_leaves_its_name_to_no_rule(people: SQLPeople) -> None:
    """What a later account of the name must not find, whatever order things are done in."""
    people.add_account("bob", Kind.USER, ROOT)
    people.remove_account("bob", ROOT)
    with pytest.raises(PeopleUnknown):
        people.put_rule(allow("bob", "*", "pull"), ROOT)
    people.add_account("bob", Kind.ROBOT, ROOT)
    assert people.rules_of(["bob"]) == []
    assert found(people, "bob").kind is Kind.ROBOT


@pytest.mark.parametrize("odd", ["bob\0", "\ud800bob"])
def test_whatever_was_typed_as_a_name_is_recorded(people: SQLPeople, odd: str) -> None:
    by = Actor(odd, odd, odd)
    people.add_records([record(1.0, who=odd, detail=odd)])
    people.add_group("dev", by)
    kept = odd.translate(dict.fromkeys((0, 0xD800), "\ufffd"))
    records = people.find_records()
    assert [(item.who, item.address, item.request_id) for item in records[1:]] == [(kept, kept, kept)]
    assert (records[0].who, records[0].detail) == (kept, kept)
