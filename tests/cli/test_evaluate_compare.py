"""`lipsmith evaluate compare` on real files: rows, differences, exit code, answers."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from lipsmith.errors import ExitCode

from .conftest import Command


@pytest.fixture
def systems(media: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Both have `face`; the first alone has `wall`, which has no sound, the second alone `again`."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir(), other.mkdir()
    shutil.copy(media / "face.mp4", one)
    shutil.copy(media / "wall.mp4", one)
    shutil.copy(media / "face.mp4", other)
    shutil.copy(media / "face.mp4", other / "again.mp4")
    return one, other


def test_rows_differences_and_what_is_missing(
    run: Command, systems: tuple[Path, Path], expert: str, tmp_path: Path
) -> None:
    one, other = systems
    output = tmp_path / "out"
    arguments = ("evaluate", "compare", f"a={one}", other, "--judge", expert, "--min-track", 14, "-o", output)

    done = run(*arguments, "--json")

    assert done.code == ExitCode.INCOMPLETE
    answer = json.loads(done.out)
    assert answer["items"] == ["again", "face", "wall"]
    kinds = {s["name"]: [row["failure_kind"] for row in s["scores"]] for s in answer["systems"]}
    assert kinds == {"a": ["missing", None, "no sound"], "other": [None, None, "missing"]}
    (difference,) = answer["differences"]
    counts = [difference[f"num_{which}"] for which in ("common", "first_only", "second_only", "neither")]
    assert counts == [1, 0, 1, 1]
    assert difference["lse_d"] == {"value": 0.0, "low": 0.0, "high": 0.0}  # the same file
    assert answer["command"].startswith("lipsmith evaluate compare a=") and answer["environment"]["lipsmith"]
    assert "a, without a score: 1 × missing." in done.err and "compare only with one another" in done.err
    assert json.loads((output / "comparison.json").read_text()) == answer

    # One row in scores.jsonl for each content: the same face was scored once.
    kept = (output / "scores.jsonl").read_text()
    assert len(kept.splitlines()) == 2
    again = run(*arguments, "--csv")
    assert (output / "scores.jsonl").read_text() == kept
    assert again.out == (output / "comparison.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(again.out)))
    assert [row["item"] for row in rows if row["lse_d"]] == ["face", "again", "face"]


def test_a_table_for_people(run: Command, systems: tuple[Path, Path], expert: str) -> None:
    done = run("evaluate", "compare", *systems, "--judge", expert, "--protocol", "whole-clip")
    lines = done.out.splitlines()
    assert lines[0].split() == ["system", "videos", "scored", "LSE-D", "LSE-C", "offset", "within", "one"]
    assert lines[1].split()[:3] == ["one", "3", "1"] and lines[2].split()[:3] == ["other", "3", "2"]
    assert lines[5].startswith("other − one") and lines[5].split()[3:6] == ["1", "1", "+0.000"]


def test_scores_of_before_stand_beside_a_folder(
    run: Command, systems: tuple[Path, Path], expert: str, tmp_path: Path
) -> None:
    one, other = systems
    whole = ("--judge", expert, "--protocol", "whole-clip")
    run("evaluate", "score", one, *whole, "-o", tmp_path / "before")
    scores = tmp_path / "before" / "scores.json"
    done = run("evaluate", "compare", f"a={scores}", f"b={other}", *whole, "--json")
    assert json.loads(done.out)["differences"][0]["num_common"] == 1
    refused = run("evaluate", "compare", f"a={scores}", f"b={other}", "--judge", expert)
    assert refused.code == ExitCode.USAGE and "protocol: whole-clip, tracked-crop" in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("one",), ExitCode.USAGE, "needs two systems"),
        (("a=one", "a=other"), ExitCode.USAGE, "Two systems are called a"),
        (("one", "b=nowhere"), ExitCode.INPUT, "no folder nowhere"),
        (("=one", "other"), ExitCode.USAGE, "names no folder"),
        (("name=", "other"), ExitCode.USAGE, "names no folder"),
        (("a=empty.json", "other"), ExitCode.DATA, "lacks a field of scores ('judge_digest')"),
        (("a=hollow.json", "other"), ExitCode.DATA, "lacks a field of scores ('tracks')"),
        (("a=empty.json", "b=hollow.json", "--judge", "x"), ExitCode.USAGE, "--judge is for folders"),
    ],
)
def test_mistakes_are_told(
    run: Command,
    systems: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: ExitCode,
    words: str,
) -> None:
    monkeypatch.chdir(systems[0].parent)
    Path("empty.json").write_text('{"scorer": {}, "files": []}')
    Path("hollow.json").write_text('{"scorer": {}, "files": [{}]}')
    done = run("evaluate", "compare", *arguments)
    assert (done.code, len(done.sentences)) == (code, 1) and words in done.err


def test_a_page_of_a_comparison_and_of_scores(
    run: Command, systems: tuple[Path, Path], expert: str, tmp_path: Path
) -> None:
    one, other = systems
    whole = ("--judge", expert, "--protocol", "whole-clip", "-o", tmp_path / "out")
    run("evaluate", "compare", one, other, *whole)
    done = run("evaluate", "report", tmp_path / "out", "--worst", 1)
    assert (done.code, done.out.strip()) == (ExitCode.OK, str(tmp_path / "out" / "report.html"))
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count("data:image/jpeg") == 2 and "other − one" in text

    run("evaluate", "score", one, *whole)
    page = tmp_path / "page.html"
    done = run("evaluate", "report", tmp_path / "out" / "scores.json", "-o", page, "--title", "Mine")
    assert done.code == ExitCode.OK and "<h1>Mine</h1>" in page.read_text()
    refused = run("evaluate", "report", one)
    assert refused.code == ExitCode.DATA and "no result in" in refused.err
