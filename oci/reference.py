"""Names of images: ``[host[:port]/]path[:tag][@digest]``.

The grammar of repository names and tags is distribution-spec's ("Pulling manifests"); how a short name becomes a full one
(``busybox`` means ``docker.io/library/busybox:latest``) is Docker's, as in distribution/reference ``normalize.go``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from oci.digest import Digest, InvalidDigest

DEFAULT_HOST = "docker.io"
DEFAULT_TAG = "latest"
NAME_MAX = 255
"""A repository name's longest length, in characters (distribution-spec leaves it to the host; all registries use this)."""

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{{1,5}})?\Z")


class InvalidReference(ValueError):
    """A string that names no image. ``text`` is what was given, cut to a printable length."""

    def __init__(self, text: str, reason: str) -> None:
        self.text = text[:300]
        super().__init__(f"{self.text!r} is not an image reference: {reason}")


def is_repository_name(text: str) -> bool:
    """Whether text is a repository name by distribution-spec's grammar, at most :data:`NAME_MAX` long."""
    return len(text) <= NAME_MAX and _NAME.match(text) is not None


def is_tag(text: str) -> bool:
    """Whether text is a tag by distribution-spec's grammar (at most 128 characters)."""
    return _TAG.match(text) is not None


@dataclass(frozen=True, slots=True)
class Reference:
    """An image's full name. At least one of ``tag`` and ``digest`` is set; a digest, where there is one, decides."""

    host: str
    repository: str
    tag: str | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a name as a person types it; InvalidReference says what is wrong with it."""
        if not text or len(text) > 1024:
            raise InvalidReference(text, "it is empty" if not text else "it is longer than 1024 characters")
        rest, at, digest_text = text.partition("@")
        digest = None
        if at:
            try:
                digest = Digest.parse(digest_text)
            except InvalidDigest as error:
                raise InvalidReference(text, str(error)) from error
        tag: str | None = None
        slash = rest.rfind("/")
        colon = rest.rfind(":")
        if colon > slash:
            rest, tag = rest[:colon], rest[colon + 1 :]
            if not is_tag(tag):
                raise InvalidReference(
                    text, f"the tag {tag[:140]!r} may hold only letters, digits, '_', '.' and '-', at most 128 of them"
                )
        first, slash_text, remainder = rest.partition("/")
        if slash_text and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
            host, path = first, remainder
            if not _HOST.match(host):
                raise InvalidReference(text, f"{host!r} is not a host name")
        else:
            host, path = DEFAULT_HOST, rest
        if host == "index.docker.io":
            host = DEFAULT_HOST
        if host == DEFAULT_HOST and "/" not in path:
            path = f"library/{path}"
        if not is_repository_name(path):
            reason = (
                "upper-case letters are not allowed" if path != path.lower() else "see the grammar in distribution-spec"
            )
            raise InvalidReference(text, f"{path[:255]!r} is not a repository name ({reason})")
        if tag is None and digest is None:
            tag = DEFAULT_TAG
        return cls(host, path, tag, digest)

    @property
    def target(self) -> str:
        """What to ask a registry for: the digest where there is one, else the tag."""
        return str(self.digest) if self.digest is not None else str(self.tag)

    @property
    def familiar(self) -> str:
        """The shortest form that Docker shows: no ``docker.io/``, no ``library/``; the tag and the digest stay."""
        name = f"{self.host}/{self.repository}"
        if self.host == DEFAULT_HOST:
            name = self.repository.removeprefix("library/") if self.repository.count("/") == 1 else self.repository
        return name + self._suffix()

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository at a digest, without a tag."""
        return replace(self, tag=None, digest=digest)

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}{self._suffix()}"
