"""Answers on standard output, words on standard error."""

import dataclasses
import json
import math
import shlex
import sys
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
    text = json.dumps(plain(answer), indent=2, ensure_ascii=False, allow_nan=False)
    if not _can_be_written(
        text
    ):  # escaped, it is JSON in any encoding, and a file name that is no text stays itself
        text = json.dumps(plain(answer), indent=2, allow_nan=False)
    typer.echo(text)


def write_answer(line: str) -> None:
    """Write one line of data to standard output; what its encoding lacks is escaped, the bytes of file names stay."""
    if _can_be_written(line):
        typer.echo(line)
        return
    encoding = _encoding()
    try:
        typer.echo(line.encode(encoding, "surrogateescape"))
    except UnicodeEncodeError:
        typer.echo(line.encode(encoding, "backslashreplace"))


def say(words: str) -> None:
    """Write words for a person to standard error."""
    typer.echo(words, err=True)


def warn(words: str) -> None:
    """Write a warning to standard error."""
    typer.secho("Warning: ", fg=typer.colors.YELLOW, bold=True, nl=False, err=True)
    typer.echo(words, err=True)


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def _can_be_written(text: str) -> bool:
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        return False
    return True


def plain(value: Any) -> Any:
    """`value` in the types that JSON knows: a fraction is its number, a path its text, what is not finite is null."""
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
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)
