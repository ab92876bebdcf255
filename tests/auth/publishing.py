"""An issuer's web server, for tests."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.auth.forging import key_set


class Publisher:
    """An issuer's web server. ``answer`` is called for each GET, after it is counted in ``paths``."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        publisher = self
        self.paths: list[str] = []
        self.headers: dict[str, str] = {}
        self.answer: Callable[[BaseHTTPRequestHandler], object] = lambda handler: None

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.paths.append(self.path)
                publisher.headers = dict(self.headers)
                with contextlib.suppress(ConnectionError):
                    publisher.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that goes away, or refuses the certificate

        self.server = Server(("127.0.0.1", 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.scheme = "http" if context is None else "https"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/jwks.json"

    def publish(self, *keys: dict[str, Any]) -> None:
        self.answer = lambda handler: send(handler, key_set(*keys))

    @contextlib.contextmanager
    def running(self) -> Iterator[Publisher]:
        thread = threading.Thread(target=self.server.serve_forever, args=[0.02])
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            thread.join()
            self.server.server_close()


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
