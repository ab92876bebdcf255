"""People in SQL: accounts, groups, rules, credentials and settings. The database under them is `storage.sqlite` or `storage.postgres`.

Changes run one at a time, of whatever process (`storage.database.Topic.PEOPLE`). A credential is added beside them, as log-ins are many: so
it takes the row of its account, as do they, and that row always first.

An account's epoch is the sequence of the audit record of the change that raised it: such a number is never used twice, over all accounts,
so that a name may come back and its old tokens may not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from storage.database import Connection, Topic, repeatable, retried
from storage.people import (
    EVERYONE,
    Account,
    Actor,
    Credential,
    Effect,
    Kind,
    PeopleExist,
    PeopleUnknown,
    Purpose,
    Rule,
)
from storage.sql_audit import SQLAudit, record_change

REFRESH_KEPT = 100
"""Refresh credentials of an account that are kept: each log-in of a client adds one, and few are ever taken back."""
VALUE_SHOWN = 200
"""Characters of a setting's value that its audit record tells."""

_GROUP = "group:"
_ACCOUNT = "SELECT id, name, kind, is_admin, is_disabled, epoch, created_at, expires_at FROM accounts"
_FIND_ACCOUNT = f"{_ACCOUNT} WHERE name = ?"
_FIND_PASSWORD = "SELECT password_hash FROM accounts WHERE name = ?"
_LIST_GROUPS_OF = """
SELECT g.name FROM accounts a JOIN memberships m ON m.account_id = a.id JOIN groups g ON g.id = m.group_id
WHERE a.name = ? ORDER BY g.name"""
_RULE = "SELECT subject, pattern, effect, actions FROM rules"
_CREDENTIAL = """
SELECT c.id, a.name, c.purpose, c.name, c.created_at, c.expires_at, c.used_at, c.limits
FROM credentials c JOIN accounts a ON a.id = c.account_id"""
_FIND_CREDENTIAL = f"{_CREDENTIAL} WHERE c.secret_hash = ?"
_LIST_CREDENTIALS = f"{_CREDENTIAL} WHERE a.name = ? ORDER BY c.id"
_FIND_SETTING = "SELECT value FROM settings WHERE name = ?"
_DROP_REFRESH = "DELETE FROM credentials WHERE account_id = ? AND purpose = 'refresh'"


