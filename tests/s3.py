"""Real S3 servers for tests, each with data of its own below a directory, and a bucket in it."""

from __future__ import annotations

import contextlib
import functools
import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session

from storage.s3_names import S3Location
from tests.servers import Server, await_start, free_port, spawn
from tests.tools import tool

BUCKET = "portside-test"
ACCESS_KEY = "portside"
SECRET_KEY = "portside-secret"
SERVERS = ("versitygw", "minio")
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
"""What is in the environment of programs that are to be let in."""


def start_s3(name: str, directory: Path, port: int | None = None) -> Server:
    """Start versitygw or minio. The same directory and port again are the same service after a crash. The caller ends it."""
    address = f"127.0.0.1:{port or free_port()}"
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    if name == "versitygw":
        command = [str(tool(name)), "--quiet", "--keep-alive", "--port", address, "posix", str(data)]
        environment = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    else:
        command = [str(tool(name)), "server", "--address", address, str(data)]
        environment = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY}
        environment |= {"MINIO_UPDATE": "off", "MINIO_BROWSER": "off"}
    log = directory / "log"
    server = Server(address, spawn(command, log, environment), log, data)
    await_start(server, lambda: _answers(address))
    return server


@contextlib.contextmanager
def s3_server(name: str, directory: Path) -> Iterator[Server]:
    """A service with the bucket `BUCKET`, ended by a kill: it has nothing to put in order."""
    server = start_s3(name, directory)
    try:
        client(server.url).create_bucket(Bucket=BUCKET)
        yield server
    finally:
        server.kill()


def location(url: str, prefix: str = "") -> S3Location:
    """A place for a store in a service of the tests."""
    return S3Location(BUCKET, prefix, url, access_key=ACCESS_KEY, secret_key=SECRET_KEY)


@functools.cache
def client(url: str) -> Any:
    """A client that looks at what a store left in a bucket."""
    return botocore.session.Session().create_client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )


def objects(url: str, prefix: str = "") -> dict[str, int]:
    """The objects below a prefix, by the rest of their names, with their sizes."""
    pages = client(url).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
    found = (item for page in pages for item in page.get("Contents", ()))
    return {item["Key"][len(prefix) + 1 :]: item["Size"] for item in found}


def parts_of(server: Server) -> list[Path]:
    """The files in which a service keeps parts of uploads that are under way, of all prefixes: MinIO lists none."""
    return [
        path for path in server.root.rglob("*") if path.is_file() and "multipart" in path.parts[:-3] and _is_part(path)
    ]


def _is_part(path: Path) -> bool:
    return path.name.isdigit() or path.name.startswith("part.")


def _answers(address: str) -> bool:
    """Whether a service says anything sensible: it is up before it knows its buckets."""
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        connection.request("GET", f"/{BUCKET}")
        return connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()
