"""A commit whose system calls fail one at a time: strace makes the kernel answer with an error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from oci.digest import Digest
from storage.errors import UploadNotFound
from storage.filesystem import FilesystemBlobStore
from storage.uploads import append
from tests.storage.blob_conformance import SCOPE, content, push
from tests.tools import tool

DIGEST = Digest.of(b"hello")
COMMIT = """
import sys
from pathlib import Path
from oci.digest import Digest
from storage.filesystem import FilesystemBlobStore
from storage.uploads import append
store = FilesystemBlobStore(Path(sys.argv[1]), floor=0)
upload = store.start("team/app")
append(upload, b"hello")
print(upload.id)
try:
    upload.commit(Digest.of(b"hello"))
except Exception as error:
    print(type(error).__name__)
else:
    print("committed")
finally:
    upload.close()
"""


def commit(root: Path, trace: Path, *options: str) -> list[str]:
    """Commit one blob in a process of its own under strace: the upload's id, and how it went."""
    command = [str(tool("strace")), "-f", "-y", "-o", str(trace), *options, sys.executable, "-c", COMMIT, str(root)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


@pytest.fixture
def store(tmp_path: Path) -> FilesystemBlobStore:
    return FilesystemBlobStore(tmp_path / "root", floor=0)


@pytest.mark.parametrize(("error", "raised"), [("EIO", "OSError"), ("ENOSPC", "StoreFull")])
def test_bytes_that_could_not_be_synced_are_dropped(
    store: FilesystemBlobStore, tmp_path: Path, error: str, raised: str
) -> None:
    """A second sync of the same file would be answered with success, though its bytes are lost (man 2 fsync)."""
    upload_id, outcome = commit(store.paths.root, tmp_path / "trace", f"-einject=fdatasync:error={error}")
    assert outcome == raised
    assert store.size(DIGEST) is None
    with pytest.raises(UploadNotFound):
        store.resume(SCOPE, upload_id)
    push(store, b"hello")


@pytest.mark.parametrize(("call", "at"), [("mkdir", "blobs/sha256/2c"), ("rename", "")])
@pytest.mark.parametrize(
    ("error", "raised"), [("ENOSPC", "StoreFull"), ("EDQUOT", "StoreFull"), ("EACCES", "PermissionError")]
)
def test_an_upload_that_could_not_be_published_stays(
    store: FilesystemBlobStore, tmp_path: Path, call: str, at: str, error: str, raised: str
) -> None:
    place = ["-P", str(store.paths.root / at)] if at else []
    trace = tmp_path / "trace"
    upload_id, outcome = commit(store.paths.root, trace, *place, f"-einject={call}:error={error}")
    assert outcome == raised, trace.read_text()
    assert store.size(DIGEST) is None
    assert store.offset(SCOPE, upload_id) == 5
    assert (store.paths.uploads / upload_id).stat().st_mode & 0o777 == 0o600
    upload = store.resume(SCOPE, upload_id)
    append(upload, b", world")
    upload.commit(Digest.of(b"hello, world"))
    assert content(store, Digest.of(b"hello, world")) == b"hello, world"


def test_a_directory_that_another_process_made_is_synced_too(store: FilesystemBlobStore, tmp_path: Path) -> None:
    """The other one may have died between making and syncing it."""
    (store.paths.blobs / "sha256" / DIGEST.hex[:2]).mkdir()
    trace = tmp_path / "trace"
    assert commit(store.paths.root, trace, "-etrace=mkdir,fsync,fdatasync,rename")[1] == "committed"
    calls = trace.read_text().splitlines()
    synced = [n for n, line in enumerate(calls) if re.search(rf"fsync\(\d+<{store.paths.blobs}/sha256>\) += 0", line)]
    tried = next(n for n, line in enumerate(calls) if f"sha256/{DIGEST.hex[:2]}" in line)
    renamed = next(n for n, line in enumerate(calls) if "rename(" in line)
    assert any(tried < at < renamed for at in synced), calls
