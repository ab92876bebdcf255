"""What an administrator does, on a real database: each verb, what it changes for log-ins and rights, and what it refuses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from auth import passwords
from auth.administration import NO_ACCOUNTS, Administration
from auth.desk import AdministrationError, Conflict, Invalid, NotFound
from auth.gate import ACCOUNTS_SETTING
from auth.holders import TOKENS_MAX
from auth.key_files import KeyFiles
from auth.keys import KeyRing
from auth.names import secret_hash
from auth.rights import PERSONAL_SETTING
from auth.views import Group
from storage.people import Account, Actor, Credential, Effect, Kind, Purpose, Rule
from storage.sql_metadata import SQLMetadata
from storage.sql_people import SQLPeople
from storage.sqlite import SQLiteDatabase

NOW = 1_800_000_000.0
ANN = Actor("ann", "192.0.2.1", "request-1")
GENERATED = re.compile(r"[2-9a-z]{5}(-[2-9a-z]{5}){3,4}\Z")


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """argon2id all the same, of a cost that tests can pay."""
    monkeypatch.setattr(passwords, "_hasher", lambda: PasswordHasher(1, 8, 1))


@pytest.fixture
def people(tmp_path: Path) -> Iterator[SQLPeople]:
    metadata = SQLMetadata(SQLiteDatabase(tmp_path))
    yield SQLPeople(metadata.database)
    metadata.close()


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Callable[[], KeyRing]]:
    made: list[KeyRing] = []

    def ring() -> KeyRing:
        if not made:
            made.append(KeyRing(KeyFiles(tmp_path / "auth" / "keys"), 300.0))
        return made[0]

    yield ring
    for one in made:
        one.close()


@pytest.fixture
def bare(people: SQLPeople, keys: Callable[[], KeyRing]) -> Administration:
    """Of a hub without accounts."""
    return Administration(people, keys, ANN, lambda: NOW)


@pytest.fixture
def hub(bare: Administration) -> Administration:
    """Of a hub whose administrator is ann."""
    bare.initialise("ann", "correct horse")
    return bare


def is_password(people: SQLPeople, name: str, password: str) -> bool:
    hashed = people.password_hash(name)
    assert hashed is not None
    return passwords.is_password_of(hashed, password)


def trail(people: SQLPeople) -> list[tuple[str, str, str]]:
    return [(record.kind, record.who, record.subject) for record in people.find_records()]


# -- first start


def test_the_first_start(bare: Administration, people: SQLPeople) -> None:
    added = bare.initialise("ann")
    assert added.user.is_admin
    assert people.setting(ACCOUNTS_SETTING) is not None
    assert people.setting(PERSONAL_SETTING) is None
    assert added.password is not None
    assert GENERATED.match(added.password)
    assert is_password(people, "ann", added.password)
    assert added.password not in repr(added)
    with pytest.raises(Conflict, match="accounts already"):
        bare.initialise("eve")
    assert people.find_account("eve") is None


def test_the_first_start_with_a_password_and_personal_namespaces(bare: Administration, people: SQLPeople) -> None:
    assert bare.initialise("ann", "correct horse", personal_namespaces=True).password is None
    assert is_password(people, "ann", "correct horse")
    assert bare.settings().personal_namespaces


def test_a_first_start_that_was_interrupted_is_done_again(bare: Administration, people: SQLPeople) -> None:
    people.add_account("ann", Kind.USER, ANN)
    people.set_account("ann", ANN, is_disabled=True)
    bare.initialise("ann", "correct horse")
    account = people.find_account("ann")
    assert account is not None
    assert account.is_admin
    assert not account.is_disabled
    assert is_password(people, "ann", "correct horse")


class Starting(SQLPeople):
    """Another first start begins at the last moment: when this one has seen that there are no accounts."""

    then: Callable[[], object] | None = None

    def claim_setting(self, name: str, value: str, by: Actor) -> str:
        then, self.then = self.then, None
        if then is not None:
            then()
        return super().claim_setting(name, value, by)


def test_of_two_first_starts_at_once_one_is_refused(bare: Administration, people: SQLPeople) -> None:
    racing = Starting(people.database)
    racing.then = lambda: bare.initialise("ann")
    with pytest.raises(Conflict, match="portside init --admin ann"):
        Administration(racing, lambda: pytest.fail("no keys"), ANN, lambda: NOW).initialise("eve")
    assert [account.name for account in people.list_accounts()] == ["ann"]


def test_a_first_start_that_is_refused_changes_nothing(bare: Administration, people: SQLPeople) -> None:
    for name, password in (("Ann", None), ("local", None), ("ann", "short"), ("ann", "x" * 1025)):
        with pytest.raises(Invalid):
            bare.initialise(name, password)
    assert people.list_accounts() == []
    assert people.list_settings() == []


def test_without_accounts_nothing_else_is_done(bare: Administration, people: SQLPeople) -> None:
    verbs: list[Callable[[], object]] = [
        lambda: bare.users.add("bob"),
        lambda: bare.groups.add("dev"),
        lambda: bare.robots.add("ci", [], 60),
        lambda: bare.tokens.list(),
        lambda: bare.rules.grant("everyone", "*", "pull"),
        lambda: bare.audit(),
        lambda: bare.settings(),
        lambda: bare.change_settings(True),
        lambda: bare.keys(),
        lambda: bare.rotate_keys(),
    ]
    for verb in verbs:
        with pytest.raises(Conflict, match="portside init") as caught:
            verb()
        assert str(caught.value) == NO_ACCOUNTS
    assert people.find_records() == []


# -- users


def test_users_are_added_and_listed(hub: Administration, people: SQLPeople) -> None:
    made = hub.users.add("bob")
    assert made.password is not None
    assert is_password(people, "bob", made.password)
    assert hub.users.add("eve", "pass word", is_admin=True).password is None
    assert is_password(people, "eve", "pass word")
    hub.groups.add("dev")
    hub.groups.set_member("dev", "bob", True)
    hub.robots.add("ci", [], 60)
    assert [(one.name, one.is_admin, one.groups) for one in hub.users.list()] == [
        ("ann", True, ()),
        ("bob", False, ("dev",)),
        ("eve", True, ()),
    ]
    assert hub.users.show("bob").groups == ("dev",)


def test_a_name_is_taken_once(hub: Administration) -> None:
    hub.robots.add("ci", [], 60)
    with pytest.raises(Conflict, match="the name ann is taken: there is a user"):
        hub.users.add("ann")
    with pytest.raises(Conflict, match="the name ci is taken: there is a robot"):
        hub.users.add("ci")
    with pytest.raises(Conflict, match="there is a user"):
        hub.robots.add("ann", [], 60)


@pytest.mark.parametrize("name", ["", "Bob", "a/b", "everyone", "group", "local", "-a", "a" * 65, "bob\n", "b\x1b[2Jb"])
def test_names_that_nobody_can_have(hub: Administration, name: str) -> None:
    for verb in (hub.users.add, hub.groups.add, hub.users.show, hub.users.remove, hub.groups.remove):
        with pytest.raises(Invalid) as caught:
            verb(name)
        assert str(caught.value).isprintable()


def test_a_bad_password_is_refused_without_being_repeated(hub: Administration, people: SQLPeople) -> None:
    for password in ("geheim!", "NUL \0 geheim", "geheim" * 200):
        with pytest.raises(Invalid) as caught:
            hub.users.add("bob", password)
        assert "geheim" not in str(caught.value)
    assert people.find_account("bob") is None


def test_a_new_password_cuts_off_what_the_old_one_gave(hub: Administration, people: SQLPeople) -> None:
    before = people.find_account("ann")
    refresh = Credential(0, "ann", Purpose.REFRESH, "docker", NOW, None, None)
    people.add_credential(refresh, "0" * 64, ANN)
    changed = hub.users.set_password("ann")
    after = people.find_account("ann")
    assert before is not None
    assert after is not None
    assert after.epoch > before.epoch
    assert people.find_credential("0" * 64) is None
    assert changed.password is not None
    assert is_password(people, "ann", changed.password)
    assert not is_password(people, "ann", "correct horse")
    assert changed.password not in repr(changed)
    assert hub.users.set_password("ann", "another horse").password is None
    hub.users.set_own_password("own horses")
    assert is_password(people, "ann", "own horses")


def test_users_are_disabled_enabled_and_removed(hub: Administration, people: SQLPeople) -> None:
    hub.users.add("bob")
    assert hub.users.change("bob", is_disabled=True).is_disabled
    assert not hub.users.change("bob", is_disabled=False).is_disabled
    assert hub.users.change("bob", is_admin=True).is_admin
    hub.users.remove("bob")
    assert people.find_account("bob") is None


def test_what_is_no_user_is_told_apart(hub: Administration) -> None:
    hub.robots.add("ci", [], 60)
    with pytest.raises(NotFound, match="there is no user bob"):
        hub.users.change("bob", is_disabled=True)
    for verb in (hub.users.remove, hub.users.set_password, hub.users.show):
        with pytest.raises(NotFound, match="ci is a robot, not a user: see `portside robot ls`"):
            verb("ci")
    with pytest.raises(NotFound, match="ann is a user, not a robot"):
        hub.robots.remove("ann")


def test_who_asks(hub: Administration, people: SQLPeople, keys: Callable[[], KeyRing]) -> None:
    assert hub.users.show_own().name == "ann"
    hub.robots.add("ci", [], 60)
    assert Administration(people, keys, Actor("ci")).users.show_own().kind is Kind.ROBOT
    with pytest.raises(Conflict, match="--user"):
        Administration(people, keys, Actor("local")).users.show_own()


def test_the_last_administrator_stays(hub: Administration, people: SQLPeople) -> None:
    hub.users.add("eve", is_admin=True)
    hub.users.change("eve", is_disabled=True)  # one who cannot log in is none
    refusals: list[Callable[[], object]] = [
        lambda: hub.users.remove("ann"),
        lambda: hub.users.change("ann", is_disabled=True),
        lambda: hub.users.change("ann", is_admin=False),
    ]
    before = people.find_account("ann")
    for refusal in refusals:
        with pytest.raises(Conflict, match="ann is the last administrator"):
            refusal()
    assert people.find_account("ann") == before
    hub.users.change("eve", is_admin=True, is_disabled=False)
    hub.users.remove("ann")
    assert [one.name for one in hub.users.list()] == ["eve"]


class Meanwhile(SQLPeople):
    """Another administrator does something right before the first change of an account."""

    then: Callable[[], object] | None = None

    def set_account(
        self, name: str, by: Actor, *, is_admin: bool | None = None, is_disabled: bool | None = None
    ) -> Account:
        then, self.then = self.then, None
        if then is not None:
            then()
        return super().set_account(name, by, is_admin=is_admin, is_disabled=is_disabled)


def test_two_administrators_who_remove_each_other_at_once(hub: Administration, people: SQLPeople) -> None:
    hub.users.add("eve", is_admin=True)
    racing = Meanwhile(people.database)
    racing.then = lambda: hub.users.remove("ann")
    with pytest.raises(Conflict, match="last administrator"):
        Administration(racing, lambda: pytest.fail("no keys"), Actor("ann")).users.remove("eve")
    assert [(one.name, one.is_admin, one.is_disabled) for one in hub.users.list()] == [("eve", True, False)]


# -- groups


def test_groups(hub: Administration, people: SQLPeople) -> None:
    hub.users.add("bob")
    hub.robots.add("ci", [], 60)
    assert hub.groups.add("dev") == Group("dev", ())
    for name in ("bob", "ci", "bob"):
        hub.groups.set_member("dev", name, True)
    assert hub.groups.list() == [Group("dev", ("bob", "ci"))]
    hub.groups.set_member("dev", "bob", False)
    assert hub.groups.list() == [Group("dev", ("ci",))]
    with pytest.raises(Conflict, match="the name dev is taken: there is a group"):
        hub.groups.add("dev")
    with pytest.raises(NotFound, match="no user or robot eve"):
        hub.groups.set_member("dev", "eve", True)
    with pytest.raises(NotFound, match="no group ops"):
        hub.groups.set_member("ops", "bob", True)
    hub.groups.remove("dev")
    assert hub.groups.list() == []
    with pytest.raises(NotFound, match="no group dev"):
        hub.groups.remove("dev")


# -- robots


def test_a_robot_its_grants_and_its_secret(hub: Administration, people: SQLPeople) -> None:
    made = hub.robots.add("ci", ["team/*:push", "team/*:pull", "base:*"], 3600.0)
    assert made.secret.startswith("psb_")
    assert made.secret not in repr(made)
    credential = people.find_credential(secret_hash(made.secret))
    assert credential is not None
    assert (credential.account, credential.purpose) == ("ci", Purpose.ROBOT)
    assert (credential.created_at, credential.expires_at) == (NOW, NOW + 3600)
    assert list(people.rules_of(["ci"])) == [
        Rule("ci", "base", Effect.ALLOW, ("pull", "push", "delete", "admin")),
        Rule("ci", "team/*", Effect.ALLOW, ("pull", "push")),
    ]
    people.note_use(credential.id, NOW + 5)
    (listed,) = hub.robots.list()
    assert listed.grants == ("base:pull,push,delete,admin", "team/*:pull,push")
    assert (listed.expires_at, listed.used_at) == (NOW + 3600, NOW + 5)
    hub.robots.remove("ci")
    assert people.find_credential(secret_hash(made.secret)) is None
    assert people.list_rules() == []


def test_a_robot_for_ever(hub: Administration) -> None:
    assert hub.robots.add("ci", [], math.inf).robot.expires_at is None


@pytest.mark.parametrize("grant", ["team/*", "team/*:fly", "Team:pull", "team/*:", ":pull", "a b:pull"])
def test_a_robot_that_is_refused_is_not_there(hub: Administration, people: SQLPeople, grant: str) -> None:
    with pytest.raises(Invalid):
        hub.robots.add("ci", ["fine:pull", grant], 60)
    with pytest.raises(Invalid, match="more than 100"):
        hub.robots.add("ci", [f"a{number}:pull" for number in range(101)], 60)
    assert people.find_account("ci") is None
    assert people.list_rules() == []


def test_a_new_secret_ends_the_old_one_and_what_it_gave(hub: Administration, people: SQLPeople) -> None:
    old = hub.robots.add("ci", ["team/*:pull"], 3600.0).secret
    refresh = Credential(0, "ci", Purpose.REFRESH, "docker", NOW, None, None)
    people.add_credential(refresh, "1" * 64, ANN)
    later = Administration(people, lambda: pytest.fail("no keys"), ANN, lambda: NOW + 600)
    renewed = later.robots.renew("ci")
    assert people.find_credential(secret_hash(old)) is None
    assert people.find_credential("1" * 64) is None
    credential = people.find_credential(secret_hash(renewed.secret))
    assert credential is not None
    assert credential.expires_at == NOW + 600 + 3600
    assert renewed.robot.expires_at == NOW + 600 + 3600
    assert later.robots.renew("ci", 60).robot.expires_at == NOW + 600 + 60
    assert later.robots.renew("ci", math.inf).robot.expires_at is None
    assert later.robots.renew("ci").robot.expires_at is None
    assert len(people.list_credentials("ci")) == 1


class LoggingIn(SQLPeople):
    """Somebody who has a secret logs in, and keeps a refresh token, at the last moment: right before it is dropped."""

    then: Callable[[], object] | None = None

    def remove_credential(self, account: str, credential_id: int, by: Actor) -> bool:
        then, self.then = self.then, None
        if then is not None:
            then()
        return super().remove_credential(account, credential_id, by)


def test_a_log_in_while_a_robots_secret_is_dropped(hub: Administration, people: SQLPeople) -> None:
    racing = LoggingIn(people.database)
    on = Administration(racing, lambda: pytest.fail("no keys"), ANN, lambda: NOW)
    refresh = Credential(0, "ci", Purpose.REFRESH, "docker", NOW, None, None)
    racing.then = lambda: people.add_credential(refresh, "2" * 64, ANN)
    on.robots.add("ci", [], 60)
    on.robots.renew("ci")
    assert racing.then is None
    assert people.find_credential("2" * 64) is None


class Renewing(SQLPeople):
    """Another administrator renews a robot's secret right after this one has added theirs."""

    then: Callable[[], object] | None = None

    def add_credential(
        self, credential: Credential, secret_hash: str, by: Actor, *, epoch: int | None = None
    ) -> Credential:
        added = super().add_credential(credential, secret_hash, by, epoch=epoch)
        then, self.then = self.then, None
        if then is not None:
            then()
        return added


