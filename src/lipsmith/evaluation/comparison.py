"""Systems side by side: the same items, by any program, scored by one judge, with the differences of pairs of systems.

An **item** is what several systems made a video of; videos with the same file name without its suffix are of one item.
Every system has a row for every item: its score, or why there is none, be it that its folder lacks the video.

* The numbers of a system are means over its own scored items.
* The **difference** of two systems is taken item by item, second minus first, over the items that both have a score of,
  and averaged: how hard an item is drops out. Items that only one of them has a score of are counted beside it.

Intervals are 95 % bootstraps that draw items. One that excludes zero is a difference that other items would show too.
"""

import csv
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import numpy as np

from lipsmith.data.storage import write_whole
from lipsmith.errors import DataError, UsageError
from lipsmith.evaluation.benchmark_result import BenchmarkResult
from lipsmith.evaluation.file_score import FileScore, FileSummary, find_videos, summarise_files
from lipsmith.evaluation.sync_score import Interval, bootstrap_ratio

JSON_NAME = "comparison.json"
CSV_NAME = "comparison.csv"
SCORES_NAME = "scores.json"
# Raise it when files of before can no longer be read.
COMPARISON_FORMAT = 1


@dataclass(frozen=True)
class SystemScores:
    """All rows of one system.

    Attributes:
        name: of the system.
        scores: one for each item, in the comparison's order.
        fid: of its faces, where it was measured.
        facts: what else is known of it.
        quality: means of the numbers of `lipsmith.evaluation.image_quality`, where they were measured.
    """

    name: str
    scores: tuple[FileScore, ...]
    fid: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)

    def summary(self) -> FileSummary:
        """The rows in a few numbers, with intervals."""
        return summarise_files(self.scores)


@dataclass(frozen=True)
class PairedDifference:
    """Two systems on the items that both have a score of: mean of second minus first, with a 95 % interval over items.

    Attributes:
        first, second: names of the systems.
        num_common: items that both have a score of.
        num_first_only, num_second_only, num_neither: the other items, by who has a score.
        lse_d, lse_c, av_offset_frames: differences of the means.
        offset_within_one_share: difference of the shares of items whose offset is −1, 0 or 1.
        num_lse_d_lower, num_lse_c_higher: items at which the second is strictly better.
    """

    first: str
    second: str
    num_common: int
    num_first_only: int
    num_second_only: int
    num_neither: int
    lse_d: Interval
    lse_c: Interval
    av_offset_frames: Interval
    offset_within_one_share: Interval
    num_lse_d_lower: int
    num_lse_c_higher: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values; NaN as None."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return {
            name: value.to_dict() if isinstance(value, Interval) else value for name, value in values.items()
        }


