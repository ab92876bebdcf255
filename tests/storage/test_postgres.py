from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from oci.digest import Digest
from storage import postgres as module
from storage import postgres_people, postgres_sessions
from storage.database import Database, Topic
from storage.errors import DatabaseUnavailable, StoreFull, StoreTooNew, StoreUnusable
from storage.migrate import migrate
from storage.opening import migrate_database, open_database
from storage.people import Kind
from storage.postgres import PostgresDatabase, find_version
from storage.postgres_people import PeopleCounter
from storage.schema import postgres_script
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople
from storage.versions import VERSIONS
from tests.postgres import Postgres, plain
from tests.servers import wait_until
from tests.storage.metadata_conformance import A, manifest
from tests.storage.people_conformance import ROOT

ADD = "INSERT INTO repositories (name, created_at) VALUES (?, 0)"


@pytest.fixture
def database(postgres_url: str) -> Iterator[PostgresDatabase]:
    opened = PostgresDatabase(postgres_url)
    yield opened
    opened.close()


def as_protocol(database: PostgresDatabase) -> Database:
    """For the type checker: it has every method with its types."""
    return database


def names(database: PostgresDatabase) -> list[str]:
    return [name for (name,) in database.rows("SELECT name FROM repositories ORDER BY name", ())]


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(plain(url), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def end_connections(url: str) -> None:
    """What a restart of the server, or a firewall, does to those that are open."""
    execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )


# -- queries and transactions


def test_marks_are_numbered_and_nothing_else_is_changed(database: PostgresDatabase) -> None:
    assert database.row("SELECT ? || '?%s$1' || ? WHERE 'a%' LIKE '%'", ("x", "y")) == ("x?%s$1y",)
    assert database.rows("SELECT name FROM repositories WHERE name LIKE '%'", ()) == []


def test_a_failed_write_leaves_nothing_and_its_connection_goes_on(database: PostgresDatabase) -> None:
    def fail(error: Exception) -> None:
        with database.transaction(Topic.PEOPLE) as connection:
            connection.execute(ADD, ("half",))
            raise error

    before = database.rows("SELECT number FROM counters", ())
    for error in (ZeroDivisionError(), KeyError()):
        with pytest.raises(type(error)):
            fail(error)
    with pytest.raises(errors.UndefinedTable), database.transaction() as connection:
        connection.execute("INSERT INTO nothing VALUES (1)")
    assert names(database) == []
    assert database.rows("SELECT number FROM counters", ()) == before
    with database.transaction() as connection:
        connection.execute(ADD, ("whole",))
    assert names(database) == ["whole"]
    assert database.row("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()", ()) == (1,)


def test_a_scan_goes_batch_by_batch(database: PostgresDatabase) -> None:
    with database.transaction() as connection:
        connection.executemany(ADD, [(f"{number}",) for number in range(25)])
    query = "SELECT id, name FROM repositories WHERE id > ? ORDER BY id LIMIT ?"
    assert [row[1] for row in database.scan(query, batch=10)] == [f"{number}" for number in range(25)]


def test_the_clock_is_the_servers_and_moves_in_a_transaction(database: PostgresDatabase) -> None:
    with database.transaction() as connection:
        ((first,),) = connection.execute(f"SELECT {database.clock}").fetchall()
        ((second,),) = connection.execute(f"SELECT {database.clock}").fetchall()
    assert type(first) is float
    assert abs(time.time() - first) < 60
    assert first < second


def test_text_is_in_byte_order_whatever_the_databases_language(postgres_server: Postgres) -> None:
    postgres_server.execute("CREATE DATABASE icu TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'")
    opened = PostgresDatabase(postgres_server.url("icu"))
    words = ["0", "A", "Z", "_", "a", "a-b", "a/b", "a0", "b"]
    with opened.transaction() as connection:
        connection.executemany(ADD, [(word,) for word in reversed(words)])
    assert names(opened) == words
    assert SQLMetadata(opened).list_repositories(3, "Z").names == words[3:6]
    opened.close()