class Granting(SQLPeople):
    """Another administrator grants something right after this one has read the rule."""

    then: Callable[[], object] | None = None

    def put_rule(self, rule: Rule, by: Actor, *, before: Sequence[str] | None = None) -> bool:
        then, self.then = self.then, None
        if then is not None:
            then()
        return super().put_rule(rule, by, before=before)


def test_two_who_change_a_rule_at_once_both_do(hub: Administration, people: SQLPeople) -> None:
    racing = Granting(people.database)
    on = Administration(racing, lambda: pytest.fail("no keys"), ANN, lambda: NOW)
    hub.rules.grant("ann", "team/*", "pull,delete")
    racing.then = lambda: hub.rules.grant("ann", "team/*", "push")
    assert on.rules.revoke("ann", "team/*", "delete").actions == ("pull", "push")
    racing.then = lambda: hub.rules.revoke("ann", "team/*", "pull,push")
    assert on.rules.grant("ann", "team/*", "delete").actions == ("delete",)
    assert [rule.actions for rule in people.list_rules()] == [("delete",)]


def test_two_who_renew_a_secret_at_once_leave_one(hub: Administration, people: SQLPeople) -> None:
    hub.robots.add("ci", [], 60)
    racing = Renewing(people.database)
    later: list[str] = []
    racing.then = lambda: later.append(hub.robots.renew("ci").secret)
    earlier = Administration(racing, lambda: pytest.fail("no keys"), ANN, lambda: NOW).robots.renew("ci").secret
    assert people.find_credential(secret_hash(earlier)) is None
    assert people.find_credential(secret_hash(later[0])) is not None


