"""A registry over TLS, for tests: ``python -m tests.registry.tls_server ROOT PORT CERTIFICATES KEY``, with or without ``--tls1.2``.

The certificate is read again when its file changes, as `portside serve` does it.
"""

from __future__ import annotations

import socket
import ssl
import sys
from pathlib import Path

from cli.hub import wire
from cli.place import Place
from registry.log import AccessLog, configure
from registry.server import serve
from storage.sqlite import SQLiteDatabase


class Files:
    """`registry.tls.TLS` from a file with the chain and one with the key."""

    def __init__(self, chain: Path, key: Path, maximum: ssl.TLSVersion) -> None:
        self._chain, self._key, self._maximum = chain, key, maximum
        self._changed = 0
        self.refresh()

    def context(self) -> ssl.SSLContext:
        return self._context

    def refresh(self) -> None:
        changed = self._chain.stat().st_mtime_ns
        if changed == self._changed:
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = self._maximum
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.num_tickets = 1
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._chain, self._key)
        self._context, self._changed = context, changed


def main(root: str, port: str, chain: str, key: str, *options: str) -> None:
    configure(sys.stderr, False)
    maximum = ssl.TLSVersion.TLSv1_2 if "--tls1.2" in options else ssl.TLSVersion.MAXIMUM_SUPPORTED
    database = SQLiteDatabase(Path(root))
    hub = wire(Place(Path(root)), database, floor=0, scheme="https")
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=4096)
    log = AccessLog(sys.stderr, False)
    try:
        serve(hub.registry, hub, [listener], log, 5.0, Files(Path(chain), Path(key), maximum))
    finally:
        hub.close()
        database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
