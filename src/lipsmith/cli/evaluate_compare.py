"""`lipsmith evaluate compare` and `report`: systems side by side, and results as a page."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipsmith.cli.evaluate import (
    Device,
    Download,
    Judge,
    JudgedProtocol,
    MinTrack,
    Protocol,
    Threads,
    open_scorer,
)
from lipsmith.cli.options import CsvAnswer, JsonAnswer
from lipsmith.cli.output import command_line, say, write_answer, write_json
from lipsmith.cli.progress import ProgressBars
from lipsmith.errors import ExitCode, InputError, OutputError, UsageError

if TYPE_CHECKING:
    from lipsmith.evaluation.comparison import Comparison
    from lipsmith.evaluation.file_score import FileScore, FileScorer
    from lipsmith.evaluation.sync_score import Interval

_LEAST_SYSTEMS = 2


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]FOLDER…",
            help="Folders of videos by any program, each with the system's name; or a scores.json of evaluate score. "
            "The same file name is the same item.",
            show_default=False,
        ),
    ],
    judge: Judge = None,
    protocol: JudgedProtocol = Protocol.TRACKED_CROP,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Write comparison.json and comparison.csv there, and keep every score in scores.jsonl: the same "
            "command goes on where it stopped.",
        ),
    ] = None,
    min_track: MinTrack = 25,
    device: Device = "auto",
    threads: Threads = None,
    download: Download = False,
    as_json: JsonAnswer = False,
    as_csv: CsvAnswer = False,
) -> None:
    """Score several systems' videos of the same items, and say how far the systems differ."""
    from lipsmith.evaluation.comparison import (
        Comparison,
        join_scores,
        match_items,
        read_scores,
        require_same_scorer,
    )
    from lipsmith.training.environment import describe_environment

    if as_json and as_csv:
        raise UsageError("--json and --csv are two answers: choose one; --output writes both.")
    places = named_folders(systems)
    folders = {name: place for name, place in places.items() if place.suffix != ".json"}
    if judge is not None and not folders:
        raise UsageError(
            "--judge is for folders; scores.json files name the judge of their scores: leave it out."
        )
    kept = {name: read_scores(place) for name, place in places.items() if name not in folders}
    items = match_items(folders)
    scorers = [(name, scorer) for name, (scorer, _) in kept.items()]
    found = {name: rows for name, (_, rows) in kept.items()}
    if folders:
        opened = open_scorer(judge, protocol, output, min_track, device, threads, download)
        scorers.append((next(iter(folders)), opened.to_dict()))
        require_same_scorer(scorers)
        found |= _score_items(opened, items)
    require_same_scorer(scorers)
    scorer = scorers[-1][1]
    names, rows = join_scores(places, {name: found.get(name, {}) for name in places}, scorer)
    comparison = Comparison(names, rows, dict(scorer), describe_environment(None), command_line())
    if output is not None:
        comparison.write(output)
    if as_json:
        write_json(comparison.to_dict())
    elif as_csv:
        write_answer(comparison.to_csv().rstrip("\n"))
    else:
        for line in comparison_lines(comparison):
            write_answer(line)
    _say_comparison(comparison)
    if comparison.num_failed:
        raise typer.Exit(ExitCode.INCOMPLETE)


def report(
    result: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT",
            help="JSON of evaluate benchmark, compare or score, or the folder that holds it.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The page to write.",
            show_default="report.html beside RESULT",
        ),
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Of the page.", show_default="what was scored")] = "",
    worst: Annotated[
        int, typer.Option("--worst", min=0, help="Clips of each system to show as strips; 0 reads no video.")
    ] = 3,
) -> None:
    """Write a result as one HTML page that needs no network: tables, intervals, distributions, strips, failures."""
    from lipsmith.evaluation.comparison import read_comparison
    from lipsmith.evaluation.report import write_report

    folder = result if result.is_dir() else result.parent
    page = output or folder / "report.html"
    if page.is_dir():
        raise OutputError(f"{page} is a folder: name the page, as {page / 'report.html'}.")
    write_report(read_comparison(result), page, title=title, num_worst=worst, folder=folder)
    write_answer(str(page))


