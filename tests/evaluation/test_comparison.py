"""Systems side by side: every number here was worked out by hand from the rows of `A` and `B`."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from lipsmith.errors import DataError, UsageError
from lipsmith.evaluation.benchmark_result import BenchmarkResult, BenchmarkRow, SystemRows
from lipsmith.evaluation.comparison import (
    Comparison,
    SystemScores,
    join_scores,
    match_items,
    paired_difference,
    read_comparison,
    read_scores,
    require_same_scorer,
)
from lipsmith.evaluation.file_score import FailureKind, FileScore

SCORER = {
    "judge": "SyncNet v2",
    "judge_digest": "0" * 64,
    "compares": "LSE by SyncNet v2.",
    "protocol": "whole-clip",
    "settings": {"min_track_frames": 25},
}


def row(
    name: str,
    lse_d: float | None,
    lse_c: float | None = None,
    offset: int = 0,
    kind: FailureKind = "no face",
) -> FileScore:
    """A scored row, or, without a number, a failed one."""
    failed = lse_d is None
    return FileScore(
        path=Path(f"{name}.mp4"),
        failure=f"{name}.mp4: {kind}." if failed else None,
        failure_kind=kind if failed else None,
        lse_d=lse_d,
        lse_c=lse_c,
        av_offset_frames=None if failed else offset,
        num_windows=0 if failed else 40,
        duration_seconds=2.0,
        tracks=(),
        protocol="whole-clip",
        judge="SyncNet v2",
        judge_digest="0" * 64,
        digest="1" * 64,
        seconds=0.1,
    )


ITEMS = ("u", "v", "w", "x", "y", "z")
A = SystemScores(
    "a",
    (
        row("u", 6.0, 8.0, 0),
        row("v", 8.0, 6.0, 3),
        row("w", 10.0, 2.0, -1),
        row("x", 7.0, 7.0, 0),
        row("y", None),
        row("z", None, kind="missing"),
    ),
)
B = SystemScores(
    "b",
    (
        row("u", 7.0, 7.5, 0),
        row("v", 7.0, 7.0, 1),
        row("w", 13.0, 1.0, 5),
        row("x", None, kind="no sound"),
        row("y", 9.0, 3.0, 0),
        row("z", None),
    ),
)
COMPARISON = Comparison(ITEMS, (A, B), SCORER, {"lipsmith": "0.1.0"}, "lipsmith evaluate compare a b")


class TestMeans:
    def test_are_over_a_system_s_own_scored_items(self) -> None:
        first, second = A.summary(), B.summary()
        assert (first.num_files, first.num_scored, second.num_scored) == (6, 4, 4)
        assert first.lse_d.value == (6 + 8 + 10 + 7) / 4
        assert second.lse_d.value == (7 + 7 + 13 + 9) / 4
        assert second.lse_c.value == (7.5 + 7 + 1 + 3) / 4
        assert (first.av_offset_frames.value, second.av_offset_frames.value) == (0.5, 1.5)
        assert (first.offset_within_one_share.value, second.offset_within_one_share.value) == (0.75, 0.75)
        assert first.failures == {"missing": 1, "no face": 1}
        assert second.failures == {"no face": 1, "no sound": 1}


class TestDifference:
    def test_is_taken_item_by_item_over_the_common_ones(self) -> None:
        found = paired_difference(A, B)
        assert (found.first, found.second) == ("a", "b")
        # u, v and w have both; x has only a, y only b, z neither.
        counts = (found.num_common, found.num_first_only, found.num_second_only, found.num_neither)
        assert counts == (3, 1, 1, 1)
        assert found.lse_d.value == (1 - 1 + 3) / 3  # not 9.0 − 7.75, the difference of the means
        assert found.lse_c.value == pytest.approx((-0.5 + 1 - 1) / 3)
        assert found.av_offset_frames.value == pytest.approx((0 - 2 + 6) / 3)
        assert found.offset_within_one_share.value == pytest.approx((0 + 1 - 1) / 3)
        assert (found.num_lse_d_lower, found.num_lse_c_higher) == (1, 1)

    def test_the_interval_is_that_of_three_drawn_items(self) -> None:
        found = paired_difference(A, B).lse_d
        # Of 27 equally likely draws of three from (1, −1, 3) the least mean is −1 and the largest 3, each 1/27 = 3.7 %.
        assert (found.low, found.high) == (-1.0, 3.0)

    def test_what_all_items_share_has_no_width(self) -> None:
        # However hard the items are: one frame worse at each is one frame worse.
        easy_and_hard = [4.0, 9.0, 14.0, 6.0]
        first = SystemScores("a", tuple(row(str(d), d, 1.0) for d in easy_and_hard))
        second = SystemScores("b", tuple(row(str(d), d + 0.5, 1.0) for d in easy_and_hard))
        found = paired_difference(first, second)
        assert (found.lse_d.low, found.lse_d.value, found.lse_d.high) == (0.5, 0.5, 0.5)
        assert first.summary().lse_d.high - first.summary().lse_d.low > 3

    def test_turned_round_it_changes_its_sign(self) -> None:
        forth, back = paired_difference(A, B), paired_difference(B, A)
        assert back.lse_d.value == -forth.lse_d.value
        assert (back.num_first_only, back.num_second_only) == (1, 1)

    def test_nothing_in_common_is_no_number(self) -> None:
        first = SystemScores("a", (row("u", 6.0, 8.0), row("v", None)))
        second = SystemScores("b", (row("u", None), row("v", 6.0, 8.0)))
        found = paired_difference(first, second)
        assert found.num_common == 0 and np.isnan(found.lse_d.value)
        assert found.to_dict()["lse_d"] == {"value": None, "low": None, "high": None}

    def test_every_pair_of_three(self) -> None:
        third = SystemScores("c", A.scores)
        names = [(d.first, d.second) for d in Comparison(ITEMS, (A, B, third), SCORER).differences()]
        assert names == [("a", "b"), ("a", "c"), ("b", "c")]


class TestItems:
    def touch(self, *paths: Path) -> None:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def test_same_name_is_same_item_whatever_suffix_and_folder(self, tmp_path: Path) -> None:
        one, other = tmp_path / "one", tmp_path / "other"
        self.touch(one / "talk.mp4", one / "only.mp4", other / "deep" / "talk.mkv", other / "notes.txt")
        assert match_items({"a": one, "b": other}) == {
            "only": {"a": one / "only.mp4"},
            "talk": {"a": one / "talk.mp4", "b": other / "deep" / "talk.mkv"},
        }

    def test_names_that_repeat_are_told_apart_by_their_folder(self, tmp_path: Path) -> None:
        one, other = tmp_path / "one", tmp_path / "other"
        self.touch(one / "s1" / "talk.mp4", one / "s2" / "talk.mp4", other / "s1" / "talk.mkv")
        assert {name: sorted(found) for name, found in match_items({"a": one, "b": other}).items()} == {
            "s1/talk": ["a", "b"],
            "s2/talk": ["a"],
        }

    def test_two_suffixes_of_one_name_are_refused(self, tmp_path: Path) -> None:
        self.touch(tmp_path / "talk.mp4", tmp_path / "talk.mkv")
        with pytest.raises(UsageError, match="same item of a"):
            match_items({"a": tmp_path})

    def test_an_absent_item_is_a_row(self) -> None:
        places = {"a": Path("one"), "b": Path("other")}
        scores = {"a": {"u": row("u", 6.0, 8.0), "v": row("v", 7.0, 7.0)}, "b": {"v": row("v", 8.0, 6.0)}}
        items, systems = join_scores(places, scores, SCORER)
        assert items == ("u", "v")
        absent = systems[1].scores[0]
        assert (absent.failure_kind, absent.failure) == ("missing", "There is no video u in other.")
        assert paired_difference(*systems).num_first_only == 1


class TestFiles:
    def test_survives_json(self, tmp_path: Path) -> None:
        COMPARISON.write(tmp_path)
        assert read_comparison(tmp_path) == read_comparison(tmp_path / "comparison.json") == COMPARISON
        values = json.loads((tmp_path / "comparison.json").read_text())
        assert values["num_failed"] == 4
        assert values["differences"][0]["num_common"] == 3
        assert values["systems"][1]["summary"]["lse_d"]["value"] == 9.0

    def test_csv_has_a_line_for_each_item_of_each_system(self) -> None:
        lines = list(csv.DictReader(io.StringIO(COMPARISON.to_csv())))
        assert [(line["system"], line["item"]) for line in lines] == [(s, i) for s in "ab" for i in ITEMS]
        assert lines[0]["lse_d"] == "6.0" and lines[9]["failure_kind"] == "no sound"
        assert lines[4]["lse_d"] == "" and lines[4]["failure"] == "y.mp4: no face."

    def test_scores_of_one_system_are_read(self, tmp_path: Path) -> None:
        file = tmp_path / "scores.json"
        file.write_text(json.dumps({"scorer": SCORER, "files": [score.to_dict() for score in A.scores]}))
        scorer, rows = read_scores(file)
        assert (scorer, list(rows), rows["v"]) == (SCORER, list(ITEMS), A.scores[1])
        found = read_comparison(tmp_path)
        assert found.systems[0].scores == A.scores and found.items[0] == "u.mp4"

    def test_a_benchmark_is_a_comparison_of_its_systems(self, tmp_path: Path) -> None:
        def rows(system: SystemScores) -> SystemRows:
            return SystemRows(
                system.name,
                "f" * 64,
                tuple(
                    BenchmarkRow(f"{item}.mp4", "speech.wav", Path(f"made/{item}.mp4"), score, quality)
                    for item, score, quality in zip(ITEMS, system.scores, qualities, strict=True)
                ),
                fid=4.5,
            )

        qualities = [{"ssim_lower": 0.5}, {"ssim_lower": 0.75}, {"flicker": 2.0}, {}, {}, {}]
        BenchmarkResult(
            "drawn",
            "d" * 64,
            6,
            (rows(A), rows(B)),
            SCORER,
            options={"length": "auto", "command": "lipsmith x"},
        ).write(tmp_path)
        found = read_comparison(tmp_path)
        assert found.items[0] == "u.mp4 + speech.wav"
        assert found.systems[0].scores[0].path == Path("made/u.mp4") and found.systems[1].fid == 4.5
        assert found.differences() == COMPARISON.differences()
        assert found.systems[0].quality == {"ssim_lower": 0.625, "flicker": 2.0}
        assert (found.command, found.facts["making"]) == ("lipsmith x", {"length": "auto"})

    @pytest.mark.parametrize(
        ("text", "words"),
        [("{", "is not JSON"), ("[]", "holds no result"), ('{"items": []}', "lacks a field")],
    )
    def test_other_files_are_refused(self, tmp_path: Path, text: str, words: str) -> None:
        (tmp_path / "comparison.json").write_text(text)
        with pytest.raises(DataError, match=words):
            read_comparison(tmp_path)

    def test_a_folder_without_a_result(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no result in"):
            read_comparison(tmp_path)


def test_other_judges_do_not_compare() -> None:
    require_same_scorer([("a", SCORER), ("b", dict(SCORER))])
    with pytest.raises(UsageError, match=r"a and b were scored differently \(judge digest"):
        require_same_scorer([("a", SCORER), ("b", {**SCORER, "judge_digest": "1" * 64})])
    with pytest.raises(UsageError, match="protocol: whole-clip, tracked-crop"):
        require_same_scorer([("a", SCORER), ("b", {**SCORER, "protocol": "tracked-crop"})])


def test_rows_and_items_go_together() -> None:
    with pytest.raises(ValueError, match="a has 6 rows for 2 items"):
        Comparison(("u", "v"), (A,), SCORER)
