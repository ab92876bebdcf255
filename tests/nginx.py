"""nginx for the tests, configured as `docs/proxy.md` says: the page's own text, in surroundings of a test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import trustme

PAGE = (Path(__file__).parents[1] / "docs/proxy.md").read_text()
_PLACES = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_ONE = "    server 127.0.0.1:5000;\n"


def block(language: str) -> str:
    """The page's one block of a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert isinstance(found, str)
    return found


def several() -> str:
    """The page's line of an upstream for one of several servers."""
    (found,) = re.findall(r"^( +server 10\.0\.0\.11:5000 .*;\n)", PAGE, re.MULTILINE)
    assert isinstance(found, str)
    return found


def configure(directory: Path, name: str, servers: Sequence[str] = (), port: int = 443) -> Path:
    """Write nginx's configuration, a certificate of ``name``, and that of its authority, ``ca.pem``.

    ``servers``: the addresses of several servers that take turns; none for the one that the page has.
    """
    issued = trustme.CA()
    issued.cert_pem.write_to_path(directory / "ca.pem")
    certificate = issued.issue_cert(name)
    certificate.private_key_pem.write_to_path(directory / "hub.key")
    chain = b"".join(part.bytes() for part in certificate.cert_chain_pems)
    (directory / "hub.pem").write_bytes(chain)
    lines = "".join(several().replace("10.0.0.11:5000", address) for address in servers)
    site = block("nginx")
    for there, here in (
        ("/etc/ssl/hub.lan.pem", str(directory / "hub.pem")),
        ("/etc/ssl/hub.lan.key", str(directory / "hub.key")),
        ("listen 443 ssl", f"listen {port} ssl"),
        ("server_name hub.lan;", f"server_name {name};"),
        (_ONE, lines or _ONE),
    ):
        assert there in site
        site = site.replace(there, here)
    places = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in _PLACES)
    path = directory / "nginx.conf"
    path.write_text(
        f"daemon off;\nuser root;\nworker_processes 1;\npid {directory}/pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n"
        f"log_format short '$server_protocol $request_method $status $uri';\naccess_log {directory}/access short;\n"
        f"{places}{site}}}\n"
    )
    return path
