"""``portside import distribution``: what another registry has stored becomes a hub's."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.administration import LOCAL, group_of_verbs
from cli.options import Failure
from cli.place import Place, Stored, at_place, region

if TYPE_CHECKING:
    from oci.digest import Digest
    from storage.distribution import Volume
    from storage.importing import Imported, Record, ShortCut

imports = group_of_verbs("Take over what another registry has stored.")


@imports.callback()
def group() -> None:
    """A group, of one verb."""


@imports.command("distribution")
@at_place()
def distribution(
    place: Place,
    source: Annotated[str, typer.Argument(metavar="DIR|s3://BUCKET/PREFIX", help="Its rootdirectory.")],
    from_s3_endpoint: Annotated[
        str, typer.Option("--from-s3-endpoint", metavar="URL", help="The source's S3, if not as --s3-endpoint.")
    ] = "",
) -> None:
    """Take over what the CNCF's registry (Docker's registry:2 and :3) has.

    Files are linked where both are on one disk, objects are copied by
    their service where both are in it. All bytes are verified. Import
    again to go on, or to bring what is new. Neither has to be stopped.

    Example: portside import distribution /var/lib/registry --root /srv/hub
    """
    from storage.errors import StorageError
    from storage.importing import Importer
    from storage.people import Actor
    from storage.sql_metadata import SQLMetadata

    watching = sys.stderr.isatty()

    def show(words: str) -> None:
        print(f"\r{words:<75.75}", end="", file=sys.stderr, flush=True)

    try:
        with contextlib.ExitStack() as opened:
            volume = _open(source, from_s3_endpoint or place.s3_endpoint)
            opened.callback(volume.close)
            database = place.open_database()
            opened.callback(database.close)
            stored = place.open_store(database)
            opened.callback(stored.close)
            is_one_service = (from_s3_endpoint or place.s3_endpoint) == place.s3_endpoint
            short_cut = _short_cut(volume, stored, is_one_service)
            metadata = SQLMetadata(database)
            done = Importer(
                volume, metadata, stored.blobs, short_cut, Actor(LOCAL), show if watching else lambda words: None
            ).run()
    except (StorageError, OSError) as error:
        raise Failure(f"{source} could not be imported into {place}: {error}") from error
    if watching:
        print(file=sys.stderr)
    _tell(source, done)


def _open(source: str, endpoint: str) -> Volume:
    if not source.startswith("s3://"):
        from storage.distribution import DirectoryVolume

        return DirectoryVolume(Path(source))
    from storage.distribution_s3 import S3Volume
    from storage.s3_names import S3Location

    try:
        return S3Volume(S3Location.parse(source, endpoint, region()))
    except ValueError as error:
        raise Failure(str(error), 2) from error


def _short_cut(volume: Volume, stored: Stored, is_one_service: bool) -> ShortCut:
    """How bytes get there without coming here: by links, by copies that the service makes, or not at all."""
    from storage.distribution import DirectoryVolume

    files, objects = stored.files, stored.objects
    if files is not None and isinstance(volume, DirectoryVolume):
        root = volume.root
        return lambda digest, name, size, record: files.adopt(digest, root / name, record)
    if objects is not None and is_one_service and not isinstance(volume, DirectoryVolume):
        from storage.distribution_s3 import S3Volume
        from storage.moving_blobs import SCOPE

        assert isinstance(volume, S3Volume)
        bucket, key = volume.location.bucket, volume.key

        def copy(digest: Digest, name: str, size: int, record: Record) -> bool:
            objects.copy_in(SCOPE, digest, size, bucket, key(name))
            record(size)
            return True

        return copy
    return lambda digest, name, size, record: False


def _tell(source: str, done: Imported) -> None:
    from cli.progress import human

    print(
        f"{done.repositories} repositories with {done.manifests} manifests and {done.tags} tags; "
        f"{done.linked + done.copied} blobs ({human(done.bytes)}) were verified and "
        f"{done.linked} of them linked or copied in place, {done.present} were there"
    )
    for line in done.broken:
        print(f"broken: {line}")
    if done.broken:
        raise Failure(f"{len(done.broken)} things are broken in {source} and were left out; all else is imported")
