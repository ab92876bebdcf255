"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "repositories",
        sa.Column("id", _id, primary_key=True),
        sa.Column("name", _text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("name", name="uq_repositories_name"),
    )
    op.create_table(
        "blobs",
        sa.Column("id", _id, primary_key=True),
        sa.Column("digest", _text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("digest", name="uq_blobs_digest"),
    )
    op.create_table(
        "manifests",
        sa.Column("id", _id, primary_key=True),
        sa.Column("digest", _text, nullable=False),
        sa.Column("artifact_type", _text),
        sa.Column("annotations", _text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("digest", name="uq_manifests_digest"),
    )
    op.create_table(
        "repository_blobs",
        sa.Column("repository_id", _id, sa.ForeignKey("repositories.id"), nullable=False),
        sa.Column("blob_id", _id, sa.ForeignKey("blobs.id"), nullable=False),
        sa.Column("linked_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("repository_id", "blob_id", name="pk_repository_blobs"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_repository_blobs_blob", "repository_blobs", ["blob_id"])
    op.create_table(
        "repository_manifests",
        sa.Column("repository_id", _id, sa.ForeignKey("repositories.id"), nullable=False),
        sa.Column("manifest_id", _id, sa.ForeignKey("manifests.id"), nullable=False),
        sa.Column("media_type", _text, nullable=False),
        sa.Column("pushed_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("repository_id", "manifest_id", name="pk_repository_manifests"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_repository_manifests_manifest", "repository_manifests", ["manifest_id"])
    op.create_table(
        "manifest_references",
        sa.Column("manifest_id", _id, sa.ForeignKey("manifests.id"), nullable=False),
        sa.Column("kind", _text, nullable=False),
        sa.Column("digest", _text, nullable=False),
        sa.PrimaryKeyConstraint("manifest_id", "kind", "digest", name="pk_manifest_references"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_manifest_references_digest", "manifest_references", ["digest", "kind"])
    op.create_table(
        "referrers",
        sa.Column("repository_id", _id, sa.ForeignKey("repositories.id"), nullable=False),
        sa.Column("subject", _text, nullable=False),
        sa.Column("digest", _text, nullable=False),
        sa.Column("artifact_type", _text),
        sa.Column("manifest_id", _id, sa.ForeignKey("manifests.id"), nullable=False),
        sa.PrimaryKeyConstraint("repository_id", "subject", "digest", name="pk_referrers"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_referrers_artifact_type", "referrers", ["repository_id", "subject", "artifact_type", "digest"])
    if op.get_context().dialect.name == "postgresql":
        op.create_index("ix_referrers_manifest", "referrers", ["manifest_id"])
    op.create_table(
        "tags",
        sa.Column("repository_id", _id, sa.ForeignKey("repositories.id"), nullable=False),
        sa.Column("name", _text, nullable=False),
        sa.Column("manifest_id", _id, sa.ForeignKey("manifests.id"), nullable=False),
        sa.Column("updated_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("repository_id", "name", name="pk_tags"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_tags_manifest", "tags", ["manifest_id", "repository_id"])
    op.create_table(
        "outbox",
        sa.Column("sequence", _id, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", _text, nullable=False),
        sa.Column("repository", _text, nullable=False),
        sa.Column("subject", _text, nullable=False),
        sa.Column("detail", _text, nullable=False),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    for table in (
        "outbox",
        "tags",
        "referrers",
        "manifest_references",
        "repository_manifests",
        "repository_blobs",
        "manifests",
        "blobs",
        "repositories",
    ):
        op.drop_table(table)
