"""From an empty directory to an isolated container, each command printed as it is run: ``make demo``.

Everything lies below ``.build/demo``, which is made anew each time; what is started is stopped again.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests import images

HOME = Path(__file__).parents[1]
PORTSIDE = Path(sys.executable).parent / "portside"
START_SECONDS = 15.0
HOSTNAME = "aboard"
MEMORY = "64m"
LOOK = rb"""#!/bin/sh
# What a container sees of itself; the argument is how many processes the host has.
total=$(free -m | grep Mem: | tr -s ' ' | cut -d ' ' -f 2)
for file in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
  if [ -r $file ]; then limit=$(($(cat $file) / 1048576)); fi
done
echo "  host name:     $(hostname)"
echo "  process 1:     $(tr '\0' ' ' < /proc/1/cmdline)"
echo "  memory limit:  $limit MiB of the $total MiB that the machine has"
echo "  processes:     $(cat /proc/[0-9]*/comm | tr '\n' ' ')(the host has $1)"
if grep -q portside /proc/[0-9]*/cmdline; then echo "  the hub:       SEEN, which must not be"; exit 1; fi
echo "  the hub:       runs on the host, and is not seen"
echo "  network:       $(ls /sys/class/net | tr '\n' ' ')"
"""


class DemoError(Exception):
    """A step failed; says which."""


def say(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def run(*command: str | Path, env: dict[str, str] | None = None, stdin: Path | None = None) -> None:
    """Print a command as a person would type it, and run it to its end with its output shown."""
    shown = ["portside" if word == PORTSIDE else str(word) for word in command]
    print(f"$ {shlex.join(shown)}" + (f" < {stdin}" if stdin else ""), flush=True)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(stdin.open("rb")) if stdin else subprocess.DEVNULL
        code = subprocess.run(command, stdin=source, env=env).returncode
    if code != 0:
        raise DemoError(f"{shown[0]} {shown[1]} ended with {code}")


@contextlib.contextmanager
def serving(root: Path, address: str) -> Iterator[None]:
    """The hub on ``root``, until the end of the ``with``."""
    log = root.parent / "demo.log"
    command = [str(PORTSIDE), "serve", "--root", str(root), "--listen", address]
    print(f"$ portside {shlex.join(command[1:])} &", flush=True)
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    try:
        begin = time.monotonic()
        while not answers(f"http://{address}/v2/"):
            if server.poll() is not None or time.monotonic() - begin > START_SECONDS:
                raise DemoError(f"the hub does not answer; its log says:\n{log.read_text()}")
            time.sleep(0.02)
        print(f"  it answers after {time.monotonic() - begin:.2f} s; its log is {log}", flush=True)
        yield
    finally:
        server.terminate()
        server.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def works(*command: str) -> bool:
    """Whether a client is there and does what it has to at all."""
    if shutil.which(command[0]) is None:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20).returncode == 0
    return False


def push_with_others(archive: Path, address: str, name: str) -> None:
    """The same image by docker and podman, where they work on this machine."""
    target = f"{address}/demo/{name}"
    if works("docker", "info"):
        say("Push it with docker, too")
        run("docker", "load", "--quiet", stdin=archive)
        run("docker", "tag", "demo.example/busybox:1", f"{target}:docker")
        run("docker", "push", "--quiet", f"{target}:docker")
        run("docker", "rmi", "demo.example/busybox:1", f"{target}:docker")
    if works("podman", "info"):
        say("Push it with podman, too")
        run("podman", "load", "--quiet", stdin=archive)
        run("podman", "push", "--quiet", "--tls-verify=false", "demo.example/busybox:1", f"{target}:podman")
        run("podman", "rmi", "demo.example/busybox:1")


def demonstrate(directory: Path) -> None:
    """The whole of it. Raises DemoError."""
    shutil.rmtree(directory, ignore_errors=True)
    root = directory / "hub"
    root.mkdir(parents=True)
    own = {**os.environ, "PORTSIDE_ROOT": str(root)}
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"

    say("Start the hub")
    print(f"$ export PORTSIDE_ROOT={root}")
    with serving(root, address):
        say("Make a small image of this machine's busybox")
        content = images.busybox({"bin/look": LOOK})
        layout = images.write_layout(directory / "busybox", **{"1": content})
        archive = directory / "busybox.tar"
        archive.write_bytes(images.docker_archive(content, "demo.example/busybox:1"))
        size = sum(map(len, content.blobs.values()))
        print(f"  {layout} (an OCI layout): {content.digest}, {size / 1e6:.1f} MB")

        name = f"{address}/demo/busybox"
        say("Put it into the hub, from the layout")
        run(PORTSIDE, "copy", f"oci:{layout}:1", f"{name}:1", env=own)
        push_with_others(archive, address, "busybox")

        say("Pull it by tag and by digest: the layers are hard links, since hub and engine share a disk")
        run(PORTSIDE, "pull", f"{name}:1", env=own)
        run(PORTSIDE, "pull", f"{name}@{content.digest}", env=own)
        run(PORTSIDE, "images", env=own)

        say("Push it from the engine under another name: nothing is sent, the hub has every layer")
        run(PORTSIDE, "push", f"{name}:1", f"{address}/demo/another:1", env=own)

        say("Run it, and look around from inside")
        processes = sum(entry.isdigit() for entry in os.listdir("/proc"))
        options = ["--rm", "--hostname", HOSTNAME, "-m", MEMORY]
        run(PORTSIDE, "run", *options, f"{name}:1", "look", str(processes), env=own)

    say("The hub is stopped again. Try next:")
    short = os.path.relpath(root, HOME)
    program = os.path.relpath(PORTSIDE, HOME)
    print(f"  {program} serve --root {short} --listen {address}")
    print(f"  {program} run --root {short} --rm {name}:1 echo hello      (in another terminal)")
    print(f"  {program} check --root {short}")


def main() -> None:
    if os.geteuid() != 0:
        raise SystemExit("portside: the demo runs a container, which needs root:  sudo make demo")
    begin = time.monotonic()
    # A terminated demo stops what it started, as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        demonstrate(HOME / ".build" / "demo")
    except DemoError as error:
        raise SystemExit(f"portside: the demo stops here: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    print(f"\n({time.monotonic() - begin:.0f} s)")


if __name__ == "__main__":
    main()
