"""What every metadata store has to do. A store's test module subclasses this, with fixtures ``metadata`` and ``audit`` of one store."""

from __future__ import annotations

import json
import time
from typing import Any, Protocol

import pytest

from oci import mediatypes
from oci.digest import Digest
from oci.manifest import Manifest
from storage.metadata import Changes, Event, Facts
from storage.people import Actor, Audit

A, B = Digest.of(b"a"), Digest.of(b"b")
BOB = Actor("bob", "192.0.2.7", "r-1")


class Metadata(Facts, Changes, Protocol):
    """All of it."""

    def events(self, after: int, limit: int) -> list[Event]: ...


def manifest(note: str = "", **fields: Any) -> Manifest:
    empty = {"mediaType": mediatypes.OCI_EMPTY, "digest": str(Digest.of(b"{}")), "size": 2}
    value = {
        "schemaVersion": 2,
        "mediaType": mediatypes.OCI_MANIFEST,
        "config": empty,
        "layers": [],
        "annotations": {"note": note},
    }
    return Manifest.parse(json.dumps(value | fields).encode())


def subject_of(target: Manifest) -> dict[str, Any]:
    return {"subject": {"mediaType": target.media_type, "digest": str(target.digest), "size": len(target.raw)}}


class MetadataConformance:
    """The suite."""

    def test_an_empty_hub(self, metadata: Metadata) -> None:
        assert metadata.list_repositories(10, "").names == []
        assert metadata.list_tags("app", 10, "") is None
        assert metadata.find_manifest("app", "latest") is None
        assert metadata.find_blob("app", A) is None
        assert metadata.list_referrers("app", A, None, 10, "").descriptors == []
        assert not metadata.unlink_blob("app", A)
        assert not metadata.delete_manifest("app", A)
        assert not metadata.delete_tag("app", "latest")
        assert metadata.mount_blob("app", A, None) is None
        assert metadata.list_repositories(10, "").names == []

    def test_blobs_are_held_by_repositories(self, metadata: Metadata) -> None:
        metadata.link_blob("one", A, 5)
        metadata.link_blob("one", A, 5)
        assert metadata.find_blob("one", A) == 5
        assert metadata.find_blob("two", A) is None
        assert metadata.mount_blob("two", A, "three") is None
        assert metadata.mount_blob("two", A, "one") == 5
        assert metadata.unlink_blob("one", A)
        assert metadata.find_blob("one", A) is None
        assert metadata.find_blob("two", A) is not None
        assert metadata.mount_blob("three", A, None) == 5
        assert metadata.list_repositories(10, "").names == ["one", "three", "two"]

    def test_a_blob_that_nobody_holds_is_not_mounted(self, metadata: Metadata) -> None:
        metadata.link_blob("one", A, 5)
        metadata.unlink_blob("one", A)
        assert metadata.mount_blob("two", A, None) is None
        assert metadata.mount_blob("two", A, "one") is None

    def test_manifests_by_tag_and_digest(self, metadata: Metadata) -> None:
        first, second = manifest("1"), manifest("2")
        metadata.put_manifest("app", first, ["1", "latest"])
        metadata.put_manifest("app", second, ["2", "latest"])
        for reference, expected in ((first.digest, first), ("1", first), ("2", second), ("latest", second)):
            found = metadata.find_manifest("app", reference)
            assert found is not None
            assert (found.digest, found.media_type, found.body) == (expected.digest, expected.media_type, expected.raw)
        assert metadata.find_manifest("other", first.digest) is None

    def test_a_manifest_pushed_under_another_type_is_served_under_it(self, metadata: Metadata) -> None:
        raw = b'{"schemaVersion": 2, "manifests": []}'
        metadata.put_manifest("app", Manifest.parse(raw, mediatypes.OCI_INDEX), ["x"])
        metadata.put_manifest("app", Manifest.parse(raw, mediatypes.DOCKER_MANIFEST_LIST), ["x"])
        found = metadata.find_manifest("app", "x")
        assert found is not None
        assert found.media_type == mediatypes.DOCKER_MANIFEST_LIST

    def test_another_repository_does_not_change_a_manifests_type(self, metadata: Metadata) -> None:
        raw = b'{"schemaVersion": 2, "manifests": []}'
        mine = Manifest.parse(raw, mediatypes.OCI_INDEX)
        metadata.put_manifest("mine", mine, ["x"])
        metadata.put_manifest("theirs", Manifest.parse(raw, mediatypes.DOCKER_MANIFEST_LIST), ["x"])
        for repository, expected in (("mine", mediatypes.OCI_INDEX), ("theirs", mediatypes.DOCKER_MANIFEST_LIST)):
            for reference in ("x", mine.digest):
                found = metadata.find_manifest(repository, reference)
                assert found is not None
                assert found.media_type == expected

    def test_deleting_a_tag_keeps_the_manifest(self, metadata: Metadata) -> None:
        image = manifest()
        metadata.put_manifest("app", image, ["1", "2"])
        assert metadata.delete_tag("app", "1")
        assert not metadata.delete_tag("app", "1")
        assert metadata.find_manifest("app", "1") is None
        assert metadata.find_manifest("app", "2") is not None
        assert metadata.find_manifest("app", image.digest) is not None

    def test_deleting_a_manifest_takes_its_tags_and_only_here(self, metadata: Metadata) -> None:
        image = manifest()
        for repository in ("one", "two"):
            metadata.put_manifest(repository, image, ["1", "2"])
        assert metadata.delete_manifest("one", image.digest)
        assert not metadata.delete_manifest("one", image.digest)
        page = metadata.list_tags("one", 10, "")
        assert page is not None
        assert page.names == []
        assert metadata.find_manifest("two", "1") is not None
        assert metadata.delete_manifest("two", image.digest)
        metadata.put_manifest("one", image, ["again"])
        found = metadata.find_manifest("one", "again")
        assert found is not None
        assert found.body == image.raw

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
    def test_tags_come_in_pages_in_byte_order(self, metadata: Metadata, limit: int) -> None:
        tags = ["_", "0", "00", "A", "Z", "a", "a.b"]
        metadata.put_manifest("app", manifest(), list(reversed(tags)))
        seen: list[str] = []
        more = True
        while more:
            page = metadata.list_tags("app", limit, seen[-1] if seen else "")
            assert page is not None
            assert len(page.names) <= limit
            seen += page.names
            more = page.more
        assert seen == sorted(tags)
        nothing = metadata.list_tags("app", 0, "")
        assert nothing is not None
        assert nothing.names == []

    def test_a_link_tells_when_it_was_counted_on_last(self, metadata: Metadata) -> None:
        assert metadata.find_link("app", A) is None
        assert not metadata.touch("app", A)
        began = time.time()
        metadata.link_blob("app", A, 7)
        first = metadata.find_link("app", A)
        assert first is not None
        assert (first.size, began <= first.linked_at <= time.time()) == (7, True)
        events, generation = metadata.events(0, 100), metadata.generation()
        assert metadata.touch("app", A)
        second = metadata.find_link("app", A)
        assert second is not None
        assert second.linked_at > first.linked_at
        assert (metadata.events(0, 100), metadata.generation()) == (events, generation), "a touch is no news"
        metadata.mount_blob("app", A, "app")
        third = metadata.find_link("app", A)
        assert third is not None
        assert third.linked_at > second.linked_at
        assert metadata.find_link("other", A) is None

    def test_repositories_come_in_pages_in_byte_order(self, metadata: Metadata) -> None:
        names = ["a", "a-b", "a/b", "a/b/c", "a0", "b"]
        for name in reversed(names):
            metadata.link_blob(name, A, 1)
        first = metadata.list_repositories(4, "")
        second = metadata.list_repositories(4, first.names[-1])
        assert (first.more, second.more) == (True, False)
        assert first.names + second.names == sorted(names)

    def test_referrers(self, metadata: Metadata) -> None:
        image = manifest("image")
        plain = manifest("plain", **subject_of(image))
        typed = manifest("typed", artifactType="application/sbom", **subject_of(image))
        for referrer in (plain, typed):
            metadata.put_manifest("app", referrer, [])
        expected = sorted((plain, typed), key=lambda referrer: str(referrer.digest))
        page = metadata.list_referrers("app", image.digest, None, 10, "")
        assert [item.digest for item in page.descriptors] == [item.digest for item in expected]
        assert [item.annotations for item in page.descriptors] == [item.annotations for item in expected]
        assert [item.size for item in page.descriptors] == [len(item.raw) for item in expected]
        assert {item.artifact_type for item in page.descriptors} == {"application/sbom", mediatypes.OCI_EMPTY}
        filtered = metadata.list_referrers("app", image.digest, "application/sbom", 10, "")
        assert [item.digest for item in filtered.descriptors] == [typed.digest]
        first = metadata.list_referrers("app", image.digest, None, 1, "")
        assert first.more
        rest = metadata.list_referrers("app", image.digest, None, 1, str(first.descriptors[0].digest))
        assert not rest.more
        assert [item.digest for item in first.descriptors + rest.descriptors] == [item.digest for item in expected]
        assert metadata.list_referrers("other", image.digest, None, 10, "").descriptors == []
        metadata.delete_manifest("app", typed.digest)
        left = metadata.list_referrers("app", image.digest, None, 10, "")
        assert [item.digest for item in left.descriptors] == [plain.digest]

    def test_a_generation_grows_with_every_write_or_is_odd(self, metadata: Metadata) -> None:
        before = metadata.generation()
        metadata.link_blob("app", A, 1)
        after = metadata.generation()
        assert (before % 2, after % 2) in ((0, 0), (1, 1)), "known between writes, or never"
        assert after > before or after % 2 == 1
        metadata.find_blob("app", A)
        assert metadata.generation() == after

    def test_every_change_is_an_event_in_order(self, metadata: Metadata) -> None:
        image = manifest()
        metadata.link_blob("app", A, 1)
        metadata.mount_blob("other", A, "app")
        metadata.put_manifest("app", image, ["1"])
        metadata.delete_tag("app", "1")
        metadata.delete_manifest("app", image.digest)
        metadata.unlink_blob("app", A)
        metadata.unlink_blob("app", B)
        events = metadata.events(0, 100)
        assert [event.kind for event in events] == [
            "blob.push",
            "blob.mount",
            "manifest.push",
            "tag.delete",
            "manifest.delete",
            "blob.delete",
        ]
        assert events[2].detail == {"media_type": image.media_type, "tags": "1"}
        assert [event.sequence for event in events] == sorted({event.sequence for event in events})
        assert metadata.events(events[3].sequence, 1) == [events[4]]

    def test_a_change_by_somebody_leaves_its_record(self, metadata: Metadata, audit: Audit) -> None:
        image, began = manifest(), time.time()
        metadata.link_blob("app", A, 1, BOB)
        metadata.mount_blob("other", A, "app", BOB)
        metadata.mount_blob("third", A, None, by=BOB)
        metadata.put_manifest("app", image, ["2", "1"], BOB)
        metadata.put_manifest("app", image, [], BOB)
        metadata.delete_tag("app", "1", BOB)
        metadata.put_manifest("app", image, ["0"], BOB)
        metadata.delete_manifest("app", image.digest, BOB)
        metadata.unlink_blob("app", A, BOB)
        records = audit.find_records()
        assert [(record.kind, record.subject, record.detail) for record in records] == [
            ("push", f"app@{A}", "blob"),
            ("mount", f"other@{A}", "blob from app"),
            ("mount", f"third@{A}", "blob"),
            ("push", f"app@{image.digest}", "manifest, tags 2 1"),
            ("push", f"app@{image.digest}", "manifest"),
            ("delete", "app:1", "tag"),
            ("push", f"app@{image.digest}", "manifest, tags 0"),
            ("delete", f"app@{image.digest}", "manifest, tags 0 2"),
            ("delete", f"app@{A}", "blob"),
        ]
        assert {(record.who, record.address, record.request_id) for record in records} == {("bob", "192.0.2.7", "r-1")}
        assert all(record.is_success and began <= record.at <= time.time() for record in records)
        assert len(metadata.events(0, 100)) == len(records)

    def test_what_nobody_is_named_for_leaves_no_record(self, metadata: Metadata, audit: Audit) -> None:
        metadata.link_blob("app", A, 1)
        metadata.mount_blob("other", A, "app")
        metadata.put_manifest("app", manifest(), ["1"])
        metadata.delete_tag("app", "1")
        metadata.delete_manifest("app", manifest().digest)
        metadata.unlink_blob("app", A)
        assert audit.find_records() == []

    def test_what_changes_nothing_leaves_no_record(self, metadata: Metadata, audit: Audit) -> None:
        assert metadata.mount_blob("other", A, "app", BOB) is None
        assert metadata.mount_blob("other", A, None, BOB) is None
        assert not metadata.delete_tag("app", "1", BOB)
        assert not metadata.delete_manifest("app", A, BOB)
        assert not metadata.unlink_blob("app", A, BOB)
        assert audit.find_records() == []
        assert metadata.events(0, 100) == []
