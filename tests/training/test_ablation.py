"""The table of the ablation: what is trained and measured, and how it is written."""

import json
import math
from pathlib import Path

import pytest

from lipsmith.errors import ExitCode
from lipsmith.training import ablation
from lipsmith.training.ablation import Row, write_table

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "ablation"


def _row(name: str, seed: int, frames: int | None, fine_tuned: bool | None, accuracy: float | None) -> Row:
    return Row(
        name, seed, frames, fine_tuned, accuracy, 1.25, 0.5, 0.75, 1.0, None if name == "real" else 20.0
    )


def test_the_table_has_means_ranges_and_the_papers_numbers(tmp_path: Path) -> None:
    rows = [
        _row("wav2lip_5_frozen", 0, 5, False, 0.8),
        _row("wav2lip_5_frozen", 1, 5, False, 0.9),
        _row("lipgan", 0, None, None, None),
        _row("real", 0, None, None, None),
    ]
    text = write_table(rows, tmp_path)
    assert (tmp_path / "table.md").read_text() == text
    lines = text.splitlines()
    assert lines[0].startswith("Seeds 0, 1.")
    wav2lip = [cell.strip() for cell in lines[4].split("|")]
    assert wav2lip[1:4] == ["Wav2Lip", "5", "frozen"]
    assert wav2lip[4] == "85.0 % [80.0 %, 90.0 %] (91.6)"
    assert wav2lip[5] == "1.250 [1.250, 1.250] (6.386)"
    assert lines[5] == "| lipgan | – | – | – | 1.250 | 0.500 | 75.0 % | 100 % | 20.0 dB |"
    assert lines[6].endswith("| – |")
    assert [Row(**row) for row in json.loads((tmp_path / "table.json").read_text())] == rows


@pytest.mark.slow
def test_one_command_trains_measures_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation, "WINDOWS", (3,))
    monkeypatch.setattr(ablation, "BASELINES", ("lipgan",))
    words = [str(RECIPES), "--output", str(tmp_path), "--speakers", "6", "--clips-per-speaker", "1"]
    words += ["--seconds", "1.2", "--set", "steps=1"]
    assert ablation.main(words) == ExitCode.OK
    table = capsys.readouterr().out
    runs = tmp_path / "seed_0"
    assert {path.name for path in runs.iterdir() if path.is_dir()} == {
        "judge",
        "expert_3",
        "reconstruction",
        "wav2lip_3_fine_tuned",
        "wav2lip_3_frozen",
        "lipgan",
    }
    rows = [Row(**row) for row in json.loads((tmp_path / "table.json").read_text())]
    assert [(row.frames, row.fine_tuned) for row in rows] == [(3, True), (3, False)] + [(None, None)] * 3
    assert all(0 <= row.preference <= 1 and math.isfinite(row.lse_d) for row in rows)
    assert json.loads((runs / "judge" / "recipe.json").read_text())["seed"] == 1000
    assert (runs / "wav2lip_3_fine_tuned" / "expert.safetensors").exists()
    before = (runs / "judge" / "best.safetensors").stat().st_mtime_ns
    assert ablation.main(words) == ExitCode.OK
    assert capsys.readouterr().out == table
    assert (runs / "judge" / "best.safetensors").stat().st_mtime_ns == before