def test_a_robot_that_lost_its_secret(hub: Administration, people: SQLPeople) -> None:
    people.add_account("ci", Kind.ROBOT, ANN)  # a robot whose making was interrupted
    with pytest.raises(Invalid, match="say how long"):
        hub.robots.renew("ci")
    assert hub.rules.explain("ci", "app").cut_off
    assert hub.robots.renew("ci", 60).robot.expires_at == NOW + 60
    assert not hub.rules.explain("ci", "app").cut_off


# -- tokens


def test_a_token_and_its_limits(hub: Administration, people: SQLPeople) -> None:
    made = hub.tokens.add("ann", "laptop", 60.0, ["team/*:push,pull", "team/*:pull", "x:*"])
    assert made.secret.startswith("psp_")
    assert made.secret not in repr(made)
    credential = people.find_credential(secret_hash(made.secret))
    assert credential is not None
    assert credential.limits == ("team/*:pull,push", "x:pull,push,delete,admin")
    assert (made.token.user, made.token.name, made.token.expires_at) == ("ann", "laptop", NOW + 60)
    assert hub.tokens.add("ann", "for-ever", math.inf).token.expires_at is None
    hub.users.add("bob")
    hub.tokens.add("bob", "laptop", 60.0)
    hub.robots.add("ci", [], 60)
    assert [(one.user, one.name) for one in hub.tokens.list()] == [
        ("ann", "laptop"),
        ("ann", "for-ever"),
        ("bob", "laptop"),
    ]
    assert [one.name for one in hub.tokens.list("bob")] == ["laptop"]


