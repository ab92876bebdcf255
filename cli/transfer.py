"""``portside pull``, ``push`` and ``copy``: images between registries, the engine's store, layouts and archives."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Failure, RootOption

if TYPE_CHECKING:
    from oci.descriptor import Descriptor, Platform
    from oci.reference import Reference
    from remote.endpoints import Progress
    from remote.transport import Registry
    from runtime.images import Image, ImageStore

PlatformOption = Annotated[
    str | None,
    typer.Option("--platform", metavar="OS/ARCH", help="Another platform than this machine's."),
]
PlainOption = Annotated[
    bool | None,
    typer.Option(
        "--plain-http/--tls", help="Without TLS or with it. By default, HTTP only to loopback.", show_default=False
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


def pull(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="HOST/NAME[:TAG][@DIGEST]; no HOST is Docker Hub.")],
    root: RootOption,
    platform: PlatformOption = None,
    all_platforms: Annotated[bool, typer.Option("--all-platforms", help="Every platform of the image.")] = False,
    plain_http: PlainOption = None,
    quiet: QuietOption = False,
) -> None:
    """Bring an image from a registry into the engine's store.

    Example: portside pull localhost:5000/demo/busybox:1
    """
    with failures("the next pull goes on where this one ended"):
        reference = _reference(image)
        wanted = None if all_platforms else _platform(platform)
        store = open_store(root)
        descriptor = _pull(store, root, reference, wanted, plain_http, quiet)
        print(f"{reference.with_digest(descriptor.digest)}")


def push(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image of the engine's store.")],
    root: RootOption,
    destination: Annotated[
        str | None, typer.Argument(metavar="[DEST]", help="Another name to push it as.", show_default=False)
    ] = None,
    platform: PlatformOption = None,
    plain_http: PlainOption = None,
    quiet: QuietOption = False,
) -> None:
    """Send an image from the engine's store to a registry.

    An image of which only some platforms were pulled goes as the image of one.

    Example: portside push localhost:5000/demo/busybox:1 hub.example.com/demo/busybox:1
    """
    with failures("blobs that arrived stay there, the next push skips them"):
        from remote.push import push as send

        store = open_store(root)
        reference = _reference(image)
        target = _reference(destination) if destination is not None else reference
        found = store.find(reference)
        if found is None:
            raise Failure(f"{reference.familiar} is not in the store of {root}; see `portside images`")
        chosen = _platform(platform) if platform is not None or not store.is_whole(found) else None
        with progress(quiet) as watcher, connect(target.host, plain_http) as registry:
            sent = send(
                store,
                found.digest,
                registry,
                target.repository,
                target.tag,
                platform=chosen,
                mount_from=store.related(target.host, found),
                progress=watcher,
            )
        print(f"{target.with_digest(sent.digest)}")


def copy(
    source: Annotated[str, typer.Argument(metavar="SRC", help="HOST/NAME:TAG, oci:DIR[:TAG] or archive:FILE[:NAME].")],
    destination: Annotated[str, typer.Argument(metavar="DST", help="The same; what it names is written.")],
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="OS/ARCH", help="One platform; by default all of them.")
    ] = None,
    plain_http: PlainOption = None,
    quiet: QuietOption = False,
) -> None:
    """Copy an image between registries, OCI layouts and `docker save` archives.

    Example: portside copy archive:busybox.tar localhost:5000/demo/busybox:1
    """
    with failures("nothing was changed under the destination's name"), contextlib.ExitStack() as stack:
        from remote.copy import copy as run
        from remote.locations import parse_location

        registries: dict[str, Registry] = {}

        def once(host: str) -> Registry:
            if host not in registries:
                registries[host] = stack.enter_context(connect(host, plain_http))
            return registries[host]

        def stop() -> None:
            for registry in registries.values():
                registry.stop()

        origin, target = parse_location(source), parse_location(destination)
        reader, wanted = origin.source(once)
        stack.callback(reader.close)
        writer, tag = target.destination(once, origin)
        stack.callback(writer.close)
        watcher = stack.enter_context(progress(quiet))
        chosen = _platform(platform) if platform is not None else None
        descriptor = run(reader, wanted, writer, tag, platform=chosen, progress=watcher, stop=stop)
        print(f"{destination}: {descriptor.digest}")


def pull_image(
    store: ImageStore, root: Path, reference: Reference, platform: Platform, *, plain_http: bool | None, quiet: bool
) -> Image:
    """An image for a container: from the store, else from its registry; Failure says what is wrong with it."""
    with failures("the next run goes on where this one ended"):
        image = store.resolve(reference, platform)
        if image is None:
            _pull(store, root, reference, platform, plain_http, quiet)
            image = store.resolve(reference, platform)
        if image is None:
            raise Failure(f"{reference.familiar} is no image that can be run: it has no image config")
        return image


def open_store(root: Path) -> ImageStore:
    """The engine's images below a hub's root; Failure where they cannot be used."""
    from runtime.images import ImageStore

    try:
        return ImageStore(root / "engine")
    except OSError as error:
        raise Failure(f"the root {root} cannot be used: {error.strerror}; choose another with --root") from error


@contextlib.contextmanager
def connect(host: str, plain_http: bool | None) -> Iterator[Registry]:
    """A client of a registry, with the credentials that `docker login` left."""
    from remote.transport import Registry

    with Registry(host, plain_http=plain_http) as registry:
        yield registry


@contextlib.contextmanager
def failures(after: str) -> Iterator[None]:
    """Turn what may go wrong in a transfer into a message and an exit code; ctrl-c is 130, with what comes ``after`` it."""
    from oci.config import InvalidConfig
    from oci.manifest import InvalidManifest
    from remote.errors import RemoteError
    from runtime.images import ImageStoreError
    from storage.errors import StorageError

    try:
        yield
    except KeyboardInterrupt as error:
        raise Failure(f"stopped; {after}", 130) from error
    except (RemoteError, StorageError, ImageStoreError, InvalidManifest, InvalidConfig) as error:
        raise Failure(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise Failure(f"{where}{error.strerror or error}") from error


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Bars on a terminal, a line for each blob elsewhere, nothing where nobody wants to know. On standard error."""
    from cli.progress import Lines

    if quiet:
        from remote.endpoints import Silence

        yield Silence()
    elif sys.stderr.isatty():
        from cli.bars import Bars

        with Bars() as bars:
            yield bars
    else:
        yield Lines(sys.stderr)


def _pull(
    store: ImageStore, root: Path, reference: Reference, platform: Platform | None, plain_http: bool | None, quiet: bool
) -> Descriptor:
    from remote.pull import pull as fetch

    store.expire()
    near = [root] if (root / "blobs").is_dir() else []
    with progress(quiet) as watcher, connect(reference.host, plain_http) as registry:
        descriptor = fetch(registry, reference, store, platform, watcher, near)
    store.tag(reference, descriptor)
    return descriptor


def _reference(text: str) -> Reference:
    from oci.reference import InvalidReference, Reference

    try:
        return Reference.parse(text)
    except InvalidReference as error:
        raise Failure(str(error), 2) from error


def _platform(text: str | None) -> Platform:
    from oci.descriptor import Platform
    from remote.platforms import host_platform

    if text is None:
        return host_platform()
    try:
        return Platform.parse(text)
    except ValueError as error:
        raise Failure(str(error), 2) from error
