"""Who a container runs as: ``USER`` of an image and ``-u``, looked up in the image's own /etc/passwd and /etc/group.

The rules are Docker's (moby/sys/user, GetExecUser); the files belong to the image, so nothing in them is trusted to be well-formed.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from runtime import linux

FILE_MAX = 8 * 1024 * 1024
"""The largest /etc/passwd or /etc/group that is read, in bytes."""
ID_MAX = 2**31 - 1
"""As in Docker, although Linux has twice as many."""


class UnknownUser(Exception):
    """A user or group that the image does not have."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The ids that a container's first process gets, and its home directory."""

    uid: int
    gid: int
    additional_gids: tuple[int, ...]
    home: str


def resolve(text: str, root: int) -> Identity:
    """``[NAME|UID][:GROUP|GID]``, empty for root, in the image mounted at the open directory ``root``; UnknownUser."""
    user, _, group = text.partition(":")
    passwd = _fields(root, "/etc/passwd", 7)
    groups = _fields(root, "/etc/group", 4)
    name, uid, gid, home = _user(user or "0", passwd)
    if group:
        return Identity(uid, _group(group, groups), (), home)
    additional = {
        number for entry in groups if name and name in entry[3].split(",") and (number := _id(entry[2])) is not None
    }
    return Identity(uid, gid, tuple(sorted(additional)), home)


def _user(wanted: str, passwd: list[list[str]]) -> tuple[str, int, int, str]:
    for entry in passwd:
        uid, gid = _id(entry[2]), _id(entry[3])
        if uid is not None and gid is not None and (entry[0] == wanted or str(uid) == wanted):
            return entry[0], uid, gid, entry[5] or "/"
    number = _id(wanted)
    if number is None:
        raise UnknownUser(
            f"the image has no user {wanted[:100]!r} in its /etc/passwd; give a number, or a name that is there"
        )
    return "", number, 0, "/"


def _group(wanted: str, groups: list[list[str]]) -> int:
    for entry in groups:
        gid = _id(entry[2])
        if gid is not None and (entry[0] == wanted or str(gid) == wanted):
            return gid
    number = _id(wanted)
    if number is None:
        raise UnknownUser(
            f"the image has no group {wanted[:100]!r} in its /etc/group; give a number, or a name that is there"
        )
    return number


def _id(text: str) -> int | None:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > ID_MAX:
        return None
    return int(text)


def _fields(root: int, path: str, count: int) -> list[list[str]]:
    """The lines that have at least three fields, padded with empty ones to ``count``."""
    try:
        raw = linux.read_in_root(root, path, FILE_MAX)
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        raise UnknownUser(f"the image's {path} is larger than {FILE_MAX} bytes") from error
    if raw is None:
        return []
    lines = raw.decode("utf-8", "surrogateescape").splitlines()
    found = [line.strip().split(":") for line in lines]
    return [(fields + [""] * count)[:count] for fields in found if len(fields) >= 3 and fields[0]]