def test_tokens_that_are_refused(hub: Administration, people: SQLPeople) -> None:
    hub.tokens.add("ann", "laptop", 60.0)
    hub.robots.add("ci", [], 60)
    with pytest.raises(Conflict, match="has a token laptop already"):
        hub.tokens.add("ann", "laptop", 60.0)
    with pytest.raises(NotFound, match="ci is a robot"):
        hub.tokens.add("ci", "laptop", 60.0)
    with pytest.raises(NotFound, match="no user bob"):
        hub.tokens.add("bob", "laptop", 60.0)
    for name in ("", "a/b", "x" * 65, "a b", "a\n", "-"):
        with pytest.raises(Invalid, match="no name of a token"):
            hub.tokens.add("ann", name, 60.0)
    with pytest.raises(Invalid):
        hub.tokens.add("ann", "other", 60.0, ["team"])
    for number in range(TOKENS_MAX - 1):
        hub.tokens.add("ann", f"token-{number}", 60.0)
    with pytest.raises(Conflict, match="100 are allowed"):
        hub.tokens.add("ann", "one-more", 60.0)
    assert len(people.list_credentials("ann")) == TOKENS_MAX


def test_revoking_a_token(hub: Administration, people: SQLPeople) -> None:
    log_in = Credential(0, "ann", Purpose.REFRESH, "by the password", NOW, None, None)
    made = hub.tokens.add("ann", "laptop", 60.0)
    people.add_credential(log_in, secret_hash("by the password"), ANN)
    limited = hub.tokens.add("ann", "narrow", 60.0, ["team/*:pull"])
    hub.tokens.remove("ann", "laptop")
    assert people.find_credential(secret_hash(made.secret)) is None
    for kept in ("by the password", limited.secret):  # a token makes no refresh token: see registry.tokens
        assert people.find_credential(secret_hash(kept)) is not None
    with pytest.raises(NotFound, match="ann has no token laptop"):
        hub.tokens.remove("ann", "laptop")
    with pytest.raises(NotFound, match="ann has no token by the password"):
        hub.tokens.remove("ann", "by the password")


