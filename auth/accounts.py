"""An administrator's verbs for users and groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from auth.desk import Conflict, Desk, sentences
from auth.names import new_password, parse_name, parse_password
from auth.views import Group, NewPassword, NewUser, User
from storage.people import Account, Kind

LAST_ADMIN = (
    "{} is the last administrator of this hub who is not disabled: make another one first (`portside user admin NAME`)"
)


class Users:
    """The people."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._people = desk.people

    def add(self, name: str, password: str | None = None, *, is_admin: bool = False) -> NewUser:
        """A new user; without a password, one is made. Invalid, Conflict."""
        with sentences():
            parse_name(name)
            made, hashed = _hashed(password)
            account = self._people.add_account(name, Kind.USER, self._desk.by, is_admin=is_admin)
            self._people.set_password(name, hashed, self._desk.by)
        return NewUser(_view(account, ()), made)

    def set_password(self, name: str, password: str | None = None) -> NewPassword:
        """Give a user another password, made where none is given. Log-ins and tokens by the old one end. Invalid, NotFound."""
        self._desk.account(name, Kind.USER)
        with sentences():
            made, hashed = _hashed(password)
            self._people.set_password(name, hashed, self._desk.by)
        return NewPassword(made)

    def set_own_password(self, password: str) -> None:
        """The same for who asks; that they know the old one has been looked at. Invalid, NotFound."""
        self.set_password(self._desk.by.who, password)

    def change(self, name: str, *, is_admin: bool | None = None, is_disabled: bool | None = None) -> User:
        """Disable or enable a user, make them an administrator or none; None: as it is. Invalid, NotFound, Conflict."""
        account = self._desk.account(name, Kind.USER)
        is_loss = _is_active_admin(account) and (is_admin is False or is_disabled is True)
        if is_loss and self._active_admins() == [name]:
            raise Conflict(LAST_ADMIN.format(name))
        with sentences():
            changed = self._people.set_account(name, self._desk.by, is_admin=is_admin, is_disabled=is_disabled)
            if is_loss and not self._active_admins():  # another one went at the same moment
                self._people.set_account(name, self._desk.by, is_admin=True, is_disabled=False)
                raise Conflict(LAST_ADMIN.format(name))
        return _view(changed, self._people.groups_of(name))

    def remove(self, name: str) -> None:
        """Drop a user with all that is theirs but images. Invalid, NotFound, Conflict."""
        if _is_active_admin(self._desk.account(name, Kind.USER)):
            self.change(name, is_disabled=True)
        with sentences():
            self._people.remove_account(name, self._desk.by)

    def show(self, name: str) -> User:
        """One user; Invalid, NotFound."""
        return _view(self._desk.account(name, Kind.USER), self._people.groups_of(name))

    def show_own(self) -> User:
        """The account, also a robot's, of who asks; Conflict where that is nobody's."""
        account = self._people.find_account(self._desk.by.who)
        if account is None:
            raise Conflict("a command on the hub's own machine is nobody's: say whose with --user NAME")
        return _view(account, self._people.groups_of(account.name))

    def list(self) -> Sequence[User]:
        """Everybody, by name."""
        groups = _groups_by_member(self._people.list_groups())
        accounts = self._people.list_accounts()
        return [_view(account, groups.get(account.name, ())) for account in accounts if account.kind is Kind.USER]

    def _active_admins(self) -> Sequence[str]:
        return [account.name for account in self._people.list_accounts() if _is_active_admin(account)]


class GroupList:
    """The groups and who is in them."""

    def __init__(self, desk: Desk) -> None:
        self._people = desk.people
        self._by = desk.by

    def add(self, name: str) -> Group:
        """A new group, empty; Invalid, Conflict."""
        with sentences():
            self._people.add_group(parse_name(name), self._by)
        return Group(name, ())

    def remove(self, name: str) -> None:
        """Drop a group with its memberships and rules; Invalid, NotFound."""
        with sentences():
            self._people.remove_group(parse_name(name), self._by)

    def set_member(self, group: str, account: str, is_member: bool) -> None:
        """Take an account in or out; Invalid, NotFound. What is so already stays so."""
        with sentences():
            self._people.set_member(parse_name(group), parse_name(account), is_member, self._by)

    def list(self) -> Sequence[Group]:
        """All of them, by name."""
        return [Group(name, tuple(members)) for name, members in self._people.list_groups()]


def _hashed(password: str | None) -> tuple[str | None, str]:
    """The password that is made where none is given, and the hash of the one that counts; InvalidName."""
    from auth.passwords import hash_password

    made = new_password() if password is None else None
    return made, hash_password(parse_password(made or password or ""))


def _is_active_admin(account: Account) -> bool:
    return account.is_admin and not account.is_disabled


def _view(account: Account, groups: Sequence[str]) -> User:
    return User(account.name, account.kind, account.is_admin, account.is_disabled, tuple(groups), account.created_at)


def _groups_by_member(groups: Sequence[tuple[str, Sequence[str]]]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for group, members in groups:
        for member in members:
            found.setdefault(member, []).append(group)
    return found
