"""Lists as people and programs read them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any


def show(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table without lines, each column as wide as its widest cell."""
    table = [list(head), *([printable(cell) or "-" for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_json(values: Iterable[Any]) -> None:
    """One JSON object in a line for each."""
    from registry.values import write

    for value in values:
        print(json.dumps(write(value)))


def printable(text: str) -> str:
    """Text from a stranger without what a terminal would obey."""
    return text if text.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def moment(at: float | None, never: str = "never") -> str:
    """A time of the Unix clock as the clock on the wall shows it."""
    return never if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
