"""Registries over TLS for tests: a certificate that their clients trust, the server, and `tests.wire.client.Connection` over TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import trustme

from tests.servers import STOP_SECONDS, free_port, wait_until
from tests.tools import tool
from tests.wire.client import SECONDS, Connection

HOME = Path(__file__).parents[1]


class Socket(ssl.SSLSocket):
    """One whose sending half can be shut down, as TCP's can: without a close_notify, and without leaving TLS."""

    def shutdown(self, how: int) -> None:
        socket.socket.shutdown(self, how)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA of the test's own, and the files of a certificate that it issued."""

    directory: Path
    ca: trustme.CA

    @property
    def chain(self) -> Path:
        return self.directory / "chain.pem"

    @property
    def key(self) -> Path:
        return self.directory / "key.pem"

    @property
    def trusted(self) -> Path:
        """The CA's certificate."""
        return self.directory / "ca.pem"

    def issue(self) -> None:
        """Write a new certificate of the loopback and its key, the key first: a server looks at the chain."""
        issued = self.ca.issue_cert("127.0.0.1", "localhost")
        issued.private_key_pem.write_to_path(self.key)
        fresh = self.directory / "fresh.pem"
        fresh.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        fresh.rename(self.chain)

    def context(self, maximum: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> ssl.SSLContext:
        """A client's, that trusts the CA, and takes no end of TCP for one of TLS."""
        context = ssl.create_default_context(cafile=self.trusted)
        context.maximum_version = maximum
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        context.sslsocket_class = Socket
        return context


def authority(directory: Path) -> Authority:
    made = Authority(directory, trustme.CA())
    made.ca.cert_pem.write_to_path(made.trusted)
    made.issue()
    return made


@dataclass(frozen=True, slots=True)
class SecureServer:
    """A running registry that speaks TLS."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path
    root: Path
    authority: Authority

    @property
    def url(self) -> str:
        return f"https://{self.address}"

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def connect(self, seconds: float = SECONDS, context: ssl.SSLContext | None = None) -> SecureConnection:
        return SecureConnection(self.address, seconds, context or self.authority.context())

    def resident(self) -> int:
        """Bytes of its memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024


class SecureConnection(Connection):
    """One connection over TLS. ``sock`` is the `ssl.SSLSocket`, so that what is sent is what goes into records."""

    sock: ssl.SSLSocket

    def __init__(self, address: str, seconds: float, context: ssl.SSLContext) -> None:
        super().__init__(address, seconds)
        try:
            self.sock = context.wrap_socket(self.sock, server_hostname=address.rpartition(":")[0])
        except BaseException:
            self.sock.close()
            raise


class Records:
    """A TLS client whose records the test holds in its hands: what is encrypted is sent only by `send`, whole or in pieces."""

    def __init__(self, server: SecureServer, context: ssl.SSLContext | None = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = (context or server.authority.context()).wrap_bio(
            self._incoming, self._outgoing, server_hostname="127.0.0.1"
        )
        self.sock = socket.create_connection(("127.0.0.1", server.port), SECONDS)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def hello(self) -> bytes:
        """The first record of a handshake, not sent."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self._ssl.do_handshake()
        return self._outgoing.read()

    def shake(self) -> bytes:
        """The handshake but for its last flight, which is returned."""
        self.send(self.hello())
        return self.finish()

    def finish(self) -> bytes:
        """The rest of a handshake whose first record was sent; its last flight is returned."""
        while True:
            self._receive()
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                self.send(self._outgoing.read())
            else:
                return self._outgoing.read()

    def encrypt(self, data: bytes) -> bytes:
        """The records of some plain text."""
        self._ssl.write(data)
        return self._outgoing.read()

    def close_notify(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._ssl.unwrap()
        return self._outgoing.read()

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def read(self) -> bytes:
        """Some plain text, b"" after a close_notify; ssl.SSLError for an alert and for an end without one."""
        while True:
            try:
                return self._ssl.read(65536)
            except ssl.SSLZeroReturnError:  # instead of b"", after a close_notify of our own
                return b""
            except ssl.SSLWantReadError:
                self._receive()

    def read_until(self, mark: bytes) -> bytes:
        got = b""
        while mark not in got:
            part = self.read()
            assert part, f"the server closed before {mark!r}: {got[-300:]!r}"
            got += part
        return got

    def _receive(self) -> None:
        if raw := self.sock.recv(65536):
            self._incoming.write(raw)
        else:
            self._incoming.write_eof()


@contextlib.contextmanager
def secure_portside(directory: Path, *options: str) -> Iterator[SecureServer]:
    """A registry over TLS with its root and log below a directory. At the end it has to go by SIGTERM with 0, without a traceback."""
    issued, root, log = authority(directory), directory / "root", directory / "log"
    port = free_port()
    command = [
        str(tool("setpriv")),
        "--pdeathsig",
        "TERM",
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.registry.tls_server",
    ]
    command += [str(root), str(port), str(issued.chain), str(issued.key), *options]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=HOME)
    server = SecureServer(f"127.0.0.1:{port}", process, log, root, issued)
    try:
        wait_until(lambda: process.poll() is not None or _listens(port), "the server listens")
        yield server
        if process.poll() is None:
            process.terminate()
            assert process.wait(STOP_SECONDS) == 0, log.read_text()
        text = log.read_text(errors="replace")
        assert "Traceback" not in text, text
        assert '"exception"' not in text, text
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False
