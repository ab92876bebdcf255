"""How the bytes of an upload become parts: gathered into buffers, sent by a few threads, acknowledged in order.

A part is sent only when enough bytes for another one have come after it: so what is left when a request ends is either long enough for a
part itself, or is added to the part before it. (S3 takes no part below 5 MiB but the last.)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

from storage.sql_uploads import Part

PART_MIN = 5 * 1024 * 1024
"""What S3 takes as a part that is not the last, in bytes."""
PART_SIZE = 8 * 1024 * 1024
GROWTH = 1000
"""Parts after which they are made twice as large: 10,000, the most that S3 takes, are 8 TB then."""
THREADS = 16
"""Parts that are on their way at once, of all uploads of the process."""
IN_FLIGHT = 4
"""Parts of one upload that are on their way at once; fewer where they are large."""
IN_FLIGHT_SIZE = IN_FLIGHT * PART_SIZE


def part_size(number: int) -> int:
    """The bytes of the part of this number, from 1 on."""
    return PART_SIZE << (number // GROWTH)


class Gathering:
    """Bytes that wait to be sent: at most one full part, and the beginning of the next. ``total``: of all that ever came."""

    def __init__(self) -> None:
        self.total = 0
        self._full: bytearray | None = None
        self._open = bytearray()

    def add(self, data: memoryview, number: Callable[[], int], filled: Callable[[], None]) -> Iterator[bytearray]:
        """Take bytes; yields each part that may be sent. ``number``: of the next that will be. ``filled`` is told when a part is full."""
        while data:
            target = part_size(number() + (self._full is not None))
            piece = data[: target - len(self._open)]
            data = data[len(piece) :]
            self._open += piece  # it grows where it lies: cheaper than room that is made at once, and zeroed
            self.total += len(piece)
            if self._full is not None and len(self._open) >= PART_MIN:
                ready, self._full = self._full, None
                yield ready
            if len(self._open) == target:
                self._full, self._open = self._open, bytearray()
                filled()

    def take(self) -> bytearray:
        """All that waits, as one part. Nothing waits after it."""
        body = self._open
        if self._full is not None:
            body = self._full
            body += self._open
        self._full, self._open = None, bytearray()
        return body


class PartThreads:
    """The threads of a process that send parts. Who has many to send does not keep others from sending theirs."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="s3-part")
        self._slots = threading.BoundedSemaphore(THREADS)

    def send(self, call: Callable[[], Part]) -> Future[Part]:
        """Run it in a thread, waiting here for one that is free: nothing but what is being sent is in memory."""
        self._slots.acquire()
        try:
            future = self._pool.submit(call)
        except BaseException:
            self._slots.release()
            raise
        future.add_done_callback(lambda _: self._slots.release())
        return future

    def close(self) -> None:
        """Wait for what is being sent."""
        self._pool.shutdown()


class Sending:
    """The parts of one upload that are on their way. ``parts``: those that are acknowledged, without a gap."""

    def __init__(self, threads: PartThreads, parts: tuple[Part, ...], skipped: int) -> None:
        """``skipped``: numbers that another may have used for parts after these, and may still be using."""
        self.parts = list(parts)
        self.number = (parts[-1].number if parts else 0) + 1 + skipped
        self.acknowledged = sum(part.size for part in parts)
        self._threads = threads
        self._waiting: deque[Future[Part]] = deque()

    def send(self, size: int, call: Callable[[int], Part]) -> None:
        """Begin to send a part of so many bytes, under the next number; raises what an earlier one failed with."""
        self.collect()
        while len(self._waiting) >= max(1, min(IN_FLIGHT, IN_FLIGHT_SIZE // max(1, size))):
            self._acknowledge()
        number = self.number
        self._waiting.append(self._threads.send(lambda: call(number)))
        self.number += 1

    def finish(self) -> None:
        """Wait for all; raises what one failed with, when those that were sent after it have ended too."""
        try:
            while self._waiting:
                self._acknowledge()
        finally:
            self.abandon()

    def collect(self) -> None:
        """Take note of those that are done, without waiting; raises what one failed with."""
        while self._waiting and self._waiting[0].done():
            self._acknowledge()

    def abandon(self) -> None:
        """Wait until nothing is on its way any more, whatever comes of it."""
        for future in self._waiting:
            future.cancel()
        wait(self._waiting)
        self._waiting.clear()

    def _acknowledge(self) -> None:
        part = self._waiting.popleft().result()
        self.parts.append(part)
        self.acknowledged += part.size
