"""(method, path) -> Route: distribution-spec's table of end-points, pure.

A repository's name may hold any word, also ``blobs`` or ``manifests``: so a path is read from its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from oci.digest import Digest, InvalidDigest
from oci.errors import ErrorCode
from oci.reference import NAME_MAX, is_repository_name, is_tag
from registry.errors import RequestError


class Endpoint(Enum):
    """What a path means, whatever the method."""

    PING = auto()
    CATALOG = auto()
    MANIFEST = auto()
    BLOB = auto()
    UPLOADS = auto()
    UPLOAD = auto()
    TAGS = auto()
    REFERRERS = auto()


METHODS: dict[Endpoint, tuple[str, ...]] = {
    Endpoint.PING: ("GET", "HEAD"),
    Endpoint.CATALOG: ("GET", "HEAD"),
    Endpoint.MANIFEST: ("GET", "HEAD", "PUT", "DELETE"),
    Endpoint.BLOB: ("GET", "HEAD", "DELETE"),
    Endpoint.UPLOADS: ("POST",),
    Endpoint.UPLOAD: ("GET", "HEAD", "PATCH", "PUT", "DELETE"),
    Endpoint.TAGS: ("GET", "HEAD"),
    Endpoint.REFERRERS: ("GET", "HEAD"),
}


@dataclass(frozen=True, slots=True)
class Route:
    """An end-point with what its path holds: a repository ("" for ping and catalogue), and a reference.

    ``reference`` is a Digest or a tag (str) for manifests, a Digest for blobs and referrers, the id (str) of an upload, else "".
    """

    endpoint: Endpoint
    repository: str = ""
    reference: Digest | str = ""


PING = Route(Endpoint.PING)
CATALOG = Route(Endpoint.CATALOG)


def match(method: str, path: str) -> Route:
    """The route of a request below ``/v2``; RequestError NOT_FOUND, NAME_INVALID, DIGEST_INVALID, TAG_INVALID or UNSUPPORTED (405)."""
    route = _match_path(path)
    if method not in METHODS[route.endpoint]:
        allowed = ", ".join(METHODS[route.endpoint])
        raise RequestError(
            ErrorCode.UNSUPPORTED,
            f"{method[:20]} is not a method of {path[:300]}: it takes {allowed}",
            headers=[(b"allow", allowed.encode("ascii"))],
        )
    return route


def _match_path(path: str) -> Route:
    if path in ("/v2/", "/v2"):
        return PING
    if path in ("/v2/_catalog", "/v2/_catalog/"):
        return CATALOG
    if not path.startswith("/v2/"):
        raise RequestError(ErrorCode.NOT_FOUND, f"nothing is at {path[:300]}: the registry's API is below /v2/")
    parts = path[4:].split("/")
    if len(parts) >= 3:
        kind, last = parts[-2], parts[-1]
        if kind == "manifests":
            return Route(Endpoint.MANIFEST, _name(parts[:-2]), _reference(last))
        if kind == "blobs" and last != "uploads":
            return Route(Endpoint.BLOB, _name(parts[:-2]), parse_digest(last))
        if kind == "blobs":
            return Route(Endpoint.UPLOADS, _name(parts[:-2]))
        if kind == "tags" and last == "list":
            return Route(Endpoint.TAGS, _name(parts[:-2]))
        if kind == "referrers":
            return Route(Endpoint.REFERRERS, _name(parts[:-2]), parse_digest(last))
        if kind == "uploads" and parts[-3] == "blobs" and len(parts) >= 4:
            if not last:
                return Route(Endpoint.UPLOADS, _name(parts[:-3]))
            return Route(Endpoint.UPLOAD, _name(parts[:-3]), last)
    raise RequestError(
        ErrorCode.NOT_FOUND,
        f"nothing is at {path[:300]}: after /v2/ come a repository and manifests/…, blobs/…, tags/list or referrers/…",
    )


def _name(parts: list[str]) -> str:
    name = "/".join(parts)
    if not is_repository_name(name):
        raise RequestError(
            ErrorCode.NAME_INVALID,
            f"{name[:NAME_MAX]!r} is not a repository name: lower-case letters and digits, separated by one '.', one or two '_', "
            f"or any '-', in parts separated by '/', at most {NAME_MAX} characters in all",
        )
    return name


def parse_digest(text: str) -> Digest:
    """A digest out of a path or a query; RequestError DIGEST_INVALID."""
    try:
        return Digest.parse(text)
    except InvalidDigest as error:
        raise RequestError(ErrorCode.DIGEST_INVALID, str(error)) from error


def _reference(text: str) -> Digest | str:
    if ":" in text:
        return parse_digest(text)
    if not is_tag(text):
        raise RequestError(
            ErrorCode.TAG_INVALID,
            f"{text[:140]!r} is not a tag: letters, digits, '_', '.' and '-', at most 128 of them, the first no '.' or '-'",
        )
    return text
