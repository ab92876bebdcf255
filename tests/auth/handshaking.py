"""A TLS server that echoes lines, and clients of it: what a certificate looks like from outside."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

from cryptography import x509


@contextlib.contextmanager
def serving(context: Callable[[], ssl.SSLContext]) -> Iterator[int]:
    """Serve on a port of the loopback, which is yielded; ``context`` is asked at each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening, contextlib.ExitStack() as open_ones:
        threads: list[threading.Thread] = []

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                open_ones.callback(_end, connection)
                threads.append(threading.Thread(target=_echo, args=(connection, context())))
                threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            _end(listening)
            accepting.join()
            open_ones.close()
            for thread in threads:
                thread.join()


def _end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()


def _echo(connection: socket.socket, context: ssl.SSLContext) -> None:
    with contextlib.suppress(OSError, ValueError), context.wrap_socket(connection, server_side=True) as secured:
        while line := secured.recv(1000):
            secured.sendall(line)


def trusting(*authorities: x509.Certificate) -> ssl.SSLContext:
    """A client that trusts these alone."""
    from auth.pem import pem_of

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pem_of(*authorities).decode())
    return context


@contextlib.contextmanager
def connected(port: int, context: ssl.SSLContext, name: str = "localhost") -> Iterator[ssl.SSLSocket]:
    """A connection after its handshake."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        yield secured


def shown(port: int, context: ssl.SSLContext, name: str = "localhost") -> x509.Certificate:
    """The certificate that a new handshake shows."""
    with connected(port, context, name) as connection:
        der = connection.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)


def echoes(connection: ssl.SSLSocket) -> bool:
    """Whether a connection works."""
    connection.sendall(b"still there?\n")
    return connection.recv(100) == b"still there?\n"