class SQLPeople(SQLAudit):
    """All the protocols of `storage.people`, on a database that whoever opened it closes."""

    # -- look-ups

    def find_account(self, name: str) -> Account | None:
        """One row by its name."""
        row = self.database.row(_FIND_ACCOUNT, (name,))
        return None if row is None else _account(row)

    def password_hash(self, name: str) -> str | None:
        """One row by its name."""
        row = self.database.row(_FIND_PASSWORD, (name,))
        return None if row is None or row[0] is None else str(row[0])

    def groups_of(self, name: str) -> Sequence[str]:
        """One range of the memberships' primary key."""
        return [str(group) for (group,) in self.database.rows(_LIST_GROUPS_OF, (name,))]

    def rules_of(self, subjects: Sequence[str]) -> Sequence[Rule]:
        """A range of the primary key for each subject."""
        return [_rule(row) for row in self.database.rows(_rules_query(len(subjects)), subjects)] if subjects else []

    def find_credential(self, secret_hash: str) -> Credential | None:
        """One row by the hash."""
        row = self.database.row(_FIND_CREDENTIAL, (secret_hash,))
        return None if row is None else _credential(row)

    def setting(self, name: str) -> str | None:
        """One row by its name."""
        row = self.database.row(_FIND_SETTING, (name,))
        return None if row is None else str(row[0])

    def people_generation(self) -> int:
        """See `storage.generation`."""
        return self.database.people_generation.read()

    # -- lists

    def list_accounts(self) -> Sequence[Account]:
        """In the order of their names."""
        return [_account(row) for row in self.database.rows(f"{_ACCOUNT} ORDER BY name", ())]

    def list_rules(self) -> Sequence[Rule]:
        """In the order (subject, pattern, effect)."""
        return [_rule(row) for row in self.database.rows(f"{_RULE} ORDER BY subject, pattern, effect", ())]

    def list_settings(self) -> Sequence[tuple[str, str]]:
        """In the order of their names."""
        return [
            (name, value) for name, value in self.database.rows("SELECT name, value FROM settings ORDER BY name", ())
        ]

    def list_groups(self) -> Sequence[tuple[str, Sequence[str]]]:
        """In the order of their names, each with its members in the order of theirs."""
        rows = self.database.rows(
            "SELECT g.name, a.name FROM groups g LEFT JOIN memberships m ON m.group_id = g.id"
            " LEFT JOIN accounts a ON a.id = m.account_id ORDER BY g.name, a.name",
            (),
        )
        groups: dict[str, list[str]] = {}
        for group, member in rows:
            groups.setdefault(group, []).extend([] if member is None else [member])
        return list(groups.items())

    def list_credentials(self, account: str) -> Sequence[Credential]:
        """The oldest first; none where there is no such account."""
        return [_credential(row) for row in self.database.rows(_LIST_CREDENTIALS, (account,))]

    # -- changes of accounts

    @retried
    def add_account(
        self, account: str, kind: Kind, by: Actor, *, is_admin: bool = False, expires_at: float | None = None
    ) -> Account:
        """Record and row."""
        with self._changes() as connection:
            taken = connection.execute(_FIND_ACCOUNT, (account,)).fetchone()
            if taken is not None:
                raise PeopleExist(_subject(_account(taken)))
            words = f"added{' as an admin' if is_admin else ''}{_until(expires_at)}"
            epoch = record_change(connection, "account", by, f"{kind.value}:{account}", words)
            connection.execute(
                "INSERT INTO accounts (name, kind, is_admin, is_disabled, epoch, created_at, expires_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (account, kind.value, is_admin, False, epoch, time.time(), expires_at),
            )
            return self._need_account(connection, account)

    @repeatable
    def set_password(self, name: str, password_hash: str, by: Actor) -> None:
        """Hash, epoch, refresh credentials and record. A robot has no password: PeopleUnknown."""
        with self._changes() as connection:
            account = self._need_account(connection, name, f"{Kind.USER.value}:{name}")
            if account.kind is not Kind.USER:
                raise PeopleUnknown(f"{Kind.USER.value}:{name}")
            dropped = connection.execute(_DROP_REFRESH, (account.id,)).rowcount
            epoch = record_change(connection, "account", by, _subject(account), f"new password{_cut_off(dropped)}")
            connection.execute(
                "UPDATE accounts SET password_hash = ?, epoch = ? WHERE id = ?", (password_hash, epoch, account.id)
            )

    @retried
    def renew_password_hash(self, name: str, before: str, after: str) -> bool:
        """One row, that no generation tells of: what is kept of log-ins is by the password, not by its hash."""
        with self.database.transaction() as connection:
            query = "UPDATE accounts SET password_hash = ? WHERE name = ? AND password_hash = ?"
            return connection.execute(query, (after, name, before)).rowcount > 0

    @repeatable
    def set_account(
        self, name: str, by: Actor, *, is_admin: bool | None = None, is_disabled: bool | None = None
    ) -> Account:
        """What is so already is no change, and leaves epoch and trail as they are."""
        with self._changes() as connection:
            account = self._need_account(connection, name)
            words = []
            if is_admin is not None and is_admin != account.is_admin:
                words.append("made an admin" if is_admin else "no admin any more")
            if is_disabled is not None and is_disabled != account.is_disabled:
                dropped = connection.execute(_DROP_REFRESH, (account.id,)).rowcount if is_disabled else 0
                words.append(f"disabled{_cut_off(dropped)}" if is_disabled else "enabled")
            if not words:
                return account
            epoch = record_change(connection, "account", by, _subject(account), ", ".join(words))
            connection.execute(
                "UPDATE accounts SET is_admin = coalesce(?, is_admin), is_disabled = coalesce(?, is_disabled), epoch = ?"
                " WHERE id = ?",
                (is_admin, is_disabled, epoch, account.id),
            )
            return self._need_account(connection, name)

    @retried
    def remove_account(self, name: str, by: Actor) -> None:
        """All rows that are the account's, and a record that counts them."""
        with self._changes() as connection:
            account = self._need_account(connection, name)
            credentials = connection.execute("DELETE FROM credentials WHERE account_id = ?", (account.id,)).rowcount
            groups = connection.execute("DELETE FROM memberships WHERE account_id = ?", (account.id,)).rowcount
            rules = connection.execute("DELETE FROM rules WHERE subject = ?", (name,)).rowcount
            connection.execute("DELETE FROM accounts WHERE id = ?", (account.id,))
            words = f"removed, with credentials: {credentials}, groups: {groups}, rules: {rules}"
            record_change(connection, "account", by, _subject(account), words)

    # -- changes of groups

    @retried
    def add_group(self, name: str, by: Actor) -> None:
        """Row and record. PeopleExist."""
        with self._changes() as connection:
            if _group_id(connection, name) is not None:
                raise PeopleExist(f"{_GROUP}{name}")
            connection.execute("INSERT INTO groups (name) VALUES (?)", (name,))
            record_change(connection, "group", by, f"{_GROUP}{name}", "added")

    @retried
    def remove_group(self, name: str, by: Actor) -> None:
        """The group with its memberships and rules, and a record that counts them. PeopleUnknown."""
        with self._changes() as connection:
            group_id = _need_group(connection, name)
            members = connection.execute("DELETE FROM memberships WHERE group_id = ?", (group_id,)).rowcount
            rules = connection.execute("DELETE FROM rules WHERE subject = ?", (f"{_GROUP}{name}",)).rowcount
            connection.execute("DELETE FROM groups WHERE id = ?", (group_id,))
            words = f"removed, with members: {members}, rules: {rules}"
            record_change(connection, "group", by, f"{_GROUP}{name}", words)

    @repeatable
    def set_member(self, group: str, account: str, is_member: bool, by: Actor) -> None:
        """Row and record, none where it is so already. PeopleUnknown for either."""
        with self._changes() as connection:
            key = (self._need_account(connection, account).id, _need_group(connection, group))
            if is_member:
                query = "INSERT INTO memberships (account_id, group_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
            else:
                query = "DELETE FROM memberships WHERE account_id = ? AND group_id = ?"
            if connection.execute(query, key).rowcount:
                record_change(
                    connection, "group", by, f"{_GROUP}{group}", f"{account} {'added' if is_member else 'removed'}"
                )

    # -- changes of rules and settings

    @retried
    def put_rule(self, rule: Rule, by: Actor, *, before: Sequence[str] | None = None) -> bool:
        """Row and record, none where it is so already."""
        with self._changes() as connection:
            self._need_subject(connection, rule.subject)
            key, actions = (rule.subject, rule.pattern, rule.effect.value), ",".join(rule.actions)
            where = "WHERE subject = ? AND pattern = ? AND effect = ?"
            row = connection.execute(f"SELECT actions FROM rules {where}", key).fetchone()  # nosec B608
            there = "" if row is None else row[0]
            if before is not None and there != ",".join(before):
                return False
            if actions == there:
                return True
            if actions:
                connection.execute(
                    "INSERT INTO rules (subject, pattern, effect, actions) VALUES (?, ?, ?, ?)"
                    " ON CONFLICT (subject, pattern, effect) DO UPDATE SET actions = excluded.actions",
                    (*key, actions),
                )
            else:
                connection.execute(f"DELETE FROM rules {where}", key)  # nosec B608
            words = f"{rule.effect.value} {rule.subject}: {actions or 'nothing'} (before: {there or 'nothing'})"
            record_change(connection, "grant", by, f"grant {rule.pattern}", words)
            return True

    @repeatable
    def set_setting(self, name: str, value: str | None, by: Actor) -> None:
        """Row and record, none where it is so already."""
        with self._changes() as connection:
            row = connection.execute(_FIND_SETTING, (name,)).fetchone()
            if value == (None if row is None else row[0]):
                return
            if value is None:
                connection.execute("DELETE FROM settings WHERE name = ?", (name,))
            else:
                connection.execute(
                    "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    (name, value),
                )
            words = "dropped" if value is None else f"set to {value[:VALUE_SHOWN]!r}"
            record_change(connection, "setting", by, name, words)

    @repeatable
    def claim_setting(self, name: str, value: str, by: Actor) -> str:
        """Row and record, none where there is a row."""
        with self._changes() as connection:
            row = connection.execute(_FIND_SETTING, (name,)).fetchone()
            if row is not None:
                return str(row[0])
            connection.execute("INSERT INTO settings (name, value) VALUES (?, ?)", (name, value))
            record_change(connection, "setting", by, name, f"set to {value[:VALUE_SHOWN]!r}")
            return value

    # -- changes of credentials

    @retried
    def add_credential(
        self, credential: Credential, secret_hash: str, by: Actor, *, epoch: int | None = None
    ) -> Credential:
        """Row and record; the oldest refresh credentials beyond `REFRESH_KEPT` go without one, as if their time had ended."""
        with self.database.transaction() as connection:
            account = self._need_account(connection, credential.account)
            if epoch is not None and epoch != account.epoch:
                raise PeopleUnknown(f"account:{account.name}")
            purpose, limits = credential.purpose.value, json.dumps(credential.limits)
            times = (credential.created_at, credential.expires_at, credential.used_at)
            number = connection.execute(
                "INSERT INTO credentials (account_id, purpose, name, secret_hash, created_at, expires_at, used_at, limits)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (account.id, purpose, credential.name, secret_hash, *times, limits),
            ).fetchone()[0]
            added = replace(credential, id=number)
            connection.execute(
                "DELETE FROM credentials WHERE id IN (SELECT id FROM credentials"
                " WHERE account_id = ? AND purpose = 'refresh' ORDER BY id DESC LIMIT 1000000 OFFSET ?)",
                (account.id, REFRESH_KEPT),
            )
            limited = f", limited to {' '.join(added.limits)}" if added.limits else ""
            words = f"added {_described(added)}{_until(added.expires_at)}{limited}"
            record_change(connection, "credential", by, _subject(account), words)
            return added

    @retried
    def remove_credential(self, account: str, credential_id: int, by: Actor) -> bool:
        """Row and record, none where the account has no such credential."""
        with self._changes() as connection:
            holder = self._account_to_change(connection, account)
            query = f"{_CREDENTIAL} WHERE c.id = ? AND a.name = ?"
            row = connection.execute(query, (credential_id, account)).fetchone()
            if holder is None or row is None:
                return False
            connection.execute("DELETE FROM credentials WHERE id = ?", (credential_id,))
            record_change(connection, "credential", by, _subject(holder), f"removed {_described(_credential(row))}")
            return True

    @repeatable
    def note_use(self, credential_id: int, at: float) -> None:
        """One row, that no generation tells of. An older time than the one that is kept changes nothing."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE credentials SET used_at = ? WHERE id = ? AND (used_at IS NULL OR used_at < ?)",
                (at, credential_id, at),
            )

    # -- in a transaction

    def _changes(self) -> AbstractContextManager[Connection]:
        return self.database.transaction(Topic.PEOPLE)

    def _account_to_change(self, connection: Connection, name: str) -> Account | None:
        """An account whose row nobody else changes, and that no credential is added to, until the transaction ends."""
        row = connection.execute(f"{_FIND_ACCOUNT}{self.database.for_update}", (name,)).fetchone()
        return None if row is None else _account(row)

    def _need_account(self, connection: Connection, name: str, what: str | None = None) -> Account:
        account = self._account_to_change(connection, name)
        if account is None:
            raise PeopleUnknown(what or f"account:{name}")
        return account

    def _need_subject(self, connection: Connection, subject: str) -> None:
        """That somebody bears the subject of a rule; PeopleUnknown."""
        if subject.startswith(_GROUP):
            _need_group(connection, subject.removeprefix(_GROUP))
        elif subject != EVERYONE:
            self._need_account(connection, subject)


# -- rows and values


def _account(row: Any) -> Account:
    number, name, kind, is_admin, is_disabled, epoch, created_at, expires_at = row
    return Account(number, name, Kind(kind), bool(is_admin), bool(is_disabled), epoch, created_at, expires_at)


def _rule(row: Any) -> Rule:
    subject, pattern, effect, actions = row
    return Rule(subject, pattern, Effect(effect), tuple(actions.split(",")))


def _credential(row: Any) -> Credential:
    number, account, purpose, name, created_at, expires_at, used_at, limits = row
    return Credential(
        number, account, Purpose(purpose), name, created_at, expires_at, used_at, tuple(json.loads(limits))
    )


def _rules_query(subjects: int) -> str:
    return f"{_RULE} WHERE subject IN ({', '.join('?' * subjects)}) ORDER BY subject, pattern, effect"


def _group_id(connection: Connection, name: str) -> int | None:
    row = connection.execute("SELECT id FROM groups WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def _need_group(connection: Connection, name: str) -> int:
    group_id = _group_id(connection, name)
    if group_id is None:
        raise PeopleUnknown(f"{_GROUP}{name}")
    return group_id


# -- words for the trail


def _subject(account: Account) -> str:
    return f"{account.kind.value}:{account.name}"


def _described(credential: Credential) -> str:
    return f"{credential.purpose.value} credential {credential.id} {credential.name!r}"


def _until(expires_at: float | None) -> str:
    return "" if expires_at is None else time.strftime(", to %Y-%m-%dT%H:%M:%SZ", time.gmtime(expires_at))


def _cut_off(refresh: int) -> str:
    return f", refresh credentials dropped: {refresh}" if refresh else ""