# -- rules


def test_rules_grow_and_shrink(hub: Administration, people: SQLPeople) -> None:
    hub.groups.add("dev")
    assert hub.rules.grant("group:dev", "team/*", "pull").actions == ("pull",)
    assert hub.rules.grant("group:dev", "team/*", "push").actions == ("pull", "push")
    assert hub.rules.grant("group:dev", "team/*", "push", Effect.DENY).actions == ("push",)
    hub.rules.grant("everyone", "public/*", "pull")
    assert hub.rules.list() == [
        Rule("everyone", "public/*", Effect.ALLOW, ("pull",)),
        Rule("group:dev", "team/*", Effect.ALLOW, ("pull", "push")),
        Rule("group:dev", "team/*", Effect.DENY, ("push",)),
    ]
    assert hub.rules.revoke("group:dev", "team/*", "push").actions == ("pull",)
    assert hub.rules.revoke("group:dev", "team/*", "*", Effect.DENY).actions == ()
    assert hub.rules.revoke("everyone", "public/*", "push,pull").actions == ()
    assert hub.rules.list() == [Rule("group:dev", "team/*", Effect.ALLOW, ("pull",))]
    with pytest.raises(NotFound, match="no rule that allows everyone anything on public"):
        hub.rules.revoke("everyone", "public/*", "pull")
    with pytest.raises(NotFound, match="no rule that denies group:dev anything on team"):
        hub.rules.revoke("group:dev", "team/*", "pull", Effect.DENY)


