"""How a transfer is shown where no terminal is: a line for each blob that is there."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from oci.descriptor import Descriptor

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def human(size: int) -> str:
    """A number of bytes in words, in powers of 1000 as Docker shows it."""
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{size} B" if unit == 0 else f"{value:.3g} {_UNITS[unit]}"


class Lines:
    """A Progress for logs and pipes."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def start(self, blob: Descriptor) -> None:
        """Nothing to say yet."""

    def advance(self, blob: Descriptor, count: int) -> None:
        """Nothing to say: a log is no place for a bar."""

    def finish(self, blob: Descriptor, outcome: str) -> None:
        """One line."""
        with self._lock:
            print(f"{blob.digest.hex[:12]}  {outcome}  {human(blob.size)}", file=self._out, flush=True)
