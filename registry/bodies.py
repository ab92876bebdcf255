"""Request bodies: small ones read on the event loop, large ones pumped to the store by threads that own the socket.

Receiving on the loop costs a copy and a wake-up for each 64 KiB; a thread that blocks in ``recv_into``, ``write`` and the hash, all
of which release the GIL, moves a gigabyte while the loop answers other clients. A thread that has to wait for its client gives the
wait back to the loop: slow clients never hold threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from queue import SimpleQueue
from typing import Protocol

import anyio
import anyio.to_thread

from registry.channels import Channel, Outcome
from registry.errors import BodyTimeout, BodyTooLarge, ClientGone, ServerEnding
from registry.framing import Counted, Framing
from registry.messages import BadRequest
from registry.slices import run_in_usual_slices

SMALL = 256 * 1024
"""A body of at most so many bytes, by its Content-Length, is read on the event loop."""
BLOCK = 256 * 1024
"""What each of several pumps receives, writes and hashes at a time, in bytes."""
LONE_BLOCK = 1024 * 1024
"""What a lone pump's two threads hand over: waking the other one costs as much as hashing 10 KiB."""
DEPTH = 4
"""Blocks that are under way between the receiving and the hashing thread."""
IDLE_TIMEOUT = 60.0
"""Seconds without a byte after which a body is given up; what came is kept."""


class Sink(Protocol):
    """Where a body goes: the part of `storage.uploads.Upload` that a pump needs."""

    def write(self, data: bytes | bytearray | memoryview) -> None: ...
    def hash(self, data: bytes | bytearray | memoryview) -> None: ...


class Connection(Protocol):
    """What a body needs of its connection."""

    def request_body(self) -> None:
        """Tell a client that asked (Expect: 100-continue) to go on, and read again."""
        ...

    def detach(self) -> Channel:
        """Stop reading and hand out a channel, by which a thread reads on."""
        ...

    def is_lost(self) -> bool: ...


class Pumps:
    """The threads that pump bodies: at most ``limit`` at once. More uploads wait their turn, while the others go on."""

    def __init__(self, limit: int = 64) -> None:
        self.limiter = anyio.CapacityLimiter(limit)
        self.active = 0
        self._lock = threading.Lock()
        self._lone_blocks: list[tuple[bytearray, memoryview]] = []

    def lone_blocks(self) -> list[tuple[bytearray, memoryview]]:
        """The buffers of the pump that is the only one: made once, so that many uploads one after the other do not scatter the heap."""
        if not self._lone_blocks:
            blocks = [bytearray(LONE_BLOCK) for _ in range(DEPTH)]
            self._lone_blocks = [(block, memoryview(block)) for block in blocks]
        return self._lone_blocks

    def enter(self) -> bool:
        """Count a pump in; whether it is the only one, and so may use a second core for its hash."""
        with self._lock:
            self.active += 1
            return self.active == 1

    def leave(self) -> None:
        with self._lock:
            self.active -= 1


