from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oci.digest import Digest
from storage.errors import BlobNotFound, StorageError, StoreFull, StoreUnusable, UploadNotFound
from storage.filesystem import FilesystemBlobStore
from storage.uploads import append
from tests.storage.blob_conformance import BIG, SCOPE, BlobStoreConformance, content, push
from tests.tools import tool


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def store(root: Path) -> FilesystemBlobStore:
    return FilesystemBlobStore(root, floor=0)


class TestConformance(BlobStoreConformance):
    @pytest.fixture
    def damage(self, store: FilesystemBlobStore) -> Callable[[Digest], None]:
        def damage(digest: Digest) -> None:
            path = store.paths.blob(digest)
            path.chmod(0o600)
            path.write_bytes(b"damaged")

        return damage


def run(code: str, *arguments: str, trace: Path | None = None) -> subprocess.Popen[str]:
    """A program of its own that has the store's parts in reach."""
    prelude = (
        "import os, sys\nfrom pathlib import Path\nfrom oci.digest import Digest\n"
        "from storage.filesystem import FilesystemBlobStore\nfrom storage.uploads import append\n"
        "store = FilesystemBlobStore(Path(sys.argv[1]), floor=0)\n"
    )
    command = [sys.executable, "-c", prelude + code, *arguments]
    if trace is not None:
        command = [str(tool("strace")), "-f", "-y", "-o", str(trace), "-e", "trace=file,desc", *command]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_the_order_of_a_commit(root: Path, tmp_path: Path) -> None:
    """File synced, renamed, directory synced: whatever moment the power is cut, a name never leads to bytes that are not there."""
    digest = Digest.of(b"hello")
    trace = tmp_path / "trace"
    code = "u = store.start('a'); append(u, b'hello'); u.commit(Digest.of(b'hello')); os.write(1, b'done')"
    process = run(code, str(root), trace=trace)
    assert process.communicate()[0] == "done"
    calls = [line.split(maxsplit=1)[1] for line in trace.read_text().splitlines()]
    upload = re.compile(rf"{root}/uploads/[0-9a-f-]+")
    directory = f"{root}/blobs/sha256/{digest.hex[:2]}"

    def first(pattern: str) -> int:
        found = [at for at, call in enumerate(calls) if re.search(pattern, call)]
        assert found, pattern
        return found[0]

    order = [
        first(rf'pwrite64\(\d+<{upload.pattern}>, "hello"'),
        first(rf"f(data)?sync\(\d+<{upload.pattern}>\) += 0"),
        first(rf'rename\("{upload.pattern}", "{directory}/{digest.hex}"\) += 0'),
        first(rf"fsync\(\d+<{directory}>\) += 0"),
        first(r'write\(1<.*>, "done"'),
    ]
    assert order == sorted(order)
    made, synced = (
        first(rf'mkdir\("{directory}"'),
        [at for at, call in enumerate(calls) if re.search(rf"fsync\(\d+<{root}/blobs/sha256>\) += 0", call)],
    )
    assert any(made < at < order[2] for at in synced)


def test_a_killed_writer_leaves_what_it_wrote(root: Path, store: FilesystemBlobStore) -> None:
    code = "u = store.start('team/app'); append(u, b'x' * 100000); print(u.id, flush=True); sys.stdin.read()"
    process = run(code, str(root))
    assert process.stdout is not None
    upload_id = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    upload = store.resume(SCOPE, upload_id)
    assert upload.offset == 100_000
    append(upload, b"y")
    upload.commit(Digest.of(b"x" * 100_000 + b"y"))


def test_another_process_goes_on_where_this_one_was(root: Path, store: FilesystemBlobStore) -> None:
    upload = store.start(SCOPE)
    append(upload, b"one ")
    upload.close()
    process = run("u = store.resume('team/app', sys.argv[2]); append(u, b'two '); u.close()", str(root), upload.id)
    process.communicate()
    assert process.returncode == 0
    upload = store.resume(SCOPE, upload.id)
    append(upload, b"three")
    upload.commit(Digest.of(b"one two three"))


def test_abandoned_uploads_are_dropped_and_others_stay(store: FilesystemBlobStore) -> None:
    old, fresh, busy = (store.start(SCOPE) for _ in range(3))
    for upload in (old, fresh):
        upload.close()
    for upload in (old, busy):
        os.utime(store.paths.uploads / upload.id, (0, 0))
    stranger = store.paths.uploads / "README"
    stranger.write_text("not an upload")
    os.utime(stranger, (0, 0))
    assert store.expire_uploads(3600) == 1
    with pytest.raises(UploadNotFound):
        store.offset(SCOPE, old.id)
    assert store.offset(SCOPE, fresh.id) == 0
    assert stranger.exists()
    append(busy, b"x")
    busy.commit(Digest.of(b"x"))


