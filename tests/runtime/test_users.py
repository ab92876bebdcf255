"""Who a container runs as, by the image's own files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.users import FILE_MAX, Identity, UnknownUser, resolve

PASSWD = """root:x:0:0:root:/root:/bin/sh
# a comment
broken
alice:x:1000:100::/home/alice:/bin/sh
short:x:5
many:x:7:7::/:
twice:x:1000:1::/twice:
huge:x:99999999999:1::/:
"""
GROUP = "root:x:0:\nusers:x:100:\nstaff:x:50:bob,alice\nwheel:x:10:alice\nmany:x:7:\nbad:x:nan:alice\n"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Identity(0, 0, (), "/root")),
        ("root", Identity(0, 0, (), "/root")),
        ("alice", Identity(1000, 100, (10, 50), "/home/alice")),
        ("1000", Identity(1000, 100, (10, 50), "/home/alice")),
        ("alice:staff", Identity(1000, 50, (), "/home/alice")),
        ("alice:7", Identity(1000, 7, (), "/home/alice")),
        ("alice:4711", Identity(1000, 4711, (), "/home/alice")),
        ("4711", Identity(4711, 0, (), "/")),
        ("4711:wheel", Identity(4711, 10, (), "/")),
        (":staff", Identity(0, 50, (), "/root")),
    ],
)
def test_users_and_groups_are_looked_up_as_in_docker(text: str, expected: Identity, root: int) -> None:
    assert resolve(text, root) == expected


@pytest.mark.parametrize("text", ["bob", "alice:nobody", "-1", "4294967296", "broken", "huge", "short", "1e3", "٣"])
def test_users_that_the_image_does_not_have(text: str, root: int) -> None:
    with pytest.raises(UnknownUser, match="the image has no"):
        resolve(text, root)


def test_an_image_without_the_files_has_numbers_only(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert resolve("", fd) == Identity(0, 0, (), "/")
        assert resolve("5:6", fd) == Identity(5, 6, (), "/")
        with pytest.raises(UnknownUser):
            resolve("root", fd)
    finally:
        os.close(fd)


def test_links_in_the_image_do_not_lead_to_the_hosts_files(root: int, tmp_path: Path) -> None:
    secret = tmp_path.parent / f"{tmp_path.name}-outside"
    secret.write_text("eve:x:666:666::/:\n")
    for target in (str(secret), f"../../{secret.name}"):
        (tmp_path / "etc/passwd").unlink()
        (tmp_path / "etc/passwd").symlink_to(target)
        with pytest.raises(UnknownUser):
            resolve("eve", root)
    (tmp_path / "passwd").write_text("eve:x:5:5::/:\n")
    (tmp_path / "etc/passwd").unlink()
    (tmp_path / "etc/passwd").symlink_to("/passwd")  # the image's own root
    assert resolve("eve", root).uid == 5


def test_a_fifo_or_an_endless_file_holds_nobody_up(root: int, tmp_path: Path) -> None:
    (tmp_path / "etc/passwd").unlink()
    os.mkfifo(tmp_path / "etc/passwd")
    assert resolve("5", root).uid == 5
    (tmp_path / "etc/passwd").unlink()
    with open(tmp_path / "etc/passwd", "wb") as file:
        file.truncate(FILE_MAX + 1)
    with pytest.raises(UnknownUser, match="larger than"):
        resolve("5", root)
