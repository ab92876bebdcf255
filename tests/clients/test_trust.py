"""A hub with an authority of its own, and the clients of its machine: each refuses it, is told to trust it, and works with it.

By the command and by the line for machines without Portside, as the hub itself prints them, on a machine with an ``/etc`` of its own.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import images, servers
from tests.clients.containerd import containerd
from tests.clients.machine import ADDRESS, NAME, Machine, machine
from tests.servers import Containers, ServerError
from tests.tools import SYSTEM_PATH, tool

PORT = 5000
HUB = f"{NAME}:{PORT}"
UNTRUSTED = "certificate signed by unknown authority"
CERTIFICATE = f"/etc/docker/certs.d/{HUB}/ca.crt"
PLACES = [f"/etc/{client}/certs.d/{HUB}" for client in ("docker", "containers", "containerd")]


@dataclass(frozen=True, slots=True)
class LAN:
    """A machine with a hub on it, and what the hub says is to be typed."""

    machine: Machine
    command: str
    line: str
    fingerprint: str

    def trust(self, *options: str) -> str:
        """``portside trust`` as the hub printed it, with options."""
        return self.machine(tool("portside"), *shlex.split(self.command)[1:], *options)

    def forget(self) -> str:
        return self.machine(tool("portside"), "trust", HUB, "--remove")

    def paste(self, more: str = "", shell: str = "sh", line: str | None = None) -> str:
        """The line, pasted into a shell."""
        return self.machine(
            tool(shell), stdin=f"{line or self.line}{more}\n".encode(), environment={"PATH": SYSTEM_PATH}
        )

    def is_clean(self) -> bool:
        return not any(self.machine.exists(place) for place in PLACES)


@contextlib.contextmanager
def serving(on: Machine, root: Path, *names: str, port: int = PORT, host: str = "0.0.0.0") -> Iterator[None]:
    """`portside serve` with an authority of its own, reachable by all of the machine."""
    options = [option for name in names for option in ("--name", name)]
    command = [str(tool("portside")), "serve", "--root", str(root), "--listen", f"{host}:{port}", "--tls", "auto"]
    with (root.parent / f"{root.name}.log").open("wb") as log:
        hub = subprocess.Popen([*on.inside, *command, *options, "--floor", "0", "--insecure-open"], stderr=log)

    def is_up() -> bool:
        assert hub.poll() is None, Path(log.name).read_text()
        with contextlib.suppress(ServerError):
            return bool(on(tool("curl"), "-fsSk", f"https://localhost:{port}/v2/"))
        return False

    try:
        servers.wait_until(is_up, "the hub answers")
        yield
    finally:
        hub.terminate()
        assert hub.wait(30) == 0
    assert "Traceback" not in Path(log.name).read_text()


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LAN]:
    root = tmp_path_factory.mktemp("lan") / "root"
    with machine() as here, serving(here, root, NAME, ADDRESS):
        printed = here(tool("portside"), "trust", HUB, "--line", "--root", root).splitlines()
        command, line = (text.strip() for text in printed if text.startswith("  "))
        fingerprint = command.rpartition(" ")[2]
        said = here("openssl", "x509", "-in", root / "tls/ca.pem", "-noout", "-fingerprint", "-sha256")
        assert fingerprint == "SHA256:" + said.strip().partition("=")[2].replace(":", "").lower()
        yield LAN(here, command, line, fingerprint)


@pytest.fixture(scope="module")
def https(lan: LAN, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of another hub on the machine, at the port of https."""
    root = tmp_path_factory.mktemp("https") / "root"
    with serving(lan.machine, root, NAME, port=443, host="[::]"):
        yield root


@pytest.fixture(autouse=True)
def _clean(lan: LAN) -> Iterator[None]:
    """Each test begins and ends with a machine that trusts nobody."""
    assert lan.is_clean()
    yield
    lan.forget()
    assert lan.is_clean()


def each_way(lan: LAN) -> Iterator[Callable[[], str]]:
    """The ways to trust; after each the machine forgets."""
    for way in (lan.trust, lan.paste):
        yield way
        lan.forget()


# The clients, before and after


