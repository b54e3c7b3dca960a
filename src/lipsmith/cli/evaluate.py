"""`lipsmith evaluate`: how well lips and sound of video files belong together, and how good the pictures are."""

import csv
import io
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipsmith.cli.failures import told_in_one_sentence
from lipsmith.cli.options import JsonAnswer
from lipsmith.cli.output import say, write_answer, write_json
from lipsmith.cli.progress import ProgressBars
from lipsmith.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from lipsmith.evaluation.file_score import FileScore, FileSummary

evaluate = typer.Typer(
    name="evaluate",
    help="Score videos: lip-sync (LSE-D, LSE-C, AV offset).",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_COLUMNS = (
    "path",
    "lse_d",
    "lse_c",
    "av_offset_frames",
    "num_windows",
    "num_tracks",
    "duration_seconds",
    "failure_kind",
    "failure",
    "protocol",
    "judge",
    "judge_digest",
    "digest",
)


class Protocol(StrEnum):
    """What of a video the judge sees."""

    TRACKED_CROP = "tracked-crop"
    WHOLE_CLIP = "whole-clip"


Judge = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="FILE|expert=RUN",
        help="SyncNet's weights, or expert=RUN_OR_FILE: an expert of this project, whose numbers compare only "
        "with one another.",
        show_default="SyncNet v2 as installed",
    ),
]
JudgedProtocol = Annotated[
    Protocol,
    typer.Option(
        "--protocol",
        help="tracked-crop: real videos, faces are found and followed. whole-clip: clips that are face crops, as "
        "LRS2, LRS3 and LRW.",
    ),
]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch what is not installed from its authors' address.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, or a device of PyTorch's such as cuda.")]
Kept = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FOLDER",
        help="Write scores.json and scores.csv there, and keep every score in scores.jsonl: the same command goes "
        "on where it stopped.",
    ),
]


@evaluate.command()
@told_in_one_sentence
def score(
    videos: Annotated[
        list[Path],
        typer.Argument(metavar="VIDEO|FOLDER…", help="Videos, or folders of them.", show_default=False),
    ],
    judge: Judge = None,
    protocol: JudgedProtocol = Protocol.TRACKED_CROP,
    output: Kept = None,
    min_track: Annotated[
        int,
        typer.Option("--min-track", min=1, help="Least frames of a face track at 25 a second."),
    ] = 25,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Most CPU threads.")] = None,
    download: Download = False,
    as_json: JsonAnswer = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Answer in CSV.")] = False,
) -> None:
    """LSE-D, LSE-C and AV offset of videos; one that has no score is a row with the reason."""
    from lipsmith.data.storage import write_whole
    from lipsmith.evaluation.file_score import FileScorer, ScoreSettings, find_videos, summarise_files

    if as_json and as_csv:
        raise UsageError("--json and --csv are two answers: choose one; --output writes both.")
    files = find_videos(videos)
    scorer = FileScorer.open(
        judge,
        protocol.value,
        settings=ScoreSettings(min_track_frames=min_track),
        store=None if output is None else output / "scores.jsonl",
        device=device,
        threads=threads,
        download=download,
    )
    with ProgressBars() as bars:
        scores = list(
            scorer.score_all(files, on_progress=lambda done, total: bars.show("videos", done, total))
        )
    summary = summarise_files(scores)
    answer = {
        "scorer": scorer.to_dict(),
        "summary": summary.to_dict(),
        "files": [score.to_dict() for score in scores],
    }
    if output is not None:
        import json

        write_whole(output / "scores.json", json.dumps(answer, indent=1, ensure_ascii=False).encode())
        write_whole(output / "scores.csv", csv_text(scores).encode())
    if as_json:
        write_json(answer)
    elif as_csv:
        write_answer(csv_text(scores).rstrip("\n"))
    else:
        for line in table_lines(scores):
            write_answer(line)
    _say_summary(summary, f"{scorer.judge.name}, {protocol.value}. {scorer.judge.compares}")
    if summary.num_scored < summary.num_files:
        raise typer.Exit(ExitCode.INCOMPLETE)


def csv_text(scores: "Sequence[FileScore]") -> str:
    """One line for each file, with a header; empty where there is no number."""
    text = io.StringIO()
    table = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for score in scores:
        table.writerow({**score.to_dict(), "num_tracks": len(score.tracks)})
    return text.getvalue()


def table_lines(scores: "Sequence[FileScore]") -> list[str]:
    """The table for people: numbers, or the reason why there are none."""
    width = max((len(str(score.path)) for score in scores), default=4)
    lines = [f"{'file':{width}}   LSE-D   LSE-C  offset  windows  tracks"]
    for score in scores:
        if score.failure is not None:
            cells = f"  {score.failure_kind}: {score.failure}"
        else:
            cells = (
                f"{_number(score.lse_d)}{_number(score.lse_c)}{score.av_offset_frames:+8d}"
                f"{score.num_windows:9d}{len(score.tracks):8d}"
            )
        lines.append(f"{score.path!s:{width}}{cells}")
    return lines


def _number(value: float | None) -> str:
    return f"{value:8.3f}"


def _say_summary(summary: "FileSummary", judged_by: str) -> None:
    say(f"Judge: {judged_by}")
    if summary.num_scored:
        means = ", ".join(
            f"{name} {interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
            for name, interval in (("LSE-D", summary.lse_d), ("LSE-C", summary.lse_c))
        )
        say(f"Mean of {summary.num_scored} of {summary.num_files} files, 95 % interval over files: {means}.")
        within = sum(count for offset, count in summary.offsets.items() if abs(offset) <= 1)
        say(
            f"Offset within one frame: {within} of {summary.num_scored}. A constant lag is invisible to LSE: "
            "look at the offsets."
        )
    for kind, count in summary.failures.items():
        say(f"Without a score: {count} × {kind}.")
