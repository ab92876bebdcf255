"""Accounts, groups, rules, credentials, settings, and the audit trail."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", _id, primary_key=True),
        sa.Column("name", _text, nullable=False),
        sa.Column("kind", _text, nullable=False),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        sa.Column("is_disabled", sa.Boolean, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("password_hash", _text),
        sa.UniqueConstraint("name", name="uq_accounts_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "groups",
        sa.Column("id", _id, primary_key=True),
        sa.Column("name", _text, nullable=False),
        sa.UniqueConstraint("name", name="uq_groups_name"),
    )
    op.create_table(
        "memberships",
        sa.Column("account_id", _id, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("group_id", _id, sa.ForeignKey("groups.id"), nullable=False),
        sa.PrimaryKeyConstraint("account_id", "group_id", name="pk_memberships"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_memberships_group", "memberships", ["group_id", "account_id"])
    op.create_table(
        "rules",
        sa.Column("subject", _text, nullable=False),
        sa.Column("pattern", _text, nullable=False),
        sa.Column("effect", _text, nullable=False),
        sa.Column("actions", _text, nullable=False),
        sa.PrimaryKeyConstraint("subject", "pattern", "effect", name="pk_rules"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "credentials",
        sa.Column("id", _id, primary_key=True),
        sa.Column("account_id", _id, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("purpose", _text, nullable=False),
        sa.Column("name", _text, nullable=False),
        sa.Column("secret_hash", _text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("used_at", sa.Float),
        sa.Column("limits", _text, nullable=False),
        sa.UniqueConstraint("secret_hash", name="uq_credentials_secret_hash"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_credentials_account", "credentials", ["account_id", "purpose", "id"])
    op.create_table(
        "settings",
        sa.Column("name", _text, nullable=False),
        sa.Column("value", _text, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_settings"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "audit",
        sa.Column("sequence", _id, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", _text, nullable=False),
        sa.Column("who", _text, nullable=False),
        sa.Column("address", _text, nullable=False),
        sa.Column("request_id", _text, nullable=False),
        sa.Column("subject", _text, nullable=False),
        sa.Column("is_success", sa.Boolean, nullable=False),
        sa.Column("detail", _text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_at", "audit", ["at", "sequence"])
    op.create_index("ix_audit_who", "audit", ["who", "sequence"])


def downgrade() -> None:
    for table in ("audit", "settings", "credentials", "rules", "memberships", "groups", "accounts"):
        op.drop_table(table)
