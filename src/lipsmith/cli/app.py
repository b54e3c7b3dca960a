"""The application: options of `lipsmith` itself, and the table of its commands."""

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, NoReturn

import typer

from lipsmith import __version__
from lipsmith.cli import failures, output
from lipsmith.cli.demo import demo
from lipsmith.cli.evaluate import evaluate
from lipsmith.cli.evaluate_benchmark import benchmark, pairs
from lipsmith.cli.evaluate_compare import compare, report
from lipsmith.cli.evaluate_leakage import leakage
from lipsmith.cli.export import export
from lipsmith.cli.inspect import inspect
from lipsmith.cli.study import study
from lipsmith.cli.sync import sync
from lipsmith.cli.train import doctor, offsets, prepare, train
from lipsmith.cli.weights import weights

app = typer.Typer(
    name="lipsmith",
    help="Lip-sync any talking-face video to any speech; every output says that it is synthetic.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (sync, demo, prepare, train, doctor, offsets, export, inspect):
    app.command()(failures.told_in_one_sentence(command))
for part in (pairs, benchmark, compare, report, leakage):
    evaluate.command()(failures.told_in_one_sentence(part))
app.add_typer(study, name="study")
app.add_typer(evaluate, name="evaluate")
app.add_typer(weights, name="weights")


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
