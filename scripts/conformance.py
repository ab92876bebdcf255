"""Runs the OCI conformance suite (the program of distribution-spec's ``conformance/``) against a server that this starts.

    python scripts/conformance.py /path/to/binary

Everything of the ``dev`` draft is asked for: all APIs, all kinds of data. Prints the counts; fails without the program, on any
test that failed and on any that was skipped (the suite's own exit code does not tell the last). Its reports stay in
conformance-results/.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import xml.etree.ElementTree as ElementTree
from pathlib import Path

APIS = (
    "PING PULL PUSH BLOBS_ATOMIC BLOBS_DELETE BLOBS_DIGEST_HEADER BLOBS_MOUNT_ANONYMOUS BLOBS_UPLOAD_CANCEL MANIFESTS_ATOMIC "
    "MANIFESTS_DELETE MANIFESTS_DIGEST_HEADER MANIFESTS_TAG_PARAM TAGS_ATOMIC TAGS_DELETE TAGS_LIST REFERRER"
)
DATA = (
    "IMAGE INDEX INDEX_LIST SPARSE ARTIFACT SUBJECT SUBJECT_MISSING ARTIFACT_LIST SUBJECT_LIST DATA_FIELD NONDISTRIBUTABLE "
    "CUSTOM_FIELDS NO_LAYERS EMPTY_BLOB SHA512"
)
START_SECONDS = 15.0


def environment(address: str, results: Path) -> dict[str, str]:
    """The suite's settings: everything on."""
    settings = {
        "OCI_REGISTRY": address,
        "OCI_TLS": "disabled",
        "OCI_VERSION": "dev",
        "OCI_LOG": "warn",
        "OCI_RESULTS_DIR": str(results),
        "OCI_CONFIGURATION": "/dev/null",
        "OCI_REPO1": "conformance/repo1",
        "OCI_REPO2": "conformance/repo2",
        "OCI_CACHE_AUTH": "true",
    }
    switches = [f"OCI_API_{name}" for name in APIS.split()] + [f"OCI_DATA_{name}" for name in DATA.split()]
    return os.environ | settings | dict.fromkeys(switches, "true")


def count(report: Path) -> tuple[dict[str, int], list[str]]:
    """The suite's own counts in a junit.xml (they hold groups and kinds of data too), and the cases that did not pass."""
    root = ElementTree.parse(report).getroot()
    counts = {name: int(root.get(name, "0")) for name in ("tests", "failures", "errors", "skipped", "disabled")}
    cases = [(case.get("status", "failure"), case.get("name", "")) for case in root.iter("testcase")]
    return counts, [f"{status}: {name}" for status, name in cases if status != "passed"]


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"conformance: portside serve does not answer {url}; its log is above")


def main() -> None:
    suite = Path(sys.argv[1]) if len(sys.argv) == 2 and sys.argv[1] else None
    if suite is None or not os.access(suite, os.X_OK) or suite.is_dir():
        raise SystemExit(
            f"conformance: no program at {suite or 'SUITE='}. Build it from opencontainers/distribution-spec:\n"
            "  cd conformance && go build -o conformance .\n"
            "then  make conformance SUITE=/path/to/conformance"
        )
    results = Path("conformance-results").resolve()
    results.mkdir(exist_ok=True)
    report = results / "junit.xml"
    report.unlink(missing_ok=True)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="portside-conformance-") as root:
        program = Path(sys.executable).parent / "portside"
        with (results / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [program, "serve", "--root", root, "--listen", address, "--floor", "0"], stderr=log
            )
        try:
            wait_for(f"http://{address}/v2/", server)
            with (results / "suite.log").open("wb") as log:
                code = subprocess.run([suite], env=environment(address, results), stdout=log, stderr=log).returncode
        finally:
            server.terminate()
            server.wait()
    if not report.exists():
        raise SystemExit(f"conformance: {suite} ended with {code} and wrote no report; see {results}/suite.log")
    counts, names = count(report)
    print(*names, sep="\n", end="\n" if names else "")
    failed, skipped = counts["failures"] + counts["errors"], counts["skipped"] + counts["disabled"]
    passed = counts["tests"] - failed - skipped
    print(f"{passed} passed, {failed} failed, {skipped} skipped (reports in {results})")
    if code != 0 or failed or skipped or not passed or names:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
