"""`lipsmith export`: from a training, a checkpoint or other weights to what the runtimes read."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lipsmith.cli.options import Articulation, AudioLead, JsonReport
from lipsmith.cli.output import say, write_answer, write_json


class Precision(StrEnum):
    """How the exported network stores its numbers."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Use(StrEnum):
    """What the training data allows."""

    ANY = "any"
    RESEARCH = "research"


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Run folder, a generator's checkpoint file, or a generator's weights: a folder or a name.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The new weights folder; its name is the weights' name.",
            show_default=False,
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option("--data", "-d", help="Prepared clips, to calibrate int8 and to name in the card."),
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option(
            "--calibrate",
            metavar="VIDEO",
            help="A talking face to calibrate int8 with, or drawn for drawn people; may be repeated.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option("--precision", help="Numbers of the exported network; int8, of generators, is fastest."),
    ] = Precision.FP32,
    audio_lead: AudioLead = None,
    articulation: Articulation = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Of the weights, for the card.")] = None,
    use: Annotated[Use | None, typer.Option("--use", help="What the training data allows.")] = None,
    description: Annotated[str | None, typer.Option("--description", help="A sentence for the card.")] = None,
    as_json: JsonReport = False,
) -> None:
    """Make weights for `sync --model`, refused unless they agree with PyTorch; also of an expert."""
    from lipsmith.training.export import export_weights

    stated = {
        "window_lead_seconds": audio_lead,
        "articulation": articulation,
        "licence": licence,
        "use": None if use is None else use.value,
        "description": description,
    }
    card = export_weights(
        source,
        output,
        data=data,
        calibrate=calibrate or (),
        precision=precision.value,
        overrides={field: value for field, value in stated.items() if value is not None},
    )
    if as_json:
        write_json(card.to_dict())
    else:
        write_answer(str(output))
    agreement = card.scores.get("int8")
    if precision is Precision.INT8 and agreement:
        say(
            f"Lower faces agree with float32 to {agreement['psnr_lower_db']} dB "
            f"({agreement['worst_psnr_lower_db']} dB in the worst of {agreement['samples']})."
        )
    use_it = (
        f"sync --model {output}" if card.kind == "generator" else f"evaluate score --judge expert={output}"
    )
    say(
        f"{card.architecture}, width {card.width:g}, {card.face_size} px, {precision.value}. "
        f"Try it with: lipsmith {use_it} …"
    )
