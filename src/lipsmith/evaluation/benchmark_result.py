"""What a benchmark found: one table for each system, a row for each pair of the list, written as JSON and as CSV.

All systems have the same pairs in the same order, so that row i of one compares with row i of another. A pair that has
no score is a row with the reason, in no average.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lipsmith.data.storage import write_whole
from lipsmith.errors import DataError
from lipsmith.evaluation.file_score import FileScore, FileSummary, summarise_files

JSON_NAME = "benchmark.json"
CSV_NAME = "benchmark.csv"
# Raise it when files of before can no longer be read.
RESULT_FORMAT = 1

UNSYNCED = "unsynced"
"""The system that changes nothing: the speech merely laid over the video."""
REAL = "real"
"""The video with its own sound."""


@dataclass(frozen=True)
class BenchmarkRow:
    """One pair of the list by one system.

    Attributes:
        video, audio: as the list names them.
        output: the scored video; None where nothing was made. Of `real` the video itself.
        score: its score, or why there is none, be it that it could not be made or that it could not be scored.
        quality: numbers beside the video that it was made of, see `lipsmith.evaluation.image_quality`; empty where not
            asked for or not measured.
        seconds: spent on making it, when it was made.
        speaker: whose face it is, where a manifest says so.
    """

    video: str
    audio: str
    output: Path | None
    score: FileScore
    quality: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    speaker: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        return {
            "video": self.video,
            "audio": self.audio,
            "output": None if self.output is None else str(self.output),
            "score": self.score.to_dict(),
            "quality": self.quality,
            "seconds": self.seconds,
            "speaker": self.speaker,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        output = values["output"]
        return cls(
            **{
                **values,
                "output": None if output is None else Path(output),
                "score": FileScore.from_dict(values["score"]),
            }
        )


@dataclass(frozen=True)
class SystemRows:
    """All rows of one system.

    Attributes:
        system: its name: the weights', `UNSYNCED` or `REAL`.
        model_digest: SHA-256 of its weights; None of a system without any.
        rows: one for each pair, in the order of the list.
        fid: of its face crops and those of the real videos; None where not asked for, or where no pictures were made.
        facts: what else is known of the system: where its weights came from, how it was run.
    """

    system: str
    model_digest: str | None
    rows: tuple[BenchmarkRow, ...]
    fid: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> FileSummary:
        """The rows in a few numbers, with intervals."""
        return summarise_files(row.score for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values, with the summary."""
        return {
            "system": self.system,
            "model_digest": self.model_digest,
            "fid": self.fid,
            "facts": self.facts,
            "summary": self.summary().to_dict(),
            "rows": [row.to_dict() for row in self.rows],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        return cls(
            system=values["system"],
            model_digest=values["model_digest"],
            rows=tuple(BenchmarkRow.from_dict(row) for row in values["rows"]),
            fid=values["fid"],
            facts=dict(values["facts"]),
        )


@dataclass(frozen=True)
class BenchmarkResult:
    """A whole benchmark.

    Attributes:
        name: of the list, its file's without suffix.
        list_digest: SHA-256 of the pairs themselves (`lipsmith.evaluation.pairs.pairs_digest`): equal lists have equal
            ones, whatever their layout.
        num_pairs: rows of each system.
        systems: in the order in which they were asked for.
        scorer: judge, protocol and settings (`FileScorer.to_dict`).
        versions: of Lipsmith, Python and the packages that make numbers.
        machine: what it ran on.
        features: network and crop of the FID; None where not asked for.
        options: how the videos were made.
        created: date and time in UTC, ISO 8601.
    """

    name: str
    list_digest: str
    num_pairs: int
    systems: tuple[SystemRows, ...]
    scorer: dict[str, Any]
    versions: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    created: str = ""

    @property
    def num_failed(self) -> int:
        """Rows without a score, over all systems."""
        return sum(not row.score.is_scored for system in self.systems for row in system.rows)

    def system(self, name: str) -> SystemRows | None:
        """The table of the system `name`, if there is one."""
        return next((system for system in self.systems if system.system == name), None)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return {
            "format": RESULT_FORMAT,
            **values,
            "num_failed": self.num_failed,
            "systems": [system.to_dict() for system in self.systems],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What `to_dict` gave."""
        known = {entry.name: values[entry.name] for entry in dataclasses.fields(cls)}
        return cls(
            **{**known, "systems": tuple(SystemRows.from_dict(system) for system in values["systems"])}
        )

    def to_csv(self) -> str:
        """A line for each row of each system, with a header; empty where there is no number."""
        measures = sorted({name for system in self.systems for row in system.rows for name in row.quality})
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow([*_COLUMNS, *measures])
        for system in self.systems:
            for row in system.rows:
                score = row.score
                table.writerow(
                    [
                        system.system,
                        row.video,
                        row.audio,
                        row.speaker,
                        row.output,
                        score.lse_d,
                        score.lse_c,
                        score.av_offset_frames,
                        score.num_windows,
                        score.duration_seconds,
                        score.failure_kind,
                        score.failure,
                        round(row.seconds, 3),
                        *(row.quality.get(name) for name in measures),
                    ]
                )
        return text.getvalue()

    def write(self, folder: Path) -> None:
        """Write `benchmark.json` and `benchmark.csv` into `folder`; raises `OutputError`."""
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        write_whole(folder / JSON_NAME, text.encode(errors="backslashreplace"))
        write_whole(folder / CSV_NAME, self.to_csv().encode(errors="surrogateescape"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The result in a folder or a JSON file; `DataError` where there is none."""
        path = path / JSON_NAME if path.is_dir() else path
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(
                f"{path} cannot be read: {error.strerror or error}. Give the folder of a benchmark, or its {JSON_NAME}."
            ) from error
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}.") from error
        if not isinstance(values, dict) or values.get("format") != RESULT_FORMAT:
            raise DataError(f"{path} holds no result of `lipsmith evaluate benchmark` of this version.")
        try:
            return cls.from_dict(values)
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path} lacks a field of a benchmark's result ({error}): run the benchmark again."
            ) from error