def test_look_ups_have_connections_left_when_all_writers_wait(database: PostgresDatabase) -> None:
    started, go_on = threading.Semaphore(0), threading.Event()

    def write() -> None:
        with database.transaction() as connection:
            connection.execute("SELECT 1")
            started.release()
            go_on.wait()

    with ThreadPoolExecutor(postgres_sessions.SESSIONS) as pool:
        writes = [pool.submit(write) for _ in range(postgres_sessions.SESSIONS)]
        try:
            for _ in range(module.WRITERS):
                started.acquire()
            assert database.row("SELECT 1", ()) == (1,)
            assert not started.acquire(blocking=False), "the others wait for their turn"
        finally:
            go_on.set()
        for done in writes:
            done.result()
    with ThreadPoolExecutor(40) as pool:
        assert list(pool.map(lambda number: database.row("SELECT ?::bigint", (number,)), range(200))) == [
            (number,) for number in range(200)
        ]
    open_now = database.row("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()", ())[0]
    assert module.WRITERS <= open_now <= postgres_sessions.SESSIONS


# -- connections that end, writes that meet


def test_a_connection_found_dead_is_replaced(database: PostgresDatabase, postgres_url: str) -> None:
    metadata = SQLMetadata(database)
    metadata.link_blob("app", A, 5)
    end_connections(postgres_url)
    assert metadata.find_blob("app", A) == 5
    end_connections(postgres_url)
    metadata.link_blob("app", Digest.of(b"b"), 6)
    assert metadata.find_blob("app", Digest.of(b"b")) == 6


def dies_at_commit(url: str) -> None:
    """The next commit that adds to the outbox loses its connection: whoever sent it cannot know what became of it."""
    execute(
        url,
        "CREATE SEQUENCE deaths",
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF nextval('deaths') = 1 THEN PERFORM pg_terminate_backend(pg_backend_pid()); END IF; RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER dying AFTER INSERT ON outbox DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION die()",
    )


REPEATED: list[Callable[[SQLMetadata], object]] = [
    lambda metadata: metadata.link_blob("app", A, 7),
    lambda metadata: metadata.mount_blob("other", A, "app"),
    lambda metadata: metadata.put_manifest("app", manifest("2"), ["1"]),
]
NOT_REPEATED: list[Callable[[SQLMetadata], object]] = [
    lambda metadata: metadata.unlink_blob("app", A),
    lambda metadata: metadata.delete_manifest("app", manifest().digest),
    lambda metadata: metadata.delete_tag("app", "1"),
]


@pytest.mark.parametrize("number", range(3))
def test_a_connection_lost_in_commit_is_made_up_for_where_twice_is_as_good_as_once(
    database: PostgresDatabase, postgres_url: str, number: int
) -> None:
    metadata = SQLMetadata(database)
    metadata.link_blob("app", A, 5)
    metadata.put_manifest("app", manifest(), ["1"])
    dies_at_commit(postgres_url)
    before = len(metadata.events(0, 100))
    REPEATED[number](metadata)
    assert len(metadata.events(0, 100)) == before + 1


@pytest.mark.parametrize("number", range(3))
def test_a_connection_lost_in_commit_is_told_where_it_would_get_another_answer(
    database: PostgresDatabase, postgres_url: str, number: int
) -> None:
    metadata = SQLMetadata(database)
    metadata.link_blob("app", A, 5)
    metadata.put_manifest("app", manifest(), ["1"])
    dies_at_commit(postgres_url)
    with pytest.raises(DatabaseUnavailable, match="whether the change was made is not known") as raised:
        NOT_REPEATED[number](metadata)
    assert not raised.value.is_undone
    assert NOT_REPEATED[number](metadata) is True


