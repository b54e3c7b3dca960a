"""`lipsmith evaluate pairs` and `benchmark`: which face says which speech, and how well each system makes it say it."""

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lipsmith.cli.options import Force, JsonAnswer
from lipsmith.cli.output import say, write_answer, write_json
from lipsmith.cli.progress import ProgressBars
from lipsmith.errors import UsageError


class Layout(StrEnum):
    """Which column of a list is which."""

    AUDIO_VIDEO = "audio-video"
    VIDEO_AUDIO = "video-audio"


Manifest = Annotated[
    Path | None,
    typer.Option(
        "--manifest", help="TSV or CSV with a column `file` and a column `speaker`.", show_default=False
    ),
]


def pairs(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Videos of a test set, at any depth.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="LIST", help="The list to write.", show_default=False)
    ],
    seed: Annotated[int, typer.Option("--seed", help="Another one, another list.")] = 0,
    manifest: Manifest = None,
    speaker: Annotated[
        list[str] | None,
        typer.Option(
            "--speaker", help="Only this speaker of the manifest; may be repeated.", show_default=False
        ),
    ] = None,
    speakers_of: Annotated[
        str | None,
        typer.Option(
            "--speakers-of",
            metavar="RECIPE[:SPLIT]",
            help="Only the speakers whom a recipe holds out for test (or :validation), and no footage that it leaves "
            "out.",
            show_default=False,
        ),
    ] = None,
    per_video: Annotated[int, typer.Option("--per-video", min=1, help="Speeches for each face.")] = 1,
    max_pairs: Annotated[
        int | None, typer.Option("--max-pairs", min=1, help="So many at most.", show_default="all")
    ] = None,
    min_seconds: Annotated[
        float, typer.Option("--min-seconds", min=0, help="Least length of a face and of a speech.")
    ] = 1.0,
    layout: Annotated[Layout, typer.Option("--layout", help="Of the list.")] = Layout.AUDIO_VIDEO,
    overwrite: Force = False,
    as_json: JsonAnswer = False,
) -> None:
    """Make a list of pairs by the paper's rule: each face with a shorter speech from another video."""
    from lipsmith.evaluation.pairs import make_pairs, write_pairs

    speakers = list(speaker or ())
    leave_out: tuple[str, ...] = ()
    if speakers_of is not None:
        held_out, leave_out = _held_out(speakers_of)
        speakers += held_out
    with ProgressBars() as bars:
        made = make_pairs(
            folder,
            seed=seed,
            manifest=manifest,
            speakers=speakers,
            leave_out=leave_out,
            per_video=per_video,
            max_pairs=max_pairs,
            min_seconds=min_seconds,
            on_progress=lambda done, total: bars.show("videos", done, total),
        )
    rule = "a face, and the sound of a shorter video" + (" of another speaker" if manifest else "")
    remarks = [f"{rule}; seed {seed}", f"{len(made.pairs)} pairs, sha256 {made.to_dict()['digest']}"]
    write_pairs(output, made.pairs, layout.value, remarks=remarks, overwrite=overwrite)
    if as_json:
        write_json({**made.to_dict(), "list": str(output), "seed": seed, "layout": layout.value})
    else:
        write_answer(str(output))
    say(f"{len(made.pairs)} pairs, digest {made.to_dict()['digest'][:16]}.")
    for reason, count in Counter(made.left_out.values()).most_common(5):
        say(f"Left out: {count} × {reason}.")


def _held_out(named: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Speakers of a split of a recipe, and parts of the names of footage that it leaves out."""
    from lipsmith.training.recipe import load_recipe

    file, _, split = named.rpartition(":")
    if split not in ("test", "validation"):
        file, split = named, "test"
    data = load_recipe(Path(file)).data
    speakers = data.test if split == "test" else data.validation
    if not speakers:
        raise UsageError(f"{file} names no speakers for {split}: name them with --speaker.")
    return tuple(speakers), tuple(data.leave_out)
