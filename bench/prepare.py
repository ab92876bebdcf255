"""Stores that hold much before the clock starts.

Portside is filled over HTTP, as users fill it. The others would take from minutes to hours for the same (zot's cost of one more tag
grows with their number), so one tag or repository is pushed over HTTP and its files are multiplied on disk, in the format that the
server wrote itself; each row then checks over HTTP that the server sees them all.
"""

from __future__ import annotations

import copy
import json
import os
import queue
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.content import ACCEPT, OCI_INDEX, OCI_MANIFEST, SmallImage, digest_of, empty_index, small_image
from bench.servers import DISTRIBUTION, PORTSIDE, Running, Server, running
from bench.wire import Connection, closing

CONNECTIONS = 16
REPOSITORY = "bench/many"
SEED = "bench/seed"


def tag_name(number: int) -> str:
    return f"v{number:05d}"


def repository_name(number: int) -> str:
    return f"bench/r{number:05d}"


def put_small_blob(connection: Connection, repository: str, data: bytes) -> None:
    location = connection.start_upload(repository)
    connection.request("PUT", closing(location, digest_of(data)), body=data).expect(201, "PUT of a small blob")


def put_manifest(
    connection: Connection, repository: str, tag: str, data: bytes, media_type: str = OCI_MANIFEST
) -> None:
    headers = {"Content-Type": media_type}
    connection.request("PUT", f"/v2/{repository}/manifests/{tag}", headers, data).expect(201, f"PUT of the tag {tag}")


def push_small(connection: Connection, repository: str, tag: str, image: SmallImage) -> None:
    for blob in (image.config, image.layer):
        put_small_blob(connection, repository, blob)
    put_manifest(connection, repository, tag, image.manifest)


def many_tags(server: Server, root: Path, count: int, progress: Callable[[str], None]) -> None:
    """Give ``bench/many`` tags v00000 … of one small image; a tag ``one`` exists in ``bench/seed`` too."""
    image = small_image()
    with running(server, root) as started:
        with started.connect() as connection:
            push_small(connection, REPOSITORY, tag_name(0), image)
            push_small(connection, SEED, "one", image)
        if server.kind == PORTSIDE:
            tags = (tag_name(number) for number in range(1, count))
            _fill(started, tags, lambda c, tag: put_manifest(c, REPOSITORY, tag, image.manifest), progress)
    if server.kind == PORTSIDE:
        return
    names = [tag_name(number) for number in range(1, count)]
    if server.kind == DISTRIBUTION:
        tags_folder = root / "docker/registry/v2/repositories" / REPOSITORY / "_manifests/tags"
        _multiply(tags_folder / tag_name(0), [tags_folder / name for name in names], progress)
    else:
        _multiply_in_index(root / REPOSITORY / "index.json", names)


def many_repositories(server: Server, root: Path, count: int, progress: Callable[[str], None]) -> None:
    """Make repositories bench/r00000 … each with one tag."""
    with running(server, root) as started:
        if server.kind == PORTSIDE:
            # An empty index is a repository in one request; what a catalogue page costs does not depend on what they hold.
            index = empty_index()
            names = (repository_name(number) for number in range(count))
            _fill(started, names, lambda c, name: put_manifest(c, name, "one", index, OCI_INDEX), progress)
            return
        with started.connect() as connection:
            push_small(connection, repository_name(0), "one", small_image())
    repositories = root / "docker/registry/v2/repositories" if server.kind == DISTRIBUTION else root
    copies = [repositories / repository_name(number) for number in range(1, count)]
    _multiply(repositories / repository_name(0), copies, progress)


def check_tags(started: Running, count: int) -> None:
    """WireError unless the first, the middle and the last of ``count`` tags are there."""
    with started.connect() as connection:
        for number in (0, count // 2, count - 1):
            target = f"/v2/{REPOSITORY}/manifests/{tag_name(number)}"
            connection.request("GET", target, {"Accept": ACCEPT}).expect(200, f"GET {target}")


def _fill(
    started: Running,
    names: Iterable[str],
    put: Callable[[Connection, str], None],
    progress: Callable[[str], None],
) -> None:
    """Push with many keep-alive connections; the first failure ends it."""
    pending = queue.SimpleQueue[str]()
    for name in names:
        pending.put(name)
    total = pending.qsize()

    def work(_: int) -> None:
        with started.connect() as connection:
            while True:
                try:
                    name = pending.get_nowait()
                except queue.Empty:
                    return
                put(connection, name)
                left = pending.qsize()
                if left and left % 5000 == 0:
                    progress(f"{started.server.name}: {total - left} of {total} pushed")

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for _ in pool.map(work, range(CONNECTIONS)):
            pass


def _multiply(original: Path, copies: list[Path], progress: Callable[[str], None]) -> None:
    """Copy a tree of directories, with its files as hard links: they are never written in place."""
    for number, path in enumerate(copies):
        shutil.copytree(original, path, copy_function=os.link)
        if number % 5000 == 4999:
            progress(f"{number + 1} of {len(copies)} copied on disk")


def _multiply_in_index(path: Path, names: list[str]) -> None:
    """Add tags to the ``index.json`` of a repository in an OCI layout, all of its first manifest."""
    index = json.loads(path.read_text())
    for name in names:
        entry = copy.deepcopy(index["manifests"][0])
        entry["annotations"]["org.opencontainers.image.ref.name"] = name
        index["manifests"].append(entry)
    path.write_text(json.dumps(index))
