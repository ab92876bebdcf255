"""Metadata and people on PostgreSQL: the same suites as on SQLite, and what is PostgreSQL's own of each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage.postgres import PostgresDatabase
from storage.sql_audit import SQLAudit
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople
from tests.storage.metadata_conformance import MetadataConformance
from tests.storage.people_conformance import PeopleConformance


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
