"""Passwords in and secrets out: never as an argument, which every user of the machine could read in the list of processes."""

from __future__ import annotations

import sys

import typer

from cli.options import Failure

PasswordOption = typer.Option("--password-stdin", help="The password is the next line of the input.")


def read_line(what: str) -> str:
    """The next line of the input; Failure where there is none."""
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise Failure(f"the input ended before {what} came", 2)
    return line


def ask_new(name: str, *, from_stdin: bool) -> str:
    """A new password, asked for twice at a terminal; Failure."""
    if from_stdin:
        return read_line("the password")
    password = _prompt(f"New password of {name}: ")
    if _prompt("The same again: ") != password:
        raise Failure("the two are not the same; nothing was changed")
    return password


def ask_present(*, from_stdin: bool) -> str:
    """One's present password; Failure."""
    return read_line("the present password") if from_stdin else _prompt("Your present password: ")


def show_secret(words: str, secret: str) -> None:
    """What is shown once: the words for the person, the secret alone where a pipe can take it."""
    print(words, file=sys.stderr, flush=True)
    print(secret)


def _prompt(question: str) -> str:
    import getpass

    if not sys.stdin.isatty():
        raise Failure("there is no terminal to ask for a password: give it with --password-stdin", 2)
    try:
        return getpass.getpass(question)
    except (EOFError, KeyboardInterrupt):
        raise Failure("no password was given; nothing was changed", 130) from None
