"""Where a command about people acts: on a root of this machine, or by ``/api/v1`` of a server. A verb is written once for both."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, Protocol, TypeVar

import typer

from cli.options import Failure, RootOption

if TYPE_CHECKING:
    from auth.keys import KeyRing
    from registry.operations import Operation

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Arguments = ParamSpec("Arguments")

TOKEN_VARIABLE = "PORTSIDE_TOKEN"
LOCAL = "local"
"""Who the audit trail names for a command on the hub's own machine."""

ServerOption = Annotated[
    str | None, typer.Option("--server", metavar="URL", help=f"A hub elsewhere, by the token in {TOKEN_VARIABLE}.")
]
TokenOption = Annotated[bool, typer.Option("--token-stdin", help="The token is the first line of the input.")]
AuthorityOption = Annotated[
    Path | None, typer.Option("--ca", metavar="FILE", help="The server's certificate authority.", dir_okay=False)
]


class Target(Protocol):
    """What a verb asks. Whatever is refused is a Failure with the reason."""

    is_local: bool

    def ask(self, operation: Operation[Question, Answer], question: Question) -> Answer: ...


def group_of_verbs(about: str | None = None) -> typer.Typer:
    """Verbs under one noun, or a verb alone."""
    return typer.Typer(
        help=about,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )


def on_target(verb: Callable[Concatenate[Target, Arguments], None]) -> Callable[..., None]:
    """A command of a verb: with the options that say where it acts, and with that place as the verb's first argument."""

    @functools.wraps(verb)
    def command(root: Path, server: str | None, token_stdin: bool, ca: Path | None, **arguments: Any) -> None:
        with open_target(root, server, token_stdin, ca) as target:
            verb(target, **arguments)  # type: ignore[call-arg]

    def option(name: str, annotation: Any, default: object) -> inspect.Parameter:
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)

    _, *own = inspect.signature(verb, eval_str=True).parameters.values()
    shared = [
        option("root", RootOption, inspect.Parameter.empty),
        option("server", ServerOption, None),
        option("token_stdin", TokenOption, False),
        option("ca", AuthorityOption, None),
    ]
    # What typer reads the options from.
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), *shared]
    )
    return command


@contextlib.contextmanager
def open_target(root: Path, server: str | None, token_stdin: bool, ca: Path | None) -> Iterator[Target]:
    """The server where one is named, else the root; Failure."""
    if server is None:
        if token_stdin or ca is not None:
            raise Failure("--token-stdin and --ca go with --server URL", 2)
        with open_root(root) as target:
            yield target
        return
    from cli.api import RemoteTarget

    token = sys.stdin.readline().strip() if token_stdin else os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise Failure(
            f"--server needs a personal token: set {TOKEN_VARIABLE}, or give it with --token-stdin. "
            "On the hub's own machine `portside token new NAME --user USER` makes one",
            2,
        )
    with RemoteTarget.connect(server, token, ca) as remote:
        yield remote


@contextlib.contextmanager
def open_root(root: Path, *, is_first: bool = False) -> Iterator[RootTarget]:
    """A root of this machine, whether servers run on it or not. ``is_first``: it need not be there yet. Failure."""
    from storage.errors import StorageError
    from storage.sql_metadata import SQLMetadata
    from storage.sqlite import SQLiteDatabase

    if not is_first and not (root / "metadata.db").exists():
        raise Failure(
            f"{root} is no root of a hub: it has no metadata.db. Name the one that `portside serve` uses with --root, "
            "or another machine's hub with --server."
        )
    with contextlib.ExitStack() as opened:
        try:
            metadata = SQLMetadata(SQLiteDatabase(root))
        except (StorageError, OSError) as error:
            raise Failure(f"the root {root} cannot be used: {error}") from error
        opened.callback(metadata.close)
        yield RootTarget(root, metadata, opened)


class RootTarget:
    """The facts themselves. Servers that run on the root feel each change at once."""

    is_local = True

    def __init__(self, root: Path, metadata: Any, opened: contextlib.ExitStack) -> None:
        from auth.administration import Administration
        from storage.people import Actor
        from storage.sql_people import SQLPeople

        self._root = root
        self._opened = opened
        self.administration = Administration(SQLPeople(metadata.database), self._keys, Actor(LOCAL))

    def ask(self, operation: Operation[Question, Answer], question: Question) -> Answer:
        """Do it; Failure."""
        with failures(self._root):
            return operation.run(self.administration, question)

    def _keys(self) -> KeyRing:
        from auth.key_files import KeyFiles
        from auth.keys import KeyRing
        from cli.hub import TOKEN_SECONDS

        keys = KeyRing(KeyFiles(self._root / "auth" / "keys"), TOKEN_SECONDS)
        self._opened.callback(keys.close)
        return keys


@contextlib.contextmanager
def failures(root: Path) -> Iterator[None]:
    """Turn what may go wrong on a root into a Failure."""
    from auth.desk import AdministrationError
    from storage.errors import StorageError

    try:
        yield
    except AdministrationError as error:
        raise Failure(str(error)) from error
    except (StorageError, OSError) as error:
        raise Failure(f"the root {root} cannot be used: {error}") from error
    except Exception as error:
        keys = sys.modules.get("auth.keys")  # where it was not imported, it did not fail
        if keys is not None and isinstance(error, keys.KeysUnusable):
            raise Failure(str(error)) from error
        raise