def test_an_upload_that_goes_on_while_it_is_looked_at_stays(
    store: FilesystemBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = store.start(SCOPE)
    upload.close()
    path = store.paths.uploads / upload.id
    os.utime(path, (0, 0))
    lock = fcntl.flock

    def write_then_lock(fd: int, operation: int) -> None:
        """What another server may do between the look at the file's age and the lock."""
        path.write_bytes(b"more")
        lock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", write_then_lock)
    assert store.expire_uploads(3600) == 0
    assert store.offset(SCOPE, upload.id) == 4


@given(st.one_of(st.text(), st.text("./0a-\0%"), st.just("../outside"), st.just("../../r")))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_text_leads_to_an_upload_that_was_not_given_out(store: FilesystemBlobStore, text: str) -> None:
    """Not even one that ends as the scope's own do, nor to a file that is there."""
    given_out = store.start(SCOPE)
    given_out.cancel()
    tail = given_out.id[-17:]
    (store.paths.root / f"outside{tail}").touch()
    for upload_id in (text, text + tail):
        for ask in (store.resume, store.offset):
            with pytest.raises(UploadNotFound):
                ask(SCOPE, upload_id)
    assert os.listdir(store.paths.uploads) == []


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        store = FilesystemBlobStore(tmp_path / "r", floor=0)
        digest = push(store, b"x")
    finally:
        os.umask(before)
    assert store.paths.blob(digest).stat().st_mode & 0o777 == 0o444
    assert store.paths.root.stat().st_mode & 0o777 == 0o700


def test_roots_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for root in (file, file / "below", Path("/proc/portside")):
        with pytest.raises(StoreUnusable, match="cannot be used"):
            FilesystemBlobStore(root)


def test_adopting_links_only_what_is_whole(tmp_path: Path, store: FilesystemBlobStore) -> None:
    other = FilesystemBlobStore(tmp_path / "other", floor=0)
    digest = push(other, BIG)
    source = other.paths.blob(digest)
    assert not store.adopt(Digest.of(b"other"), source)
    assert not store.adopt(digest, source.with_name("missing"))
    assert store.adopt(digest, source)
    assert store.paths.blob(digest).stat().st_ino == source.stat().st_ino
    assert store.adopt(digest, source)
    assert sorted(os.listdir(store.paths.blob(digest).parent)) == [digest.hex]
    push(store, BIG)
    assert store.paths.blob(digest).stat().st_ino != source.stat().st_ino


def test_quarantine_makes_room_for_a_healthy_push(store: FilesystemBlobStore) -> None:
    digest = push(store, b"hello")
    first = store.quarantine(digest, store.paths.blob(digest).stat().st_ino)
    assert first is not None
    assert first.read_bytes() == b"hello"
    assert store.size(digest) is None
    push(store, b"hello")
    second = store.quarantine(digest, store.paths.blob(digest).stat().st_ino)
    assert second is not None
    assert second != first
    with pytest.raises(BlobNotFound):
        store.quarantine(digest, 0)


def test_quarantine_leaves_what_a_push_has_healed_meanwhile(store: FilesystemBlobStore) -> None:
    digest = push(store, b"hello")
    with store.paths.blob(digest).open("rb") as damaged:  # open, so that its inode is not given to another file
        inode = os.fstat(damaged.fileno()).st_ino
        push(store, b"hello")
        assert store.quarantine(digest, inode) is None
    assert content(store, digest) == b"hello"
    assert os.listdir(store.paths.quarantine) == []


def test_below_the_floor_nothing_is_taken_and_all_is_read(root: Path, store: FilesystemBlobStore) -> None:
    digest = push(store, b"hello")
    left = store.start(SCOPE)
    left.close()
    full = FilesystemBlobStore(root, floor=1 << 60)
    with pytest.raises(StoreFull) as caught:
        full.start(SCOPE)
    assert caught.value.floor == 1 << 60
    with pytest.raises(StoreFull):
        full.resume(SCOPE, left.id)
    assert content(full, digest) == b"hello"
    assert 0 < FilesystemBlobStore(root).floor <= 1 << 30


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_keeps_what_fitted_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    store = FilesystemBlobStore(small_disk / "root", floor=0)
    kept = push(store, b"acknowledged")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3 << 20))
    upload = store.start(SCOPE)
    data = os.urandom(2 << 20)
    with pytest.raises(StoreFull):
        append(upload, data)
    upload.close()
    assert content(store, kept) == b"acknowledged"
    offset = store.offset(SCOPE, upload.id)
    assert 0 < offset < len(data)
    ballast.unlink()
    upload = store.resume(SCOPE, upload.id)
    assert upload.offset == offset
    append(upload, data[offset:])
    upload.commit(Digest.of(data))
    assert content(store, Digest.of(data)) == data


def test_errors_are_the_stores_own() -> None:
    assert issubclass(StoreFull, StorageError)
