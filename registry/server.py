"""One server process: uvicorn's loop and signals around our connections, with what has to happen now and then."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, cast

import anyio.to_thread
from uvicorn.config import Config
from uvicorn.server import Server

from registry.app import Registry
from registry.log import AccessLog
from registry.serving import HTTPConnection, Service
from registry.slices import run_in_short_slices

if TYPE_CHECKING:
    from registry.tls import TLS

logger = logging.getLogger("portside.registry")

TIDY_INTERVAL = 600.0
"""Seconds between two looks for what is to be dropped. The first comes after one interval: nothing is walked at start."""
SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that computes gives the interpreter to another: the loop must not wait 5 ms, Python's default."""


class Housekeeping(Protocol):
    """What has to be done now and then. All but `has_news` may block."""

    def has_news(self) -> bool: ...

    def flush(self) -> None:
        """Write what was gathered: ten times a second, where there is news."""
        ...

    def tidy(self) -> None:
        """Drop what is old."""
        ...


class RegistryServer(Server):
    """uvicorn's server, whose ticks (ten a second) also write the log, move the clock and sweep idle connections."""

    def __init__(self, config: Config, service: Service, housekeeping: Housekeeping, tls: TLS | None) -> None:
        super().__init__(config)
        self._service = service
        self._housekeeping = housekeeping
        self._tls = tls
        self._next_tidying = 0.0

    async def on_tick(self, counter: int) -> bool:
        log = self._service.log
        if lines := log.take():
            await anyio.to_thread.run_sync(log.write, lines)
        if self._housekeeping.has_news():
            await anyio.to_thread.run_sync(self._housekeeping.flush)
        if counter % 10 == 0:
            log.tick()
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                held = cast(HTTPConnection, connection)
                if held.deadline < now:
                    held.expire()
            if self._tls is not None:
                await anyio.to_thread.run_sync(self._tls.refresh)
            if not self._next_tidying:
                self._next_tidying = now + TIDY_INTERVAL
            elif now >= self._next_tidying:
                self._next_tidying = now + TIDY_INTERVAL
                await anyio.to_thread.run_sync(self._tidy)
        return self.should_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self._service.log.write(self._service.log.take())

    def _tidy(self) -> None:
        try:
            self._housekeeping.tidy()
        except Exception as error:
            logger.warning("what is old could not be dropped: %s", error)


def serve(
    registry: Registry,
    housekeeping: Housekeeping,
    sockets: list[socket.socket],
    log: AccessLog,
    grace: float,
    tls: TLS | None = None,
) -> None:
    """Serve a registry on listening sockets until SIGTERM or SIGINT; what is in flight then has ``grace`` seconds to end.

    With ``tls`` every connection is HTTPS, without it plain HTTP.
    """
    _tune_memory()
    _raise_descriptor_limit()
    sys.setswitchinterval(SWITCH_INTERVAL)
    run_in_short_slices()
    service = Service(registry, log, grace, "http" if tls is None else "https")
    config = Config(
        cast(Any, _no_application),
        http=cast(Any, partial(HTTPConnection, service) if tls is None else _behind_tls(service, tls)),
        ws="none",
        loop="uvloop",
        lifespan="off",
        log_config=None,
        access_log=False,
        interface="asgi3",
        proxy_headers=False,
        timeout_graceful_shutdown=max(int(grace), 1),
        backlog=4096,
    )
    for listener in sockets:
        listener.setblocking(False)
        with contextlib.suppress(OSError):  # not a TCP socket
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = RegistryServer(config, service, housekeeping, tls)

    def end(number: int, frame: FrameType | None) -> None:
        """Before uvicorn listens to signals, and when it is done: then it raises what it caught once more."""
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    gc.collect()
    gc.freeze()  # what was imported lives as long as the process: no collection has to look at it again
    server.run(sockets)


def _behind_tls(service: Service, tls: TLS) -> Callable[..., asyncio.Protocol]:
    from registry.handshakes import Handshakes, TLSConnection  # a server of plain HTTP starts without them

    return partial(TLSConnection, service, Handshakes(tls, service.log))


async def _no_application(scope: object, receive: object, send: object) -> None:
    raise NotImplementedError("connections are answered by registry.serving, not by uvicorn's ASGI call")


def _raise_descriptor_limit() -> None:
    """Take all the file descriptors that may be had: a download holds three."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _tune_memory() -> None:
    """Keep glibc from giving the heap's end back after every body (mallopt(3)): a page fault for each block otherwise."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 64 * 1024 * 1024)
        mallopt(mmap_threshold, 64 * 1024 * 1024)
