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

from cli.options import Failure, option_of
from cli.place import Place, place_parameters, take_place

if TYPE_CHECKING:
    from auth.keys import KeyRing
    from registry.operations import Operation
    from storage.database import Database

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
    def command(server: str | None, token_stdin: bool, ca: Path | None, **arguments: Any) -> None:
        place = take_place(arguments)
        with open_target(place, server, token_stdin, ca) as target:
            verb(target, **arguments)  # type: ignore[call-arg]

    _, *own = inspect.signature(verb, eval_str=True).parameters.values()
    shared = [
        *place_parameters(has_blobs=False),
        option_of("server", ServerOption, None),
        option_of("token_stdin", TokenOption, False),
        option_of("ca", AuthorityOption, None),
    ]
    # What typer reads the options from.
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), *shared]
    )
    return command


@contextlib.contextmanager
def open_target(place: Place, server: str | None, token_stdin: bool, ca: Path | None) -> Iterator[Target]:
    """The server where one is named, else the place; Failure."""
    if server is None:
        if token_stdin or ca is not None:
            raise Failure("--token-stdin and --ca go with --server URL", 2)
        with open_place(place) as target:
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
def open_place(place: Place, *, is_first: bool = False) -> Iterator[LocalTarget]:
    """A hub's own facts, whether servers run on them or not. ``is_first``: it need not be there yet. Failure."""
    if not is_first:
        place.expect_hub("or another machine's hub with --server")
    with contextlib.ExitStack() as opened:
        database = place.open_database()
        opened.callback(database.close)
        yield LocalTarget(place, database, opened)


class LocalTarget:
    """The facts themselves. Servers of the hub feel each change at once."""

    is_local = True

    def __init__(self, place: Place, database: Database, opened: contextlib.ExitStack) -> None:
        from auth.administration import Administration
        from storage.people import Actor
        from storage.sql_people import SQLPeople

        self._place = place
        self._database = database
        self._opened = opened
        self.administration = Administration(SQLPeople(database), self._keys, Actor(LOCAL))

    def ask(self, operation: Operation[Question, Answer], question: Question) -> Answer:
        """Do it; Failure."""
        with failures(self._place):
            return operation.run(self.administration, question)

    def _keys(self) -> KeyRing:
        from auth.keys import KeyRing
        from cli.hub import TOKEN_SECONDS

        keys = KeyRing(self._place.key_source(self._database), TOKEN_SECONDS)
        self._opened.callback(keys.close)
        return keys


@contextlib.contextmanager
def failures(place: Place) -> Iterator[None]:
    """Turn what may go wrong at a hub's place into a Failure."""
    from auth.desk import AdministrationError
    from storage.errors import StorageError

    try:
        yield
    except AdministrationError as error:
        raise Failure(str(error)) from error
    except (StorageError, OSError) as error:
        raise Failure(f"{place} cannot be used: {error}") from error
    except Exception as error:
        keys = sys.modules.get("auth.keys")  # where it was not imported, it did not fail
        if keys is not None and isinstance(error, keys.KeysUnusable):
            raise Failure(str(error)) from error
        raise