@pytest.mark.parametrize(
    ("who", "pattern", "actions", "error"),
    [
        ("bob", "team/*", "pull", NotFound),
        ("group:dev", "team/*", "pull", NotFound),
        ("group:", "team/*", "pull", Invalid),
        ("group:everyone", "team/*", "pull", Invalid),
        ("local", "team/*", "pull", Invalid),
        ("Everyone", "team/*", "pull", Invalid),
        ("ann", "Team", "pull", Invalid),
        ("ann", "", "pull", Invalid),
        ("ann", "team/*", "", Invalid),
        ("ann", "team/*", "pull,fly", Invalid),
    ],
)
def test_rules_that_are_refused(
    hub: Administration, people: SQLPeople, who: str, pattern: str, actions: str, error: type[AdministrationError]
) -> None:
    with pytest.raises(error):
        hub.rules.grant(who, pattern, actions)
    assert people.list_rules() == []


def may(hub: Administration, who: str, repository: str) -> str:
    return ",".join(one.action for one in hub.rules.explain(who, repository).actions if one.is_allowed)


def test_why_somebody_may(hub: Administration) -> None:
    hub.users.add("bob")
    hub.groups.add("dev")
    hub.groups.set_member("dev", "bob", True)
    hub.rules.grant("group:dev", "team/*", "pull,push")
    hub.rules.grant("everyone", "public/*", "pull")
    hub.rules.grant("bob", "team/secret", "push", Effect.DENY)
    found = hub.rules.explain("bob", "team/secret")
    assert (found.who, found.repository, found.groups, found.cut_off) == ("bob", "team/secret", ("dev",), "")
    assert [(one.action, one.is_allowed, one.because) for one in found.actions] == [
        ("pull", True, "the rule that allows group:dev pull,push on team/*"),
        ("push", False, "the rule that denies bob push on team/secret"),
        ("delete", False, "no rule allows it"),
        ("admin", False, "no rule allows it"),
    ]
    assert may(hub, "bob", "public/a") == "pull"
    assert may(hub, "everyone", "public/a") == "pull"
    assert may(hub, "everyone", "team/app") == ""
    assert may(hub, "ann", "team/app") == "pull,push,delete,admin"
    assert may(hub, "bob", "bob/app") == ""
    hub.change_settings(personal_namespaces=True)
    assert may(hub, "bob", "bob/app") == "pull,push,delete,admin"
    hub.change_settings(personal_namespaces=False)
    assert may(hub, "bob", "bob/app") == ""


