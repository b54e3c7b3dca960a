"""`lipsmith weights`: which weights there are, what they are, and how a checkpoint becomes one of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipsmith.cli.failures import told_in_one_sentence
from lipsmith.cli.options import JsonAnswer
from lipsmith.cli.output import say, warn, write_answer, write_json
from lipsmith.provenance.record import printable

if TYPE_CHECKING:
    from lipsmith.weights.card import WeightCard

weights = typer.Typer(
    name="weights",
    help="List, show, identify and import weights.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


@weights.command("list")
@told_in_one_sentence
def list_command(as_json: JsonAnswer = False) -> None:
    """List the weights that come with Lipsmith and those that you imported."""
    from lipsmith.weights.store import list_weights

    cards = list_weights(on_error=lambda error: warn(str(error)))
    if as_json:
        write_json([card.to_dict() for card in cards])
        return
    if not cards:
        say("No weights. Import a checkpoint with: lipsmith weights import FILE --name NAME")
    width = max((len(card.name) for card in cards), default=0)
    for card in cards:
        line = (
            f"{card.name:{width}}  {card.kind}  {card.architecture}  {card.face_size} px  use: {card.use}  "
            f"{card.description}"
        )
        write_answer(printable(line))


@weights.command()
@told_in_one_sentence
def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of weights, or a weights folder.", show_default=False)
    ],
    as_json: JsonAnswer = False,
) -> None:
    """Show the card of weights: data, licence, input contract, scores."""
    from lipsmith.weights.store import resolve

    card, folder = resolve(name)
    _show(card, as_json)
    say(f"Folder: {folder}")


@weights.command()
@told_in_one_sentence
def identify(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A checkpoint: .pth, .pt, .safetensors.", show_default=False),
    ],
    as_json: JsonAnswer = False,
) -> None:
    """Say which network a checkpoint belongs to, by the names and shapes of its tensors."""
    from lipsmith.weights.checkpoint import identify as identify_checkpoint

    found = identify_checkpoint(file)
    if as_json:
        write_json(found.to_dict())
    else:
        _write_fields(found.to_dict())


@weights.command("import")
@told_in_one_sentence
def import_command(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A checkpoint: .pth, .pt, .safetensors.", show_default=False),
    ],
    name: Annotated[str, typer.Option("--name", "-n", help="What to call the weights.", show_default=False)],
    as_json: JsonAnswer = False,
) -> None:
    """Import a checkpoint, published ones included, under a name that `sync --model` takes."""
    from lipsmith.weights.checkpoint import import_checkpoint

    _show(import_checkpoint(file, name), as_json)


def _show(card: "WeightCard", as_json: bool) -> None:
    if as_json:
        write_json(card.to_dict())
    else:
        _write_fields(card.to_dict())


def _write_fields(fields: dict[str, object]) -> None:
    def write(line: str) -> None:
        write_answer(printable(line))  # a foreign file's words may hold control codes for the terminal

    for name, value in fields.items():
        if isinstance(value, dict):
            write(f"{name}:")
            for key, entry in value.items():
                write(f"  {key}: {entry}")
        elif isinstance(value, (list, tuple)):
            write(f"{name}: {', '.join(str(entry) for entry in value)}")
        else:
            write(f"{name}: {value}")
