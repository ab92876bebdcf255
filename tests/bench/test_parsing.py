"""What the benchmark reads: answers of servers, what tools print, and /proc."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.__main__ import choose
from bench.clients import zb_result
from bench.content import Source, digest_of, empty_index, small_image
from bench.filesystem import BenchError
from bench.processes import ProcessTree, cpu_ticks, kilobytes
from bench.wire import Connection, WireError, closing, parse_head

ZB = """Registry URL:      http://127.0.0.1:1
Preparing test data ...
Starting tests ...
============
Test name:            Pull 75% and Push 25% Mixed 1MB
Time taken for tests: 298.1ms
Requests per second:  102.8
Complete requests:    30
Failed requests:      2

2xx responses: 30

min: 3.4ms
p99: 80.1ms
"""


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[int, Callable[[], bytes]]]:
    """A server of one connection that gives one answer to whatever comes first; its port and what came."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(30)
    received: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(30)
            received.append(connection.recv(65536))
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], lambda: received[0]
    finally:
        thread.join()
        listener.close()


def test_the_head_of_an_answer() -> None:
    status, headers = parse_head(b"HTTP/1.1 202 Accepted\r\nLocation: /v2/a:b\r\nX-Empty:")
    assert (status, headers) == (202, {"location": "/v2/a:b", "x-empty": ""})


@pytest.mark.parametrize("head", [b"", b"SSH-2.0-x", b"HTTP/1.1 OK", b"HTTP/2"])
def test_what_is_no_head(head: bytes) -> None:
    with pytest.raises(WireError, match="not an HTTP answer"):
        parse_head(head)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
)
def test_bodies_of_known_length_and_chunked(answer: bytes) -> None:
    with answering(answer) as (port, received), Connection(port) as connection:
        response = connection.request("GET", "/x", {"Accept": "a"})
        assert (response.status, response.body) == (200, b"hello")
    assert received() == f"GET /x HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: a\r\n\r\n".encode()


def test_a_download_that_is_cut_is_an_error() -> None:
    with (
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello") as (port, _),
        Connection(port) as connection,
        pytest.raises(WireError, match="ended 5 bytes early"),
    ):
        connection.discard("/x")


def test_a_wrong_status_says_what_the_server_said() -> None:
    with (
        answering(b"HTTP/1.1 507 Full\r\nContent-Length: 9\r\n\r\ndisk full") as (port, _),
        Connection(port) as connection,
        pytest.raises(WireError, match="507 instead of 202: disk full"),
    ):
        connection.start_upload("a")


@pytest.mark.parametrize(("location", "target"), [("/u", "/u?digest=d"), ("/u?_state=s", "/u?_state=s&digest=d")])
def test_the_digest_joins_a_query(location: str, target: str) -> None:
    assert closing(location, "d") == target


def test_zb_figures() -> None:
    rate, failed, lines = zb_result(ZB, "Pull 75% and Push 25% Mixed 1MB")
    assert (rate, failed, lines["p99"]) == (102.8, 2, "80.1ms")


def test_zb_that_gave_up() -> None:
    with pytest.raises(BenchError, match="did not finish 'Pull 1MB'"):
        zb_result("Starting tests ...\nExpected: 201, Got: 404\n", "Pull 1MB")


def test_ticks_are_counted_after_a_name_that_holds_anything() -> None:
    stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 50 60 7 8 20 0 1 0 100"
    assert cpu_ticks(stat) == (110, 15)


def test_kilobytes_of_a_status() -> None:
    assert kilobytes("Name:\tx\nVmHWM:\t  1234 kB\nVmRSS:\t 99 kB\n", "VmHWM") == 1234
    assert kilobytes("Name:\tzombie\n", "VmHWM") == 0


def test_a_tree_counts_the_work_of_children() -> None:
    script = (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', 'sum(range(12_000_000))'], check=True)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'x = bytearray(40_000_000); print(1, flush=True); input()'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); input(); child.communicate(b'\\n')\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        tree = ProcessTree(parent.pid)
        assert set(tree.pids()) == {parent.pid, child}
        assert tree.cpu_seconds() > 0.05
        assert tree.peak_bytes() >= tree.resident_bytes() > 40_000_000
        parent.stdin.write(b"\n")
        parent.stdin.close()
        assert parent.wait(30) == 0


def test_blobs_of_one_source_differ_and_have_the_digest_they_claim(tmp_path: Path) -> None:
    source = Source(tmp_path / "source", 5000)
    blobs = [source.blob() for _ in range(3)]
    contents = [(tmp_path / "source").read_bytes()[: blob.size - len(blob.tail)] + blob.tail for blob in blobs]
    source.close()
    assert [len(content) for content in contents] == [5000] * 3
    assert [digest_of(content) for content in contents] == [blob.digest for blob in blobs]
    assert len(set(contents)) == 3


def test_the_small_blob_has_89_bytes() -> None:
    assert len(small_image().config) == 89
    assert digest_of(small_image().config).encode() in small_image().manifest
    assert b'"manifests": []' in empty_index()


def test_rows_are_chosen_by_row_and_by_group() -> None:
    chosen = {group.name: rows for group, rows in choose("zb-pull-*mb,get,small")}
    assert chosen["get"] == {"get"}
    assert chosen["small"] == {"manifest", "blob", "tag-one"}
    assert "zb-pull-10mb" in chosen["zb"]
    assert "zb-get-catalog" not in chosen["zb"]
    with pytest.raises(BenchError, match="no row or group is called 'gte'"):
        choose("get,gte")


def test_the_list_of_rows_needs_no_root() -> None:
    command = [sys.executable, "-m", "bench", "--list"]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], env=os.environ
    )
    assert result.returncode == 0, result.stderr
    assert "manifest GET by tag, 16 connections" in result.stdout
