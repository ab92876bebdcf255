"""``portside serve``: the registry."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from cli.collecting import UntaggedOption, parse_time
from cli.options import Failure
from cli.place import Place, at_place

if TYPE_CHECKING:
    from auth.certificates import AutoCertificate, CertificateFiles
    from auth.hosts import HostPort
    from cli.hub import Foreign
    from storage.database import Database


@at_place()
def serve(
    place: Place,
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:5000",
    tls: Annotated[str | None, typer.Option(metavar="auto", help="TLS by an authority of the hub's own.")] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", metavar="HOST", help="What clients call it, for --tls auto. *")
    ] = None,
    new_ca: Annotated[bool, typer.Option("--new-ca", help="Replace an authority that cannot go on.")] = False,
    tls_cert: Annotated[Path | None, typer.Option(metavar="FILE", help="One's own certificate and its chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's key.")] = None,
    insecure_open: Annotated[
        bool, typer.Option("--insecure-open", help="Serve others without TLS or accounts.")
    ] = False,
    external_url: Annotated[str, typer.Option(metavar="URL", help="How clients reach it, by a proxy.")] = "",
    trusted_proxy: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="Whose X-Forwarded headers count. *")
    ] = None,
    service: Annotated[str, typer.Option(metavar="NAME", help="Issuer and service of tokens.")] = "portside",
    audience: Annotated[list[str] | None, typer.Option(metavar="SERVICE", help="Issue tokens for it, too. *")] = None,
    trust_issuer: Annotated[
        str | None, typer.Option(metavar="ISSUER,JWKS,REALM", help="Whose tokens are taken, too.")
    ] = None,
    audit_days: Annotated[int, typer.Option(min=1, metavar="DAYS", help="How long the audit trail is kept.")] = 365,
    gc_interval: Annotated[
        float, typer.Option("--gc-interval", min=0, metavar="SECONDS", help="Between collections; 0: none.")
    ] = 600.0,
    untagged: UntaggedOption = None,
    gc_grace: Annotated[str, typer.Option(metavar="TIME", help="How long what is unused can be rescued.")] = "1d",
    push_window: Annotated[
        str, typer.Option(metavar="TIME", help="How long a pushed blob may wait for its manifest.")
    ] = "1d",
    scrub: Annotated[
        float, typer.Option(min=0, metavar="MB/S", help="How fast stored bytes are verified; 0: never.")
    ] = 10.0,
    s3_redirect: Annotated[
        bool, typer.Option("--s3-redirect", help="Clients pull large blobs from S3 itself.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Server processes.")] = 1,
    grace: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="For requests, after SIGTERM.")] = 10.0,
    floor: Annotated[int | None, typer.Option(min=0, metavar="MIB", help="Free space kept (1 GiB or 5 %).")] = None,
    inherited: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Serve the registry of a root. (Options with a * may be repeated.)

    Example: portside serve --listen 0.0.0.0:5000 --tls auto --name hub.lan
    """
    from cli.listening import bind, parse_networks, refuse_exposure
    from cli.workers import end_with_parent, keep_workers
    from registry.log import configure

    _check_url(external_url)
    window, rescue = parse_time(push_window, "--push-window"), parse_time(gc_grace, "--gc-grace")
    proxies = parse_networks(trusted_proxy or [])
    if inherited is not None:
        end_with_parent()
        sock, new_ca = socket.socket(fileno=inherited), False
    else:
        sock = bind(listen)
    configure(sys.stderr, sys.stderr.isatty())  # opening may have something to say already
    database = place.open_database()
    certificate = _certificate(place.root, tls, name or [], new_ca, tls_cert, tls_key)
    if inherited is None:
        has_accounts = trust_issuer is not None or _has_accounts(database)
        if not insecure_open:
            refuse_exposure(sock, place, has_tls=certificate is not None, has_accounts=has_accounts)
        _announce(place, sock, workers, certificate, name or [], external_url, has_accounts)
    if workers > 1 and inherited is None:
        database.close()
        keep_workers(sock, workers)
        return
    from cli.hub import wire
    from registry.log import AccessLog
    from registry.server import serve as run
    from storage.collector import DAY, Policy

    hub = wire(
        place,
        database,
        floor=None if floor is None else floor * 1024 * 1024,
        scheme="http" if certificate is None else "https",
        external_url=external_url,
        proxies=proxies,
        service=service,
        audiences=audience or [],
        foreign=_foreign(trust_issuer),
        audit_seconds=audit_days * 86400.0,
        policy=Policy(window, rescue, None if untagged is None else untagged * DAY),
        gc_interval=gc_interval,
        scrub=scrub * 1e6,
        s3_redirect=s3_redirect,
    )
    hub.start_chores()
    if _has_accounts(database):
        hub.warm()
    try:
        run(hub.registry, hub, [sock], AccessLog(sys.stderr, sys.stderr.isatty()), grace, certificate)
    finally:
        hub.close()
        database.close()


