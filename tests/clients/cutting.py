"""A TCP proxy that breaks connections: what a bad line does to a push or a pull."""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from tests.servers import ServerError

Direction = Literal["up", "down"]
PIECE = 64 * 1024
T = TypeVar("T")


@dataclass(slots=True)
class CuttingProxy:
    """Forwards to ``target`` and breaks the connection that has carried ``after`` bytes in ``direction``, ``times`` times in all.

    A break is a reset, as when a machine dies, or with ``is_reset`` off an early end, as when a proxy gives up.
    ``up`` is from the client to the server. ``bytes_up`` and ``bytes_down`` count what was passed on, over all connections.
    """

    address: str
    target: tuple[str, int]
    direction: Direction
    after: int
    times: int
    is_reset: bool
    cuts: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: set[socket.socket] = field(default_factory=set)
    _threads: list[threading.Thread] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        """Accept until the listener is shut down."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            upstream = socket.create_connection(self.target)
            with self._lock:
                self._open |= {client, upstream}
            done = threading.Barrier(2, action=functools.partial(self._close, client, upstream))
            ways: tuple[tuple[Direction, socket.socket, socket.socket], ...]
            ways = (("up", client, upstream), ("down", upstream, client))
            for way in ways:
                thread = threading.Thread(target=self._pump, args=(*way, done))
                thread.start()
                self._threads.append(thread)

    def _pump(self, way: Direction, source: socket.socket, sink: socket.socket, done: threading.Barrier) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE):
                carried += len(piece)
                if way == self.direction and carried > self.after and self._may_cut():
                    for sock in (source, sink):  # linger 0: RST, not FIN (socket(7))
                        if self.is_reset:
                            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        with contextlib.suppress(OSError):
                            sock.shutdown(socket.SHUT_RD)
                    break
                sink.sendall(piece)
                self._count(way, len(piece))
        with contextlib.suppress(OSError):
            if not _lingers(sink):
                sink.shutdown(socket.SHUT_WR)
        done.wait()

    def _may_cut(self) -> bool:
        with self._lock:
            if self.cuts >= self.times:
                return False
            self.cuts += 1
            return True

    def _count(self, way: Direction, size: int) -> None:
        with self._lock:
            if way == "up":
                self.bytes_up += size
            else:
                self.bytes_down += size

    def _close(self, *pair: socket.socket) -> None:
        with self._lock:
            self._open -= set(pair)
        for sock in pair:
            sock.close()

    def close(self) -> None:
        """Break what is open and wait for the threads."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)


def _lingers(sock: socket.socket) -> bool:
    is_on: int = struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0]
    return is_on != 0


@contextlib.contextmanager
def cutting(
    target: str, direction: Direction, after: int, times: int = 1, *, is_reset: bool = True
) -> Iterator[CuttingProxy]:
    """A cutting proxy in front of ``target`` (HOST:PORT)."""
    host, _, port = target.rpartition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        proxy = CuttingProxy(address, (host, int(port)), direction, after, times, is_reset)
        acceptor = threading.Thread(target=proxy.serve, args=(listener,))
        acceptor.start()
        try:
            yield proxy
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join(30)
            proxy.close()


def once_more(proxy: CuttingProxy, action: Callable[[], T]) -> T:
    """Run a client that may give up at the cut, then once more, as its user would.

    skopeo, podman and buildah go on by themselves when they see a reset, but not when their own transport closed the connection
    before they did; which of both comes first is a race.
    """
    try:
        return action()
    except ServerError:
        if proxy.cuts == 0:
            raise
        return action()
