"""``portside trust``: have this machine's clients trust a hub that has an authority of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Failure, RootOption

if TYPE_CHECKING:
    from auth.fingerprint import Fingerprint
    from auth.hosts import HostPort
    from auth.stores import Step, Store


def trust(
    server: Annotated[str, typer.Argument(metavar="HOST[:PORT]", help="The hub, as images of it are named.")],
    root: RootOption,
    fingerprint: Annotated[
        str | None, typer.Option(metavar="SHA256:HEX", help="Its authority's fingerprint, as the hub printed it.")
    ] = None,
    docker: Annotated[bool, typer.Option(help="For Docker, and for Portside itself.")] = True,
    containers: Annotated[bool, typer.Option(help="For podman, skopeo and buildah.")] = True,
    containerd: Annotated[bool, typer.Option("--containerd", help="For containerd, too.")] = False,
    system: Annotated[bool, typer.Option("--system", help="For every program, in the system's store, too.")] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Trust it no longer: take away what this wrote in any of these.")
    ] = False,
    line: Annotated[
        bool, typer.Option("--line", help="On the hub itself: print what to type on the clients, and do nothing.")
    ] = False,
    etc: Annotated[Path, typer.Option(hidden=True)] = Path("/etc"),
) -> None:
    """Trust a hub's own certificate authority on this machine, by its fingerprint.

    Example: portside trust hub.lan:5000 --fingerprint SHA256:…
    """
    from auth.hosts import HostPort, InvalidHost
    from auth.stores import CertsDirectory, ContainerdDirectory, StoreError, SystemStore

    try:
        address = HostPort.parse(server)
    except InvalidHost as error:
        raise Failure(str(error), 2) from error
    if line:
        _print_line(address, root)
        return
    expected = None if remove else _parse(address, fingerprint)
    places: list[Store] = []
    if docker or remove:
        places.append(CertsDirectory(etc / "docker/certs.d"))
    if containers or remove:
        places.append(CertsDirectory(etc / "containers/certs.d"))
    if containerd or remove:
        places.append(ContainerdDirectory(etc / "containerd/certs.d"))
    try:
        if system or (remove and SystemStore.is_here()):
            places.append(SystemStore.find())
        if expected is None:
            _remove(address, places)
        else:
            _put(address, expected, places)
    except StoreError as error:
        raise Failure(str(error)) from error


def _parse(server: HostPort, text: str | None) -> Fingerprint:
    from auth.fingerprint import Fingerprint, InvalidFingerprint

    if text is None:
        raise Failure(
            "--fingerprint is needed: it is how this machine knows the right hub from a wrong one. "
            f"The hub prints it when it starts, and when you type there:  portside trust {server} --line",
            2,
        )
    try:
        return Fingerprint.parse(text)
    except InvalidFingerprint as error:
        raise Failure(str(error), 2) from error


def _put(server: HostPort, expected: Fingerprint, places: Sequence[Store]) -> None:
    import ssl

    from auth.trust import TrustError, fetch_authority

    try:
        authority = fetch_authority(server, expected)
    except TrustError as error:
        raise Failure(f"nothing was written: {error}") from error
    pem = ssl.DER_cert_to_PEM_cert(authority.der).encode()
    for place in places:
        for step in place.put(server, pem):
            _say(step)
    print(f"{server} is trusted: {authority.subject}, {authority.fingerprint}. Now: docker login {server}")


def _remove(server: HostPort, places: Sequence[Store]) -> None:
    done = [step for place in places for step in place.remove(server)]
    for step in done:
        _say(step)
    print(f"{server} is no longer trusted here." if done else f"{server} was not trusted here: nothing to remove.")


def _say(step: Step) -> None:
    print(f"{step.change.value} {step.path}")


def _print_line(server: HostPort, root: Path) -> None:
    """What `portside serve` says at its start, from the authority that lies in the root."""
    from auth.authority import Authority
    from auth.pem import CertificateError
    from auth.trustline import how_to_trust

    try:
        fingerprint = Authority(root, ()).read().fingerprint
    except (CertificateError, OSError) as error:
        raise Failure(f"the root {root} has no authority (portside serve --tls auto makes one): {error}") from error
    if fingerprint is None:
        raise Failure(f"{root}/tls/server.pem does not end with an authority: was it changed by hand?")
    print(how_to_trust(server, fingerprint))
