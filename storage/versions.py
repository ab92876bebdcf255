"""The versions of the schema, for whoever opens a database: the migrations themselves are `storage.migrations`."""

from __future__ import annotations

from storage.errors import StoreTooNew

VERSIONS = ("0001", "0002", "0003", "0004", "0005")
"""Every version of the schema that this Portside knows, the newest last."""


def too_new(what: str, version: str) -> StoreTooNew:
    """What is said of a database that a newer Portside wrote."""
    return StoreTooNew(
        f"{what} are of version {version}, this Portside knows up to {VERSIONS[-1]}: "
        "start a newer Portside, or restore the backup from before the upgrade"
    )
