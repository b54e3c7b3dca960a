"""`lipsmith evaluate pairs` and `benchmark`: from a folder to a table, and on from where it stopped."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lipsmith.errors import ExitCode
from lipsmith.evaluation.benchmark_result import BenchmarkResult
from lipsmith.training.expert import build_expert
from lipsmith.training.recipe import ExpertModel
from lipsmith.training.run import save_weights

from .conftest import Command, write_video


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An untrained expert, as `--judge` takes it."""
    torch.manual_seed(0)
    model = ExpertModel(form="dense", width=0.25)
    path = tmp_path_factory.mktemp("expert") / "best.safetensors"
    save_weights(build_expert(model), path, {"model": model.model_dump_json()})
    return f"expert={path.parent}"


def test_a_list_of_pairs(run: Command, media: Path, tmp_path: Path) -> None:
    root, manifest, output = tmp_path / "set", tmp_path / "manifest.tsv", tmp_path / "pairs.txt"
    root.mkdir()
    write_video(root / "short.mp4", [np.full((32, 32, 3), 90, np.uint8)] * 15, with_sound=True)
    shutil.copy(media / "face.mp4", root)
    shutil.copy(media / "wall.mp4", root)
    manifest.write_text("file\tspeaker\nshort.mp4\tanna\nface.mp4\tbert\nwall.mp4\tcarl\n")
    arguments = ("evaluate", "pairs", root, "-o", output, "--manifest", manifest, "--min-seconds", 0.5)

    done = run(*arguments)

    assert (done.code, done.out) == (ExitCode.OK, f"{output}\n")
    assert [line for line in output.read_text().splitlines() if line[0] != "#"] == ["short.mp4 face.mp4"]
    assert "Left out: 1 × it has no sound." in done.sentences
    answer = json.loads(run(*arguments, "--json", "--layout", "video-audio", "--overwrite").out)
    assert answer["num_pairs"] == 1 and answer["digest"] in output.read_text()
    assert output.read_text().splitlines()[-1] == "face.mp4 short.mp4"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task: generator\nname: a\nsteps: 1\ndata: {test: [bert], leave_out: [short]}\n")
    assert run(*arguments, "--speakers-of", f"{recipe}:test").code == ExitCode.DATA
    assert run(*arguments, "--speakers-of", f"{recipe}:validation").code == ExitCode.USAGE


def test_a_benchmark(run: Command, media: Path, weights: str, expert: str, tmp_path: Path) -> None:
    pairs, output = tmp_path / "pairs.txt", tmp_path / "out"
    pairs.write_text("face speech.wav\nwall speech.wav\nface gone\n")
    arguments = ("evaluate", "benchmark", pairs, "--root", media, "-m", weights, "-o", output)
    arguments += ("--judge", expert, "--min-track", 14, "--layout", "video-audio", "--jobs", 1)

    done = run(*arguments)

    assert done.code == ExitCode.INCOMPLETE
    head, *lines = done.out.splitlines()
    assert head.split() == ["system", "pairs", "LSE-D", "LSE-C", "offset", "±1"]
    assert [line.split()[:2] for line in lines] == [["unsynced", "1"], [weights, "1"], ["real", "2"]]
    assert f"Without a score by {weights}: 1 × missing, 1 × no face." in done.sentences
    assert "Without a score by real: 1 × no sound." in done.sentences
    result = BenchmarkResult.read(output)
    assert [row.score.failure_kind for row in result.systems[1].rows] == [None, "no face", "missing"]
    video = result.systems[1].rows[0].output
    assert video is not None
    made = video.stat().st_mtime_ns

    again = run(*arguments, "--json")

    assert again.code == ExitCode.INCOMPLETE
    answer = json.loads(again.out)
    assert answer["list_digest"] == result.list_digest and answer["num_failed"] == 5
    assert video.stat().st_mtime_ns == made
    rows = list(csv.DictReader(io.StringIO((output / "benchmark.csv").read_text())))
    assert len(rows) == 9 and rows[3]["output"] == str(video)
    assert float(rows[3]["lse_d"]) == answer["systems"][1]["rows"][0]["score"]["lse_d"]


def test_mistakes_cost_no_work(run: Command, media: Path, weights: str, expert: str, tmp_path: Path) -> None:
    pairs, output = tmp_path / "pairs.txt", tmp_path / "out"
    pairs.write_text("face speech.wav\nface\n")
    arguments = ("evaluate", "benchmark", pairs, "--root", media, "-m", weights, "-o", output)
    assert "pairs.txt, line 2: 1 name" in run(*arguments, "--judge", expert).err
    pairs.write_text("face speech\n")
    done = run(*arguments, "--judge", expert)
    assert done.code == ExitCode.USAGE and "--layout" in done.err
    arguments += ("--layout", "video-audio")
    assert run(*arguments).code == ExitCode.USAGE  # no SyncNet here
    assert run(*arguments, "--judge", expert, "-m", "nobody").code == ExitCode.WEIGHTS
    assert run(*arguments, "--judge", expert, "--fid").code == ExitCode.WEIGHTS
    assert not output.exists()