def test_a_write_that_met_another_is_made_again_a_bounded_number_of_times(database: PostgresDatabase) -> None:
    calls = list[int]()

    def write(error: type[psycopg.Error], failures: int) -> str:
        calls.append(1)
        with database.transaction() as connection:
            connection.execute(ADD, ("app",))
            if len(calls) <= failures:
                raise error
        return "done"

    for error in (errors.SerializationFailure, errors.DeadlockDetected, errors.ForeignKeyViolation):
        calls.clear()
        assert database.retry(lambda error=error: write(error, 3), False) == "done"  # type: ignore[misc]
        assert len(calls) == 4
        with database.transaction() as connection:
            connection.execute("DELETE FROM repositories")
    calls.clear()
    with pytest.raises(errors.ForeignKeyViolation):
        database.retry(lambda: write(errors.ForeignKeyViolation, 1000), True)
    assert len(calls) == module.CONFLICTS + 1
    assert names(database) == []


def test_a_connection_lost_before_commit_is_made_up_for(database: PostgresDatabase) -> None:
    calls = list[int]()

    def write() -> None:
        with database.transaction() as connection:
            connection.execute(ADD, ("app",))
            calls.append(1)
            if len(calls) == 1:
                connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    database.retry(write, False)
    assert (len(calls), names(database)) == (2, ["app"])


def test_a_statement_that_takes_too_long_is_ended(postgres_url: str) -> None:
    database = PostgresDatabase(f"{postgres_url}&options=-c%20statement_timeout%3D100")
    with pytest.raises(DatabaseUnavailable) as raised:
        database.row("SELECT pg_sleep(60)", ())
    assert (raised.value.is_undone, raised.value.seconds < 5) == (True, True)
    assert "statement timeout" in raised.value.cause
    with pytest.raises(DatabaseUnavailable), database.transaction() as connection:
        connection.execute("SELECT pg_sleep(60)")
    assert database.row("SELECT 1", ()) == (1,)
    database.close()


def test_a_full_disk_is_told_as_such(database: PostgresDatabase) -> None:
    with pytest.raises(StoreFull), database.transaction() as connection:
        connection.execute("DO $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$")
    assert database.row("SELECT 1", ()) == (1,)


def test_two_that_block_each_other_are_both_made(database: PostgresDatabase) -> None:
    with database.transaction() as connection:
        connection.executemany(ADD, [("a",), ("b",)])
    both_have_one = threading.Barrier(2)
    tries = list[str]()

    def write(first: str, second: str) -> None:
        with database.transaction() as connection:
            connection.execute("UPDATE repositories SET created_at = created_at + 1 WHERE name = ?", (first,))
            tries.append(first)
            if tries.count(first) == 1:
                both_have_one.wait()
            connection.execute("UPDATE repositories SET created_at = created_at + 1 WHERE name = ?", (second,))

    with ThreadPoolExecutor(2) as pool:
        for done in [
            pool.submit(database.retry, lambda: write("a", "b"), False),
            pool.submit(database.retry, lambda: write("b", "a"), False),
        ]:
            done.result()
    assert len(tries) == 3
    assert database.rows("SELECT created_at FROM repositories", ()) == [(2.0,), (2.0,)]


def test_a_database_that_stays_away_is_told_as_such(
    postgres_server: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.3)
    database = PostgresDatabase(postgres_url)
    metadata = SQLMetadata(database)
    metadata.link_blob("app", A, 5)
    postgres_server.stop(signal.SIGQUIT)
    try:
        with pytest.raises(DatabaseUnavailable) as raised:
            metadata.find_blob("app", A)
        assert raised.value.seconds < 1
        with pytest.raises(DatabaseUnavailable, match="nothing was changed") as raised:
            metadata.delete_tag("app", "1")
        assert raised.value.is_undone
        assert 0.01 < raised.value.seconds < 1
        assert "portside" not in str(raised.value), "it goes to clients, who need not know where the database is"
        with pytest.raises(DatabaseUnavailable):
            metadata.link_blob("app", A, 6)
    finally:
        postgres_server.start()
    lines = [line.message for line in caplog.records if line.name == "portside.storage"]
    assert len(lines) == 1
    assert str(postgres_server.directory) in lines[0]
    wait_until(lambda: is_there(metadata), "it is found again")
    database.close()


