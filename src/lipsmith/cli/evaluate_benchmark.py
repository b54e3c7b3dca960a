"""`lipsmith evaluate pairs` and `benchmark`: which face says which speech, and how well each system makes it say it."""

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipsmith.cli.evaluate import Device, Download, Features, Judge, JudgedProtocol, MinTrack, Protocol
from lipsmith.cli.options import Force, JsonAnswer, Ray
from lipsmith.cli.output import command_line, say, write_answer, write_json
from lipsmith.cli.progress import ProgressBars
from lipsmith.cli.sync import Length
from lipsmith.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from lipsmith.evaluation.benchmark_result import BenchmarkResult, SystemRows


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
    file_lists: Annotated[
        Path | None,
        typer.Option(
            "--file-lists",
            help="Folder with test.txt, as LRS2 has it: only the videos that it names.",
            show_default=False,
        ),
    ] = None,
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
            file_lists=file_lists,
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


class PseudoSystem(StrEnum):
    """What stands beside the models."""

    UNSYNCED = "unsynced"
    REAL = "real"


def benchmark(
    pair_list: Annotated[
        Path,
        typer.Argument(
            metavar="LIST", help="A face and a speech a line, see `evaluate pairs`.", show_default=False
        ),
    ],
    root: Annotated[
        Path,
        typer.Option("--root", help="Folder that the list's names are relative to.", show_default=False),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="For videos, scores, benchmark.json and benchmark.csv; the same command goes on where it stopped.",
            show_default=False,
        ),
    ],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[NAME=]WEIGHTS",
            help="Weights: a name, a weights folder, the run folder of a training, or a checkpoint; may be repeated.",
            show_default="default",
        ),
    ] = None,
    without: Annotated[
        list[PseudoSystem] | None,
        typer.Option("--without", help="Leave this one out; may be repeated.", show_default=False),
    ] = None,
    audio_root: Annotated[
        Path | None, typer.Option("--audio-root", help="The same of the speeches.", show_default="--root")
    ] = None,
    layout: Annotated[
        Layout | None,
        typer.Option(
            "--layout",
            help="Of a list that does not say: audio-video of LRS2, LRS3 and LRW, video-audio of ReSyncED.",
            show_default=False,
        ),
    ] = None,
    judge: Judge = None,
    protocol: JudgedProtocol = Protocol.TRACKED_CROP,
    min_track: MinTrack = 25,
    length: Annotated[
        Length, typer.Option("--length", help="Where a speech is longer than its video.")
    ] = Length.AUTO,
    runtime: Annotated[str, typer.Option("--runtime", help="openvino, or torch.")] = "openvino",
    device: Device = "auto",
    quality: Annotated[
        bool,
        typer.Option("--quality", help="Also what changed outside of the mouth, see `evaluate quality`."),
    ] = False,
    identity: Annotated[
        Path | None,
        typer.Option("--identity", metavar="FILE", help="TorchScript network that embeds faces; --quality."),
    ] = None,
    perceptual: Annotated[
        Path | None,
        typer.Option("--lpips", metavar="FILE", help="TorchScript network of two pictures; --quality."),
    ] = None,
    fid: Annotated[bool, typer.Option("--fid", help="Also the FID of the face crops.")] = False,
    features: Features = None,
    manifest: Manifest = None,
    max_pairs: Annotated[
        int | None, typer.Option("--max-pairs", min=1, help="Only the first so many.", show_default="all")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Processes.", show_default="one a core")
    ] = None,
    ray: Ray = None,
    download: Download = False,
    as_json: JsonAnswer = False,
) -> None:
    """Let every system make and score every pair of a list; a failure is a row with its reason."""
    from lipsmith.evaluation.benchmark import Judging, QualityFiles, run_benchmark
    from lipsmith.evaluation.comparison import Comparison
    from lipsmith.evaluation.fid import open_features
    from lipsmith.evaluation.file_score import ScoreSettings
    from lipsmith.evaluation.pairs import first_pairs, read_pairs
    from lipsmith.evaluation.report import write_report
    from lipsmith.evaluation.systems import MakingOptions, open_systems

    listed = read_pairs(pair_list, None if layout is None else layout.value)
    if max_pairs is not None:
        listed = first_pairs(listed, max_pairs)
    is_compared = quality or identity is not None or perceptual is not None
    with ProgressBars() as bars:
        result = run_benchmark(
            listed,
            root,
            open_systems(model or ["default"], [system.value for system in without or ()]),
            output,
            audio_root=audio_root,
            judging=Judging(
                judge,
                protocol.value,
                ScoreSettings(min_track_frames=min_track),
                device,
                download=download,
            ),
            making=MakingOptions(runtime, device if runtime == "torch" else "auto", length=length.value),
            quality=QualityFiles(identity, perceptual, "cpu" if device == "auto" else device)
            if is_compared
            else None,
            features=open_features(features, download=download, device=device) if fid or features else None,
            manifest=manifest,
            jobs=jobs,
            ray=ray,
            command=command_line(),
            on_progress=bars.show,
        )
    write_report(Comparison.of_benchmark(result), output / "report.html", folder=output)
    if as_json:
        write_json(result.to_dict())
    else:
        for line in benchmark_lines(result):
            write_answer(line)
    _say_what_is_missing(result)
    say(
        f"Rows and digests: {output / 'benchmark.json'}, {output / 'benchmark.csv'}; as a page: "
        f"{output / 'report.html'}."
    )
    if result.num_failed:
        raise typer.Exit(ExitCode.INCOMPLETE)


def benchmark_lines(result: "BenchmarkResult") -> list[str]:
    """The table for people: a line for each system, means with their 95 % intervals over the pairs."""
    width = max(len(system.system) for system in result.systems)
    has_fid = result.features is not None
    head = f"{'system':{width}}   pairs  {'LSE-D':21}  {'LSE-C':21}  offset ±1"
    return [
        head + ("      FID" if has_fid else ""),
        *(_line(system, width, has_fid) for system in result.systems),
    ]


def _line(system: "SystemRows", width: int, has_fid: bool) -> str:
    summary = system.summary()
    line = f"{system.system:{width}}  {summary.num_scored:6d}"
    if not summary.num_scored:
        return f"{line}  no score"
    for interval in (summary.lse_d, summary.lse_c):
        between = f"({interval.low:.3f}–{interval.high:.3f})"
        line += f"  {interval.value:6.3f} {between:14}"
    within = sum(count for offset, count in summary.offsets.items() if abs(offset) <= 1)
    line += f"  {100 * within / summary.num_scored:7.1f} %"
    if has_fid:
        line += "        –" if system.fid is None else f"{system.fid:9.3f}"
    return line


def _say_what_is_missing(result: "BenchmarkResult") -> None:
    say(f"Judge: {result.scorer['judge']}, {result.scorer['protocol']}. {result.scorer['compares']}")
    for system in result.systems:
        failures = system.summary().failures
        if failures:
            kinds = ", ".join(f"{count} × {kind}" for kind, count in failures.items())
            say(f"Without a score by {system.system}: {kinds}.")
    if result.features is not None and not result.features["is_standard"]:
        say(
            f"FID by the features of {result.features['network']}: it compares only with numbers of the same network."
        )


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
