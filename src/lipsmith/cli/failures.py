"""From an exception to one sentence on standard error and an exit code; a traceback only on request."""

import errno
import functools
import time
import traceback
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer

from lipsmith.errors import ExitCode, LipsmithError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Packages that only some commands need → the extra that brings them.
_EXTRAS = {
    "accelerate": "train",
    "torch": "torch",
    "safetensors": "torch",
    "nncf": "train",
    "pooch": "evaluate",
    "jinja2": "evaluate",
    "matplotlib": "evaluate",
    "pydantic": "train",
    "yaml": "train",
    "skimage": "demo",
    "ray": "ray",
}

_LAUNCHER_SECONDS = 10
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT))

_tracebacks = False


def show_tracebacks(wanted: bool) -> None:
    """Let exceptions through with their traceback (`lipsmith --debug`), or tell them in one sentence."""
    global _tracebacks
    _tracebacks = wanted


def told_in_one_sentence(command: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Wrap `command` so that what it raises ends the process with a sentence and its exit code."""

    @functools.wraps(command)
    def wrapped(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except (KeyboardInterrupt, Exception) as error:
            if isinstance(error, LipsmithError) and error.is_told_elsewhere:
                # The launcher ends all processes when one has ended: let it be the one that tells.
                time.sleep(_LAUNCHER_SECONDS)
                raise typer.Exit(error.exit_code) from None
            if _tracebacks:
                typer.echo(traceback.format_exc(), err=True)
            sentence, code = explain(error)
            typer.secho("Error: ", fg=typer.colors.RED, bold=True, nl=False, err=True)
            typer.echo(sentence, err=True)
            raise typer.Exit(code) from None

    return wrapped


def explain(error: BaseException) -> tuple[str, ExitCode]:
    """The sentence that tells a person about `error`, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "Interrupted.", ExitCode.INTERRUPTED
    if isinstance(error, LipsmithError):
        return str(error), error.exit_code
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        if package in _EXTRAS:
            extra = _EXTRAS[package]
            return (
                f"This needs {package}, which is missing: pip install 'lipsmith[{extra}]'.",
                ExitCode.RUNTIME,
            )
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = f" for {error.filename}" if error.filename else ""
        return (
            f"There is no room left{where} ({error.strerror}). Make room, then run the same command again.",
            ExitCode.OUTPUT,
        )
    what = " ".join(str(error).split()) or "no further words"
    return (
        f"An error in Lipsmith itself: {type(error).__name__}: {what}. "
        "The same command after `lipsmith --debug` shows where; please report it with that.",
        ExitCode.INTERNAL,
    )
