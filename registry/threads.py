"""The hop from the event loop to blocking code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

Result = TypeVar("Result")


class Disk:
    """Threads for what waits for a disk: at most ``limit`` at once, so that a burst of pushes queues here and not in the kernel."""

    def __init__(self, limit: int = 16) -> None:
        self._limiter = anyio.CapacityLimiter(limit)

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call a blocking function in a thread; what it raises is raised here."""
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._limiter)