def _has_accounts(database: Database) -> bool:
    from auth.gate import ACCOUNTS_SETTING
    from storage.sql_people import SQLPeople

    return SQLPeople(database).setting(ACCOUNTS_SETTING) is not None


def _certificate(
    root: Path, tls: str | None, names: list[str], new_ca: bool, cert: Path | None, key: Path | None
) -> AutoCertificate | CertificateFiles | None:
    """What the options say about TLS; None for none; Failure."""
    if tls not in (None, "auto"):
        raise Failure(f"--tls {tls!r}: the one value is auto; your own certificate goes by --tls-cert and --tls-key", 2)
    if tls and (cert or key):
        raise Failure("--tls auto makes the certificate: leave out --tls-cert and --tls-key, or --tls", 2)
    if (cert is None) != (key is None):
        raise Failure("--tls-cert and --tls-key go together", 2)
    if not tls and (names or new_ca):
        raise Failure("--name and --new-ca belong to --tls auto", 2)
    if not tls and cert is None:
        return None
    from auth.certificates import AutoCertificate, CertificateFiles
    from auth.hosts import InvalidHost, ServerName
    from auth.pem import CertificateError

    try:
        if cert is not None and key is not None:
            return CertificateFiles(cert, key)
        parsed = [ServerName.parse(name) for name in names or [socket.gethostname()]]
        return AutoCertificate(root, parsed, new_ca=new_ca)
    except (CertificateError, InvalidHost) as error:
        raise Failure(str(error)) from error


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    is_url = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and url.isascii()
    if url and (not is_url or parts.query or parts.fragment or '"' in url or "@" in parts.netloc):
        raise Failure(f"--external-url {url!r} is not like https://hub.lan or https://hub.lan:8443", 2)


def _foreign(text: str | None) -> Foreign | None:
    from cli.hub import Foreign

    if text is None:
        return None
    words = text.split(",")
    if len(words) != 3 or not all(words):
        raise Failure(
            "--trust-issuer takes ISSUER,JWKS,REALM: a name, a file or URL of keys, and where tokens are got", 2
        )
    _check_realm(words[2])
    return Foreign(*words)


def _check_realm(url: str) -> None:
    parts = urlsplit(url)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not url.isascii()
        or not url.isprintable()
        or '"' in url
    ):
        raise Failure(f"--trust-issuer: the realm {url!r} is not an http or https URL", 2)


def _announce(
    place: Place,
    sock: socket.socket,
    workers: int,
    certificate: AutoCertificate | CertificateFiles | None,
    names: list[str],
    external_url: str,
    has_accounts: bool,
) -> None:
    """Say where the registry is, and on a terminal what to type next. On standard error, as the log is."""
    from cli.listening import spell

    host, port = sock.getsockname()[:2]
    address = spell(sock)
    many = f" with {workers} workers" if workers > 1 else ""
    scheme = "http" if certificate is None else "https"
    first = f"Portside serves {place} on {scheme}://{address}{many}"
    near = f"localhost:{port}" if host in ("0.0.0.0", "::", "127.0.0.1", "::1") else address  # nosec B104
    lines = [f"{first}. Stop it with ctrl-c."]
    if external_url:
        near = urlsplit(external_url).netloc
    elif names:
        near = str(_server(names, port))
    lines += _trust_lines(certificate, names, port)
    if has_accounts:
        lines.append(f"Log in:\n  docker login {near}")
    else:
        lines.append("It has no accounts, all may do all: `portside init --admin NAME` makes the first.")
    lines += [
        "Try:",
        f"  docker tag busybox {near}/demo/busybox:1 && docker push {near}/demo/busybox:1",
        f"  portside copy oci:DIRECTORY {near}/demo/app:1",
        f"  portside run {near}/demo/busybox:1 echo hello",
    ]
    if sys.stderr.isatty():
        print("\n".join(lines), file=sys.stderr)
    else:
        logging.getLogger("portside").info(first)


def _trust_lines(certificate: AutoCertificate | CertificateFiles | None, names: list[str], port: int) -> list[str]:
    """What to paste on each client machine, where the authority is the hub's own."""
    if certificate is None:
        return []
    from auth.certificates import AutoCertificate
    from auth.trustline import how_to_trust

    if not isinstance(certificate, AutoCertificate) or certificate.fingerprint is None:
        return []
    return [how_to_trust(_server(names, port), certificate.fingerprint)]


def _server(names: list[str], port: int) -> HostPort:
    """This hub as its clients name it."""
    from auth.hosts import HostPort, ServerName

    return HostPort(ServerName.parse(names[0] if names else socket.gethostname()), port)
