"""`lipsmith prepare`, `doctor`, `train` and `offsets`: from footage to a trained network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from lipsmith.cli.options import JsonReport, Ray
from lipsmith.cli.output import say, write_answer, write_json
from lipsmith.cli.progress import ProgressBars


def prepare(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of prepared clips; goes on where it stopped.")
    ],
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOOTAGE",
            help="Videos, folders of videos, or of clips as the published preprocessing leaves them "
            "(0.jpg, 1.jpg, … and audio.wav). None: pack an older prepared folder into shards.",
            show_default=False,
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            help="TSV or CSV with a column `file`, and speaker, licence, use, split, … beside it.",
        ),
    ] = None,
    file_lists: Annotated[
        Path | None,
        typer.Option("--file-lists", help="Folder with train.txt, val.txt and test.txt, as LRS2 has them."),
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="Of footage that the manifest does not name.")
    ] = None,
    use: Annotated[
        str | None,
        typer.Option("--use", help="What that footage may be used for, e.g. open or research."),
    ] = None,
    face_size: Annotated[int, typer.Option("--face-size", help="Side of the face crop, pixels.")] = 96,
    min_face: Annotated[float, typer.Option("--min-face", min=1, help="Least side of a face, pixels.")] = 48,
    min_seconds: Annotated[float, typer.Option("--min-seconds", min=0, help="Least length of a clip.")] = 1,
    max_seconds: Annotated[
        float, typer.Option("--max-seconds", min=1, help="Longer ones become several clips.")
    ] = 30,
    min_sharpness: Annotated[
        float,
        typer.Option("--min-sharpness", min=0, help="Least variance of the Laplacian of the face; 0: any."),
    ] = 0,
    workers: Annotated[
        int | None,
        typer.Option("--jobs", "--workers", "-j", min=1, help="Processes.", show_default="one a core"),
    ] = None,
    ray: Ray = None,
    as_json: JsonReport = False,
) -> None:
    """Turn raw footage into training clips: face crops, mel, exact times, an index."""
    from lipsmith.data.prepare import PrepareOptions
    from lipsmith.data.prepare import prepare as prepare_footage

    options = PrepareOptions(
        face_size=face_size,
        min_face_pixels=min_face,
        min_seconds=min_seconds,
        max_seconds=max_seconds,
        min_sharpness=min_sharpness,
    )
    stated = {"licence": licence, "use": use}
    with ProgressBars() as bars:
        report = prepare_footage(
            inputs or [],
            output,
            manifest=manifest,
            file_lists=file_lists,
            facts={field: value for field, value in stated.items() if value},
            options=options,
            workers=workers,
            ray=ray,
            on_progress=lambda done, total: bars.show("sources", done, total),
        )
    if as_json:
        write_json(report.to_dict())
    else:
        write_answer(str(report.output))
    say(
        f"{report.num_clips} clips, {report.seconds / 60:.1f} minutes, {report.num_speakers} speakers, "
        f"{report.num_shards} shards, from {report.num_videos} videos or folders."
    )
    for reason, count in sorted(report.dropped.items()):
        say(f"Left out: {count} × {reason}.")
    if report.dropped:
        say(f"{output / 'dropped.jsonl'} says more of each.")
    if report.num_lost:
        say(
            f"Lost: {report.num_lost} clips, whose files are gone or cut off. Give their footage again, and they are "
            "made anew."
        )


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A YAML file, see recipes/.", show_default=False)
    ],
    data: Annotated[
        Path,
        typer.Option("--data", "-d", help="Folder that `lipsmith prepare` wrote.", show_default=False),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Run folder: checkpoints, log.", show_default=False)
    ],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Another value for a field of the recipe, as --set model.frames=3; may be repeated.",
            show_default=False,
        ),
    ] = None,
    expert: Annotated[
        str | None,
        typer.Option("--expert", help="For a generator: the trained expert, a name, a run folder or a file."),
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option("--initial", help="For a generator: weights of an earlier stage to start from."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output.")] = False,
    as_json: JsonReport = False,
) -> None:
    """Train the expert or the generator by a recipe."""
    from lipsmith.training import train as train_network
    from lipsmith.training.distributed import is_main_process
    from lipsmith.training.recipe import parse_override

    with ProgressBars() as bars:
        done = train_network(
            recipe,
            data,
            output,
            overrides=dict(parse_override(change) for change in changes or ()),
            expert=expert,
            initial=initial,
            resume=resume,
            on_progress=lambda step, steps, measures: bars.show("steps", step, steps, _in_words(measures)),
        )
    if not is_main_process():
        return
    if as_json:
        write_json(done.to_dict())
    else:
        write_answer(str(done.folder))
    say(
        f"{done.steps} steps in {done.seconds / 60:.1f} minutes"
        f"{', stopped early' if done.stopped_early else ''}; best at step {done.best_step}: "
        f"{_in_words(done.best)}."
    )
    for reason, count in sorted(done.skipped.items()):
        say(f"Skipped: {count} × {reason}.")


def _in_words(measures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in measures.items())


def offsets(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder that `lipsmith prepare` wrote.", show_default=False)
    ],
    expert: Annotated[
        str,
        typer.Option(
            "--expert", help="A trained expert, a name, a run folder or a file.", show_default=False
        ),
    ],
    as_json: JsonReport = False,
) -> None:
    """Measure by how much sound and picture of the prepared clips are apart; training corrects it."""
    from lipsmith.training.offsets import measure_offsets

    with ProgressBars() as bars:
        found = measure_offsets(data, expert, on_progress=lambda done, total: bars.show("clips", done, total))
    if as_json:
        write_json(found.to_dict())
    else:
        for offset, count in sorted(found.histogram.items()):
            write_answer(f"{offset:+d} frames: {count} clips")
    say(
        f"{found.num_clips} clips, {found.num_measured} long enough to measure, {found.num_clear} clear. "
        "The index was brought up to date."
    )


def doctor(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder that `lipsmith prepare` wrote.", show_default=False)
    ],
    expert: Annotated[
        str | None,
        typer.Option(
            "--expert", help="A trained expert, a name, a run folder or a file; without one sync is left out."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of doctor.json, .csv and .png.", show_default="DATA/doctor"
        ),
    ] = None,
    correct: Annotated[
        bool, typer.Option("--correct", help="Write offsets and what is to be left out into the index.")
    ] = False,
    min_confidence: Annotated[
        float, typer.Option("--min-confidence", help="Least confidence of the expert in a clip's offset.")
    ] = 0.1,
    max_offset: Annotated[
        int, typer.Option("--max-offset", min=0, help="Frames; what is further out of sync is left out.")
    ] = 7,
    min_speech: Annotated[
        float,
        typer.Option("--min-speech", min=0, max=1, help="Least share of a clip in which somebody speaks."),
    ] = 0.1,
    min_sharpness: Annotated[
        float, typer.Option("--min-sharpness", min=0, help="Least sharpness, as in the index.")
    ] = 0,
    as_json: JsonReport = False,
) -> None:
    """Say what is wrong with prepared clips: offsets, sync, speech, sharpness; correct it on request."""
    from lipsmith.training.doctor import Limits, correct_index, examine, write_report
    from lipsmith.training.expert import load_expert

    limits = Limits(
        least_confidence=min_confidence,
        most_offset_frames=max_offset,
        least_speech=min_speech,
        least_sharpness=min_sharpness,
    )
    with ProgressBars() as bars:
        judge = None if expert is None else load_expert(expert)
        report = examine(data, judge, limits, on_progress=lambda done, total: bars.show("clips", done, total))
    written = write_report(report, output or data / "doctor")
    if correct:
        correct_index(data, report)
    if as_json:
        write_json(report.to_dict())
    elif words := report.in_words():
        write_answer(words)
    measured = f"{report.num_measured} long enough to measure"
    say(
        f"{len(report.findings)} clips, {measured if expert else 'sync not measured (--expert does that)'}: "
        f"{len(report.with_verdict('keep'))} kept, {len(report.with_verdict('shift'))} shifted, "
        f"{len(report.with_verdict('drop'))} left out. See {written[-1]}."
    )
    say("The index was brought up to date." if correct else "Nothing was changed: --correct does that.")
