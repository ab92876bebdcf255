"""Runs the OCI conformance suite (the program of distribution-spec's ``conformance/``) against servers that this starts.

    python scripts/conformance.py /path/to/binary

Twice: against one that is open to all over plain HTTP, and against one with TLS by an authority of its own and accounts, as a user who
may do everything in the suite's repositories and is no administrator. Everything of the ``dev`` draft is asked for: all APIs, all kinds
of data. Prints the counts; fails without the program, on any test that failed and on any that was skipped (the suite's own exit code
does not tell the last). Its reports stay in conformance-results/.
"""

from __future__ import annotations

import os
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
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
PORTSIDE = str(Path(sys.executable).parent / "portside")
USER = "conformance"


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


def wait_for(url: str, status: int, authority: Path | None, server: subprocess.Popen[bytes]) -> None:
    """Until it answers with the status, over TLS where there is an authority to trust."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            context = ssl.create_default_context(cafile=authority) if authority else None
            with urllib.request.urlopen(url, timeout=5, context=context) as answer:
                found = answer.status
        except urllib.error.HTTPError as error:
            found = error.code
        except OSError:  # not there yet, or its authority is not
            found = 0
        if found == status:
            return
        time.sleep(0.05)
    raise SystemExit(f"conformance: portside serve does not answer {url} with {status}; see its server.log")


def make_user(root: str) -> str:
    """Switch accounts on and make the suite's; its password."""
    password = secrets.token_urlsafe(16)
    for command, secret in (
        (["init", "--admin", "admin", "--password-stdin"], secrets.token_urlsafe(16)),
        (["user", "add", USER, "--password-stdin"], password),
        (["grant", USER, f"{USER}/*", "pull,push,delete"], ""),
    ):
        done = subprocess.run([PORTSIDE, *command, "--root", root], input=f"{secret}\n", capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"conformance: portside {command[0]} ended with {done.returncode}: {done.stderr}")
    return password


def run(suite: Path, results: Path, *, is_secure: bool) -> bool:
    """One run, its reports in ``results``; prints the counts; whether everything passed."""
    results.mkdir(parents=True, exist_ok=True)
    report = results / "junit.xml"
    report.unlink(missing_ok=True)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    with tempfile.TemporaryDirectory(prefix="portside-conformance-") as root:
        settings, options, authority = environment(address, results), ["--floor", "0"], None
        if is_secure:
            authority = Path(root) / "tls/ca.pem"
            account = {"OCI_USERNAME": USER, "OCI_PASSWORD": make_user(root)}
            settings |= account | {"OCI_TLS": "enabled", "SSL_CERT_FILE": str(authority)}
            options += ["--tls", "auto", "--name", "localhost"]
        with (results / "server.log").open("wb") as log:
            command = [PORTSIDE, "serve", "--root", root, "--listen", address, *options]
            server = subprocess.Popen(command, stderr=log)
        try:
            scheme, status = ("https", 401) if is_secure else ("http", 200)
            wait_for(f"{scheme}://{address}/v2/", status, authority, server)
            with (results / "suite.log").open("wb") as log:
                code = subprocess.run([suite], env=settings, stdout=log, stderr=log).returncode
        finally:
            server.terminate()
            server.wait()
    if not report.exists():
        raise SystemExit(f"conformance: {suite} ended with {code} and wrote no report; see {results}/suite.log")
    counts, names = count(report)
    print(*names, sep="\n", end="\n" if names else "")
    failed, skipped = counts["failures"] + counts["errors"], counts["skipped"] + counts["disabled"]
    passed = counts["tests"] - failed - skipped
    how = "with TLS and accounts" if is_secure else "open to all"
    print(f"{how}: {passed} passed, {failed} failed, {skipped} skipped (reports in {results})")
    return code == 0 and passed > 0 and not (failed or skipped or names)


def main() -> None:
    suite = Path(sys.argv[1]) if len(sys.argv) == 2 and sys.argv[1] else None
    if suite is None or not os.access(suite, os.X_OK) or suite.is_dir():
        raise SystemExit(
            f"conformance: no program at {suite or 'SUITE='}. Build it from opencontainers/distribution-spec:\n"
            "  cd conformance && go build -o conformance .\n"
            "then  make conformance SUITE=/path/to/conformance"
        )
    results = Path("conformance-results").resolve()
    passed = [run(suite, results / name, is_secure=name == "secure") for name in ("open", "secure")]
    if not all(passed):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
