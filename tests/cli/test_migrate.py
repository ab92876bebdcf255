from __future__ import annotations

from pathlib import Path

from storage.migrate import migrate
from storage.paths import Paths
from storage.versions import VERSIONS
from tests.cli.running import call, run
from tests.postgres import Postgres

NEWEST = VERSIONS[-1]


def test_a_root_is_migrated_and_told_from_where_to_where(tmp_path: Path) -> None:
    assert call("migrate", "--root", tmp_path).stdout == f"the database was empty and is of version {NEWEST} now\n"
    nothing = f"the database is of version {NEWEST} already: nothing to do\n"
    assert call("migrate", "--root", tmp_path).stdout == nothing
    migrate(Paths(tmp_path).metadata, "0001")
    told = call("migrate", env={"PORTSIDE_ROOT": str(tmp_path)}).stdout
    assert told == f"the database was of version 0001 and is of version {NEWEST} now\n"
    assert call("migrate", "--root", tmp_path).stdout == nothing


def test_a_database_on_postgresql_is_migrated(postgres_server: Postgres, tmp_path: Path) -> None:
    url = postgres_server.database("template0")
    here = {"PORTSIDE_DATABASE": url, "PORTSIDE_ROOT": str(tmp_path / "unused")}
    assert call("migrate", env=here).stdout == f"the database was empty and is of version {NEWEST} now\n"
    for version in ("0001", "base"):
        migrate(url, version)
        told = run("migrate", "--database", url, "--root", tmp_path / "unused").stdout
        name = version.replace("base", "0")
        assert told == f"the database was of version {name} and is of version {NEWEST} now\n"
    assert call("migrate", env=here).stdout == f"the database is of version {NEWEST} already: nothing to do\n"
    assert not (tmp_path / "unused").exists()


def test_what_is_not_reached_is_told_without_the_password(tmp_path: Path) -> None:
    done = run("migrate", "--database", f"postgresql://bob:secret@/hub?host={tmp_path}", code=1)
    assert done.stderr.startswith(f"portside: the database hub on {tmp_path} is not reached (")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr
