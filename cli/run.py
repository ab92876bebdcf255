"""``portside run``: an image becomes a container at this terminal."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Failure, RootOption
from cli.transfer import PlainOption, PlatformOption, QuietOption, open_store, pull_image

if TYPE_CHECKING:
    from runtime.containers import Request
    from runtime.engine import Engine
    from runtime.images import Image, ImageStore
    from runtime.spec import RunOptions

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(?:i?b)?\Z", re.IGNORECASE | re.ASCII)
ENGINE_FAILED = 125
"""The exit code for whatever keeps the program from running, as in Docker."""


def run(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="HOST/NAME[:TAG][@DIGEST]; no HOST is Docker Hub.")],
    root: RootOption,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[CMD...]", help="Instead of the image's.", show_default=False)
    ] = None,
    rm: Annotated[bool, typer.Option("--rm", help="Remove it when it ends.")] = False,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Its name.", show_default=False)] = "",
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Pass standard input on.")] = False,
    terminal: Annotated[bool, typer.Option("--tty", "-t", help="Give it a terminal.")] = False,
    env: Annotated[list[str] | None, typer.Option("--env", "-e", metavar="NAME[=VALUE]", help="Environment.")] = None,
    workdir: Annotated[
        str, typer.Option("--workdir", "-w", metavar="DIR", help="Where it starts.", show_default=False)
    ] = "",
    user: Annotated[
        str, typer.Option("--user", "-u", metavar="USER[:GROUP]", help="As whom.", show_default=False)
    ] = "",
    hostname: Annotated[str, typer.Option(metavar="NAME", help="Its host name.", show_default=False)] = "",
    volume: Annotated[
        list[str] | None, typer.Option("--volume", "-v", metavar="[SRC:]DST[:ro]", help="A directory or volume.")
    ] = None,
    network: Annotated[str, typer.Option(metavar="none|host", help="No network, or ours.")] = "none",
    entrypoint: Annotated[str | None, typer.Option(metavar="PROGRAM", help="Instead of the image's.")] = None,
    memory: Annotated[
        str, typer.Option("--memory", "-m", metavar="SIZE", help="Limit: 512m, 2g.", show_default=False)
    ] = "",
    cpus: Annotated[float | None, typer.Option(metavar="N", help="Limit: 0.5, 2.")] = None,
    pids_limit: Annotated[int | None, typer.Option(metavar="N", help="Limit of processes.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Nothing but volumes can be written.")] = False,
    layer_max: Annotated[int, typer.Option(metavar="GIB", min=1, help="The most that a layer unpacks to.")] = 10,
    platform: PlatformOption = None,
    plain_http: PlainOption = None,
    quiet: QuietOption = False,
    runtime: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run an image as an isolated container, pulled when missing; its exit code is ours.

    Example: portside run --rm -m 64m localhost:5000/demo/busybox:1 echo hello
    """
    from runtime.spec import Resources, RunOptions

    if network not in ("none", "host"):
        raise Failure(f"--network {network!r} is not there yet: use none or host", ENGINE_FAILED)
    if terminal and interactive and not os.isatty(0):
        raise Failure("-t and -i need a terminal at standard input; leave -t away", ENGINE_FAILED)
    with _failures():
        options = RunOptions(
            command=tuple(command or ()),
            entrypoint=None if entrypoint is None else ((entrypoint,) if entrypoint else ()),
            env=tuple(_environment(env or ())),
            working_dir=workdir,
            user=user,
            hostname=_hostname(hostname),
            resources=Resources(_size(memory), cpus, pids_limit),
            read_only=read_only,
            has_network=network == "host",
            terminal=terminal,
        )
        engine = _open_engine(root, runtime, layer_max)
        found = _image(root, image, platform, plain_http, quiet)
        request = _request(engine, found, options, name, volume or (), rm)
        code = _run(engine, request, interactive)
    sys.exit(code)


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """What the engine could not do becomes a message and Docker's exit code for it."""
    from runtime.cgroups import CgroupError
    from runtime.containers import NameInUse
    from runtime.engine import NotPermitted
    from runtime.foreground import UnknownSignal, failure_code
    from runtime.limits import LayerRefused
    from runtime.monitor import RuntimeFailed
    from runtime.runtimes import RuntimeMissing
    from runtime.snapshots import SnapshotError
    from runtime.spec import InvalidOptions
    from runtime.users import UnknownUser
    from runtime.volumes import VolumeError
    from storage.errors import StorageError

    ours = (
        CgroupError,
        NameInUse,
        NotPermitted,
        UnknownSignal,
        LayerRefused,
        RuntimeMissing,
        SnapshotError,
        InvalidOptions,
        UnknownUser,
        VolumeError,
        StorageError,
    )
    try:
        yield
    except Failure as failure:
        # A usage error and a failed pull are the engine's failures too: 1 and 2 could be the program's own.
        raise Failure(str(failure), failure.code if failure.code > ENGINE_FAILED else ENGINE_FAILED) from failure
    except RuntimeFailed as error:
        raise Failure(str(error), failure_code(error.reason)) from error
    except KeyboardInterrupt as error:
        raise Failure("stopped; nothing is left of the container", 130) from error
    except ours as error:
        raise Failure(str(error), ENGINE_FAILED) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Failure(f"{where}{error.strerror or error}", ENGINE_FAILED) from error


