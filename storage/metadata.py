"""What the registry knows: repositories, links, tags, manifests, referrers, and the outbox of events. One truth, in SQL.

Every write is one transaction that is durable when the method returns. Every look-up is a point query or one page of an index,
whatever the store holds. `storage.sql_metadata` is both protocols on whatever `storage.database.Database` there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from oci.descriptor import Descriptor
from oci.digest import Digest
from oci.manifest import Manifest
from storage.people import Actor


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest's exact bytes and what they were sent as.

    ``pushed_at``: when it was pushed, or counted on by somebody who may push, last (seconds of the Unix clock).
    """

    digest: Digest
    media_type: str
    body: bytes
    pushed_at: float


@dataclass(frozen=True, slots=True)
class Page:
    """One page of names in byte order; ``more`` says whether another follows the last."""

    names: list[str]
    more: bool


@dataclass(frozen=True, slots=True)
class ReferrersPage:
    """One page of referrers in the order of their digests; ``more`` says whether another follows the last."""

    descriptors: list[Descriptor]
    more: bool


class HeldBlob(NamedTuple):
    """A link: the blob's size in bytes as it was when it was pushed, and when the link was last counted on (seconds of the Unix clock)."""

    size: int
    linked_at: float


class Facts(Protocol):
    """The look-ups. Each is a few microseconds on SQLite, a round trip on PostgreSQL: they run on the event loop. DatabaseUnavailable."""

    def find_manifest(self, repository: str, reference: Digest | str) -> StoredManifest | None:
        """A repository's manifest by digest or by tag (a str)."""
        ...

    def find_blob(self, repository: str, digest: Digest) -> int | None:
        """The size in bytes, as it was when it was pushed, of a blob that the repository holds a link to; None without a link."""
        ...

    def find_link(self, repository: str, digest: Digest) -> HeldBlob | None:
        """As `find_blob`, with how fresh the link is: for who is going to push a manifest that refers to the blob."""
        ...

    def list_tags(self, repository: str, limit: int, after: str) -> Page | None:
        """At most ``limit`` tags above ``after`` ("" from the first); None where no such repository is."""
        ...

    def list_repositories(self, limit: int, after: str) -> Page:
        """At most ``limit`` repository names above ``after``."""
        ...

    def list_referrers(
        self, repository: str, subject: Digest, artifact_type: str | None, limit: int, after: str
    ) -> ReferrersPage:
        """Manifests of the repository whose subject is that digest, above the digest ``after`` ("" from the first).

        Each with its media type, digest, size, artifact type and annotations. An unknown repository has none.
        """
        ...

    def generation(self) -> int:
        """A number that grows with every write by any process. Odd while a write is under way: what is read then must not be kept.

        Always odd where it could not be known without asking.
        """
        ...


class Changes(Protocol):
    """The writes. Blocking, durable, and each one event in the outbox. DatabaseUnavailable, StoreFull.

    With an actor, each is also one record of the audit trail, in the same transaction: push, mount or delete of ``REPO@DIGEST`` or
    ``REPO:TAG``. A write that finds nothing to do leaves neither.
    """

    def link_blob(self, repository: str, digest: Digest, size: int, by: Actor | None = None) -> None:
        """Record that the repository holds the blob. Idempotent."""
        ...

    def mount_blob(self, repository: str, digest: Digest, source: str | None, by: Actor | None = None) -> int | None:
        """Link a blob that ``source`` (any repository where None) holds; its size in bytes, None where it does not."""
        ...

    def touch(self, repository: str, digest: Digest, *, is_manifest: bool = False) -> bool:
        """Count on a blob's link, or on a manifest, from now on, as a push does; whether it is there. No event: nobody sees a change."""
        ...

    def unlink_blob(self, repository: str, digest: Digest, by: Actor | None = None) -> bool:
        """Drop the link; whether it was there. The bytes stay for other repositories and for the collector."""
        ...

    def put_manifest(self, repository: str, manifest: Manifest, tags: Sequence[str], by: Actor | None = None) -> None:
        """Keep a manifest with all its references, and point the tags at it. Its record names the tags."""
        ...

    def delete_manifest(self, repository: str, digest: Digest, by: Actor | None = None) -> bool:
        """Drop a manifest and the tags that point at it from the repository; whether it was there. Its record names the tags."""
        ...

    def delete_tag(self, repository: str, tag: str, by: Actor | None = None) -> bool:
        """Drop a tag, not its manifest; whether it was there."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the outbox. ``sequence`` grows without reuse; ``at`` in seconds of the Unix clock."""

    sequence: int
    at: float
    kind: str
    repository: str
    subject: str
    detail: Mapping[str, str]
