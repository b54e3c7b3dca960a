"""The application: options of `lipsmith` itself, and the table of its commands."""

import signal
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from lipsmith import __version__
from lipsmith.cli import failures, output

if TYPE_CHECKING:
    from click import Command, Context, HelpFormatter

# Name → "module:attribute" of a function or a `typer.Typer`, and what the list of commands says. A command's module is
# imported when it is called: to list them all takes no longer than to say the version.
COMMANDS: dict[str, tuple[str, str]] = {
    "sync": ("lipsmith.cli.sync:sync", "Make the mouth in VIDEO say the speech in AUDIO."),
    "demo": ("lipsmith.cli.demo:demo", "Make a public-domain portrait say a few synthetic words."),
    "prepare": (
        "lipsmith.cli.train:prepare",
        "Turn raw footage into training clips: face crops, mel, exact times, an index.",
    ),
    "train": ("lipsmith.cli.train:train", "Train the expert or the generator by a recipe."),
    "doctor": (
        "lipsmith.cli.train:doctor",
        "Say what is wrong with prepared clips: offsets, sync, speech, sharpness; correct it on request.",
    ),
    "offsets": (
        "lipsmith.cli.train:offsets",
        "Measure by how much sound and picture of the prepared clips are apart; training corrects it.",
    ),
    "export": (
        "lipsmith.cli.export:export",
        "Make weights for `sync --model`, refused unless they agree with PyTorch; also of an expert.",
    ),
    "inspect": (
        "lipsmith.cli.inspect:inspect",
        "Read back the Content Credentials and the container tag of FILE.",
    ),
    "study": (
        "lipsmith.cli.study:study",
        "Let people judge videos: build the study, serve its pages, analyse the answers.",
    ),
    "evaluate": (
        "lipsmith.cli.evaluate:evaluate",
        "Score videos: lip-sync (LSE-D, LSE-C, AV offset), and the quality of the pictures.",
    ),
    "weights": ("lipsmith.cli.weights:weights", "List, show, identify and import weights."),
}
# Commands of a group that have modules of their own.
FURTHER = {
    "evaluate": (
        "lipsmith.cli.evaluate_benchmark:pairs",
        "lipsmith.cli.evaluate_benchmark:benchmark",
        "lipsmith.cli.evaluate_compare:compare",
        "lipsmith.cli.evaluate_compare:report",
        "lipsmith.cli.evaluate_leakage:leakage",
    )
}


class _LazyGroup(TyperGroup):
    """A group that knows its commands by name and purpose, and imports one when it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, (_, purpose) in COMMANDS.items():
            self.commands[name] = TyperCommand(name, help=purpose, short_help=purpose)

    def get_command(self, ctx: "Context", cmd_name: str) -> "Command | None":  # type: ignore[override]
        """The command itself, imported."""
        return load_command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: "Context", formatter: "HelpFormatter") -> None:  # type: ignore[override]
        """List names and purposes."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, purpose) in COMMANDS.items()])


@cache
def load_command(name: str) -> Any:
    """Import a command of the table."""
    found = _imported(COMMANDS[name][0])
    if isinstance(found, typer.Typer):
        for further in FURTHER.get(name, ()):
            found.command()(failures.told_in_one_sentence(_imported(further)))
        found.rich_markup_mode = None
        return get_group(found)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name)(failures.told_in_one_sentence(found))
    return get_command(alone)


def _imported(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


app = typer.Typer(
    name="lipsmith",
    cls=_LazyGroup,
    help="Lip-sync any talking-face video to any speech; every output says that it is synthetic.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # to draw help pages with Rich takes longer than all else that they need
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Show the traceback when something goes wrong.", envvar="LIPSMITH_DEBUG"
        ),
    ] = False,
) -> None:
    failures.show_tracebacks(debug)


# Asked to end, and left alone by a closed terminal (which Windows does not tell).
_STOPPING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _stop(signal_number: int, _frame: FrameType | None) -> NoReturn:
    # An exception, unlike the signal's own action, lets writers remove their half-written files.
    sys.exit(128 + signal_number)


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Parse `arguments` (default: the process's own), run the command, end with its exit code."""
    # What is ignored stays so: `nohup` means that a closed terminal shall not stop the work.
    previous = {
        number: signal.signal(number, _stop)
        for number in _STOPPING
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    output.remember_command(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="lipsmith")
    finally:
        for number, action in previous.items():
            signal.signal(number, action)
    sys.exit(0)
