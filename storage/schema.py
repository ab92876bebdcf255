"""The tables of metadata and people, once for SQLite and PostgreSQL.

SQLAlchemy and Alembic serve the schema and its migrations. The look-ups are plain SQL (`storage.sql_metadata`, `storage.sql_people`):
through SQLAlchemy Core one costs 35 µs instead of 5, and importing it takes longer than the whole server needs to start. So ``schema.sql``
holds what these tables are on SQLite, and ``schema_postgres.sql`` on PostgreSQL, for making a database without an import; tests hold the
three (tables, migrations, script) together.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

metadata = MetaData()

_Id = BigInteger().with_variant(Integer, "sqlite")
"""On SQLite only ``INTEGER PRIMARY KEY`` is the row's own number."""
_Text = Text().with_variant(Text(collation="C"), "postgresql")
"""Compared byte by byte, whatever the language of the database: pages of names go on in that order."""

Table(
    "repositories",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", _Text, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("name", name="uq_repositories_name"),
)
Table(
    "blobs",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("digest", _Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("place", _Text),  # the name that leads to its bytes in an object store (storage.s3_names); null for a file
    Column("published_at", Float, nullable=False, server_default="0"),
    UniqueConstraint("digest", name="uq_blobs_digest"),
)
Table(
    "repository_blobs",
    metadata,
    Column("repository_id", _Id, ForeignKey("repositories.id"), nullable=False),
    Column("blob_id", _Id, ForeignKey("blobs.id"), nullable=False),
    Column("linked_at", Float, nullable=False),
    Column("doomed_at", Float),  # since when the collector knows that no manifest of the repository refers to it
    PrimaryKeyConstraint("repository_id", "blob_id", name="pk_repository_blobs"),
    Index("ix_repository_blobs_blob", "blob_id"),
    sqlite_with_rowid=False,
)
Table(
    "manifests",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("digest", _Text, nullable=False),
    Column("artifact_type", _Text),
    Column("annotations", _Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),  # last: what is before it is read without it
    UniqueConstraint("digest", name="uq_manifests_digest"),
)
Table(
    "manifest_references",
    metadata,
    Column("manifest_id", _Id, ForeignKey("manifests.id"), nullable=False),
    Column("kind", _Text, nullable=False),  # blob, manifest or subject
    Column("digest", _Text, nullable=False),
    PrimaryKeyConstraint("manifest_id", "kind", "digest", name="pk_manifest_references"),
    Index("ix_manifest_references_digest", "digest", "kind"),
    sqlite_with_rowid=False,
)
Table(
    "repository_manifests",
    metadata,
    Column("repository_id", _Id, ForeignKey("repositories.id"), nullable=False),
    Column("manifest_id", _Id, ForeignKey("manifests.id"), nullable=False),
    Column("media_type", _Text, nullable=False),  # here, so that no other repository's push changes it
    Column("pushed_at", Float, nullable=False),
    Column("doomed_at", Float),  # since when the collector knows that no tag leads to it
    PrimaryKeyConstraint("repository_id", "manifest_id", name="pk_repository_manifests"),
    Index("ix_repository_manifests_manifest", "manifest_id"),
    sqlite_with_rowid=False,
)
Table(
    "referrers",
    metadata,
    Column("repository_id", _Id, ForeignKey("repositories.id"), nullable=False),
    Column("subject", _Text, nullable=False),
    Column("digest", _Text, nullable=False),
    Column("artifact_type", _Text),  # the manifest's own, for the index
    Column("manifest_id", _Id, ForeignKey("manifests.id"), nullable=False),
    PrimaryKeyConstraint("repository_id", "subject", "digest", name="pk_referrers"),
    Index("ix_referrers_artifact_type", "repository_id", "subject", "artifact_type", "digest"),
    # For PostgreSQL, which looks here when a manifest is deleted; SQLite is not asked to hold foreign keys.
    Index("ix_referrers_manifest", "manifest_id", info={"only": "postgresql"}),
    sqlite_with_rowid=False,
)
Table(
    "tags",
    metadata,
    Column("repository_id", _Id, ForeignKey("repositories.id"), nullable=False),
    Column("name", _Text, nullable=False),
    Column("manifest_id", _Id, ForeignKey("manifests.id"), nullable=False),
    Column("updated_at", Float, nullable=False),
    PrimaryKeyConstraint("repository_id", "name", name="pk_tags"),
    Index("ix_tags_manifest", "manifest_id", "repository_id"),
    sqlite_with_rowid=False,
)
Table(
    "outbox",
    metadata,
    Column("sequence", _Id, primary_key=True),
    Column("at", Float, nullable=False),
    Column("kind", _Text, nullable=False),
    Column("repository", _Text, nullable=False),
    Column("subject", _Text, nullable=False),
    Column("detail", _Text, nullable=False),
    sqlite_autoincrement=True,
)
Table(
    "accounts",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", _Text, nullable=False),
    Column("kind", _Text, nullable=False),  # user or robot
    Column("is_admin", Boolean, nullable=False),
    Column("is_disabled", Boolean, nullable=False),
    Column(
        "epoch", BigInteger, nullable=False
    ),  # the sequence of the audit record of what cut off last: no name meets one again
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("password_hash", _Text),
    UniqueConstraint("name", name="uq_accounts_name"),
    sqlite_autoincrement=True,
)
Table(
    "groups",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", _Text, nullable=False),
    UniqueConstraint("name", name="uq_groups_name"),
)
Table(
    "memberships",
    metadata,
    Column("account_id", _Id, ForeignKey("accounts.id"), nullable=False),
    Column("group_id", _Id, ForeignKey("groups.id"), nullable=False),
    PrimaryKeyConstraint("account_id", "group_id", name="pk_memberships"),
    Index("ix_memberships_group", "group_id", "account_id"),
    sqlite_with_rowid=False,
)
Table(
    "rules",
    metadata,
    Column("subject", _Text, nullable=False),  # NAME, group:NAME or everyone
    Column("pattern", _Text, nullable=False),
    Column("effect", _Text, nullable=False),  # allow or deny
    Column("actions", _Text, nullable=False),  # with commas between them
    PrimaryKeyConstraint("subject", "pattern", "effect", name="pk_rules"),
    sqlite_with_rowid=False,
)
Table(
    "credentials",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("account_id", _Id, ForeignKey("accounts.id"), nullable=False),
    Column("purpose", _Text, nullable=False),  # personal, robot or refresh
    Column("name", _Text, nullable=False),
    Column("secret_hash", _Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("used_at", Float),
    Column("limits", _Text, nullable=False),  # a JSON list
    UniqueConstraint("secret_hash", name="uq_credentials_secret_hash"),
    Index("ix_credentials_account", "account_id", "purpose", "id"),
    sqlite_autoincrement=True,  # access tokens name credentials: a number never stands for another one
)
Table(
    "settings",
    metadata,
    Column("name", _Text, nullable=False),
    Column("value", _Text, nullable=False),
    PrimaryKeyConstraint("name", name="pk_settings"),
    sqlite_with_rowid=False,
)
Table(
    "audit",
    metadata,
    Column("sequence", _Id, primary_key=True),
    Column("at", Float, nullable=False),
    Column("kind", _Text, nullable=False),
    Column("who", _Text, nullable=False),
    Column("address", _Text, nullable=False),
    Column("request_id", _Text, nullable=False),
    Column("subject", _Text, nullable=False),
    Column("is_success", Boolean, nullable=False),
    Column("detail", _Text, nullable=False),
    Index("ix_audit_at", "at", "sequence"),
    Index("ix_audit_who", "who", "sequence"),
    sqlite_autoincrement=True,
)
Table(
    "uploads",  # to a store that keeps no files; a filesystem's uploads are files
    metadata,
    Column("id", _Text, nullable=False),
    Column("scope", _Text, nullable=False),
    Column("place", _Text, nullable=False),  # what the parts will be, empty before there are any
    Column("multipart", _Text, nullable=False),  # the object store's id, empty before there is one
    # A JSON list of [number, size, ETag, CRC-32], then the name of what comes after them.
    Column("parts", _Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("hash_state", LargeBinary),
    Column("holder", _Text, nullable=False),
    Column("held_until", Float, nullable=False),
    Column("touched_at", Float, nullable=False),
    PrimaryKeyConstraint("id", name="pk_uploads"),
    Index("ix_uploads_touched", "touched_at"),
    sqlite_with_rowid=False,
)
Table(
    "trash",  # places, and other objects' names, that nothing refers to any more, to be deleted
    metadata,
    Column("place", _Text, nullable=False),
    Column("since", Float, nullable=False),
    PrimaryKeyConstraint("place", name="pk_trash"),
    Index("ix_trash_since", "since"),
    sqlite_with_rowid=False,
)
Table(
    "tasks",  # what one of all the servers does at a time
    metadata,
    Column("name", _Text, nullable=False),
    Column("holder", _Text, nullable=False),
    Column("held_until", Float, nullable=False),
    Column("detail", _Text, nullable=False),
    PrimaryKeyConstraint("name", name="pk_tasks"),
    sqlite_with_rowid=False,
)
Table(
    "counters",  # of changes, where processes share no file to count in: see storage.postgres_people
    metadata,
    Column("name", _Text, nullable=False),
    Column("number", BigInteger, nullable=False),
    PrimaryKeyConstraint("name", name="pk_counters"),
    sqlite_with_rowid=False,
)
Table(
    "signing_keys",  # of hubs whose servers share no directory: see auth.key_rows
    metadata,
    Column("number", BigInteger, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("pem", _Text, nullable=False),
    PrimaryKeyConstraint("number", name="pk_signing_keys"),
    sqlite_with_rowid=False,
)


def sqlite_script() -> str:
    """What ``schema.sql`` has to say."""
    return _script(sqlite.dialect())


def postgres_script() -> str:
    """What ``schema_postgres.sql`` has to say."""
    return _script(postgresql.dialect())  # type: ignore[no-untyped-call]


def _script(dialect: Dialect) -> str:
    statements: list[str] = []
    for table in metadata.sorted_tables:
        statements.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            if index.info.get("only", dialect.name) == dialect.name:
                statements.append(str(CreateIndex(index).compile(dialect=dialect)).strip())
    return ";\n\n".join(line.replace("\t", "    ").replace(" \n", "\n") for line in statements) + ";\n"
