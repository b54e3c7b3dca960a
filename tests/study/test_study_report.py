import csv
import json
from pathlib import Path

import pytest

from lipsmith.errors import InputError, OutputError
from lipsmith.study.analysis import analyse
from lipsmith.study.paper import TABLE_2, paper_rows
from lipsmith.study.report import read_metrics, table_in_markdown, write_report

from .test_analysis import CARELESS, GOOD, make_study

PNG = b"\x89PNG\r\n\x1a\n"


def named(**names: str) -> str:
    """The table of the hand-made study, with its systems called otherwise."""
    study = make_study()
    systems = tuple(system.model_copy(update={"name": names[system.name]}) for system in study.systems)
    clips = tuple(clip.model_copy(update={"system": names[clip.system]}) for clip in study.clips)
    study = study.model_copy(update={"systems": systems, "clips": clips})
    return table_in_markdown(study, analyse(study, GOOD))


def cells(table: str, method: str, group: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {method} | {group} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


class TestTable2:
    def test_layout(self) -> None:
        assert named(a="a", b="b").splitlines()[0] == (
            "| Method | Video Type | LSE-D ↓ | LSE-C ↑ | FID ↓ | Sync Acc. | paper | Visual Qual. | paper "
            "| Overall Experience | paper | Preference | paper |"
        )

    def test_ours_beside_the_papers(self) -> None:
        row = cells(named(a="wav2lip_gan", b="lipgan"), "wav2lip_gan", "Dubbed")
        assert row[5].startswith("4.50 [") and row[6] == "4.08"
        assert row[7].startswith("3.00 [") and row[8] == "4.12"
        assert row[11].startswith("100.0% [") and row[12] == "60.2%"

    def test_all_kinds_of_the_paper_where_none_fits(self) -> None:
        row = cells(named(a="wav2lip", b="real"), "wav2lip", "all")
        assert row[5].startswith("4.25 [") and row[6] == "4.13 / 4.24 / 3.98"

    def test_a_system_that_the_paper_does_not_know(self) -> None:
        assert cells(named(a="mine", b="b"), "mine", "TTS")[6] == "—"

    def test_who_was_left_out_is_said(self) -> None:
        study = make_study()
        table = table_in_markdown(study, analyse(study, GOOD + CARELESS))
        assert "2 raters, 24 scores, 4 votes" in table
        assert "* 1 of 3 raters were left out: rater 3 failed 1 of 1 attention checks." in table

    def test_metrics_beside(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.csv"
        path.write_text("system,video_type,lse_d,lse_c,fid\na,Dubbed,6.5,7.25,\na,,7,8,9\n")
        study = make_study()
        table = table_in_markdown(study, analyse(study, GOOD), read_metrics(path))
        assert cells(table, "a", "Dubbed")[2:5] == ["6.5", "7.25", "—"]
        assert cells(table, "a", "all")[2:5] == ["7", "8", "9"]
        assert cells(table, "a", "TTS")[2:5] == ["—", "—", "—"]

    def test_metrics_of_the_only_kind_need_not_name_it(self) -> None:
        study = make_study()
        items = tuple(item.model_copy(update={"group": "Dubbed"}) for item in study.items)
        study = study.model_copy(update={"items": items})
        table = table_in_markdown(study, analyse(study, GOOD), {("a", ""): {"lse_d": 6.5}})
        assert cells(table, "a", "Dubbed")[2] == "6.5"

    @pytest.mark.parametrize(
        ("text", "said"),
        [("name,lse_d\na,1\n", "no column `system`"), ("system,lse_d\na,low\n", "Line 2")],
    )
    def test_metrics_that_are_refused(self, tmp_path: Path, text: str, said: str) -> None:
        (tmp_path / "metrics.csv").write_text(text)
        with pytest.raises(InputError, match=said):
            read_metrics(tmp_path / "metrics.csv")


class TestPaper:
    def test_columns_add_up(self) -> None:
        """The paper's preferences of each kind of video, percentages of one vote each, add up to one."""
        for group in ("Dubbed", "Random", "TTS"):
            shares = [row.preference for row in TABLE_2 if row.group == group]
            assert len(shares) == 5
            assert sum(share for share in shares if share is not None) == pytest.approx(1, abs=0.03)

    @pytest.mark.parametrize(
        ("system", "group", "num_rows"),
        [("Wav2Lip + GAN", "tts", 1), ("unsynced", "", 3), ("real", "Dubbed", 1), ("other", "Dubbed", 0)],
    )
    def test_names(self, system: str, group: str, num_rows: int) -> None:
        assert len(paper_rows(system, group)) == num_rows


class TestFiles:
    def test_what_is_written(self, tmp_path: Path) -> None:
        study = make_study()
        written = write_report(study, analyse(study, GOOD + CARELESS), tmp_path / "out")
        assert [path.name for path in written] == [
            "analysis.json",
            "differences.csv",
            "distributions.png",
            "preferences.csv",
            "preferences.png",
            "raters.csv",
            "ratings.csv",
            "scores.csv",
            "scores.png",
            "table.csv",
            "table.md",
            "votes.csv",
        ]
        assert all(path.read_bytes().startswith(PNG) for path in written if path.suffix == ".png")
        scores = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
        (line,) = [s for s in scores if (s["group"], s["system"], s["question"]) == ("all", "a", "sync")]
        assert float(line["mean"]) == 4.25 and (line["num_4"], line["num_5"]) == ("3", "1")
        raters = list(csv.DictReader((tmp_path / "out" / "raters.csv").open()))
        assert [line["rater"] for line in raters] == ["1", "2", "3"]
        ratings = list(csv.DictReader((tmp_path / "out" / "ratings.csv").open()))
        assert len(ratings) == 24 and {line["rater"] for line in ratings} == {"1", "2"}
        found = json.loads((tmp_path / "out" / "analysis.json").read_text())
        assert found["study"] == study.digest and found["raters"][2]["left_out"]

    def test_without_any_rater_who_counts(self, tmp_path: Path) -> None:
        study = make_study()
        written = write_report(study, analyse(study, CARELESS), tmp_path)
        assert not any(path.suffix == ".png" for path in written)

    def test_it_takes_the_place_of_an_earlier_one_and_of_nothing_else(self, tmp_path: Path) -> None:
        study = make_study()
        (tmp_path / "mine.csv").write_text("mine")
        earlier = write_report(study, analyse(study, GOOD), tmp_path)
        assert len(earlier) == 12 and tmp_path / "mine.csv" not in earlier
        later = write_report(study, analyse(study, CARELESS), tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([*later, tmp_path / "mine.csv"])  # no plots of before

    def test_a_full_disk_leaves_nothing_half_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def write_some(path: Path, content: bytes) -> None:
            with path.open("wb") as file:
                file.write(content[:10])
            raise OSError(28, "No space left on device")

        study = make_study()
        monkeypatch.setattr(Path, "write_bytes", write_some)
        with pytest.raises(OutputError, match="No space left"):
            write_report(study, analyse(study, GOOD), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_place_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        study = make_study()
        with pytest.raises(OutputError, match="cannot be written"):
            write_report(study, analyse(study, GOOD), tmp_path / "file")
