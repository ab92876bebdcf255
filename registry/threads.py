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


class Lookups:
    """Where look-ups run: on the event loop where one takes microseconds, in threads where the database is another program's.

    A database across a network takes a hundred times as long, and seconds when it is restarted: the loop is not to wait for it.
    """

    def __init__(self, limit: int = 0) -> None:
        """``limit``: threads at once, 0 for the loop."""
        self.is_inline = limit == 0
        self._limiter = anyio.CapacityLimiter(max(limit, 1))

    async def run(self, function: Callable[..., Result], *arguments: object) -> Result:
        """Call a function that looks things up; what it raises is raised here."""
        if self.is_inline:
            return function(*arguments)
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._limiter)
