"""Answers on standard output, words on standard error."""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from enum import Enum
from fractions import Fraction
from typing import Any

import typer

_arguments: tuple[str, ...] = ()


def remember_command(arguments: Sequence[str]) -> None:
    """Keep the words that this process was called with, for answers that name their own command."""
    global _arguments
    _arguments = tuple(arguments)


def command_line() -> str:
    """The command that is running, as a shell would take it."""
    return shlex.join(["lipsmith", *_arguments])


def write_json(answer: object) -> None:
    """Write `answer` (data classes, mappings, paths and fractions included) as JSON to standard output."""
    typer.echo(json.dumps(plain(answer), indent=2, ensure_ascii=False))


def write_answer(line: str) -> None:
    """Write one line of data to standard output."""
    typer.echo(line)


def say(words: str) -> None:
    """Write words for a person to standard error."""
    typer.echo(words, err=True)


def warn(words: str) -> None:
    """Write a warning to standard error."""
    typer.secho("Warning: ", fg=typer.colors.YELLOW, bold=True, nl=False, err=True)
    typer.echo(words, err=True)


def plain(value: Any) -> Any:
    """`value` in the types that JSON knows; a fraction becomes its number, a path its text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry) for entry in value]
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Fraction):
        return float(value)
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)
