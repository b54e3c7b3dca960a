"""`lipsmith evaluate leakage`: what is left of a video's own words once it says others, or nothing."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipsmith.cli.evaluate import Device, Threads
from lipsmith.cli.options import CsvAnswer, JsonAnswer, Model
from lipsmith.cli.output import command_line, say, write_answer, write_json
from lipsmith.cli.progress import ProgressBars
from lipsmith.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from lipsmith.evaluation.leakage import LeakageReport
    from lipsmith.evaluation.sync_score import Interval


def leakage(
    videos: Annotated[
        list[Path],
        typer.Argument(
            metavar="VIDEO|FOLDER…",
            help="Videos of people who speak, or folders of them.",
            show_default=False,
        ),
    ],
    judge: Annotated[
        str,
        typer.Option(
            "--judge",
            metavar="expert=RUN",
            help="An expert of this project that was in no loss of what is measured.",
            show_default=False,
        ),
    ],
    model: Model = "default",
    generated: Annotated[
        Path | None,
        typer.Option(
            "--generated",
            metavar="FOLDER",
            help="Measure outputs of any program instead of --model's: FOLDER/speech/NAME.mp4 for foreign speech and "
            "FOLDER/silence/NAME.mp4 for silence, NAME as of the video.",
        ),
    ] = None,
    speech: Annotated[
        Path | None,
        typer.Option(
            "--speech",
            metavar="FILE",
            help="The foreign speech.",
            show_default="the next video's, of a single video the demo's",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Write leakage.json and leakage.csv there, and keep the generated videos.",
        ),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Longest stretch of a video.")] = 20.0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: JsonAnswer = False,
    as_csv: CsvAnswer = False,
) -> None:
    """Lip-sync videos to foreign speech and to silence; how much of the old mouth is left?"""
    from lipsmith.data.storage import write_whole
    from lipsmith.evaluation.file_score import find_videos
    from lipsmith.evaluation.judges import ExpertJudge, resolve_judge
    from lipsmith.evaluation.leakage import (
        LeakageMeter,
        leakage_of_model,
        output_paths,
        require_own_names,
        summarise_leakage,
    )
    from lipsmith.pipeline import LipSyncer
    from lipsmith.training.environment import describe_environment

    if as_json and as_csv:
        raise UsageError("--json and --csv are two answers: choose one; --output writes both.")
    if generated is not None and speech is not None:
        raise UsageError("--speech is for --model: the videos of --generated have their own sound.")
    paths = find_videos(videos)
    require_own_names(paths)
    opened = resolve_judge(judge, device=device, threads=threads)
    if not isinstance(opened, ExpertJudge):
        raise UsageError(
            "Leakage is judged by an expert of this project, which says which of two sounds a mouth belongs to: "
            "--judge expert=RUN."
        )
    meter = LeakageMeter(opened, seconds=seconds)
    with ProgressBars() as bars:
        if generated is not None:
            rows = []
            for done, path in enumerate(paths, 1):
                rows.append(meter.measure(path, *output_paths(generated, path)))
                bars.show("videos", done, len(paths))
            maker = str(generated)
        else:
            with LipSyncer.load(model, device=device, threads=threads) as syncer:
                rows = leakage_of_model(
                    paths,
                    syncer,
                    meter,
                    speech=speech,
                    keep=output,
                    on_progress=lambda done, total: bars.show("videos", done, total),
                )
                maker = syncer.card.name
    report = summarise_leakage(rows)
    answer = {
        "system": maker,
        "meter": meter.to_dict(),
        "environment": describe_environment(None),
        "command": command_line(),
        **report.to_dict(),
    }
    if output is not None:
        text = json.dumps(answer, indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(output / "leakage.json", text.encode(errors="backslashreplace"))
        write_whole(output / "leakage.csv", report.to_csv().encode(errors="surrogateescape"))
    if as_json:
        write_json(answer)
    elif as_csv:
        write_answer(report.to_csv().rstrip("\n"))
    else:
        for line in leakage_lines(report):
            write_answer(line)
    _say_report(report, f"{opened.name}. {opened.compares}")
    if report.num_failed:
        raise typer.Exit(ExitCode.INCOMPLETE)


def leakage_lines(report: "LeakageReport") -> list[str]:
    """The numbers for people, with the ends of their intervals."""
    real = report.sync["real"].preference_share
    rows = [
        ("prefers the old words: the original (the most)", _percent(real)),
        ("prefers the old words: made to say others", _percent(report.sync["old words"].preference_share)),
        (
            "prefers the old words: made to be silent",
            _percent(report.sync["old words in silence"].preference_share),
        ),
        ("prefers the new words: made to say them", _percent(report.sync["generated"].preference_share)),
        ("kept motion: made to say others", _plain(report.motion["old words"])),
        ("  of it above chance", _plain(report.above_chance["old words"])),
        ("kept motion: made to be silent", _plain(report.motion["old words in silence"])),
        ("  of it above chance", _plain(report.above_chance["old words in silence"])),
        ("motion while speaking, of the original's", _plain(report.motion_in_speech)),
        ("motion in silence, of that while speaking", _plain(report.motion_in_silence)),
    ]
    width = max(len(words) for words, _ in rows)
    return [f"{words:{width}}  {value}" for words, value in rows]


def _percent(found: "Interval") -> str:
    if math.isnan(found.value):
        return "—"
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _plain(found: "Interval") -> str:
    if math.isnan(found.value):
        return "—"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _say_report(report: "LeakageReport", judged_by: str) -> None:
    say(f"Judge: {judged_by}")
    say(
        f"{len(report.rows) - report.num_failed} of {len(report.rows)} videos; in brackets 95 % intervals over videos. "
        "Chance is 50 % for preferences, and 0 above chance for motion: an interval that excludes it is leakage."
    )
    for row in report.rows:
        if row.failure is not None:
            say(f"{row.failure_kind}: {row.failure}")
