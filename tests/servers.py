"""Real servers for tests: each a context manager that starts one of its own on the loopback and ends it."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.tools import SYSTEM_PATH, tool

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class ServerError(AssertionError):
    """A server did not start, did not end, or complained; holds the end of its log."""


@dataclass(slots=True)
class Server:
    """A running server: where it listens, its process, its log, and the directory that it keeps its content in."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path
    root: Path

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        """SIGKILL, as a crash is. Nothing is checked."""
        self.process.kill()
        self.process.wait()

    def terminate(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, then the exit code. Raises ServerError when the process does not end in time."""
        self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(
                f"{self.process.args!r} did not end within {seconds} s of SIGTERM:\n{self.tail()}"
            ) from None


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until(is_done: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Ask until it is so. Raises ServerError naming ``what`` at the deadline."""
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            raise ServerError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


def answers(address: str) -> bool:
    """Whether a registry answers 200 or 401 at ``/v2/``."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=5)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status in (200, 401)
    except OSError:
        return False
    finally:
        connection.close()


def spawn(command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a server that gets SIGTERM when the tests are killed: their ``finally`` does not run then.

    The kernel asks for the thread that started it (prctl(2), PR_SET_PDEATHSIG): start servers from threads that outlive them.
    """
    with log.open("ab") as out:
        return subprocess.Popen(
            [str(tool("setpriv")), "--pdeathsig", "TERM", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, "PATH": SYSTEM_PATH, **(environment or {})},
            start_new_session=True,
        )


def await_start(server: Server, is_up: Callable[[], bool]) -> None:
    def is_up_or_dead() -> bool:
        return server.process.poll() is not None or is_up()

    try:
        wait_until(is_up_or_dead, f"{server.process.args!r} is up")
    except ServerError as error:
        server.kill()
        raise ServerError(f"{error}\n{server.tail()}") from None
    if server.process.poll() is not None:
        raise ServerError(f"{server.process.args!r} ended with {server.process.returncode}:\n{server.tail()}")


def start_portside(
    root: Path,
    log: Path,
    *options: str,
    port: int | None = None,
    host: str = "127.0.0.1",
    inside: Sequence[str] = (),
    is_up: Callable[[str], bool] = answers,
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Start ``portside serve`` on ``root`` and wait for ``/v2/``. The caller ends it; ``portside`` below does so by itself.

    ``inside``: what comes before its command to have it run in other namespaces. ``is_up``: how to ask there, or over TLS.
    ``environment``: what it has beside the tests' own.
    """
    address = f"{host}:{port or free_port()}"
    command = [*inside, str(tool("portside")), "serve", "--root", str(root), "--listen", address, *options]
    server = Server(address, spawn(command, log, environment), log, root)
    await_start(server, lambda: is_up(address))
    return server


@contextlib.contextmanager
def portside(
    root: Path,
    *options: str,
    log: Path | None = None,
    port: int | None = None,
    host: str = "127.0.0.1",
    inside: Sequence[str] = (),
    is_up: Callable[[str], bool] = answers,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Our registry on ``root``. At the end it has to go by SIGTERM with 0, without a traceback in its log.

    A test that killed the server itself is not asked for its exit code. ``inside``, ``is_up`` and ``environment`` as in `start_portside`.
    """
    with tempfile.TemporaryDirectory(prefix="portside-") as scratch:
        path = log or Path(scratch) / "log"
        server = start_portside(
            root, path, *options, port=port, host=host, inside=inside, is_up=is_up, environment=environment
        )
        try:
            yield server
        except BaseException as error:
            error.add_note(f"the server's log ends:\n{server.tail()}")
            raise
        finally:
            code = server.terminate() if server.process.poll() is None else None
        text = server.log.read_text(errors="replace")
        if (found := text.find("Traceback")) >= 0:
            raise ServerError(f"a traceback in the server's log:\n{text[max(found - 500, 0) : found + 6000]}")
        if code not in (0, None):
            raise ServerError(f"portside serve ended with {code} after SIGTERM:\n{server.tail()}")


@contextlib.contextmanager
def distribution(root: Path, *settings: str, storage: str = "") -> Iterator[Server]:
    """The CNCF's reference registry on ``root``, with deletion switched on. ``settings``: more lines of its configuration.

    ``storage``: how that names another place than ``root``.
    """
    with tempfile.TemporaryDirectory(prefix="portside-") as scratch:
        address = f"127.0.0.1:{free_port()}"
        config = Path(scratch) / "config.yml"
        kept_in = storage or f"filesystem: {{rootdirectory: {root}}}"
        config.write_text(
            f"version: 0.1\nlog: {{level: warn}}\nstorage: {{{kept_in}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '{address}', secret: tests}}\n" + "".join(f"{line}\n" for line in settings)
        )
        log = Path(scratch) / "log"
        command = [str(tool("registry")), "serve", str(config)]
        server = Server(address, spawn(command, log, {"OTEL_TRACES_EXPORTER": "none"}), log, root)
        await_start(server, lambda: answers(address))
        try:
            yield server
        finally:
            server.terminate()


@dataclass(frozen=True, slots=True)
class Docker:
    """A Docker daemon of the tests' own and how its command line reaches it. ``inside``: what comes before the latter's command."""

    socket: Path
    directory: Path
    inside: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """For any client of the Docker API. No user's configuration is read or written."""
        return {
            **os.environ,
            "PATH": SYSTEM_PATH,
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_CONFIG": str(self.directory / "config"),
            "DOCKER_CLI_HINTS": "false",
        }

    def __call__(self, *arguments: str, stdin: bytes = b"", seconds: float = 240.0) -> str:
        """Run ``docker …``; its standard output. A failure raises ServerError with what it said."""
        return run([*self.inside, str(tool("docker")), *arguments], self.environment(), stdin=stdin, seconds=seconds)


@contextlib.contextmanager
def dockerd(*options: str, inside: Sequence[str] = ()) -> Iterator[Docker]:
    """A Docker daemon with data, state, socket and process file of its own, without networks; it needs root.

    It takes overlay2 where the filesystem allows and vfs elsewhere, as it finds by itself. Everything that it made is removed.
    ``inside``: what comes before its command, and its client's, to have them run in other namespaces.
    """
    directory = Path(tempfile.mkdtemp(prefix="portside-docker-"))
    docker = Docker(directory / "docker.sock", directory, tuple(inside))
    log = directory / "log"
    (directory / "config").mkdir()
    command = [*inside, str(tool("dockerd")), f"--host=unix://{docker.socket}", "--bridge=none", "--iptables=false"]
    command += ["--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--live-restore=false"]
    command += [f"--data-root={directory / 'data'}", f"--exec-root={directory / 'exec'}"]
    command += [f"--pidfile={directory / 'pid'}", "--config-file", str(directory / "daemon.json")]
    (directory / "daemon.json").write_text("{}")
    environment = {"DOCKER_RAMDISK": "true"}  # its root may be one that pivot_root does not like
    server = Server("", spawn([*command, *options], log, environment), log, directory)
    try:
        await_start(server, lambda: docker.socket.exists() and _pings(docker.socket))
        yield docker
    finally:
        if server.process.poll() is None:
            server.terminate()
        _unmount_below(directory)
        shutil.rmtree(directory)


def _pings(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        try:
            sock.connect(str(path))
            sock.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
            return b" 200 " in sock.recv(64)
        except OSError:
            return False


def _unmount_below(directory: Path) -> None:
    """Take away the mounts that a daemon left, deepest first, so that removing the directory cannot reach through them."""
    points = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(f"{directory}/")), reverse=True):
        subprocess.run([tool("umount"), "-l", point], check=True)


@dataclass(frozen=True, slots=True)
class Containers:
    """podman, buildah and skopeo with image stores, locks and configuration below one directory; see ``containers``.

    ``inside``: what comes before their commands to have them run in other namespaces. ``trusting``: the one certificate that they trust,
    None for the system's.
    """

    directory: Path
    inside: tuple[str, ...] = ()
    trusting: Path | None = None

    def environment(self) -> dict[str, str]:
        """No user's or system's registries, credentials or stores are read or written."""
        return {
            **os.environ,
            **({"SSL_CERT_FILE": str(self.trusting)} if self.trusting else {}),
            "PATH": SYSTEM_PATH,
            "HOME": str(self.directory / "home"),
            "XDG_RUNTIME_DIR": str(self.directory / "runtime"),
            "TMPDIR": str(self.directory / "tmp"),
            "CONTAINERS_STORAGE_CONF": str(self.directory / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self.directory / "registries.conf"),
            "CONTAINERS_CONF": str(self.directory / "containers.conf"),
            "REGISTRY_AUTH_FILE": str(self.directory / "auth.json"),
        }

    def __call__(self, program: str, *arguments: str, stdin: bytes = b"", seconds: float = 240.0) -> str:
        """Run podman, buildah or skopeo; its standard output. A failure raises ServerError with what it said."""
        return run([*self.inside, str(tool(program)), *arguments], self.environment(), stdin=stdin, seconds=seconds)


@contextlib.contextmanager
def containers(inside: Sequence[str] = (), trusting: Path | None = None) -> Iterator[Containers]:
    """The surroundings of podman, buildah and skopeo. The registries of the loopback are spoken to in plain HTTP, unless there is one
    to trust.
    """
    directory = Path(tempfile.mkdtemp(prefix="portside-containers-"))
    try:
        for name in ("home/.config/containers", "runtime", "tmp"):
            (directory / name).mkdir(parents=True)
        (directory / "storage.conf").write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{directory}/graph"\nrunroot = "{directory}/run"\n'
        )
        plain = "" if trusting else '[[registry]]\nlocation = "127.0.0.1"\ninsecure = true\n'
        (directory / "registries.conf").write_text(f"unqualified-search-registries = []\n{plain}")
        (directory / "containers.conf").write_text(
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\n[network]\nnetwork_backend = "cni"\n'
        )
        (directory / "auth.json").write_text("{}")
        # The system-wide policy is not on every machine; this is what Debian's says.
        (directory / "home/.config/containers/policy.json").write_text(
            '{"default": [{"type": "insecureAcceptAnything"}]}'
        )
        yield Containers(directory, tuple(inside), trusting)
    finally:
        _unmount_below(directory)
        shutil.rmtree(directory)


def run(
    command: list[str],
    environment: Mapping[str, str] | None = None,
    *,
    stdin: bytes = b"",
    seconds: float = 240.0,
    cwd: Path | None = None,
) -> str:
    """Run a client to its end; its standard output. Raises ServerError with both outputs when it fails or takes too long."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=None if environment is None else dict(environment),
        cwd=cwd,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(stdin, seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise ServerError(f"{command} took more than {seconds} s:\n{out.decode()}\n{err.decode()}") from None
    if process.returncode != 0:
        raise ServerError(f"{command} ended with {process.returncode}:\n{out.decode()}\n{err.decode()}")
    return out.decode()
