"""`portside`, called as a person calls it: in this process, where many calls are made, or as a program."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from cli.main import app
from cli.options import Failure
from tests.tools import tool


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def rows(self) -> list[list[str]]:
        """The words of each line."""
        return [line.split() for line in self.stdout.splitlines()]


def call(*arguments: str | Path, stdin: str = "", env: Mapping[str, str] | None = None, code: int = 0) -> Done:
    """Run a command in this process; AssertionError where it does not end with this code, or fails by another way than `Failure`."""
    result = CliRunner(env={"COLUMNS": "80", **(env or {})}).invoke(app, [*map(str, arguments)], input=stdin)
    error = result.exception
    if isinstance(error, Failure):
        done = Done(error.code, result.stdout, f"{result.stderr}portside: {error}\n")
    elif error is not None and not isinstance(error, SystemExit):
        raise error
    else:
        done = Done(result.exit_code, result.stdout, result.stderr)
    assert done.code == code, done
    return done


def command(arguments: Sequence[str | Path]) -> list[str]:
    return [str(tool("portside")), *map(str, arguments)]


def run(*arguments: str | Path, stdin: str = "", env: Mapping[str, str] | None = None, code: int = 0) -> Done:
    """Run the program itself."""
    done = subprocess.run(
        command(arguments), input=stdin, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return Done(done.returncode, done.stdout, done.stderr)