def test_why_nobody_gets_in(hub: Administration, people: SQLPeople) -> None:
    hub.users.add("bob")
    hub.rules.grant("bob", "app", "pull")
    hub.users.change("bob", is_disabled=True)
    found = hub.rules.explain("bob", "app")
    assert found.cut_off == "the account bob is disabled"
    assert {(one.is_allowed, one.because) for one in found.actions} == {(False, "the account bob is disabled")}
    hub.robots.add("ci", ["app:pull"], 60)
    assert may(hub, "ci", "app") == "pull"
    later = Administration(people, lambda: pytest.fail("no keys"), ANN, lambda: NOW + 61)
    assert "expired" in later.rules.explain("ci", "app").cut_off
    assert may(later, "ci", "app") == ""
    people.add_account("guest", Kind.USER, ANN, expires_at=NOW + 10)
    assert "expired" in later.rules.explain("guest", "app").cut_off
    assert not hub.rules.explain("guest", "app").cut_off


def test_what_cannot_be_explained(hub: Administration) -> None:
    with pytest.raises(NotFound, match="no user or robot nobody"):
        hub.rules.explain("nobody", "app")
    for who, repository in (("group:dev", "app"), ("ann", "App"), ("ann", ""), ("ann", "a" * 256), ("", "app")):
        with pytest.raises(Invalid):
            hub.rules.explain(who, repository)


# -- audit, keys


def test_who_did_it_is_in_the_trail(hub: Administration, people: SQLPeople) -> None:
    hub.users.add("bob")
    hub.tokens.add("bob", "laptop", 60.0)
    hub.rules.grant("bob", "app", "pull")
    kid = hub.rotate_keys()[0].kid
    records = hub.audit(who="ann")
    assert {(record.who, record.address, record.request_id) for record in records} == {
        ("ann", "192.0.2.1", "request-1")
    }
    assert trail(people)[-5:] == [
        ("account", "ann", "user:bob"),
        ("account", "ann", "user:bob"),
        ("credential", "ann", "user:bob"),
        ("grant", "ann", "grant app"),
        ("key", "ann", f"key:{kid}"),
    ]
    assert [record.kind for record in hub.audit(kind="key")] == ["key"]
    assert hub.audit(who="bob") == []
    after = records[-2].sequence
    assert [record.kind for record in hub.audit(after=after)] == ["key"]
    assert len(hub.audit(limit=2)) == 2
    with pytest.raises(Invalid, match="'keys' is not a kind of audit record"):
        hub.audit(kind="keys")


def test_keys_rotate(hub: Administration, keys: Callable[[], KeyRing]) -> None:
    (first,) = hub.keys()
    assert first.is_signing
    second, kept = hub.rotate_keys()
    assert kept.kid == first.kid
    assert (second.is_signing, kept.is_signing) == (True, False)
    assert keys().signing().kid == second.kid


def test_no_secret_is_on_disk(hub: Administration, people: SQLPeople, tmp_path: Path) -> None:
    secrets = [
        "correct horse",
        hub.users.add("bob").password or "",
        hub.users.set_password("bob").password or "",
        hub.robots.add("ci", ["team/*:pull"], 60).secret,
        hub.robots.renew("ci").secret,
        hub.tokens.add("bob", "laptop", 60.0).secret,
    ]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"laptop" in path.read_bytes() for path in files), "the database is looked at"
    for path in files:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], path
