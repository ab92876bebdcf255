"""The chain of schema versions (Alembic)."""
