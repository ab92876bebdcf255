"""Servers on one S3 service and, Portside, on PostgreSQL: each turn gets both anew, on the benchmark's own disk, at their durable settings.

The service's and PostgreSQL's processor time is not in the server's, and they have to do what a server asks of them: one that copies each
upload when it is committed (distribution) pays for it in wall time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.session
import psycopg

from bench.filesystem import BenchError
from bench.servers import end, free_port
from bench.setups import Material, Setup

BUCKET = "bench"
ACCESS_KEY = "bench"
SECRET_KEY = "only-for-the-benchmark"
PROGRAMS = Path("/usr/lib/postgresql")
PATIENCE = 30.0


@dataclass(slots=True)
class Remote(Setup):
    """Blobs in S3; Portside's facts in PostgreSQL."""

    material: Material
    s3: str = ""
    database: str = ""

    @contextlib.contextmanager
    def beside(self, root: Path) -> Iterator[None]:
        """The service with its bucket, and PostgreSQL with an empty database."""
        if self.material.versitygw is None:
            raise BenchError("--versitygw was not given")
        with _s3(self.material.versitygw, root / "s3") as self.s3, _postgres(root / "postgres") as self.database:
            yield

    def environment(self) -> Mapping[str, str]:
        return {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}

    def portside(self, root: Path) -> list[str]:
        return ["--store", f"s3://{BUCKET}/portside", "--s3-endpoint", self.s3, "--database", self.database]

    def distribution(self, document: dict[str, Any]) -> None:
        storage = document["storage"]
        del storage["filesystem"]
        storage["redirect"] = {"disable": True}
        storage["s3"] = {
            "accesskey": ACCESS_KEY,
            "secretkey": SECRET_KEY,
            "region": "us-east-1",
            "regionendpoint": self.s3,
            "forcepathstyle": True,
            "bucket": BUCKET,
            "secure": False,
            "rootdirectory": "/distribution",
        }


@contextlib.contextmanager
def _s3(program: Path, directory: Path) -> Iterator[str]:
    directory.mkdir(parents=True)
    address = f"127.0.0.1:{free_port()}"
    keys = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    command = [str(program), "--quiet", "--keep-alive", "--port", address, "posix", str(directory)]
    process = subprocess.Popen(
        command, env=os.environ | keys, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        client = botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=f"http://{address}",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                client.create_bucket(Bucket=BUCKET)
                break
            except Exception as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise BenchError(f"the S3 service does not start: {error}") from error
                time.sleep(0.05)
        client.close()
        yield f"http://{address}"
    finally:
        end(process)


@contextlib.contextmanager
def _postgres(directory: Path) -> Iterator[str]:
    found = sorted(PROGRAMS.glob("*/bin"), key=lambda path: int(path.parent.name))
    if not found:
        raise BenchError("PostgreSQL is not installed: apt-get install postgresql")
    directory.mkdir(parents=True)
    shutil.chown(directory, "postgres", "postgres")
    as_postgres = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    data, program = directory / "data", found[-1]
    made = subprocess.run(
        [*as_postgres, str(program / "initdb"), "-D", str(data), "-U", "portside", "-A", "trust", "--locale=C.UTF-8"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise BenchError(f"initdb failed: {made.stderr[-500:]}")
    process = subprocess.Popen(
        [*as_postgres, str(program / "postgres"), "-D", str(data), "-k", str(directory), "-c", "listen_addresses="],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"postgresql://portside@/{{}}?host={directory}"
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with psycopg.connect(url.format("postgres"), autocommit=True) as connection:
                    connection.execute("CREATE DATABASE bench")
                break
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise BenchError(f"PostgreSQL does not start: {error}") from error
                time.sleep(0.05)
        yield url.format("bench")
    finally:
        end(process)
