"""Options that several commands share."""

from fractions import Fraction
from typing import Annotated

import typer


def _seconds(text: str) -> Fraction:
    try:
        seconds = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is no number of seconds; try 0.04 or 1/25.") from None
    if abs(seconds) > 1:
        raise typer.BadParameter(f"{text!r} is more than a second; a frame's lead is about 0.04 or 1/25.")
    return seconds


AudioLead = Annotated[
    Fraction | None,
    typer.Option(
        "--audio-lead",
        parser=_seconds,
        metavar="SECONDS",
        help="How long before a frame the sound starts that it hears: 0.04, or 1/25.",
        show_default="the weights' own",
    ),
]
Articulation = Annotated[
    float | None,
    typer.Option(
        "--articulation",
        min=0,
        max=3,
        help="How far the mouth moves: 0 not at all, 1 as trained, 1.5 more.",
        show_default="the weights' own",
    ),
]
Force = Annotated[bool, typer.Option("--force", "--overwrite", "-f", help="Replace an existing output.")]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="Name of weights, a weights folder, a training's run folder, or a checkpoint file.",
    ),
]
JsonAnswer = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
CsvAnswer = Annotated[bool, typer.Option("--csv", help="Answer in CSV.")]
JsonReport = Annotated[bool, typer.Option("--json", help="Write the report as JSON to standard output.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Work on a Ray cluster: auto, local or host:port.",
        show_default=False,
    ),
]