def is_there(metadata: SQLMetadata) -> bool:
    try:
        return metadata.find_blob("app", A) == 5
    except DatabaseUnavailable:
        return False


def test_a_restart_in_mid_traffic_loses_nothing_that_was_acknowledged(
    postgres_server: Postgres, postgres_url: str
) -> None:
    """Stopped at once, as by a crash, twice: calls succeed or raise DatabaseUnavailable, and all that succeeded is there."""
    database = PostgresDatabase(postgres_url)
    metadata = SQLMetadata(database)
    acknowledged: list[list[Digest]] = [[] for _ in range(4)]
    unavailable, is_over = [0] * 4, threading.Event()

    def push(worker: int) -> None:
        count = 0
        while not is_over.is_set():
            count += 1
            digest = Digest.of(b"%d-%d" % (worker, count))
            try:
                metadata.link_blob(f"r/{worker}", digest, count)
                acknowledged[worker].append(digest)
                assert metadata.find_blob(f"r/{worker}", digest) == count
            except DatabaseUnavailable:
                unavailable[worker] += 1

    def progress(seen: list[int]) -> bool:
        return any(task.done() for task in tasks) or all(
            len(mine) > before + 5 for mine, before in zip(acknowledged, seen, strict=True)
        )

    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(push, worker) for worker in range(4)]
        try:
            for _ in range(2):
                seen = [len(mine) for mine in acknowledged]
                wait_until(lambda seen=seen: progress(seen), "all push")  # type: ignore[misc]
                postgres_server.stop(signal.SIGQUIT)
                postgres_server.start()
            seen = [len(mine) for mine in acknowledged]
            wait_until(lambda: progress(seen), "all push again")
        finally:
            is_over.set()
        for task in tasks:
            task.result()
    for worker, mine in enumerate(acknowledged):
        assert all(metadata.find_blob(f"r/{worker}", digest) is not None for digest in mine)
    database.close()


# -- the counter of people


def test_a_change_of_people_is_felt_by_another_process_in_time(database: PostgresDatabase, postgres_url: str) -> None:
    mine, others = SQLPeople(database), SQLPeople(PostgresDatabase(postgres_url))
    mine.add_account("bob", Kind.USER, ROOT)
    own = mine.people_generation()
    assert own % 2 == 0
    wait_until(lambda: others.people_generation() == own, "the other one knows the number")
    began = time.monotonic()
    mine.set_account("bob", ROOT, is_disabled=True)
    assert mine.people_generation() == own + 2
    wait_until(lambda: others.people_generation() == own + 2, "the other one feels it")
    assert time.monotonic() - began < 2.0
    others.database.close()


def test_what_cannot_be_looked_for_is_not_kept(
    postgres_server: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_people, "PAUSE", 0.02)
    monkeypatch.setattr(postgres_people, "TRUSTED", 0.3)
    database = PostgresDatabase(postgres_url)
    people = SQLPeople(database)
    assert people.people_generation() % 2 == 1, "not known yet"
    wait_until(lambda: people.people_generation() == 0, "the number is known")
    postgres_server.stop(signal.SIGQUIT)
    try:
        assert people.people_generation() == 0, "for a little while"
        wait_until(lambda: people.people_generation() % 2 == 1, "nothing is kept")
    finally:
        postgres_server.start()
    wait_until(lambda: people.people_generation() == 0, "the number is known again")
    threads = threading.active_count()
    database.close()
    assert threading.active_count() == threads - 1


