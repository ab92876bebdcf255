"""Where a hub keeps what it has, by the options that say it, which every verb that needs it takes.

An option can be given on the command line, by an environment variable (``PORTSIDE_DATABASE`` for ``--database``), or in a TOML file that
``--config`` or ``PORTSIDE_CONFIG`` names (``database = "postgresql://…"``), in this order.
"""

from __future__ import annotations

import functools
import inspect
import os
import shlex
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from cli.options import Failure, RootOption, option_of

if TYPE_CHECKING:
    from auth.keys import KeySource
    from storage.blobs import BlobStore
    from storage.collector import Collected
    from storage.database import Database, MovableDatabase
    from storage.filesystem import FilesystemBlobStore
    from storage.s3 import S3BlobStore

Arguments = ParamSpec("Arguments")

SERVE = "serve"
"""The verb all of whose options are settings; the others take those of the file that say where the hub is."""
_PREFIX = "PORTSIDE_"


@dataclass(frozen=True, slots=True)
class Stored:
    """What blobs are in: as the registry sees it, as the collector does, and what it is."""

    blobs: BlobStore
    collected: Collected
    close: Callable[[], None]
    files: FilesystemBlobStore | None = None
    objects: S3BlobStore | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A directory and, where not everything is in it, a database and an object store ("" for the directory's own)."""

    root: Path
    database: str = ""
    store: str = ""
    s3_endpoint: str = ""

    def __str__(self) -> str:
        from storage.opening import where

        return where(self.root, self.database or None)

    def expect_hub(self, otherwise: str = "") -> None:
        """That there is one already, as far as that can be known without opening it; Failure. ``otherwise``: what else might be meant."""
        if not self.database and not (self.root / "metadata.db").exists():
            raise Failure(
                f"{self.root} is no root of a hub: it has no metadata.db. Name the one that `portside serve` uses with --root"
                f"{', ' * bool(otherwise)}{otherwise}."
            )

    def options(self) -> str:
        """What names it on a command line; a database's URL, which may hold a password, is only hinted at."""
        return "--database URL" if self.database else f"--root {shlex.quote(str(self.root))}"

    @property
    def is_remote(self) -> bool:
        """Whether a look-up leaves this process."""
        return bool(self.database or self.store)

    def open_database(self) -> MovableDatabase:
        """Open it, making it where there is none; Failure."""
        from storage.errors import StorageError
        from storage.opening import open_database

        try:
            return open_database(self.root, self.database or None)
        except (StorageError, OSError) as error:
            raise Failure(f"{self} cannot be used: {error}") from error

    def open_store(self, database: Database, floor: int | None = None, *, trash_seconds: float | None = None) -> Stored:
        """Open what the blobs are in; Failure. ``floor``: bytes of a disk that are kept free. ``trash_seconds``: how long an object that
        nothing leads to any more is kept for its readers, where they are not files; None for as long as a server does.
        """
        from storage.errors import StorageError

        try:
            if not self.store:
                from storage.file_collecting import FileCollecting
                from storage.filesystem import FilesystemBlobStore

                files = FilesystemBlobStore(self.root, floor=floor)
                return Stored(files, FileCollecting(files), lambda: None, files=files)
            from storage.s3 import S3BlobStore
            from storage.s3_collecting import TRASH_SECONDS, S3Collecting
            from storage.s3_names import S3Location

            objects = S3BlobStore(S3Location.parse(self.store, self.s3_endpoint, region()), database)
            seconds = TRASH_SECONDS if trash_seconds is None else trash_seconds
            return Stored(
                objects, S3Collecting(objects, database, trash_seconds=seconds), objects.close, objects=objects
            )
        except (StorageError, OSError, ValueError) as error:
            raise Failure(f"the store {self.store or self.root} cannot be used: {error}") from error

    def key_source(self, database: Database) -> KeySource:
        """Where the keys are that sign tokens: files, but for servers that may share no directory; KeysUnusable."""
        if self.database:
            from auth.key_rows import KeyRows
            from storage.sql_keys import SQLKeys

            return KeyRows(SQLKeys(database))
        from auth.key_files import KeyFiles

        return KeyFiles(self.root / "auth" / "keys")


def region() -> str:
    """As AWS's own programs have it."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""


def read_settings(context: typer.Context, config: Path | None) -> Path | None:
    """Have the options that follow looked for in the environment and in a file, too; Failure. (A callback of typer's.)"""
    if context.resilient_parsing:
        return config
    is_serve = context.info_name == SERVE
    own = [param for param in context.command.params if param.name in _PLACE or is_serve]
    for param in own:
        if param.name not in ("config", "help") and not getattr(param, "hidden", False) and not param.envvar:
            param.envvar = _PREFIX + str(param.name).upper()
    if config is not None:
        known = {str(param.name) for param in context.find_root().command.commands[SERVE].params} | _PLACE  # type: ignore[attr-defined]
        settings = _read(config, known - {"config", "inherited", "help"})
        names = {param.name for param in own}
        context.default_map = {name: value for name, value in settings.items() if name in names}
    return config


def _read(config: Path, known: set[str]) -> dict[str, Any]:
    try:
        with config.open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise Failure(f"--config {config}: {error.strerror}", 2) from error
    except tomllib.TOMLDecodeError as error:
        raise Failure(f"--config {config} is no TOML: {error}", 2) from error
    settings: dict[str, Any] = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        if name not in known:
            raise Failure(f"--config {config}: there is no option --{key} (`portside serve --help` lists them)", 2)
        if isinstance(value, dict) or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
            raise Failure(f"--config {config}: {key} is a string, a number, true or false, or a list of strings", 2)
        settings[name] = value
    return settings


DatabaseOption = Annotated[
    str, typer.Option("--database", metavar="URL", help="PostgreSQL for all facts, not a file.", show_default=False)
]
StoreOption = Annotated[
    str, typer.Option("--store", metavar="s3://BUCKET/PREFIX", help="S3 for blobs, not files.", show_default=False)
]
EndpointOption = Annotated[
    str, typer.Option("--s3-endpoint", metavar="URL", help="The S3 service, if not Amazon's.", show_default=False)
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar=f"{_PREFIX}CONFIG",
        metavar="FILE",
        help="These options, in TOML.",
        show_envvar=False,
        is_eager=True,
        callback=read_settings,
    ),
]
_PLACE = {"root", "database", "store", "s3_endpoint"}


def at_place(
    *, has_blobs: bool = True
) -> Callable[[Callable[Concatenate[Place, Arguments], None]], Callable[..., None]]:
    """A command of a verb: with the options that say where the hub is, and with that place as the verb's first argument."""

    def decorate(verb: Callable[Concatenate[Place, Arguments], None]) -> Callable[..., None]:
        @functools.wraps(verb)
        def command(**arguments: Any) -> None:
            verb(take_place(arguments), **arguments)  # type: ignore[call-arg]

        _, *own = inspect.signature(verb, eval_str=True).parameters.values()
        keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [*place_parameters(has_blobs=has_blobs), *keyword]
        )
        return command

    return decorate


def place_parameters(*, has_blobs: bool) -> list[inspect.Parameter]:
    """What typer reads the options from. Without ``has_blobs`` where the blobs are is of no concern."""

    blobs = [option_of("store", StoreOption, ""), option_of("s3_endpoint", EndpointOption, "")] if has_blobs else []
    return [
        option_of("root", RootOption, inspect.Parameter.empty),
        option_of("database", DatabaseOption, ""),
        *blobs,
        option_of("config", ConfigOption, None),
    ]


def take_place(arguments: dict[str, Any]) -> Place:
    """The place that a command's arguments say, which are taken out of them; Failure."""
    arguments.pop("config")
    return checked_place(Place(*(arguments.pop(name, "") for name in ("root", "database", "store", "s3_endpoint"))))


def checked_place(place: Place, prefix: str = "") -> Place:
    """A place whose options go together; Failure. ``prefix``: what the options' names begin with."""
    if place.database and not place.database.startswith(("postgresql://", "postgresql+psycopg://")):
        raise Failure(f"--{prefix}database takes a URL like postgresql://USER@HOST/NAME", 2)
    if place.s3_endpoint and not place.store:
        raise Failure(f"--{prefix}s3-endpoint goes with --{prefix}store s3://BUCKET", 2)
    return place
