"""`lipsmith evaluate`: how well lips and sound of video files belong together, and how good the pictures are."""

import csv
import io
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lipsmith.cli.failures import told_in_one_sentence
from lipsmith.cli.options import CsvAnswer, JsonAnswer
from lipsmith.cli.output import command_line, say, write_answer, write_json
from lipsmith.cli.progress import ProgressBars
from lipsmith.errors import DataError, ExitCode, UsageError

if TYPE_CHECKING:
    from lipsmith.evaluation.file_score import FileScore, FileScorer, FileSummary

evaluate = typer.Typer(
    name="evaluate",
    help="Score videos: lip-sync (LSE-D, LSE-C, AV offset), and the quality of the pictures.",
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
MinTrack = Annotated[
    int, typer.Option("--min-track", min=1, help="Least frames of a face track at 25 a second.")
]
Download = Annotated[
    bool, typer.Option("--download", help="Fetch what is not installed from its authors' address.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, or a device of PyTorch's such as cuda.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Most CPU threads.")]
Features = Annotated[
    Path | None,
    typer.Option(
        "--features",
        metavar="FILE",
        help="TorchScript network of the FID, instead of the standard Inception; it is run, so trust it.",
    ),
]
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


def open_scorer(
    judge: str | None,
    protocol: Protocol,
    output: Path | None,
    min_track: int,
    device: str,
    threads: int | None,
    download: bool,
) -> "FileScorer":
    """What the options of `evaluate score` and `compare` ask for; scores are kept in `output`."""
    from lipsmith.evaluation.file_score import FileScorer, ScoreSettings

    return FileScorer.open(
        judge,
        protocol.value,
        settings=ScoreSettings(min_track_frames=min_track),
        store=None if output is None else output / "scores.jsonl",
        device=device,
        threads=threads,
        download=download,
    )


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
    min_track: MinTrack = 25,
    device: Device = "auto",
    threads: Threads = None,
    download: Download = False,
    as_json: JsonAnswer = False,
    as_csv: CsvAnswer = False,
) -> None:
    """LSE-D, LSE-C and AV offset of videos; one that has no score is a row with the reason."""
    from lipsmith.data.storage import write_whole
    from lipsmith.evaluation.file_score import find_videos, summarise_files
    from lipsmith.training.environment import describe_environment

    if as_json and as_csv:
        raise UsageError("--json and --csv are two answers: choose one; --output writes both.")
    files = find_videos(videos)
    scorer = open_scorer(judge, protocol, output, min_track, device, threads, download)
    with ProgressBars() as bars:
        scores = list(
            scorer.score_all(files, on_progress=lambda done, total: bars.show("videos", done, total))
        )
    summary = summarise_files(scores)
    answer = {
        "scorer": scorer.to_dict(),
        "environment": describe_environment(None),
        "command": command_line(),
        "summary": summary.to_dict(),
        "files": [score.to_dict() for score in scores],
    }
    if output is not None:
        import json

        text = json.dumps(answer, indent=1, ensure_ascii=False)
        # Names of files may hold bytes that are no text.
        write_whole(output / "scores.json", text.encode(errors="backslashreplace"))
        write_whole(output / "scores.csv", csv_text(scores).encode(errors="surrogateescape"))
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