@dataclass(frozen=True)
class Comparison:
    """Systems side by side.

    Attributes:
        items: names of what was scored.
        systems: each with a row for every item.
        scorer: judge, protocol and settings (`FileScorer.to_dict`).
        environment: versions and machine (`lipsmith.training.environment.describe_environment`).
        command: that made it.
        facts: what else is known: of a benchmark its `list`, `list_digest`, FID `features` and `making` (options).
    """

    items: tuple[str, ...]
    systems: tuple[SystemScores, ...]
    scorer: dict[str, Any]
    environment: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for system in self.systems:
            if len(system.scores) != len(self.items):
                raise ValueError(f"{system.name} has {len(system.scores)} rows for {len(self.items)} items")

    @property
    def num_failed(self) -> int:
        """Rows without a score, over all systems."""
        return sum(not score.is_scored for system in self.systems for score in system.scores)

    def differences(self) -> list[PairedDifference]:
        """Every pair of systems, in their order."""
        return [paired_difference(first, second) for first, second in combinations(self.systems, 2)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values, with summaries and differences."""
        return {
            "format": COMPARISON_FORMAT,
            "items": list(self.items),
            "scorer": self.scorer,
            "environment": self.environment,
            "command": self.command,
            "facts": self.facts,
            "num_failed": self.num_failed,
            "differences": [difference.to_dict() for difference in self.differences()],
            "systems": [
                {
                    "name": system.name,
                    "fid": system.fid,
                    "facts": system.facts,
                    "quality": system.quality,
                    "summary": system.summary().to_dict(),
                    "scores": [score.to_dict() for score in system.scores],
                }
                for system in self.systems
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(
            items=tuple(values["items"]),
            systems=tuple(
                SystemScores(
                    system["name"],
                    tuple(FileScore.from_dict(score) for score in system["scores"]),
                    system["fid"],
                    dict(system["facts"]),
                    dict(system["quality"]),
                )
                for system in values["systems"]
            ),
            scorer=dict(values["scorer"]),
            environment=dict(values["environment"]),
            command=values["command"],
            facts=dict(values["facts"]),
        )

    @classmethod
    def of_scores(cls, values: Mapping[str, Any], name: str = "videos") -> Self:
        """The one system of what `lipsmith evaluate score` answers in JSON; items are files as they were named."""
        scores = tuple(FileScore.from_dict(score) for score in values["files"])
        return cls(
            items=tuple(str(score.path) for score in scores),
            systems=(SystemScores(name, scores),),
            scorer=dict(values["scorer"]),
            environment=dict(values.get("environment", {})),
            command=values.get("command", ""),
        )

    @classmethod
    def of_benchmark(cls, result: BenchmarkResult) -> Self:
        """The systems of a benchmark; items are its pairs."""
        rows = result.systems[0].rows if result.systems else ()
        return cls(
            items=tuple(f"{row.video} + {row.audio}" for row in rows),
            systems=tuple(
                SystemScores(
                    system.system,
                    tuple(
                        row.score if row.output is None else dataclasses.replace(row.score, path=row.output)
                        for row in system.rows
                    ),
                    system.fid,
                    {"model_digest": system.model_digest, **system.facts},
                    _mean_quality([row.quality for row in system.rows]),
                )
                for system in result.systems
            ),
            scorer=result.scorer,
            environment={**result.versions, **result.machine, "started": result.created},
            command=str(result.options.get("command", "")),
            facts={
                "list": result.name,
                "list_digest": result.list_digest,
                "features": result.features,
                "making": {name: value for name, value in result.options.items() if name != "command"},
            },
        )

    def to_csv(self) -> str:
        """A line for each item of each system, with a header; empty where there is no number."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["system", "item", *_COLUMNS])
        for system in self.systems:
            for item, score in zip(self.items, system.scores, strict=True):
                table.writerow([system.name, item, *(getattr(score, name) for name in _COLUMNS)])
        return text.getvalue()

    def write(self, folder: Path) -> None:
        """Write `comparison.json` and `comparison.csv` into `folder`; raises `OutputError`."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(folder / JSON_NAME, text.encode(errors="backslashreplace"))
        write_whole(folder / CSV_NAME, self.to_csv().encode(errors="surrogateescape"))


_SCORED_ALIKE = ("judge_digest", "protocol", "settings")
_COLUMNS = (
    "path",
    "lse_d",
    "lse_c",
    "av_offset_frames",
    "num_windows",
    "duration_seconds",
    "failure_kind",
    "failure",
    "protocol",
    "judge",
    "judge_digest",
    "digest",
)


def paired_difference(first: SystemScores, second: SystemScores) -> PairedDifference:
    """Compare two systems with rows of the same items."""
    pairs = list(zip(first.scores, second.scores, strict=True))
    common = [pair for pair in pairs if pair[0].is_scored and pair[1].is_scored]
    has_score = Counter((one.is_scored, other.is_scored) for one, other in pairs)
    labels = [str(place) for place in range(len(common))]

    def differences(name: str) -> list[float]:
        return [getattr(other, name) - getattr(one, name) for one, other in common]

    def interval(values: Sequence[float]) -> Interval:
        return bootstrap_ratio(np.array(values, np.float64), np.ones(len(values)), labels)

    lse_d, lse_c = differences("lse_d"), differences("lse_c")
    return PairedDifference(
        first=first.name,
        second=second.name,
        num_common=len(common),
        num_first_only=has_score[True, False],
        num_second_only=has_score[False, True],
        num_neither=has_score[False, False],
        lse_d=interval(lse_d),
        lse_c=interval(lse_c),
        av_offset_frames=interval(differences("av_offset_frames")),
        offset_within_one_share=interval([_within_one(other) - _within_one(one) for one, other in common]),
        num_lse_d_lower=sum(value < 0 for value in lse_d),
        num_lse_c_higher=sum(value > 0 for value in lse_c),
    )


def match_items(folders: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """The videos of several systems, item by item.

    The item of a video is its file name without suffix or, where a folder holds two videos of one name, its path below
    the folder without suffix.

    Args:
        folders: system → folder of its videos, searched whole.

    Returns:
        item → system → video, items in the order of their names; a system that lacks an item is absent there.

    Raises:
        InputError: a folder without videos.
        UsageError: two videos that differ in their suffix alone.
    """
    found = {system: find_videos([folder]) for system, folder in folders.items()}
    has_unique_names = all(len({path.stem for path in paths}) == len(paths) for paths in found.values())
    items: dict[str, dict[str, Path]] = {}
    for system, paths in found.items():
        for path in paths:
            name = (
                path.stem
                if has_unique_names or path == folders[system]
                else path.relative_to(folders[system]).with_suffix("").as_posix()
            )
            other = items.setdefault(name, {}).setdefault(system, path)
            if other != path:
                raise UsageError(f"{other} and {path} are the same item of {system}: remove one of them.")
    return dict(sorted(items.items()))


def absent_score(item: str, place: Path, scorer: Mapping[str, Any]) -> FileScore:
    """The row of an item that a system's folder or file `place` lacks; `scorer` as in `Comparison`."""
    return FileScore(
        path=place / item,
        failure=f"There is no video {item} in {place}.",
        failure_kind="missing",
        lse_d=None,
        lse_c=None,
        av_offset_frames=None,
        num_windows=0,
        duration_seconds=None,
        tracks=(),
        protocol=scorer["protocol"],
        judge=scorer["judge"],
        judge_digest=scorer["judge_digest"],
        digest=None,
        seconds=0.0,
    )


def join_scores(
    places: Mapping[str, Path], scores: Mapping[str, Mapping[str, FileScore]], scorer: Mapping[str, Any]
) -> tuple[tuple[str, ...], tuple[SystemScores, ...]]:
    """Items and systems of a `Comparison`.

    Args:
        places: system → folder or file that its scores are of.
        scores: system → item → score.
        scorer: see `Comparison`.
    """
    items = tuple(sorted({item for rows in scores.values() for item in rows}))
    systems = tuple(
        SystemScores(
            system,
            tuple(rows.get(item) or absent_score(item, places[system], scorer) for item in items),
            facts={"videos": str(places[system])},
        )
        for system, rows in scores.items()
    )
    return items, systems


def read_scores(path: Path) -> tuple[dict[str, Any], dict[str, FileScore]]:
    """Scorer, and item → score, of a `scores.json` of `lipsmith evaluate score`; `DataError` where it is none."""
    values = _read_json(path)
    if not {"scorer", "files"} <= values.keys():
        raise DataError(f"{path} holds no scores of `lipsmith evaluate score`.")
    rows: dict[str, FileScore] = {}
    try:
        scores = [FileScore.from_dict(row) for row in values["files"]]
        scorer = {name: values["scorer"][name] for name in (*_SCORED_ALIKE, "judge", "compares")} | values[
            "scorer"
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} lacks a field of scores ({error}): score the videos again.") from error
    for score in scores:
        if score.path.stem in rows:
            raise DataError(
                f"{path} has two videos called {score.path.stem}, which cannot be told apart: compare the folders."
            )
        rows[score.path.stem] = score
    return scorer, rows


def require_same_scorer(scorers: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    """`UsageError` unless the systems, each with its scorer, were scored by one judge under one protocol."""
    known = list(scorers)
    for name, scorer in known[1:]:
        first_name, first = known[0]
        for what in _SCORED_ALIKE:
            if scorer[what] != first[what]:
                raise UsageError(
                    f"{first_name} and {name} were scored differently ({what.replace('_', ' ')}: {first[what]}, "
                    f"{scorer[what]}), and do not compare: score both by one judge and protocol."
                )


def read_comparison(path: Path) -> Comparison:
    """What `evaluate compare`, `evaluate score` or `evaluate benchmark` wrote as JSON.

    `path` is the file, or the folder that holds one. `DataError` where there is none.
    """
    path = _result_file(path)
    values = _read_json(path)
    try:
        if "files" in values:
            return Comparison.of_scores(values, path.parent.name or "videos")
        if "items" in values:
            if values["format"] != COMPARISON_FORMAT:
                raise DataError(f"{path} was written by another version: compare again.")
            return Comparison.from_dict(values)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} lacks a field of a result ({error}): make it again.") from error
    return Comparison.of_benchmark(BenchmarkResult.read(path))


def _result_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    from lipsmith.evaluation.benchmark_result import JSON_NAME as BENCHMARK_NAME

    names = (BENCHMARK_NAME, JSON_NAME, SCORES_NAME)
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        raise DataError(f"There is no result in {path} ({', '.join(names)}).")
    return found[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} holds no result of `lipsmith evaluate`.")
    return values


def _mean_quality(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {name: float(np.mean(found)) for name, found in values.items()}


def _within_one(score: FileScore) -> float:
    return float(score.av_offset_frames is not None and abs(score.av_offset_frames) <= 1)