def test_a_change_that_may_have_been_made_is_looked_for(database: PostgresDatabase, postgres_url: str) -> None:
    people = SQLPeople(database)
    people.set_setting("a", "1", ROOT)
    execute(
        postgres_url,
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER dying AFTER INSERT ON accounts DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION die()",
    )
    counter = database.people_generation
    known = counter.read()
    counter.close()  # its thread, that it is not looked for by itself
    with pytest.raises(DatabaseUnavailable):
        people.add_account("bob", Kind.USER, ROOT)
    assert counter.read() % 2 == 1
    counter.look()
    assert counter.read() == known


def test_what_was_read_while_this_process_wrote_is_not_taken() -> None:
    counter: PeopleCounter

    def ask() -> int:
        counter.wrote(5, time.monotonic())
        return 4

    counter = PeopleCounter(ask)
    counter.look()
    assert counter._known[0] == 10


def test_metadata_are_never_kept(database: PostgresDatabase) -> None:
    SQLMetadata(database).link_blob("app", A, 1)
    assert database.generation.read() % 2 == 1


# -- opening


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:sec/ret@host:5432/x",
        "postgresql://u:s/ecret@host/x",
        "postgresql://u:s@ecret@host/x",
        "postgresql://u:s%ZZecret@h/d",
        "mysql://u:secret@h/d",
        "u:secret@h",
        "",
    ],
)
def test_a_url_that_is_none_is_refused_without_a_word_of_it(url: str) -> None:
    with pytest.raises(StoreUnusable, match="write postgresql://USER:PASSWORD@HOST") as raised:
        PostgresDatabase(url)
    assert not any(part in str(raised.value) for part in ("sec", "ret@", "ecret"))


def test_a_server_that_is_not_there_is_named_without_the_password(tmp_path: Path) -> None:
    urls = {str(tmp_path): f"postgresql://bob:secret@/hub?host={tmp_path}"}
    urls["127.0.0.1"] = "postgresql+psycopg://bob:secret@127.0.0.1:1/hub"
    for host, url in urls.items():
        with pytest.raises(StoreUnusable) as raised:
            PostgresDatabase(url)
        assert str(raised.value).startswith(f"the database hub on {host} is not reached (")
        assert "): start PostgreSQL" in str(raised.value)
        assert "secret" not in str(raised.value)


def test_a_database_that_is_not_there_is_named(postgres_server: Postgres) -> None:
    with pytest.raises(StoreUnusable, match='database "nowhere" does not exist'):
        PostgresDatabase(postgres_server.url("nowhere"))


def test_a_server_that_only_reads_is_refused(postgres_server: Postgres, postgres_url: str) -> None:
    name = postgres_url.rpartition("/portside_")[2].partition("?")[0]
    postgres_server.execute(f"ALTER DATABASE portside_{name} SET default_transaction_read_only = on")
    with pytest.raises(StoreUnusable, match=r"is not reached \(.*read-only"):
        PostgresDatabase(postgres_url)


def test_a_database_in_another_encoding_is_refused(postgres_server: Postgres) -> None:
    postgres_server.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    with pytest.raises(StoreUnusable, match=r"LATIN1.*createdb --encoding UTF8"):
        PostgresDatabase(postgres_server.url("latin"))


def test_of_many_that_open_an_empty_database_one_makes_its_tables(postgres_server: Postgres) -> None:
    url = postgres_server.database("template0")
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: PostgresDatabase(url), range(8)))
    for each in opened:
        assert names(each) == []
        each.close()
    assert find_version(url) == VERSIONS[-1]


def test_a_database_of_somebody_else_is_left_as_it_is(postgres_server: Postgres) -> None:
    url = postgres_server.database("template0")
    execute(url, "CREATE TABLE tags (theirs int)")
    with pytest.raises(StoreUnusable, match='"tags" already exists'):
        PostgresDatabase(url)
    assert list(schema_of(url)) == ["tags", "tags.theirs"]


