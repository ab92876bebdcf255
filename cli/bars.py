"""How a transfer is shown on a terminal: a bar for each blob."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

if TYPE_CHECKING:
    from oci.descriptor import Descriptor


class Bars:
    """A Progress with a bar for each blob, on standard error, so that a pipe gets only the result."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
            TextColumn("{task.fields[outcome]}"),
            console=console or Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, blob: Descriptor) -> None:
        """A bar more."""
        with self._lock:
            name = blob.digest.hex[:12]
            self._tasks[str(blob.digest)] = self._progress.add_task(name, total=blob.size, outcome="")

    def advance(self, blob: Descriptor, count: int) -> None:
        """The bar goes on, or back."""
        self._progress.advance(self._tasks[str(blob.digest)], count)

    def finish(self, blob: Descriptor, outcome: str) -> None:
        """The bar is full."""
        self._progress.update(self._tasks[str(blob.digest)], completed=blob.size, outcome=outcome)