class Body:
    """One request's body. Read it once, with `read` or `pump_into`; `leftover` is what came after it."""

    def __init__(self, connection: Connection, framing: Framing, pumps: Pumps) -> None:
        self._connection = connection
        self._framing = framing
        self._pumps = pumps
        self._held = bytearray()
        self._arrived = asyncio.Event()
        self._ended = False
        self._stopping = False

    @property
    def is_complete(self) -> bool:
        """Whether the whole body was read."""
        return self._framing.complete

    @property
    def length(self) -> int | None:
        """The bytes that are still to come, None for a chunked body."""
        return self._framing.remaining if isinstance(self._framing, Counted) else None

    @property
    def is_small(self) -> bool:
        """Whether the body is known to be short enough to be read into memory."""
        return self.length is not None and self.length <= SMALL

    @property
    def leftover(self) -> bytes:
        """Raw bytes that came after the body's end: the next request."""
        return bytes(self._held)

    @property
    def backlog(self) -> int:
        """Raw bytes that are held and not yet read."""
        return len(self._held)

    def feed(self, data: bytes) -> None:
        """Raw bytes from the event loop."""
        self._held += data
        self._arrived.set()

    def end(self) -> None:
        """The connection is lost."""
        self._ended = True
        self._stopping = True
        self._arrived.set()

    def stop(self) -> None:
        """Make a pump's thread come back: the server ends."""
        self._stopping = True

    async def read(self, limit: int) -> bytes:
        """The whole body, at most ``limit`` bytes; BodyTooLarge, BodyTimeout, ClientGone, BadRequest."""
        if self.length is not None and self.length > limit:
            raise BodyTooLarge(limit)
        parts: list[bytes] = []
        size = 0
        while True:
            if self._held:
                part = self._decode_held()
                parts.append(part)
                size += len(part)
                if size > limit:
                    raise BodyTooLarge(limit)
            if self._framing.complete:
                return b"".join(parts)
            await self._more()

    async def discard(self, limit: int) -> None:
        """Read and drop at most ``limit`` bytes; `is_complete` tells whether that was all."""
        with contextlib.suppress(BadRequest, BodyTimeout, ClientGone):
            while not self._framing.complete and limit > 0:
                if not self._held:
                    await self._more()
                limit -= len(self._held)
                self._decode_held()

    def _decode_held(self) -> bytes:
        buffer, self._held = self._held, bytearray()
        w, r = self._framing.decode(buffer, 0, 0, len(buffer))
        self._held = buffer[r:]
        return bytes(buffer[:w])

    async def _more(self) -> None:
        if self._ended:
            raise ClientGone
        self._arrived.clear()
        self._connection.request_body()
        try:
            async with asyncio.timeout(IDLE_TIMEOUT):
                await self._arrived.wait()
        except TimeoutError:
            raise BodyTimeout(IDLE_TIMEOUT) from None

    async def pump_into(self, sink: Sink) -> None:
        """Write and hash the rest of the body; what came is in the sink also when this raises.

        BodyTimeout, ClientGone, ServerEnding, BadRequest, and whatever the sink raises.
        """
        if self._framing.complete:
            return
        self._connection.request_body()
        channel = self._connection.detach()
        await asyncio.sleep(0)  # what the loop had already received arrives in `feed` before the thread reads on
        try:
            while True:
                outcome = await anyio.to_thread.run_sync(self._pump, channel, sink, limiter=self._pumps.limiter)
                if outcome is Outcome.COMPLETE:
                    return
                if outcome is Outcome.STOPPED and not self._ended:
                    raise ServerEnding
                if outcome is not Outcome.STARVED or self._connection.is_lost():
                    raise ClientGone
                await _readable(channel.fileno(), IDLE_TIMEOUT)
        finally:
            channel.close()

    def _pump(self, channel: Channel, sink: Sink) -> Outcome:
        run_in_usual_slices()
        alone = self._pumps.enter()
        try:
            return self._pump_in_two_threads(channel, sink) if alone else self._pump_in_one_thread(channel, sink)
        finally:
            self._pumps.leave()
            channel.rest()

    def _pump_in_one_thread(self, channel: Channel, sink: Sink) -> Outcome:
        buffer = bytearray(BLOCK)
        view = memoryview(buffer)
        while True:
            size, outcome = self._fill(channel, buffer, view)
            if size:
                sink.write(view[:size])
                sink.hash(view[:size])
            if outcome is not None:
                return outcome

    def _pump_in_two_threads(self, channel: Channel, sink: Sink) -> Outcome:
        """Receive and write here, hash in a second thread, `DEPTH` blocks apart at most."""
        free: SimpleQueue[tuple[bytearray, memoryview]] = SimpleQueue()
        full: SimpleQueue[tuple[bytearray, memoryview, int] | None] = SimpleQueue()
        failures: list[Exception] = []

        def hash_blocks() -> None:
            while (block := full.get()) is not None:
                buffer, view, size = block
                try:
                    if not failures:
                        sink.hash(view[:size])
                except Exception as error:  # handed to the other thread, which raises it
                    failures.append(error)
                free.put((buffer, view))

        for block in self._pumps.lone_blocks():
            free.put(block)
        hasher = threading.Thread(target=hash_blocks, name="upload-hash", daemon=True)
        hasher.start()
        try:
            while True:
                buffer, view = free.get()
                size, outcome = self._fill(channel, buffer, view)
                if size:
                    sink.write(view[:size])
                    full.put((buffer, view, size))
                if outcome is not None:
                    return outcome
                if failures:
                    break
        finally:
            full.put(None)
            hasher.join()
        raise failures[0]

    def _fill(self, channel: Channel, buffer: bytearray, view: memoryview) -> tuple[int, Outcome | None]:
        """Receive and decode into one block: the payload's size, and why the pump has to end after it, None to go on."""
        held, self._held = self._held, bytearray()
        e, end = len(held), len(buffer)
        if e > end // 2:
            self._held = held[end // 2 :]
            e = end // 2
        buffer[:e] = held[:e]
        w = r = 0
        outcome: Outcome | None = None
        while True:
            w, r = self._framing.decode(buffer, w, r, e)
            if self._framing.complete:
                outcome = Outcome.COMPLETE
                break
            if self._held or end - e < 4096:
                break
            if self._stopping:
                outcome = Outcome.STOPPED
                break
            room = self._framing.receivable(end - e)
            received, outcome = channel.receive_into(view[e : e + room], room if self.length is not None else 1)
            if outcome is not None:
                break
            e += received
        self._held = bytearray(view[r:e]) + self._held
        return w, outcome


async def _readable(fd: int, seconds: float) -> None:
    """Wait on the event loop until the socket has something to read; BodyTimeout."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, lambda: None if ready.done() else ready.set_result(None))
    try:
        async with asyncio.timeout(seconds):
            await ready
    except TimeoutError:
        raise BodyTimeout(seconds) from None
    finally:
        loop.remove_reader(fd)