_COLUMNS = (
    "system",
    "video",
    "audio",
    "speaker",
    "output",
    "lse_d",
    "lse_c",
    "av_offset_frames",
    "num_windows",
    "duration_seconds",
    "failure_kind",
    "failure",
    "seconds",
)


@dataclass(frozen=True, slots=True)
class PaperScores:
    """A row of table 1 of the paper, on one test set; None where the paper has a dash."""

    method: str
    data: str
    lse_d: float
    lse_c: float
    fid: float | None


TABLE_1 = (
    PaperScores("Speech2Vid", "LRW", 13.14, 1.762, 11.15),
    PaperScores("LipGAN", "LRW", 10.05, 3.350, 2.833),
    PaperScores("Wav2Lip", "LRW", 6.512, 7.490, 3.189),
    PaperScores("Wav2Lip + GAN", "LRW", 6.774, 7.263, 2.475),
    PaperScores("Real Videos", "LRW", 7.012, 6.931, None),
    PaperScores("Speech2Vid", "LRS2", 14.23, 1.587, 12.32),
    PaperScores("LipGAN", "LRS2", 10.33, 3.199, 4.861),
    PaperScores("Wav2Lip", "LRS2", 6.386, 7.789, 4.887),
    PaperScores("Wav2Lip + GAN", "LRS2", 6.469, 7.781, 4.446),
    PaperScores("Real Videos", "LRS2", 6.736, 7.838, None),
    PaperScores("Speech2Vid", "LRS3", 13.97, 1.681, 11.91),
    PaperScores("LipGAN", "LRS3", 10.65, 3.193, 4.732),
    PaperScores("Wav2Lip", "LRS3", 6.652, 7.887, 4.844),
    PaperScores("Wav2Lip + GAN", "LRS3", 6.986, 7.574, 4.350),
    PaperScores("Real Videos", "LRS3", 6.956, 7.592, None),
)
"""Table 1 of the paper: means by SyncNet v2 over each test set's pairs, FID of the generated faces."""


def paper_scores(methods: Iterable[str] | None = None, data: str | None = None) -> list[PaperScores]:
    """Rows of table 1: of some methods, on one test set (`"LRW"`, `"LRS2"`, `"LRS3"`), or all."""
    wanted = None if methods is None else set(methods)
    return [
        row
        for row in TABLE_1
        if (wanted is None or row.method in wanted) and (data is None or row.data == data)
    ]
