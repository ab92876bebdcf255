"""Where blobs are that are no files, uploads to such a store, and what a garbage collector keeps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("blobs", sa.Column("place", _text))
    op.add_column("blobs", sa.Column("published_at", sa.Float, nullable=False, server_default="0"))
    op.execute("UPDATE blobs SET published_at = created_at")
    op.add_column("repository_blobs", sa.Column("doomed_at", sa.Float))
    op.add_column("repository_manifests", sa.Column("doomed_at", sa.Float))
    op.create_table(
        "uploads",
        sa.Column("id", _text, nullable=False),
        sa.Column("scope", _text, nullable=False),
        sa.Column("place", _text, nullable=False),
        sa.Column("multipart", _text, nullable=False),
        sa.Column("parts", _text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("hash_state", sa.LargeBinary),
        sa.Column("holder", _text, nullable=False),
        sa.Column("held_until", sa.Float, nullable=False),
        sa.Column("touched_at", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_uploads_touched", "uploads", ["touched_at"])
    op.create_table(
        "trash",
        sa.Column("place", _text, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sa.PrimaryKeyConstraint("place", name="pk_trash"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_trash_since", "trash", ["since"])
    op.create_table(
        "tasks",
        sa.Column("name", _text, nullable=False),
        sa.Column("holder", _text, nullable=False),
        sa.Column("held_until", sa.Float, nullable=False),
        sa.Column("detail", _text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tasks"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    for table in ("tasks", "trash", "uploads"):
        op.drop_table(table)
    op.drop_column("repository_manifests", "doomed_at")
    op.drop_column("repository_blobs", "doomed_at")
    op.drop_column("blobs", "published_at")
    op.drop_column("blobs", "place")