def test_docker(lan: LAN) -> None:
    with servers.dockerd(inside=lan.machine.inside) as docker:
        docker("load", stdin=images.docker_archive(images.small(), f"{HUB}/trust/docker:1"))
        for trust in each_way(lan):
            with pytest.raises(ServerError, match=UNTRUSTED):
                docker("push", f"{HUB}/trust/docker:1")
            trust()
            docker("push", f"{HUB}/trust/docker:1")
            docker("rmi", f"{HUB}/trust/docker:1")
            docker("pull", f"{HUB}/trust/docker:1")
        with pytest.raises(ServerError, match=UNTRUSTED):
            docker("pull", f"{HUB}/trust/docker:1")


def test_podman(lan: LAN, containers: Containers) -> None:
    def podman(*arguments: str, stdin: bytes = b"") -> str:
        return lan.machine(tool("podman"), *arguments, environment=containers.environment(), stdin=stdin)

    podman("load", stdin=images.docker_archive(images.small(), f"{HUB}/trust/podman:1"))
    for trust in each_way(lan):
        with pytest.raises(ServerError, match=UNTRUSTED):
            podman("push", f"{HUB}/trust/podman:1")
        trust()
        podman("push", f"{HUB}/trust/podman:1")
        podman("rmi", f"{HUB}/trust/podman:1")
        podman("pull", f"{HUB}/trust/podman:1")
    with pytest.raises(ServerError, match=UNTRUSTED):
        podman("pull", f"{HUB}/trust/podman:1")
    podman("rmi", "--all", "--force")


def test_skopeo_by_name_and_by_address(lan: LAN, containers: Containers, tmp_path: Path) -> None:
    layout = images.write_layout(tmp_path / "layout", small=images.small())

    def copy(host: str) -> str:
        ends = (f"oci:{layout}:small", f"docker://{host}/trust/skopeo:1")
        return lan.machine(tool("skopeo"), "copy", *ends, environment=containers.environment())

    for trust in each_way(lan):
        with pytest.raises(ServerError, match=UNTRUSTED):
            copy(HUB)
        trust()
        copy(HUB)
    by_address = f"{ADDRESS}:{PORT}"
    with pytest.raises(ServerError, match=UNTRUSTED):
        copy(by_address)
    lan.machine(tool("portside"), "trust", by_address, "--fingerprint", lan.fingerprint)
    copy(by_address)
    lan.machine(tool("portside"), "trust", by_address, "--remove")


def test_containerd(lan: LAN, tmp_path: Path) -> None:
    """By the command in a place of its own; by the line in Docker's, which it reads as well."""
    archive = tmp_path / "archive.tar"
    archive.write_bytes(images.docker_archive(images.small(), f"{HUB}/trust/containerd:1"))
    name = f"{HUB}/trust/containerd:1"
    ways: dict[str, Callable[[], str]] = {
        "containerd": lambda: lan.trust("--containerd", "--no-docker"),
        "docker": lan.paste,
    }
    with containerd(lan.machine.inside) as ctr:
        ctr("import", str(archive))
        for client, trust in ways.items():
            hosts = ["--hosts-dir", f"/etc/{client}/certs.d"]
            with pytest.raises(ServerError, match=UNTRUSTED):
                ctr("push", *hosts, name)
            trust()
            ctr("push", *hosts, name)
            ctr("remove", "--sync", name)
            ctr("pull", "--snapshotter", "native", *hosts, name)
            assert name in ctr("list", "--quiet")
            lan.forget()
            with pytest.raises(ServerError, match=UNTRUSTED):
                ctr("push", *hosts, name)


def test_portside_itself(lan: LAN, tmp_path: Path) -> None:
    layout = images.write_layout(tmp_path / "layout", small=images.small())

    def copy() -> str:
        return lan.machine(tool("portside"), "copy", "-q", f"oci:{layout}:small", f"{HUB}/trust/portside:1")

    for trust in each_way(lan):
        with pytest.raises(ServerError, match="its certificate is not trusted"):
            copy()
        trust()
        copy()


