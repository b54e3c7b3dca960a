"""`lipsmith study`: what a person types and reads."""

import json
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `study` is not installed")

from lipsmith.errors import ExitCode

from .conftest import Command


@pytest.fixture
def folder(media: Path, tmp_path: Path) -> Path:
    for system in ("one", "two"):
        (tmp_path / system).mkdir()
        (tmp_path / system / "face.mp4").write_bytes((media / "face.mp4").read_bytes())
    return tmp_path


def build(run: Command, folder: Path, *options: object) -> dict[str, object]:
    systems = [f"--system={name}={folder / name}" for name in ("one", "two")]
    outcome = run("study", "build", "-o", folder / "study", *systems, "--json", *options)
    assert outcome.code == 0, outcome.err
    built = json.loads(outcome.out)
    assert isinstance(built, dict)
    return built


def test_build_links_analyse(run: Command, folder: Path) -> None:
    built = build(run, folder, "--raters", 2, "--checks", 1)
    assert (built["num_items"], built["num_clips"]) == (1, 3)
    links = run("study", "links", folder / "study", "--address", "https://study.example/")
    lines = links.out.split()
    assert links.code == 0 and len(set(lines)) == 2
    assert all(line.startswith("https://study.example/r/") for line in lines)
    assert json.loads(run("study", "links", folder / "study", "--json").out)[0].endswith(lines[0][-16:])

    nobody = run("study", "analyse", folder / "study")
    assert nobody.code == ExitCode.DATA and "Nobody has answered yet" in nobody.err

    from lipsmith.study.folder import read_study
    from lipsmith.study.storage import Answer, AnswerStore, default_url

    study = read_study(folder / "study")
    store = AnswerStore(default_url(folder / "study"), study.digest)
    store.save(0, 0, [Answer("sync", study.raters[0][0].clips[0], 4)], 1.0)
    store.close()
    analysed = run("study", "analyse", folder / "study", "--draws", 10, "--json")
    assert analysed.code == 0, analysed.err
    (score,) = json.loads(analysed.out)["scores"]
    assert score["mean"]["value"] == 4
    assert (folder / "study" / "analysis" / "table.md").exists()
    table = run("study", "analyse", folder / "study", "--draws", 10)
    assert table.out == (folder / "study" / "analysis" / "table.md").read_text()

    (folder / "metrics.csv").write_text("system,video_type,lse_d\none,,6.5\none,Dubbed,6.5\nwav2lpi,,7\n")
    told = run("study", "analyse", folder / "study", "--draws", 10, "--metrics", folder / "metrics.csv")
    assert "6.5" in told.out and "metrics of one (Dubbed) stand in no row" in told.err
    assert "metrics of wav2lpi stand in no row" in told.err and "metrics of one stand" not in told.err


@pytest.mark.parametrize(
    ("systems", "code", "said"),
    [
        (["one"], ExitCode.USAGE, "write it as --system wav2lip=FOLDER"),
        (["one={one}", "one={two}"], ExitCode.USAGE, "is there twice"),
        (["one={one}", "two={none}"], ExitCode.INPUT, "There is no folder"),
    ],
)
def test_systems_that_are_refused(
    run: Command, folder: Path, systems: list[str], code: ExitCode, said: str
) -> None:
    names = {name: str(folder / name) for name in ("one", "two", "none")}
    options = [f"--system={system.format(**names)}" for system in systems]
    outcome = run("study", "build", "-o", folder / "study", *options)
    assert outcome.code == code and said in outcome.err and "Traceback" not in outcome.err
    assert not (folder / "study").exists()


def test_never_over_a_study(run: Command, folder: Path) -> None:
    build(run, folder, "--checks", 0)
    again = run("study", "build", "-o", folder / "study", f"--system=one={folder / 'one'}")
    assert again.code == ExitCode.OUTPUT and "may hold answers" in again.err


def test_no_study(run: Command, tmp_path: Path) -> None:
    for command in ("serve", "links", "analyse"):
        outcome = run("study", command, tmp_path)
        assert outcome.code == ExitCode.DATA and "lipsmith study build" in outcome.err


def test_without_the_extra(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lipsmith.cli.study.find_spec", lambda name: None if name == "sqlalchemy" else name)
    outcome = run("study", "links", tmp_path)
    assert (
        outcome.code == ExitCode.RUNTIME and "sqlalchemy" in outcome.err and "lipsmith[study]" in outcome.err
    )
