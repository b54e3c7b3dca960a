"""`lipsmith prepare`, `train`, `offsets` and `export`: from footage to weights, two steps of training each."""

import json
import shutil
from pathlib import Path

import pytest

from lipsmith.data.synthetic import prepare_synthetic
from lipsmith.errors import ExitCode

from .conftest import Command

COMMON = """
steps: 2
validate_every: 2
validation_frames: 30
data: {validation: [drawn_2]}
"""
EXPERT = (
    "task: expert\nname: small\nmodel: {width: 0.125, embedding: 16}\nbatch: {stretches: [[2, 10]]}" + COMMON
)
GENERATOR = "task: generator\nname: small\nmodel: {width: 0.125}\nbatch: {clips: 2, frames: 5}" + COMMON


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared clips of three drawn people."""
    folder = tmp_path_factory.mktemp("drawn")
    prepare_synthetic(folder, num_speakers=3, clips_per_speaker=1, seconds=1.6)
    return folder


def test_prepare(run: Command, media: Path, tmp_path: Path) -> None:
    footage = tmp_path / "footage" / "eileen"
    footage.mkdir(parents=True)
    for name in ("face.mp4", "wall.mp4", "silent_face.mp4"):
        shutil.copy(media / name, footage)
    arguments = ("prepare", tmp_path / "footage", "-o", tmp_path / "clips", "--workers", 1)
    done = run(*arguments, "--min-seconds", "0.5", "--json")
    report = json.loads(done.out)
    assert (done.code, report["num_videos"], report["num_clips"], report["num_frames"]) == (0, 3, 1, 20)
    assert report["num_speakers"] == 1
    assert report["dropped"] == {"no sound": 2}
    assert "Left out: 2 × no sound." in done.sentences and "dropped.jsonl says more" in done.err
    record = json.loads((tmp_path / "clips" / "index.jsonl").read_text())
    assert (record["speaker"], record["source"]) == ("eileen", "eileen/face.mp4")


def test_prepare_without_videos(run: Command, tmp_path: Path) -> None:
    done = run("prepare", tmp_path, "-o", tmp_path / "clips")
    assert (done.code, done.out, len(done.sentences)) == (ExitCode.DATA, "", 1)
    assert not (tmp_path / "clips").exists()


def test_from_clips_to_weights(run: Command, drawn: Path, media: Path, tmp_path: Path) -> None:
    (tmp_path / "expert.yaml").write_text(EXPERT)
    (tmp_path / "generator.yaml").write_text(GENERATOR + "losses: {sync: 0.1}\n")
    expert, generator = tmp_path / "runs" / "expert", tmp_path / "runs" / "generator"

    done = run("train", tmp_path / "expert.yaml", "--data", drawn, "-o", expert, "--json")
    report = json.loads(done.out)
    assert (done.code, report["steps"], report["folder"]) == (0, 2, str(expert))
    assert "2 steps in" in done.err

    changed = run("train", tmp_path / "expert.yaml", "-d", drawn, "-o", expert, "--set", "model.frames=two")
    assert (changed.code, len(changed.sentences)) == (ExitCode.RECIPE, 1)
    assert "with model.frames changed is not a valid recipe: model.frames: " in changed.err

    again = run("train", tmp_path / "expert.yaml", "--data", drawn, "-o", expert)
    assert again.code == ExitCode.OUTPUT and "--resume" in again.err
    more = ("--resume", "--set", "steps=3", "--set", "optimiser.learning_rate=1e-4")
    resumed = run("train", tmp_path / "expert.yaml", "--data", drawn, "-o", expert, *more, "--json")
    assert json.loads(resumed.out)["steps"] == 3
    assert json.loads((expert / "recipe.json").read_text())["optimiser"]["learning_rate"] == 1e-4

    done = run("train", tmp_path / "generator.yaml", "-d", drawn, "-o", generator, "--expert", expert)
    assert (done.code, done.out) == (0, f"{generator}\n"), done.err

    weights = tmp_path / "weights" / "mine"
    done = run("export", generator, "-o", weights, "--licence", "CC0-1.0", "--json")
    assert json.loads(done.out)["recipe"] == "small"
    output = tmp_path / "out.mp4"
    assert run("sync", media / "face.png", media / "speech.wav", "-o", output, "-m", weights).code == 0

    copy = tmp_path / "measured"
    shutil.copytree(drawn, copy)
    found = json.loads(run("offsets", copy, "--expert", expert, "--json").out)
    assert found["num_clips"] == len((copy / "index.jsonl").read_text().splitlines())


def test_doctor_looks_and_changes_nothing_unless_asked(run: Command, drawn: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(drawn, copy)
    before = (copy / "index.jsonl").read_text()
    done = run("doctor", copy, "--min-sharpness", 1)  # drawn clips have 0 in the index
    assert done.code == 0 and "3 would be left out" in done.out, done.err
    assert "sync not measured (--expert does that): 0 kept, 0 shifted, 3 left out" in done.err
    names = sorted(path.name for path in (copy / "doctor").iterdir())
    assert names == ["doctor.csv", "doctor.json", "doctor.png"]
    assert (copy / "index.jsonl").read_text() == before
    report = json.loads(run("doctor", copy, "--min-sharpness", 1, "--correct", "--json").out)
    assert report["drop"] == {"not sharp": 3}
    assert (copy / "index.jsonl").read_text().count('"excluded": "not sharp"') == 3


@pytest.mark.parametrize(
    ("recipe", "data", "code", "words"),
    [
        ("task: expert\nname: e\nsteps: 2\nsteeps: 3\n", True, ExitCode.RECIPE, "steeps"),
        ("task: [\n", True, ExitCode.RECIPE, "not YAML"),
        (None, True, ExitCode.RECIPE, "cannot be read"),
        (EXPERT, False, ExitCode.DATA, "lipsmith prepare"),
        (GENERATOR + "losses: {sync: 0.1}\n", True, ExitCode.RECIPE, "expert"),
    ],
)
def test_train_with_something_missing(
    run: Command, drawn: Path, tmp_path: Path, recipe: str | None, data: bool, code: ExitCode, words: str
) -> None:
    path = tmp_path / "recipe.yaml"
    if recipe is not None:
        path.write_text(recipe)
    done = run("train", path, "--data", drawn if data else tmp_path, "--output", tmp_path / "run")
    assert (done.code, done.out, len(done.sentences)) == (code, "", 1), done.err
    assert words in done.err
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