@pytest.mark.parametrize("way", ["command", "line"])
def test_every_program_by_the_system_s_store(lan: LAN, way: str) -> None:
    def curl() -> str:
        return lan.machine(tool("curl"), "-fsS", f"https://{HUB}/v2/")

    def python() -> str:
        program = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).status)"
        return lan.machine("/usr/bin/python3", "-c", program, f"https://{HUB}/v2/")

    for client in (curl, python):
        with pytest.raises(ServerError, match=r"self-signed certificate in certificate chain"):
            client()
    said = lan.trust("--system") if way == "command" else lan.paste(" system")
    assert "/usr/local/share/ca-certificates/portside-hub.lan-5000.crt" in said
    assert curl() == "{}"
    assert python() == "200\n"
    assert "removed /usr/local/share/ca-certificates/portside-hub.lan-5000.crt" in lan.forget()
    for client in (curl, python):
        with pytest.raises(ServerError, match=r"self-signed certificate in certificate chain"):
            client()


# The line


SHELLS = ["dash", "bash", "busybox"]


def test_the_line_is_one_that_any_shell_passes_on(lan: LAN) -> None:
    assert "\n" not in lan.line
    assert "!" not in lan.line, "which an interactive bash would look up"
    words = shlex.split(lan.line)
    assert [*words[:2], *words[3:]] == ["sh", "-c", "trust", HUB, lan.fingerprint.removeprefix("SHA256:")]
    assert len(lan.line) < 4000, "a terminal's line (man 3 termios, canonical mode)"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_right_fingerprint(lan: LAN, shell: str) -> None:
    said = paste(lan, shell)
    written = [f"{place}/ca.crt" for place in PLACES[:2]]
    assert said.splitlines() == [*(f"Wrote {path}" for path in written), f"{HUB} is trusted. Now: docker login {HUB}"]
    for path in written:
        shown = lan.machine("openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", path)
        assert shown.strip().partition("=")[2].replace(":", "").lower() == lan.fingerprint.removeprefix("SHA256:")
        assert lan.machine("ls", "-A", Path(path).parent) == "ca.crt\n"
    assert paste(lan, shell) == said, "once more does no harm"


@pytest.mark.parametrize("shell", SHELLS)
def test_a_wrong_fingerprint_and_a_man_in_the_middle(lan: LAN, shell: str) -> None:
    """They are the same to the client: who answers does not have what the line asks for."""
    wrong = lan.line.replace(lan.fingerprint[7:15], "00000000")
    with pytest.raises(
        ServerError, match=f"Nothing written: {HUB} shows SHA256:.* {lan.fingerprint}, not SHA256:00000000"
    ):
        paste(lan, shell, wrong)
    assert lan.is_clean()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("who", ["nobody", "plain"])