@evaluate.command()
@told_in_one_sentence
def quality(
    videos: Annotated[
        list[Path],
        typer.Argument(metavar="VIDEO|FOLDER…", help="Videos, or folders of them.", show_default=False),
    ],
    reference: Annotated[
        Path,
        typer.Option(
            "--reference",
            "-r",
            help="A folder of videos of the same names, or one video: the ones they were made of, or should equal.",
            show_default=False,
        ),
    ],
    fid: Annotated[bool, typer.Option("--fid", help="Also the FID of the face crops of both sets.")] = False,
    features: Features = None,
    identity: Annotated[
        Path | None,
        typer.Option(
            "--identity", metavar="FILE", help="TorchScript network that embeds faces of 112 × 112."
        ),
    ] = None,
    perceptual: Annotated[
        Path | None, typer.Option("--lpips", metavar="FILE", help="TorchScript network of two pictures.")
    ] = None,
    download: Download = False,
    device: Device = "auto",
    as_json: JsonAnswer = False,
    as_csv: CsvAnswer = False,
) -> None:
    """PSNR, SSIM, mouth corners and flicker of videos beside their references; FID of both sets."""
    from lipsmith.evaluation.fid import frechet_distance, open_features
    from lipsmith.evaluation.file_score import find_videos
    from lipsmith.evaluation.image_quality import (
        IdentityNetwork,
        PairNetwork,
        QualityTools,
        compare_files,
        fit_videos,
        match_references,
    )
    from lipsmith.faces.detect import resolve_detector

    if as_json and as_csv:
        raise UsageError("--json and --csv are two answers: choose one.")
    pairs = match_references(find_videos(videos), reference)
    on = "cpu" if device == "auto" else device
    tools = QualityTools(
        resolve_detector("mtcnn"),
        identity=None if identity is None else IdentityNetwork(identity, on),
        perceptual=None if perceptual is None else PairNetwork(perceptual, on),
    )
    extractor = open_features(features, download=download, device=device) if fid or features else None
    rows, distance = [], None
    left_out: list[str] = []
    with ProgressBars() as bars:
        for done, (path, real) in enumerate(pairs, 1):
            rows.append(compare_files(path, real, tools).to_dict())
            bars.show("videos", done, len(pairs))
        compared = [(pair, row) for pair, row in zip(pairs, rows, strict=True) if row["failure"] is None]
        if extractor is not None and compared:
            # By now much has been measured, which a video without a face must not cost.
            sets: list[list[Path]] = [
                list(dict.fromkeys(path for (path, _), _ in compared)),
                list(dict.fromkeys(real for (_, real), _ in compared if real is not None)),
            ]
            try:
                made, real_faces = (
                    fit_videos(
                        files,
                        extractor,
                        tools.detector,
                        on_failure=lambda path, reason: left_out.append(f"{path} is in no FID: {reason}"),
                    )
                    for files in sets
                )
            except DataError as error:
                left_out.append(f"There is no FID: {error}")
            else:
                distance = {
                    "fid": frechet_distance(made, real_faces),
                    "network": extractor.name,
                    "sha256": extractor.digest,
                    "is_standard": extractor.is_standard,
                    "crop": "tracked face crop, resampled to 299 × 299, every fifth frame at 25 a second",
                    "num_faces": made.count,
                }
    columns = list(rows[0])
    if as_json:
        write_json({"files": rows, "fid": distance})
    elif as_csv:
        write_answer(_csv(columns, rows).rstrip("\n"))
    else:
        width = max(len(row["path"]) for row in rows)
        shown = [name for name in columns if any(isinstance(row[name], float) for row in rows)]
        write_answer("  ".join([f"{'file':{width}}", *shown]))
        for row in rows:
            cells = [
                f"{row[name]:{len(name)}.3f}" if row[name] is not None else " " * len(name) for name in shown
            ]
            words = [f"{row['failure_kind']}: {row['failure']}"] if row["failure"] else cells
            write_answer("  ".join([f"{row['path']:{width}}", *words]))
        if distance is not None:
            write_answer(f"FID {distance['fid']:.3f}")
    if distance is not None and not distance["is_standard"]:
        say(
            f"FID by the features of {distance['network']}: it compares only with numbers of the same network."
        )
    for sentence in left_out:
        say(sentence)
    changed = sum(row["is_unchanged_outside"] is False for row in rows)
    if changed:
        say(f"Changed outside of the face by more than coding explains: {changed} of {len(compared)} videos.")
    if left_out or len(compared) < len(rows):
        raise typer.Exit(ExitCode.INCOMPLETE)


def csv_text(scores: "Sequence[FileScore]") -> str:
    """One line for each file, with a header; empty where there is no number."""
    return _csv(_COLUMNS, [{**score.to_dict(), "num_tracks": len(score.tracks)} for score in scores])


def _csv(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
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
