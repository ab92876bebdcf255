"""What every store of people has to do. A store's test module subclasses this, with a fixture ``people`` of an empty one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import pytest

from storage.people import (
    EVERYONE,
    Account,
    Actor,
    Audit,
    AuditRecord,
    Credential,
    Credentials,
    Effect,
    Groups,
    Kind,
    PeopleChanges,
    PeopleExist,
    PeopleFacts,
    PeopleLists,
    PeopleUnknown,
    Purpose,
    Rule,
)

ROOT = Actor("root", "192.0.2.1", "r-1")
HASH = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA"


class People(PeopleFacts, PeopleChanges, Groups, Credentials, PeopleLists, Audit, Protocol):
    """All of it."""


def credential(account: str, name: str, purpose: Purpose = Purpose.PERSONAL, *limits: str) -> Credential:
    return Credential(0, account, purpose, name, 1000.0, 2000.0, None, limits)


def add(people: People, account: str, name: str, purpose: Purpose = Purpose.PERSONAL) -> Credential:
    return people.add_credential(credential(account, name, purpose), f"hash of {name}", ROOT)


def allow(subject: str, pattern: str, *actions: str) -> Rule:
    return Rule(subject, pattern, Effect.ALLOW, actions)


def deny(subject: str, pattern: str, *actions: str) -> Rule:
    return Rule(subject, pattern, Effect.DENY, actions)


def record(at: float, kind: str = "login", who: str = "bob", detail: str = "") -> AuditRecord:
    return AuditRecord(0, at, kind, who, "192.0.2.9", "r-9", "user:bob", False, detail)


def told(people: People) -> list[tuple[str, str, str]]:
    return [(record.kind, record.subject, record.detail) for record in people.find_records()]


def found(people: People, name: str) -> Account:
    account = people.find_account(name)
    assert account is not None
    return account


class PeopleConformance:
    """The suite."""

    def test_an_empty_hub(self, people: People) -> None:
        assert people.find_account("bob") is None
        assert people.password_hash("bob") is None
        assert people.groups_of("bob") == []
        assert people.rules_of(["bob", EVERYONE]) == people.rules_of([]) == []
        assert people.find_credential("hash") is None
        assert people.setting("open") is None
        lists = (people.list_accounts, people.list_rules, people.list_settings, people.list_groups)
        assert [list(each()) for each in lists] == [[], [], [], []]
        assert people.list_credentials("bob") == []
        assert people.find_records() == []
        assert people.trim_records(time.time()) == 0

    # -- accounts

    def test_accounts(self, people: People) -> None:
        began = time.time()
        bob = people.add_account("bob", Kind.USER, ROOT, is_admin=True)
        robot = people.add_account("ci", Kind.ROBOT, ROOT, expires_at=5000000000.5)
        assert (bob.name, bob.kind, bob.is_admin, bob.is_disabled, bob.expires_at) == (
            "bob",
            Kind.USER,
            True,
            False,
            None,
        )
        assert (robot.name, robot.kind, robot.is_admin, robot.expires_at) == ("ci", Kind.ROBOT, False, 5000000000.5)
        assert all(began <= account.created_at <= time.time() for account in (bob, robot))
        assert bob.id != robot.id
        assert (people.find_account("bob"), people.find_account("ci")) == (bob, robot)
        people.add_account("alice", Kind.USER, ROOT)
        assert [account.name for account in people.list_accounts()] == ["alice", "bob", "ci"]
        assert people.list_accounts()[1:] == [bob, robot]

    def test_a_name_is_one_accounts(self, people: People) -> None:
        people.add_account("bob", Kind.USER, ROOT)
        people.add_account("ci", Kind.ROBOT, ROOT)
        before = people.list_accounts(), told(people)
        for name, kind, what in (("bob", Kind.ROBOT, "user:bob"), ("ci", Kind.USER, "robot:ci")):
            with pytest.raises(PeopleExist) as raised:
                people.add_account(name, kind, ROOT)
            assert raised.value.what == what
        assert (people.list_accounts(), told(people)) == before
        people.add_group("bob", ROOT)  # a group's name is another matter

    def test_a_password(self, people: People) -> None:
        before = people.add_account("bob", Kind.USER, ROOT)
        other = people.add_account("alice", Kind.USER, ROOT)
        assert people.password_hash("bob") is None
        kept = add(people, "bob", "laptop")
        add(people, "bob", "docker", Purpose.REFRESH)
        theirs = add(people, "alice", "podman", Purpose.REFRESH)
        people.set_password("bob", HASH, ROOT)
        assert people.password_hash("bob") == HASH
        assert people.password_hash("alice") is None
        assert found(people, "bob").epoch > before.epoch
        assert people.find_account("alice") == other
        assert people.list_credentials("bob") == [kept]
        assert people.find_credential("hash of docker") is None
        assert people.list_credentials("alice") == [theirs]
        epoch = found(people, "bob").epoch
        people.set_password("bob", HASH + "2", ROOT)
        assert people.password_hash("bob") == HASH + "2"
        assert found(people, "bob").epoch > epoch

    def test_only_users_have_passwords(self, people: People) -> None:
        robot = people.add_account("ci", Kind.ROBOT, ROOT)
        for name in ("ci", "nobody"):
            with pytest.raises(PeopleUnknown) as raised:
                people.set_password(name, HASH, ROOT)
            assert raised.value.what == f"user:{name}"
            assert people.password_hash(name) is None
        assert people.find_account("ci") == robot

    def test_an_account_is_disabled_and_enabled(self, people: People) -> None:
        first = people.add_account("bob", Kind.USER, ROOT, is_admin=True)
        people.set_password("bob", HASH, ROOT)
        kept = add(people, "bob", "laptop")
        add(people, "bob", "docker", Purpose.REFRESH)
        disabled = people.set_account("bob", ROOT, is_disabled=True)
        assert (disabled.is_disabled, disabled.is_admin) == (True, True)
        assert disabled.epoch > first.epoch
        assert people.find_account("bob") == disabled
        assert people.list_credentials("bob") == [kept]
        assert people.password_hash("bob") == HASH
        refresh = add(people, "bob", "docker", Purpose.REFRESH)
        enabled = people.set_account("bob", ROOT, is_disabled=False)
        assert not enabled.is_disabled
        assert enabled.epoch > disabled.epoch
        assert people.list_credentials("bob") == [kept, refresh], "enabling takes nothing"

    def test_an_admin_is_made_and_unmade(self, people: People) -> None:
        first = people.add_account("bob", Kind.USER, ROOT)
        refresh = add(people, "bob", "docker", Purpose.REFRESH)
        admin = people.set_account("bob", ROOT, is_admin=True)
        assert admin.is_admin
        assert admin.epoch > first.epoch
        both = people.set_account("bob", ROOT, is_admin=False, is_disabled=False)
        assert (both.is_admin, both.is_disabled) == (False, False)
        assert both.epoch > admin.epoch
        assert people.list_credentials("bob") == [refresh]
        with pytest.raises(PeopleUnknown) as raised:
            people.set_account("nobody", ROOT, is_admin=True)
        assert raised.value.what == "account:nobody"

    def test_what_is_so_already_raises_no_epoch(self, people: People) -> None:
        people.add_account("bob", Kind.USER, ROOT)
        before = people.set_account("bob", ROOT, is_disabled=True)
        records = people.find_records()
        assert people.set_account("bob", ROOT) == before
        assert people.set_account("bob", ROOT, is_disabled=True, is_admin=False) == before
        assert people.find_account("bob") == before
        assert people.find_records() == records

    def test_a_removed_account_leaves_nothing_to_the_next_of_its_name(self, people: People) -> None:
        for name in ("bob", "alice"):
            people.add_account(name, Kind.USER, ROOT)
            people.add_group(f"{name}s", ROOT)
            for group in people.list_groups():
                people.set_member(group[0], name, True, ROOT)
            people.put_rule(allow(name, "team/*", "pull"), ROOT)
            people.put_rule(deny(name, "team/x", "pull"), ROOT)
            add(people, name, f"{name} laptop")
            add(people, name, f"{name} docker", Purpose.REFRESH)
            people.set_password(name, HASH, ROOT)
        for _ in range(3):
            people.set_password("bob", HASH, ROOT)
        before = found(people, "bob")
        alice = found(people, "alice"), people.groups_of("alice"), people.rules_of(["alice"])
        theirs = people.list_credentials("alice")
        people.remove_account("bob", ROOT)
        gone = "removed, with credentials: 1, groups: 1, rules: 2"
        assert told(people)[-1] == ("account", "user:bob", gone)
        assert people.find_account("bob") is None
        assert people.find_credential("hash of bob laptop") is None
        assert "bob" not in [member for _, members in people.list_groups() for member in members]
        assert people.rules_of(["bob"]) == []
        with pytest.raises(PeopleUnknown) as raised:
            people.remove_account("bob", ROOT)
        assert raised.value.what == "account:bob"
        after = people.add_account("bob", Kind.USER, ROOT)
        assert after.epoch > before.epoch
        assert after.id != before.id
        assert people.password_hash("bob") is None
        left = (*people.groups_of("bob"), *people.list_credentials("bob"), *people.rules_of(["bob"]))
        assert left == ()
        assert (found(people, "alice"), people.groups_of("alice"), people.rules_of(["alice"])) == alice
        assert people.list_credentials("alice") == theirs

    def test_an_epoch_is_above_the_old_ones_also_where_the_trail_is_trimmed(self, people: People) -> None:
        old = people.add_account("bob", Kind.USER, ROOT)
        people.remove_account("bob", ROOT)
        assert people.trim_records(time.time() + 1) == 2
        assert people.add_account("bob", Kind.USER, ROOT).epoch > old.epoch

    # -- groups

    def test_groups(self, people: People) -> None:
        for name in ("bob", "alice"):
            people.add_account(name, Kind.USER, ROOT)
        for group in ("ops", "dev"):
            people.add_group(group, ROOT)
        assert people.list_groups() == [("dev", []), ("ops", [])]
        people.set_member("ops", "bob", True, ROOT)
        people.set_member("dev", "bob", True, ROOT)
        people.set_member("dev", "alice", True, ROOT)
        assert people.groups_of("bob") == ["dev", "ops"]
        assert people.groups_of("alice") == ["dev"]
        assert people.list_groups() == [("dev", ["alice", "bob"]), ("ops", ["bob"])]
        people.set_member("dev", "bob", False, ROOT)
        assert people.groups_of("bob") == ["ops"]
        assert people.groups_of("alice") == ["dev"]
        people.put_rule(allow("group:ops", "*", "pull"), ROOT)
        people.put_rule(allow("group:dev", "*", "pull"), ROOT)
        people.remove_group("ops", ROOT)
        assert people.groups_of("bob") == []
        assert people.list_groups() == [("dev", ["alice"])]
        assert people.list_rules() == [allow("group:dev", "*", "pull")]
        people.add_group("ops", ROOT)
        assert people.list_groups() == [("dev", ["alice"]), ("ops", [])]

    def test_names_of_groups_are_taken_and_unknown(self, people: People) -> None:
        people.add_account("bob", Kind.USER, ROOT)
        people.add_group("dev", ROOT)
        with pytest.raises(PeopleExist) as exists:
            people.add_group("dev", ROOT)
        assert exists.value.what == "group:dev"
        acts: list[tuple[Callable[[], None], str]] = [
            (lambda: people.remove_group("ops", ROOT), "group:ops"),
            (lambda: people.set_member("ops", "bob", True, ROOT), "group:ops"),
            (lambda: people.set_member("ops", "bob", False, ROOT), "group:ops"),
            (lambda: people.set_member("dev", "alice", True, ROOT), "account:alice"),
            (lambda: people.set_member("dev", "alice", False, ROOT), "account:alice"),
        ]
        before = told(people)
        for act, what in acts:
            with pytest.raises(PeopleUnknown) as unknown:
                act()
            assert unknown.value.what == what
        assert told(people) == before

    # -- rules

    def test_rules(self, people: People) -> None:
        people.add_account("bob", Kind.USER, ROOT)
        people.add_group("dev", ROOT)
        rules = [
            allow("bob", "team/*", "pull", "push"),
            deny("bob", "team/*", "push"),
            allow("bob", "team/x", "admin", "delete", "pull", "push"),
            allow(EVERYONE, "public/*", "pull"),
            allow("group:dev", "dev/*", "pull"),
        ]
        for rule in reversed(rules):
            people.put_rule(rule, ROOT)
        assert people.list_rules() == rules
        assert people.rules_of(["bob", "group:dev", EVERYONE]) == rules
        assert people.rules_of([EVERYONE, "bob"]) == rules[:4]
        assert people.rules_of(["group:dev"]) == rules[4:]
        assert people.rules_of(["bo", "group", "dev", "group:de"]) == []
        people.put_rule(allow("bob", "team/*", "pull"), ROOT)
        assert people.rules_of(["bob"])[:2] == [allow("bob", "team/*", "pull"), rules[1]]
        people.put_rule(deny("bob", "team/*"), ROOT)
        people.put_rule(deny("bob", "never/there"), ROOT)
        assert people.list_rules() == [allow("bob", "team/*", "pull"), *rules[2:]]

    def test_a_rule_is_somebodys(self, people: People) -> None:
        people.add_account("bob", Kind.USER, ROOT)
        people.add_group("dev", ROOT)
        for subject, what in (("alice", "account:alice"), ("dev", "account:dev"), ("group:bob", "group:bob")):
            for actions in (("pull",), ()):
                with pytest.raises(PeopleUnknown) as raised:
                    people.put_rule(allow(subject, "*", *actions), ROOT)
                assert raised.value.what == what
        assert people.list_rules() == []

    # -- settings

    def test_settings(self, people: People) -> None:
        people.set_setting("b", "1", ROOT)
        people.set_setting("a", "", ROOT)
        assert (people.setting("a"), people.setting("b"), people.setting("c")) == ("", "1", None)
        people.set_setting("b", "2", ROOT)
        assert people.list_settings() == [("a", ""), ("b", "2")]
        people.set_setting("a", None, ROOT)
        people.set_setting("c", None, ROOT)
        assert people.list_settings() == [("b", "2")]

    def test_a_setting_is_claimed_once(self, people: People) -> None:
        assert people.claim_setting("first", "ann", ROOT) == "ann"
        assert people.claim_setting("first", "ben", ROOT) == "ann"
        assert people.claim_setting("first", "ann", ROOT) == "ann"
        people.set_setting("first", None, ROOT)
        assert people.claim_setting("first", "ben", ROOT) == "ben"

    def test_a_password_s_hash_is_renewed_without_cutting_anybody_off(self, people: People) -> None:
        people.add_account("bob", Kind.USER, ROOT)
        people.set_password("bob", "old", ROOT)
        account, generation = people.find_account("bob"), people.people_generation()
        assert people.renew_password_hash("bob", "old", "new")
        assert people.password_hash("bob") == "new"
        assert not people.renew_password_hash("bob", "old", "newer")
        assert not people.renew_password_hash("eve", "old", "newer")
        assert people.password_hash("bob") == "new"
        assert people.find_account("bob") == account
        assert people.people_generation() == generation

    # -- credentials

    def test_credentials(self, people: People) -> None:
        people.add_account("bob", Kind.USER, ROOT)
        people.add_account("ci", Kind.ROBOT, ROOT)
        limited = credential("bob", "laptop", Purpose.PERSONAL, "team/*:pull,push", "x:pull")
        laptop = people.add_credential(limited, "hash of laptop", ROOT)
        refresh = add(people, "bob", "docker", Purpose.REFRESH)
        robot = add(people, "ci", "ci", Purpose.ROBOT)
        endless = Credential(7, "bob", Purpose.PERSONAL, "laptop", 1.5, None, None)
        second = people.add_credential(endless, "hash of endless", ROOT)
        assert laptop == Credential(
            laptop.id, "bob", Purpose.PERSONAL, "laptop", 1000.0, 2000.0, None, ("team/*:pull,push", "x:pull")
        )
        assert second == Credential(second.id, "bob", Purpose.PERSONAL, "laptop", 1.5, None, None)
        assert len({laptop.id, refresh.id, robot.id, second.id}) == 4
        assert people.list_credentials("bob") == [laptop, refresh, second]
        assert people.list_credentials("ci") == [robot]
        by_hash = ("laptop", laptop), ("docker", refresh), ("ci", robot), ("endless", second)
        for name, expected in by_hash:
            assert people.find_credential(f"hash of {name}") == expected
        assert people.find_credential("laptop") is None
        with pytest.raises(PeopleUnknown) as raised:
            add(people, "nobody", "x")
        assert raised.value.what == "account:nobody"
        assert people.find_credential("hash of x") is None

    def test_a_credential_is_removed_by_its_account_only_and_its_number_never_comes_back(self, people: People) -> None:
        for name in ("bob", "alice"):
            people.add_account(name, Kind.USER, ROOT)
        first, last = add(people, "bob", "first"), add(people, "bob", "last")
        assert not people.remove_credential("alice", last.id, ROOT)
        assert not people.remove_credential("bob", last.id + 1, ROOT)
        assert not people.remove_credential("nobody", last.id, ROOT)
        assert people.remove_credential("bob", last.id, ROOT)
        assert not people.remove_credential("bob", last.id, ROOT)
        assert people.find_credential("hash of last") is None
        assert people.list_credentials("bob") == [first]
        assert add(people, "bob", "next").id > last.id

    def test_a_log_in_that_a_change_overtakes_keeps_no_credential(self, people: People) -> None:
        before = people.add_account("bob", Kind.USER, ROOT)
        held = people.add_credential(credential("bob", "in time"), "hash of in time", ROOT, epoch=before.epoch)
        people.set_password("bob", HASH, ROOT)
        records = people.find_records()
        with pytest.raises(PeopleUnknown) as raised:
            people.add_credential(credential("bob", "late", Purpose.REFRESH), "hash of late", ROOT, epoch=before.epoch)
        assert raised.value.what == "account:bob"
        assert people.list_credentials("bob") == [held]
        assert people.find_records() == records
        people.add_credential(
            credential("bob", "anew", Purpose.REFRESH), "hash of anew", ROOT, epoch=found(people, "bob").epoch
        )
        assert people.find_credential("hash of anew") is not None

    def test_the_newest_hundred_refresh_credentials_stay(self, people: People) -> None:
        for name in ("bob", "alice"):
            people.add_account(name, Kind.USER, ROOT)
        personal = add(people, "bob", "laptop")
        theirs = add(people, "alice", "alice", Purpose.REFRESH)
        added = [add(people, "bob", f"docker {number}", Purpose.REFRESH) for number in range(103)]
        assert people.list_credentials("bob") == [personal, *added[3:]]
        assert people.find_credential("hash of docker 2") is None
        assert people.find_credential("hash of docker 3") == added[3]
        assert people.list_credentials("alice") == [theirs]

    def test_the_use_of_a_credential(self, people: People) -> None:
        people.add_account("bob", Kind.USER, ROOT)
        used, other = add(people, "bob", "used"), add(people, "bob", "other")
        people.note_use(used.id, 1500.5)
        people.note_use(used.id, 1400.0)
        people.note_use(other.id + 1, 1400.0)
        assert [item.used_at for item in people.list_credentials("bob")] == [1500.5, None]
        people.note_use(used.id, 1600.0)
        now = people.find_credential("hash of used")
        assert now is not None
        assert now.used_at == 1600.0

    # -- the generation

    def test_the_generation_moves_with_every_change_and_is_even_between(self, people: People) -> None:
        people.add_account("bob", Kind.USER, ROOT)
        people.add_group("dev", ROOT)
        held = add(people, "bob", "laptop")
        acts: list[Callable[[], object]] = [
            lambda: people.add_account("alice", Kind.USER, ROOT),
            lambda: people.set_password("bob", HASH, ROOT),
            lambda: people.set_account("bob", ROOT, is_disabled=True),
            lambda: people.remove_account("alice", ROOT),
            lambda: people.put_rule(allow("bob", "*", "pull"), ROOT),
            lambda: people.put_rule(allow("bob", "*"), ROOT),
            lambda: people.set_setting("a", "1", ROOT),
            lambda: people.add_group("ops", ROOT),
            lambda: people.remove_group("ops", ROOT),
            lambda: people.set_member("dev", "bob", True, ROOT),
            lambda: people.remove_credential("bob", held.id, ROOT),
        ]
        seen = [people.people_generation()]
        for act in acts:
            act()
            seen.append(people.people_generation())
        assert len(set(seen)) == len(seen)
        assert all(number % 2 == 0 for number in seen)

    def test_what_changes_no_answer_leaves_the_generation(self, people: People) -> None:
        people.add_account("bob", Kind.USER, ROOT)
        before = people.people_generation()
        held = add(people, "bob", "laptop")
        people.note_use(held.id, 1.0)
        people.add_records([record(1.0)])
        people.trim_records(2.0)
        people.find_records()
        people.find_account("bob")
        assert people.people_generation() == before

    # -- the trail

    def test_every_change_leaves_its_record(self, people: People) -> None:
        began = time.time()
        people.add_account("bob", Kind.USER, ROOT, is_admin=True)
        people.add_account("ci", Kind.ROBOT, ROOT, expires_at=86400.0)
        people.set_password("bob", HASH, ROOT)
        refresh = add(people, "bob", "docker", Purpose.REFRESH)
        people.set_account("bob", ROOT, is_admin=False, is_disabled=True)
        people.set_account("bob", ROOT, is_admin=True, is_disabled=False)
        people.add_group("dev", ROOT)
        people.set_member("dev", "bob", True, ROOT)
        people.put_rule(allow("bob", "team/*", "pull"), ROOT)
        people.put_rule(allow("bob", "team/*", "pull", "push"), ROOT)
        people.put_rule(deny("group:dev", "team/x", "push"), ROOT)
        people.put_rule(deny("group:dev", "team/x"), ROOT)
        laptop = people.add_credential(
            credential("bob", "lap\n", Purpose.PERSONAL, "a:pull", "b:pull"), "hash of lap", ROOT
        )
        people.remove_credential("bob", laptop.id, ROOT)
        robot = people.add_credential(Credential(0, "ci", Purpose.ROBOT, "ci", 1.0, None, None), "hash of ci", ROOT)
        people.set_setting("open", "yes", ROOT)
        people.set_setting("open", None, ROOT)
        people.set_member("dev", "bob", False, ROOT)
        people.set_member("dev", "bob", True, ROOT)
        people.remove_group("dev", ROOT)
        people.remove_account("bob", ROOT)
        assert told(people) == [
            ("account", "user:bob", "added as an admin"),
            ("account", "robot:ci", "added, to 1970-01-02T00:00:00Z"),
            ("account", "user:bob", "new password"),
            ("credential", "user:bob", f"added refresh credential {refresh.id} 'docker', to 1970-01-01T00:33:20Z"),
            ("account", "user:bob", "no admin any more, disabled, refresh credentials dropped: 1"),
            ("account", "user:bob", "made an admin, enabled"),
            ("group", "group:dev", "added"),
            ("group", "group:dev", "bob added"),
            ("grant", "grant team/*", "allow bob: pull (before: nothing)"),
            ("grant", "grant team/*", "allow bob: pull,push (before: pull)"),
            ("grant", "grant team/x", "deny group:dev: push (before: nothing)"),
            ("grant", "grant team/x", "deny group:dev: nothing (before: push)"),
            (
                "credential",
                "user:bob",
                f"added personal credential {laptop.id} 'lap\\n', to 1970-01-01T00:33:20Z, limited to a:pull b:pull",
            ),
            ("credential", "user:bob", f"removed personal credential {laptop.id} 'lap\\n'"),
            ("credential", "robot:ci", f"added robot credential {robot.id} 'ci'"),
            ("setting", "open", "set to 'yes'"),
            ("setting", "open", "dropped"),
            ("group", "group:dev", "bob removed"),
            ("group", "group:dev", "bob added"),
            ("group", "group:dev", "removed, with members: 1, rules: 0"),
            ("account", "user:bob", "removed, with credentials: 0, groups: 0, rules: 1"),
        ]
        records = people.find_records()
        assert {(record.who, record.address, record.request_id) for record in records} == {("root", "192.0.2.1", "r-1")}
        assert all(record.is_success and began <= record.at <= time.time() for record in records)
        assert not any(HASH in record.detail or "hash of" in record.detail for record in records)

    def test_what_changes_nothing_leaves_no_record(self, people: People) -> None:
        people.add_account("bob", Kind.USER, ROOT)
        people.add_group("dev", ROOT)
        people.set_member("dev", "bob", True, ROOT)
        people.put_rule(allow("bob", "*", "pull"), ROOT)
        people.set_setting("a", "1", ROOT)
        before = people.find_records()
        people.set_member("dev", "bob", True, ROOT)
        people.put_rule(allow("bob", "*", "pull"), ROOT)
        people.put_rule(deny("bob", "*"), ROOT)
        people.set_setting("a", "1", ROOT)
        people.set_setting("b", None, ROOT)
        people.remove_credential("bob", 1, ROOT)
        assert people.find_records() == before
        people.add_account("alice", Kind.USER, ROOT)
        people.set_member("dev", "alice", False, ROOT)
        assert len(people.find_records()) == len(before) + 1

    def test_records_are_kept_whole_and_in_order(self, people: People) -> None:
        people.add_records([])
        login = AuditRecord(99, 10.5, "login", "", "2001:db8::1", "r-2", "user:bob", True, "by password")
        denied = AuditRecord(0, 11.0, "denied", "bob", "", "", "team/app@sha256:00", False)
        people.add_records([login, denied])
        kept = people.find_records()
        assert [item.sequence for item in kept] == sorted({item.sequence for item in kept})
        assert all(item.sequence > 0 for item in kept)
        for item, expected in zip(kept, (login, denied), strict=True):
            same = AuditRecord(
                expected.sequence, item.at, item.kind, item.who, item.address, item.request_id, item.subject,
                item.is_success, item.detail,
            )  # fmt: skip
            assert same == expected
            assert type(item.is_success) is bool

    def test_records_are_found_by_time_who_and_kind(self, people: People) -> None:
        people.add_records(
            [
                record(10.0, "login", "bob"),
                record(13.0, "denied", "alice"),
                record(12.0, "denied", "bob"),  # a clock stepped back
                record(14.0, "login", "alice"),
                record(15.0, "login", "bob"),
            ]
        )

        def times(**wanted: object) -> list[float]:
            return [item.at for item in people.find_records(**wanted)]  # type: ignore[arg-type]

        assert times() == [10.0, 13.0, 12.0, 14.0, 15.0]
        assert times(since=12.0) == [13.0, 12.0, 14.0, 15.0]
        assert times(since=12.5) == [13.0, 14.0, 15.0]
        assert times(since=16.0) == []
        assert times(who="bob") == [10.0, 12.0, 15.0]
        assert times(kind="login") == [10.0, 14.0, 15.0]
        assert times(who="bob", kind="login") == [10.0, 15.0]
        assert times(who="bob", kind="login", since=10.5) == [15.0]
        assert times(who="login") == times(kind="bob") == []
        assert times(limit=2) == [10.0, 13.0]
        third = people.find_records()[2].sequence
        assert times(after=third) == [14.0, 15.0]
        assert times(after=third, since=14.5) == [15.0]
        assert times(after=third, who="bob", limit=1) == [15.0]

    def test_a_trail_is_read_page_by_page(self, people: People) -> None:
        people.add_records([record(float(number)) for number in range(25)])
        seen: list[AuditRecord] = []
        while page := people.find_records(since=3.0, after=seen[-1].sequence if seen else 0, limit=10):
            seen += page
            assert len(seen) <= 22
        assert [item.at for item in seen] == [float(number) for number in range(3, 25)]

    @pytest.mark.parametrize("count", [499, 500, 501, 1700])
    def test_old_records_are_trimmed(self, people: People, count: int) -> None:
        people.add_records([record(float(number % 7)) for number in range(count)])
        people.add_records([record(10.0), record(9.0)])
        assert people.trim_records(0.0) == 0
        assert people.trim_records(9.0) == count
        assert [item.at for item in people.find_records()] == [10.0, 9.0]
        last = people.find_records()[-1].sequence
        assert people.trim_records(100.0) == 2
        people.add_records([record(11.0)])
        assert people.find_records()[0].sequence > last, "no sequence is used twice"

    def test_a_long_detail_is_cut(self, people: People) -> None:
        people.add_records([record(1.0, detail="x" * 5000)])
        people.add_account("bob", Kind.USER, ROOT)
        add(people, "bob", "z" * 5000)
        people.set_setting("motd", "y" * 5000, ROOT)
        assert people.setting("motd") == "y" * 5000
        assert [len(item.detail) <= 1000 for item in people.find_records()] == [True] * 4
