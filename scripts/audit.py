"""``make check``'s audit: every installed package against the advisories that PyPI publishes.

A known hole fails it. Where the advisories cannot be had (no network, a mirror without them), that is said, and nothing is claimed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

SECONDS = 300


def main() -> int:
    command = [
        sys.executable,
        "-m",
        "pip_audit",
        "--local",
        "--skip-editable",
        "--progress-spinner=off",
        "--format=json",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        dependencies: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        print("audit: WARNING: the advisories cannot be had from here, no package was audited", file=sys.stderr)
        return 0
    return report(dependencies)


def report(dependencies: Sequence[dict[str, Any]]) -> int:
    """Say what was found, in pip-audit's JSON form; 1 where a package has a known hole."""
    audited = [one for one in dependencies if "vulns" in one]
    holes = [(one, hole) for one in audited for hole in one["vulns"]]
    for one, hole in holes:
        better = ", ".join(hole["fix_versions"]) or "none yet"
        print(f"audit: {one['name']} {one['version']} has {hole['id']}; repaired in: {better}", file=sys.stderr)
    missed = len(dependencies) - len(audited)
    if missed:
        print(f"audit: WARNING: of {missed} packages no advisories can be had from here", file=sys.stderr)
    print(f"audit: {len(audited)} packages audited, {len(holes)} known holes")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())