def test_a_server_on_sqlite_imports_nothing_of_it(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import cli.main, cli.serve, cli.hub; from storage.opening import open_database\n"
        "open_database(Path(sys.argv[1]), None).close()\n"
        "print({'psycopg', 'sqlalchemy', 'alembic', 'boto3'} & sys.modules.keys() or 'none')"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.check_output(command, text=True, env=environment) == "none\n"


# -- versions


def schema_of(url: str) -> dict[str, object]:
    """Tables, columns, constraints and indexes, each with all that PostgreSQL says of it."""
    with psycopg.connect(plain(url)) as connection:
        rows = connection.execute(
            "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S')"
            " UNION ALL SELECT table_name || '.' || column_name, concat_ws(' ', data_type, is_nullable, column_default,"
            "  collation_name) FROM information_schema.columns WHERE table_schema = 'public'"
            " UNION ALL SELECT conrelid::regclass || ' ' || conname, pg_get_constraintdef(oid) FROM pg_constraint"
            "  WHERE connamespace = 'public'::regnamespace"
            " UNION ALL SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
        ).fetchall()
    return {name: what for name, what in sorted(rows) if "alembic_version" not in name}


def test_tables_migrations_and_script_are_the_same_schema(postgres_server: Postgres, postgres_url: str) -> None:
    assert Path(module.__file__).with_name("schema_postgres.sql").read_text() == postgres_script()
    url = postgres_server.database("template0")
    migrate(url)
    migrated = schema_of(url)
    assert migrated == schema_of(postgres_url)
    assert len(migrated) > 100
    assert migrated["tags.name"] == "text NO C"


def test_migrations_go_up_and_down(postgres_server: Postgres) -> None:
    url = postgres_server.database("template0")
    steps = []
    for version in VERSIONS:
        migrate(url, version)
        assert find_version(url) == version
        steps.append(schema_of(url))
    assert len({len(step) for step in steps}) == len(VERSIONS)
    for version, step in zip(reversed(VERSIONS), reversed(steps), strict=True):
        migrate(url, version)
        assert schema_of(url) == step
    migrate(url, "base")
    assert schema_of(url) == {}
    assert find_version(url) == ""
    assert migrate_database(Path(), url) == ("", VERSIONS[-1])
    assert schema_of(url) == steps[-1]


def test_a_migration_that_fails_changes_nothing(postgres_server: Postgres) -> None:
    url = postgres_server.database("template0")
    migrate(url, "0003")
    execute(url, "CREATE TABLE counters (theirs int)")
    before = schema_of(url)
    with pytest.raises(StoreUnusable, match=r"from version 0003; nothing was changed\. .*already exists"):
        migrate_database(Path(), url)
    assert (schema_of(url), find_version(url)) == (before, "0003")


def test_an_older_database_is_refused_until_it_is_migrated_and_keeps_its_data(
    postgres_server: Postgres, postgres_url: str
) -> None:
    opened = open_database(Path(), postgres_url)
    SQLMetadata(opened).put_manifest("app", manifest(), ["1"])
    opened.close()
    migrate(postgres_url, "0001")
    with pytest.raises(
        StoreUnusable, match=f"of version 0001, this Portside writes {VERSIONS[-1]}.*run `portside migrate`"
    ):
        open_database(Path(), postgres_url)
    assert find_version(postgres_url) == "0001"
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda _: migrate_database(Path(), postgres_url), range(2)))
    assert ("0001", VERSIONS[-1]) in outcomes, "of two at once one does it, or both in turn see nothing to do"
    opened = open_database(Path(), postgres_url)
    assert SQLMetadata(opened).find_manifest("app", "1") is not None
    opened.close()
    assert migrate_database(Path(), postgres_url) == (VERSIONS[-1], VERSIONS[-1])


def test_a_newer_database_is_refused(postgres_url: str) -> None:
    execute(postgres_url, "UPDATE alembic_version SET version_num = '9999'")
    for act in (lambda: open_database(Path(), postgres_url), lambda: migrate_database(Path(), postgres_url)):
        with pytest.raises(StoreTooNew, match="9999"):
            act()
