"""A benchmark's result comes back from its files as it was, and its table has every row."""

import csv
import io
import json
from pathlib import Path

import pytest

from lipsmith.errors import DataError
from lipsmith.evaluation.benchmark_result import (
    REAL,
    TABLE_1,
    UNSYNCED,
    BenchmarkResult,
    BenchmarkRow,
    SystemRows,
    paper_scores,
)
from lipsmith.evaluation.file_score import FileScore, TrackScore


def scored(path: str, lse_d: float, offset: int = 0) -> FileScore:
    track = TrackScore(0, 50, 80.0, None, lse_d, 2.0, offset, 46, (None, lse_d, lse_d + 2))
    return FileScore(
        path=Path(path),
        failure=None,
        failure_kind=None,
        lse_d=lse_d,
        lse_c=2.0,
        av_offset_frames=offset,
        num_windows=46,
        duration_seconds=2.0,
        tracks=(track,),
        protocol="tracked-crop",
        judge="a judge",
        judge_digest="0" * 64,
        digest="1" * 64,
        seconds=0.5,
    )


def failed(path: str) -> FileScore:
    return FileScore(
        path=Path(path),
        failure="No face, nowhere.",
        failure_kind="no face",
        lse_d=None,
        lse_c=None,
        av_offset_frames=None,
        num_windows=0,
        duration_seconds=2.0,
        tracks=(),
        protocol="tracked-crop",
        judge="a judge",
        judge_digest="0" * 64,
        digest=None,
        seconds=0.0,
    )


def result() -> BenchmarkResult:
    made = (
        BenchmarkRow("a.mp4", "b.mp4", Path("out/0.mp4"), scored("out/0.mp4", 7.0), {"flicker": 0.5}, 1.25, "anna"),
        BenchmarkRow("c.mp4", "a.mp4", None, failed("c.mp4"), speaker="bert"),
        BenchmarkRow("d.mp4", "a.mp4", Path("out/2.mp4"), scored("out/2.mp4", 9.0, 2)),
    )  # fmt: skip
    real = tuple(BenchmarkRow(row.video, row.audio, Path(row.video), scored(row.video, 6.0)) for row in made)
    return BenchmarkResult(
        name="pairs",
        list_digest="2" * 64,
        num_pairs=3,
        systems=(SystemRows("mine", "3" * 64, made, fid=4.5, facts={"a": 1}), SystemRows(REAL, None, real)),
        scorer={"judge": "a judge"},
        versions={"lipsmith": "0"},
        machine={"cores": 2},
    )


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    expected = result()
    expected.write(tmp_path)
    assert BenchmarkResult.read(tmp_path) == expected == BenchmarkResult.read(tmp_path / "benchmark.json")
    values = json.loads((tmp_path / "benchmark.json").read_text())
    assert values["num_failed"] == 1
    assert values["systems"][0]["summary"]["failures"] == {"no face": 1}
    assert values["systems"][0]["summary"]["lse_d"]["value"] == 8.0


def test_the_table_has_a_line_for_every_row(tmp_path: Path) -> None:
    result().write(tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "benchmark.csv").read_text())))
    assert [row["system"] for row in rows] == ["mine"] * 3 + ["real"] * 3
    assert (rows[0]["lse_d"], rows[0]["flicker"], rows[0]["seconds"], rows[0]["speaker"]) == (
        "7.0", "0.5", "1.25", "anna",
    )  # fmt: skip
    assert (rows[1]["lse_d"], rows[1]["failure_kind"], rows[1]["failure"]) == (
        "", "no face", "No face, nowhere.",
    )  # fmt: skip


def test_a_system_is_found_by_name() -> None:
    found = result().system("mine")
    assert found is not None and found.summary().num_scored == 2
    assert result().system(UNSYNCED) is None


@pytest.mark.parametrize("content", [None, "{", "[]", '{"format": 0}', '{"format": 1}'])
def test_what_is_no_result_says_so(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "benchmark.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"benchmark\.json"):
        BenchmarkResult.read(tmp_path)


def test_the_papers_table() -> None:
    assert len(TABLE_1) == 15
    (row,) = paper_scores(["Wav2Lip + GAN"], "LRS2")
    assert (row.lse_d, row.lse_c, row.fid) == (6.469, 7.781, 4.446)
    assert [row.fid for row in paper_scores(["Real Videos"])] == [None] * 3