def _open_engine(root: Path, runtime: str | None, layer_max: int) -> Engine:
    from remote.platforms import host_platform
    from runtime.engine import open_engine
    from runtime.limits import Limits

    limits = Limits(unpacked_max=layer_max * 1024**3)
    engine = open_engine(root / "engine", host_platform().architecture, runtime, limits)
    if engine.warning:
        print(f"portside: warning: {engine.warning}", file=sys.stderr)
    return engine


def _image(
    root: Path, image: str, platform: str | None, plain_http: bool | None, quiet: bool
) -> tuple[Image, ImageStore]:
    from oci.descriptor import Platform
    from oci.reference import InvalidReference, Reference
    from remote.platforms import host_platform

    host = host_platform()
    try:
        reference = Reference.parse(image)
        wanted = Platform.parse(platform) if platform else host
    except (InvalidReference, ValueError) as error:
        raise Failure(str(error)) from error
    store = open_store(root)
    found = pull_image(store, root, reference, wanted, plain_http=plain_http, quiet=quiet)
    made_for = found.config.platform
    if made_for.architecture and not made_for.satisfies(host):
        print(f"portside: warning: the image is made for {made_for}, this machine is {host}", file=sys.stderr)
    return found, store


def _request(
    engine: Engine,
    found: tuple[Image, ImageStore],
    options: RunOptions,
    name: str,
    volumes: Sequence[str],
    auto_remove: bool,
) -> Request:
    from runtime.containers import Request
    from runtime.foreground import parse_signal
    from runtime.names import is_container_name
    from runtime.volumes import VolumeMount

    if name and not is_container_name(name):
        raise Failure(f"--name {name!r} is no container name: use letters, digits, '_', '.' and '-'")
    image, store = found
    parse_signal(image.config.stop_signal)
    mounts = [VolumeMount.parse(text) for text in volumes]
    layers = engine.snapshots.unpack(image.manifest.layers, image.config.diff_ids, store.blobs)
    return Request(image.reference.familiar, image.config, layers, options, name, mounts, auto_remove)


def _run(engine: Engine, request: Request, interactive: bool) -> int:
    from runtime import foreground
    from runtime.monitor import Console
    from runtime.streams import Streams

    held = engine.containers.create(request)
    # A container that goes at its end has no log: everything it says is shown here.
    log = None if request.auto_remove else held.path / "log"
    console = Console(request.options.terminal, interactive, log)
    sys.stdout.flush()
    return foreground.run(engine.containers, held, console, Streams(0 if interactive else None, 1, 2))


def _environment(given: Sequence[str]) -> Iterator[str]:
    """``NAME=VALUE`` as it is; ``NAME`` with its value here, left out where it has none, as in Docker."""
    for text in given:
        name, equals, _ = text.partition("=")
        if not name or "\0" in text:
            raise Failure(f"-e {text!r} is not NAME=VALUE")
        if equals:
            yield text
        elif name in os.environ:
            yield f"{name}={os.environ[name]}"


def _hostname(text: str) -> str:
    if text and not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,62})", text):
        raise Failure(f"--hostname {text!r} is no host name: at most 63 letters, digits, '-' and '.'")
    return text


def _size(text: str) -> int | None:
    """Bytes: ``64m``, ``1.5g``, ``1048576``."""
    if not text:
        return None
    match = _SIZE.match(text)
    if match is None:
        raise Failure(f"-m {text!r} is no size: write bytes, or 512k, 64m, 2g")
    return int(float(match[1]) * 1024 ** " kmgt".index(match[2].lower() or " "))
