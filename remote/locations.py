"""What a person types as a source or destination of a copy.

::

    HOST/NAME[:TAG][@DIGEST]       an image in a registry
    oci:DIR[:TAG]                  an OCI layout directory
    archive:FILE[:NAME[:TAG]]      a tar file, as `docker save` and `podman save` write them
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from oci.digest import Digest
from oci.reference import InvalidReference, Reference, is_tag
from remote.archive import ArchiveDestination, ArchiveSource
from remote.endpoints import Destination, Source
from remote.errors import InvalidLocation
from remote.layout import LayoutDestination, LayoutSource
from remote.pull import RegistrySource
from remote.push import RegistryDestination
from remote.transport import Registry

Connect = Callable[[str], Registry]
"""host -> the client for it; the same one for the same host."""


@dataclass(frozen=True, slots=True)
class RegistryLocation:
    """An image in a registry."""

    reference: Reference

    def source(self, connect: Connect) -> tuple[Source, Digest | str | None]:
        """Where to read, and what to ask it for."""
        target = self.reference.digest or self.reference.tag
        return RegistrySource(connect(self.reference.host), self.reference.repository), target

    def destination(self, connect: Connect, source: Location) -> tuple[Destination, str | None]:
        """Where to write, and the tag. Blobs of another repository of the same registry are mounted."""
        other = source.reference if isinstance(source, RegistryLocation) else None
        near = [other.repository] if other is not None and other.host == self.reference.host else []
        registry = connect(self.reference.host)
        return RegistryDestination(registry, self.reference.repository, near), self.reference.tag


@dataclass(frozen=True, slots=True)
class LayoutLocation:
    """An OCI layout directory."""

    path: Path
    tag: str | None

    def source(self, connect: Connect) -> tuple[Source, Digest | str | None]:
        """Where to read, and what to ask it for."""
        return LayoutSource(self.path), self.tag

    def destination(self, connect: Connect, source: Location) -> tuple[Destination, str | None]:
        """Where to write, and the tag: the one that is typed, else the source's."""
        tag = self.tag
        if tag is None and isinstance(source, RegistryLocation):
            tag = source.reference.tag
        elif tag is None and isinstance(source, LayoutLocation):
            tag = source.tag
        return LayoutDestination(self.path), tag


@dataclass(frozen=True, slots=True)
class ArchiveLocation:
    """An image in an archive; ``name`` as the archive has it, or as it is to have it."""

    path: Path
    name: str | None

    def source(self, connect: Connect) -> tuple[Source, Digest | str | None]:
        """Where to read, and what to ask it for."""
        return ArchiveSource(self.path), self.name

    def destination(self, connect: Connect, source: Location) -> tuple[Destination, str | None]:
        """Where to write, and the tag. The image keeps its source's name where none is typed."""
        name = self.name
        if name is None and isinstance(source, ArchiveLocation):
            name = source.name
        if name is not None:
            reference: Reference | None = Reference.parse(name)
        else:
            reference = source.reference if isinstance(source, RegistryLocation) else None
        return ArchiveDestination(self.path, reference), reference.tag if reference is not None else None


Location = RegistryLocation | LayoutLocation | ArchiveLocation


def parse_location(text: str) -> Location:
    """Read a source or destination; InvalidLocation says what is wrong with it."""
    kind, colon, rest = text.partition(":")
    if colon and kind == "oci":
        path, _, tag = rest.rpartition(":")
        if path and "/" not in tag:
            if not is_tag(tag):
                raise InvalidLocation(f"{text!r}: {tag!r} is not a tag; write oci:DIRECTORY or oci:DIRECTORY:TAG")
            return LayoutLocation(Path(path), tag)
        if not rest:
            raise InvalidLocation("oci: needs a directory: oci:DIRECTORY[:TAG]")
        return LayoutLocation(Path(rest), None)
    if colon and kind == "archive":
        file, colon, name = rest.partition(":")
        if not file or (colon and not name):
            raise InvalidLocation(f"{text!r}: write archive:FILE or archive:FILE:NAME:TAG")
        return ArchiveLocation(Path(file), name or None)
    try:
        return RegistryLocation(Reference.parse(text))
    except InvalidReference as error:
        raise InvalidLocation(f"{error} (nor is it oci:DIRECTORY or archive:FILE)") from error
