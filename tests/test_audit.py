"""What the audit of dependencies makes of pip-audit's answers."""

from __future__ import annotations

from typing import Any

import pytest

from scripts.audit import report

SOUND: dict[str, Any] = {"name": "one", "version": "1.0", "vulns": []}
UNKNOWN: dict[str, Any] = {"name": "two", "skip_reason": "Dependency not found"}
HOLED: dict[str, Any] = {
    "name": "three",
    "version": "3.0",
    "vulns": [{"id": "CVE-2026-1", "fix_versions": ["3.1"], "description": "…"}],
}


def test_sound_packages_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([SOUND]) == 0
    assert capsys.readouterr().out == "audit: 1 packages audited, 0 known holes\n"


def test_a_hole_fails_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([SOUND, HOLED]) == 1
    assert "three 3.0 has CVE-2026-1; repaired in: 3.1" in capsys.readouterr().err


def test_what_could_not_be_audited_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([UNKNOWN]) == 0
    said = capsys.readouterr()
    assert "of 1 packages no advisories" in said.err
    assert "0 packages audited" in said.out