def named_folders(systems: list[str]) -> dict[str, Path]:
    """Name → folder or scores.json of every argument `NAME=PLACE`, or `PLACE`, which is named after itself.

    Raises:
        UsageError: fewer than two, or two of one name.
        InputError: a place that does not exist.
    """
    places: dict[str, Path] = {}
    for system in systems:
        name, separator, place = system.partition("=")
        # A folder's own name may hold the sign.
        if not separator or Path(system).exists():
            named = Path(system).resolve()
            name, place = named.parent.name if named.suffix == ".json" else named.name, system
        path = Path(place)
        if not name or not place:
            raise UsageError(f"{system} names no folder; write it as NAME=FOLDER.")
        if name in places:
            raise UsageError(f"Two systems are called {name}; give each a name of its own, as NAME=FOLDER.")
        if not path.is_dir() and not (path.suffix == ".json" and path.is_file()):
            raise InputError(f"There is no folder {path} (nor is it a scores.json), given as {system}.")
        places[name] = path
    if len(places) < _LEAST_SYSTEMS:
        raise UsageError("A comparison needs two systems; for one there is `lipsmith evaluate score`.")
    return places


def comparison_lines(comparison: "Comparison") -> list[str]:
    """The tables for people: systems, then differences, numbers with the ends of their intervals."""
    columns = ("LSE-D", "LSE-C", "offset", "within one")
    rows = [["system", "videos", "scored", *columns]]
    for system in comparison.systems:
        summary = system.summary()
        numbers = _cells(
            summary.lse_d, summary.lse_c, summary.av_offset_frames, summary.offset_within_one_share, ""
        )
        rows.append([system.name, str(summary.num_files), str(summary.num_scored), *numbers])
    lines = _aligned(rows)
    rows = [["difference", "in both", "one only", *columns]]
    for pair in comparison.differences():
        numbers = _cells(pair.lse_d, pair.lse_c, pair.av_offset_frames, pair.offset_within_one_share, "+")
        alone = f"{pair.num_first_only + pair.num_second_only}"
        rows.append([f"{pair.second} − {pair.first}", str(pair.num_common), alone, *numbers])
    return [*lines, "", *_aligned(rows)]


def _cells(
    lse_d: "Interval", lse_c: "Interval", offset: "Interval", share: "Interval", sign: str
) -> list[str]:
    def cell(interval: "Interval", form: str, scale: float = 1, unit: str = "") -> str:
        if math.isnan(interval.value):
            return "—"
        value, low, high = (scale * number for number in (interval.value, interval.low, interval.high))
        return f"{value:{form}}{unit} ({low:{form}} to {high:{form}})"

    return [
        cell(lse_d, f"{sign}.3f"),
        cell(lse_c, f"{sign}.3f"),
        cell(offset, "+.2f"),
        cell(share, f"{sign}.0f", 100, " %"),
    ]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _say_comparison(comparison: "Comparison") -> None:
    scorer = comparison.scorer
    say(f"Judge: {scorer['judge']}, {scorer['protocol']}. {scorer['compares']}")
    say(
        f"{len(comparison.items)} items. Means are over each system's own scored videos, differences over the items "
        "that both have a score of; in brackets 95 % intervals over items."
    )
    for system in comparison.systems:
        for kind, count in system.summary().failures.items():
            say(f"{system.name}, without a score: {count} × {kind}.")
    for pair in comparison.differences():
        if not pair.num_common:
            say(f"{pair.first} and {pair.second} have no scored item in common: are the files named alike?")


def _score_items(
    scorer: "FileScorer", items: "dict[str, dict[str, Path]]"
) -> "dict[str, dict[str, FileScore]]":
    found: dict[str, dict[str, FileScore]] = {}
    total = sum(map(len, items.values()))
    done = 0
    with ProgressBars() as bars:
        for item, videos in items.items():
            for system, path in videos.items():
                found.setdefault(system, {})[item] = scorer.score(path)
                done += 1
                bars.show("videos", done, total)
    return found
