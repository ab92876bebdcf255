"""``portside``: the verbs. Each one imports what it needs when it runs, so that all of them start at once."""

from __future__ import annotations

import sys

import typer

from cli.check import check
from cli.collecting import gc, why
from cli.images import images
from cli.migrate import migrate
from cli.options import Failure
from cli.people import Verbs
from cli.run import run
from cli.serve import serve
from cli.transfer import copy, pull, push
from cli.trust import trust

app = typer.Typer(
    name="portside",
    cls=Verbs,
    help="A self-hosted image hub: an OCI registry, and the engine that runs its images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
for verb in (serve, pull, push, copy, images, check, gc, why, migrate, trust):
    app.command()(verb)
# What follows the image's name is the program's own.
app.command(context_settings={"allow_interspersed_args": False})(run)


def main() -> None:
    """The console script."""
    try:
        app()
    except Failure as failure:
        print(f"portside: {failure}", file=sys.stderr)
        sys.exit(failure.code)


if __name__ == "__main__":
    main()
