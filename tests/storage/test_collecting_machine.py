"""Collecting on real files and a real database, by random histories: what was acknowledged is whole, and nothing is left over."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oci.digest import Digest
from oci.manifest import Manifest
from storage.collector import CollectionEnded, Collector, Policy
from tests.storage.collecting import DAY, Storage, descriptor
from tests.storage.metadata_conformance import manifest

REPOSITORIES = st.sampled_from(["a", "b"])
BLOBS = st.sampled_from([b"1", b"2"])
TAGS = st.sampled_from(["x", "y"])
POLICIES = st.sampled_from([Policy(), Policy(grace=0), Policy(grace=0, untagged=0), Policy(untagged=3 * DAY)])


class Collecting(RuleBasedStateMachine):
    """``told``: whom the hub has told that a blob is there, and how long ago that was, in seconds. ``held``: manifests by repository."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="portside-"))
        self.storage = Storage.open(self.root)
        self.told: dict[tuple[str, bytes], float] = {}
        self.held: dict[tuple[str, Digest], tuple[Manifest, set[bytes]]] = {}
        self.tags: dict[tuple[str, str], Digest] = {}

    def teardown(self) -> None:
        try:
            self.storage.pass_time(DAY)
            self.storage.collect()
            files, rows, references, left = self.storage.left()
            assert files == rows == references
            assert left == []
        finally:
            self.storage.metadata.close()
            shutil.rmtree(self.root)

    @rule(repository=REPOSITORIES, data=BLOBS)
    def push(self, repository: str, data: bytes) -> None:
        self.storage.push(repository, data)
        self.told[repository, data] = 0.0

    @rule(data=BLOBS)
    def cut_push(self, data: bytes) -> None:
        self.storage.cut_push(data)

    @rule(source=REPOSITORIES, into=REPOSITORIES, data=BLOBS)
    def mount(self, source: str, into: str, data: bytes) -> None:
        if self.storage.metadata.mount_blob(into, Digest.of(data), source) is not None:
            self.told[into, data] = 0.0

    @rule(repository=REPOSITORIES, data=BLOBS)
    def ask(self, repository: str, data: bytes) -> None:
        """As `BlobHandlers.head`."""
        if self.storage.has(repository, data):
            assert self.storage.metadata.touch(repository, Digest.of(data))
            self.told[repository, data] = 0.0

    @precondition(lambda self: self.told)
    @rule(draw=st.data(), repository=REPOSITORIES, tag=st.none() | TAGS)
    def put_manifest(self, draw: st.DataObject, repository: str, tag: str | None) -> None:
        known = sorted(data for name, data in self.told if name == repository)
        if not known:
            return
        blobs = draw.draw(st.sets(st.sampled_from(known), min_size=1))
        made = manifest("", config=descriptor(min(blobs)), layers=[descriptor(data) for data in sorted(blobs)])
        self.storage.metadata.put_manifest(repository, made, [] if tag is None else [tag])
        self.held[repository, made.digest] = (made, blobs)
        if tag is not None:
            self.tags[repository, tag] = made.digest

    @precondition(lambda self: self.held)
    @rule(draw=st.data())
    def delete_manifest(self, draw: st.DataObject) -> None:
        repository, digest = draw.draw(st.sampled_from(sorted(self.held, key=str)))
        assert self.storage.metadata.delete_manifest(repository, digest)
        del self.held[repository, digest]
        self.tags = {key: found for key, found in self.tags.items() if (key[0], found) != (repository, digest)}

    @rule(repository=REPOSITORIES, tag=TAGS)
    def delete_tag(self, repository: str, tag: str) -> None:
        assert self.storage.metadata.delete_tag(repository, tag) == ((repository, tag) in self.tags)
        self.tags.pop((repository, tag), None)

    @rule(seconds=st.sampled_from([DAY / 3, DAY + 1]))
    def pass_time(self, seconds: float) -> None:
        self.storage.pass_time(seconds)
        self.told = {key: age + seconds for key, age in self.told.items() if age + seconds < DAY}

    @rule(policy=POLICIES, steps=st.none() | st.integers(0, 4))
    def collect(self, policy: Policy, steps: int | None) -> None:
        """To its end, or cut after so many steps."""
        ending = iter([False] * (1000 if steps is None else steps))
        collector = Collector(
            self.storage.metadata.database,
            self.storage.files,
            policy,
            is_ending=functools.partial(next, ending, True),
        )
        try:
            collector.collect()
        except CollectionEnded:
            assert steps is not None
        if policy.untagged is not None:
            self._forget_untagged()

    def _forget_untagged(self) -> None:
        """What was tagged must be there; what was not may have gone."""
        tagged = {(repository, digest) for (repository, _), digest in self.tags.items()}
        for repository, digest in list(self.held):
            if self.storage.metadata.find_manifest(repository, digest) is None:
                assert (repository, digest) not in tagged
                del self.held[repository, digest]

    @invariant()
    def what_was_acknowledged_is_whole(self) -> None:
        for (repository, digest), (made, blobs) in self.held.items():
            found = self.storage.metadata.find_manifest(repository, digest)
            assert found is not None
            assert found.body == made.raw
            assert all(self.storage.has(repository, data) for data in blobs)
        for repository, data in self.told:
            assert self.storage.has(repository, data), "somebody was told that it is there"


Collecting.TestCase.settings = settings(
    max_examples=120, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCollecting = pytest.mark.timeout(300)(Collecting.TestCase)
