"""The keys that sign tokens, of a hub whose servers share no directory."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "signing_keys",
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("pem", _text, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_signing_keys"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("signing_keys")