def test_no_server_and_one_without_tls(lan: LAN, shell: str, who: str) -> None:
    line = lan.line.replace(f"'{HUB}'", "'hub.lan:5999'")
    assert line != lan.line
    with contextlib.ExitStack() as stack:
        if who == "plain":
            stack.enter_context(answering(lan.machine, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"))
        with pytest.raises(ServerError, match=r"Nothing written: hub\.lan:5999 shows no certificate"):
            paste(lan, shell, line)
    assert not lan.machine.exists("/etc/docker/certs.d/hub.lan:5999")


def test_a_server_that_says_nothing(lan: LAN) -> None:
    line = lan.line.replace(f"'{HUB}'", "'hub.lan:5999'").replace("timeout 20", "timeout 1")
    with answering(lan.machine, b""), pytest.raises(ServerError, match="shows no certificate"):
        lan.paste(line=line)


def test_another_hub_in_its_place(lan: LAN, tmp_path: Path) -> None:
    """What a wrong server has is named and not taken, by the line and by the command."""
    wrong = "hub.lan:5001"
    with serving(lan.machine, tmp_path / "other", NAME, port=5001):
        said = lan.machine("openssl", "x509", "-in", tmp_path / "other/tls/ca.pem", "-noout", "-fingerprint", "-sha256")
        other = said.strip().partition("=")[2].replace(":", "").lower()
        with pytest.raises(ServerError, match=f"Nothing written: {wrong} shows SHA256:[0-9a-f]+ SHA256:{other}, not"):
            lan.paste(line=lan.line.replace(f"'{HUB}'", f"'{wrong}'"))
        with pytest.raises(
            ServerError, match=rf"{wrong} does not show {lan.fingerprint}[^$]*  SHA256:{other}  CN=Portside"
        ):
            lan.machine(tool("portside"), "trust", wrong, "--fingerprint", lan.fingerprint)
    assert not lan.machine.exists(f"/etc/docker/certs.d/{wrong}")


@pytest.mark.parametrize("name", ["[::1]", "[::1]:443", NAME])
def test_addresses_in_brackets_and_servers_without_a_port(lan: LAN, https: Path, name: str) -> None:
    printed = lan.machine(tool("portside"), "trust", name, "--line", "--root", https).splitlines()
    assert f"Now: docker login {name}\n" in lan.paste(line=printed[-1])
    by_line = lan.machine.read(f"/etc/docker/certs.d/{name}/ca.crt")
    lan.machine(tool("portside"), "trust", name, "--remove")
    assert not lan.machine.exists(f"/etc/docker/certs.d/{name}")
    lan.machine(tool("portside"), *shlex.split(printed[1])[1:])
    assert lan.machine.read(f"/etc/docker/certs.d/{name}/ca.crt") == by_line
    lan.machine(tool("portside"), "trust", name, "--remove")


def test_a_narrow_umask_leaves_what_all_may_read(lan: LAN) -> None:
    lan.machine("rm", "-rf", "/etc/containers/certs.d")
    lan.paste(line=f"umask 077; {lan.line}")
    path = f"/etc/containers/certs.d/{HUB}/ca.crt"
    modes = lan.machine("stat", "-c", "%a", path, Path(path).parent, "/etc/containers/certs.d")
    assert modes.split() == ["644", "755", "755"]


def test_writing_that_fails_leaves_what_was(lan: LAN) -> None:
    lan.paste()
    before = lan.machine.read(CERTIFICATE)
    lan.machine("rm", f"/etc/containers/certs.d/{HUB}/ca.crt")
    with pytest.raises(ServerError, match="File too large"):
        lan.paste(line=f"trap '' XFSZ; ulimit -f 0; {lan.line}", shell="bash")
    assert lan.machine.read(CERTIFICATE) == before
    assert lan.machine("ls", "-A", Path(CERTIFICATE).parent) == "ca.crt\n"
    assert not lan.machine.exists(f"/etc/containers/certs.d/{HUB}/ca.crt")


def test_sudo_stands_before_what_writes_and_nothing_else(lan: LAN, tmp_path: Path) -> None:
    """For somebody who is not root: programs of these names say so, and note what is asked of them."""
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "sudo").write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/asked\nexec "$@"\n')
    (tmp_path / "update-ca-certificates").write_text("#!/bin/sh\n")
    for name in ("id", "sudo", "update-ca-certificates"):
        (tmp_path / name).chmod(0o755)
    said = lan.paste(" system", line=f"PATH={tmp_path}:$PATH; {lan.line}")
    assert "is trusted" in said
    assert (tmp_path / "asked").read_text().split() == [*["install", "install", "mv"] * 3, "update-ca-certificates"]
    lan.machine("rm", "/usr/local/share/ca-certificates/portside-hub.lan-5000.crt")


def paste(lan: LAN, shell: str, line: str | None = None) -> str:
    """The line in a shell, and where that is busybox's, with busybox's programs alone, as Alpine has them."""
    if shell != "busybox":
        return lan.paste(shell=shell, line=line)
    with tempfile.TemporaryDirectory() as directory:
        programs = Path(directory)
        for applet in ["sh", "awk", "sha256sum", "timeout", "id", "mv", "rm", "tr"]:
            (programs / applet).symlink_to(tool("busybox"))
        for other in ("openssl", "install"):  # Debian's busybox is built without the latter
            (programs / other).symlink_to(tool(other))
        return lan.machine(programs / "sh", stdin=f"{line or lan.line}\n".encode(), environment={"PATH": directory})


@contextlib.contextmanager
def answering(on: Machine, answer: bytes) -> Iterator[None]:
    """A server on port 5999 that says ``answer`` to whatever it is sent, and then nothing."""
    program = (
        "import socket, sys\n"
        "listening = socket.create_server(('0.0.0.0', 5999)); print('ready', flush=True); held = []\n"
        "while True:\n"
        "    held.append(listening.accept()[0]); held[-1].recv(4096); held[-1].sendall(eval(sys.argv[1]))\n"
    )
    command = [*on.inside, "/usr/bin/python3", "-c", program, repr(answer)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            server.kill()
