"""What the facts of an object store have to be in every database. A database's test module subclasses this and gives it ``database``."""

from __future__ import annotations

import threading

import pytest

from oci.digest import Digest
from storage import sql_uploads
from storage.database import Database
from storage.errors import UploadBusy, UploadNotFound
from storage.sql_uploads import Part, Progress, SQLUploads, Taken

A, B = Digest.of(b"a"), Digest.of(b"b")
PROGRESS = Progress("data/x", "m", (Part(1, 8, '"e1"', "c1"), Part(34, 5, '"e2"', "c2")), "tails/x", 15, b"\0state\xff")


def end_lease(database: Database) -> None:
    """As when its holder was killed a while ago."""
    with database.transaction() as connection:
        connection.execute("UPDATE uploads SET held_until = 0", ())


class UploadFactsConformance:
    """The suite."""

    @pytest.fixture
    def facts(self, database: Database) -> SQLUploads:
        return SQLUploads(database)

    def test_what_is_saved_is_taken_up_again(self, facts: SQLUploads) -> None:
        taken = facts.add("u", "app")
        facts.save(taken, PROGRESS)
        assert facts.size("u") == 15
        with pytest.raises(UploadBusy):
            facts.take("u")
        facts.save(taken, PROGRESS, release=True)
        again = facts.take("u")
        assert again == Taken("u", again.holder, PROGRESS, is_bereft=False)
        assert again.holder != taken.holder

    def test_an_upload_that_is_new_or_unknown(self, facts: SQLUploads) -> None:
        facts.save(facts.add("u", "app"), Progress(), release=True)
        assert facts.take("u").progress == Progress()
        for ask in (facts.take, facts.size):
            with pytest.raises(UploadNotFound):
                ask("other")

    def test_who_lost_its_lease_changes_nothing(self, facts: SQLUploads, database: Database) -> None:
        first = facts.add("u", "app")
        end_lease(database)
        second = facts.take("u")
        assert second.is_bereft
        facts.save(second, PROGRESS)
        with pytest.raises(UploadBusy):
            facts.save(first, Progress())
        with pytest.raises(UploadBusy):
            facts.publish(first, A, 1, "p")
        facts.drop(first)
        assert facts.renew([("u", first.holder), ("u", second.holder), ("other", "")]) == [False, True, False]
        assert (facts.size("u"), facts.find(A)) == (15, None)

    def test_what_was_not_left_clean_is_bereft(self, facts: SQLUploads) -> None:
        facts.save(facts.add("u", "app"), PROGRESS, release=True, is_clean=False)
        assert facts.take("u").is_bereft

    def test_leases_end_and_are_prolonged(
        self, facts: SQLUploads, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sql_uploads, "LEASE", -1.0)
        taken = facts.add("u", "app")
        monkeypatch.undo()
        assert facts.renew([("u", taken.holder)]) == [True], "nobody has taken it"
        with pytest.raises(UploadBusy):
            facts.take("u")

    def test_uploads_that_nobody_touches(self, facts: SQLUploads, database: Database) -> None:
        facts.save(facts.add("old", "app"), Progress(), release=True)
        facts.add("held", "app")
        assert facts.untouched(0) == ["old"]
        assert facts.untouched(3600) == []
        with pytest.raises(UploadBusy):
            facts.take("old", 3600)
        taken = facts.take("old", 0)
        assert facts.untouched(0) == []
        facts.drop(taken)
        with pytest.raises(UploadNotFound):
            facts.size("old")

    def test_publishing(self, facts: SQLUploads) -> None:
        taken = facts.add("u", "app")
        facts.publish(taken, A, 7, "place", ["stale"])
        assert (facts.find(A), list(facts.digests()), facts.trash(0)) == ("place", [A], ["stale"])
        with pytest.raises(UploadNotFound):
            facts.size("u")
        facts.publish(taken, A, 7, "place")
        assert facts.trash(0) == ["stale"], "the second time nothing is done"
        with pytest.raises(UploadBusy):
            facts.publish(taken, A, 7, "another")

    def test_what_is_replaced_and_removed_is_trash(self, facts: SQLUploads) -> None:
        for number in (1, 2):
            facts.publish(facts.add(f"u{number}", "app"), A, number, f"place{number}")
        assert (facts.find(A), facts.trash(0)) == ("place2", ["place1"])
        assert facts.trash(3600) == []
        assert facts.remove(A) == "place2"
        assert facts.remove(A) is None
        assert (facts.find(A), list(facts.digests())) == (None, [])
        assert sorted(facts.trash(0)) == ["place1", "place2"]
        facts.forget_trash(["place1", "place2"])
        assert facts.trash(0) == []

    def test_what_is_written_for_an_upload_of_another(self, facts: SQLUploads) -> None:
        facts.save(facts.add("u", "app"), PROGRESS)
        facts.disown("u", "tails/x")
        facts.disown("gone", "tails/y")
        assert facts.trash(0) == []
        facts.disown("u", "tails/z")
        assert facts.trash(0) == ["tails/z"]

    def test_restoring(self, facts: SQLUploads) -> None:
        facts.add("open", "app")
        facts.publish(facts.add("u", "app"), A, 1, "old")
        facts.remove(A)
        assert facts.restore([(A, 1, "old", "u"), (B, 1, "half", "open")]) == 0
        assert facts.restore([(A, 1, "new", "v"), (B, 2, "b", "w")]) == 2
        assert (facts.find(A), facts.find(B)) == ("new", "b")

    def test_one_blob_published_by_many_at_once(self, facts: SQLUploads) -> None:
        """One place is the blob's, all others are trash: none is forgotten."""
        uploads = [facts.add(f"u{number}", "app") for number in range(8)]
        threads = [
            threading.Thread(target=facts.publish, args=(taken, A, 1, f"place{number}"))
            for number, taken in enumerate(uploads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {facts.find(A), *facts.trash(0)} == {f"place{number}" for number in range(8)}
        assert len(facts.trash(0)) == 7
