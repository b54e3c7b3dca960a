"""A training that is killed and resumed is the training that was not; what a run's folder holds."""

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lipsmith.data.clips import index_digest
from lipsmith.data.journal import alone_in
from lipsmith.data.synthetic import prepare_synthetic
from lipsmith.errors import DataError, OutputError
from lipsmith.models.dense_expert import DenseLipSyncExpert
from lipsmith.training import train
from lipsmith.training.distributed import Processes
from lipsmith.training.environment import package_commit
from lipsmith.training.memory import in_parts, split_rows
from lipsmith.training.recipe import ExpertRecipe
from lipsmith.training.run import Run

COMMON = """
seed: 5
validate_every: 3
checkpoint_every: 2
validation_frames: 24
data: {validation: [drawn_2]}
"""
EXPERT = (
    "task: expert\nname: e\nsteps: 6\nmodel: {width: 0.125, embedding: 16, dropout: 0.2}\n"
    "batch: {stretches: [[2, 9]]}\n" + COMMON
)
GENERATOR = (
    "task: generator\nname: g\nsteps: 4\nmodel: {width: 0.0625}\n"
    "batch: {clips: 2, frames: 5, negatives: 3, foreign_share: 0.5, reference_candidates: 2, reference: steady}\n"
    "losses: {sync: 0.02, adversarial: 0.1}\n"
    "sync_term: {starts_below: 1000.0}\n"
    "critic: {form: patch, width: 0.125, features: 1.0}\n"
    "faces: {blur: 0, noise: 0.01}\n" + COMMON.replace("validate_every: 3", "validate_every: 2")
)

# Goes on with a training, and dies without a farewell as soon as it reports the step.
KILLED = """
import os, signal, sys
import torch
from lipsmith.training import run, train
run.draw_curves = lambda *_: None
torch.set_num_threads(1)
recipe, data, output, expert, step = sys.argv[1:]
def die(at, steps, measures):
    if at == int(step):
        os.kill(os.getpid(), signal.SIGKILL)
train(recipe, data, output, expert=expert or None, resume=True, on_progress=die)
"""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums in one order, here as in the processes that are killed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared clips of three drawn people."""
    folder = tmp_path_factory.mktemp("drawn")
    prepare_synthetic(folder, num_speakers=3, clips_per_speaker=1, seconds=1.2)
    return folder


@pytest.fixture(scope="module")
def whole_expert(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of an expert that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "expert.yaml").write_text(EXPERT)
    train(folder / "expert.yaml", drawn, folder / "expert")
    return folder / "expert"


def _train_and_kill(recipe: Path, data: Path, output: Path, expert: Path | str, step: int) -> None:
    words = [recipe, data, output, expert, step]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def _log(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def _assert_same(run: Path, other: Path) -> None:
    assert _log(run) == _log(other)
    for name in sorted(path.name for path in run.glob("*.safetensors")):
        tensors, others = load_file(run / name), load_file(other / name)
        assert tensors.keys() == others.keys()
        for key, tensor in tensors.items():
            assert torch.equal(tensor, others[key]), (name, key)
    kept, again = (
        torch.load(folder / "checkpoint.pt", weights_only=True)["parts"] for folder in (run, other)
    )
    assert _tensors(kept) == _tensors(again)


def _tensors(part: object) -> object:
    """A checkpoint with its tensors as bytes, to be compared whole: optimisers' averages too."""
    if isinstance(part, torch.Tensor):
        return (str(part.dtype), tuple(part.shape), part.contiguous().numpy().tobytes())
    if isinstance(part, dict):
        return {name: _tensors(value) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [_tensors(value) for value in part]
    return part


def test_an_expert_killed_between_checkpoints_ends_as_if_it_had_not_been(
    drawn: Path, whole_expert: Path, tmp_path: Path
) -> None:
    recipe, run = whole_expert.parent / "expert.yaml", tmp_path / "run"
    _train_and_kill(recipe, drawn, run, "", 5)  # its checkpoint is of step 4
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "event": "after the checkpoint"}\n{"st')
    train(recipe, drawn, run, resume=True)
    _assert_same(whole_expert, run)
    assert [line["step"] for line in _log(run)] == [3, 6]
    assert len(json.loads((run / "environment.json").read_text())) == 2


@pytest.mark.slow
def test_a_generator_killed_in_mid_epoch_ends_as_if_it_had_not_been(
    drawn: Path, whole_expert: Path, tmp_path: Path
) -> None:
    recipe, run = tmp_path / "g.yaml", tmp_path / "run"
    recipe.write_text(GENERATOR)
    train(recipe, drawn, tmp_path / "whole", expert=whole_expert)
    # A validation lets the sync term in at step 2; step 3 is done when the process dies, and is done again.
    _train_and_kill(recipe, drawn, run, whole_expert, 3)
    train(recipe, drawn, run, expert=whole_expert, resume=True)
    _assert_same(tmp_path / "whole", run)
    assert [line["step"] for line in _log(run)] == [2, 2, 4]
    assert "sync" in _log(run)[-1] and "sync" not in _log(run)[1]


def test_what_a_run_leaves(drawn: Path, whole_expert: Path) -> None:
    assert {path.name for path in whole_expert.iterdir()} >= {
        "best.safetensors",
        "checkpoint.pt",
        "environment.json",
        "log.jsonl",
        "recipe.json",
        "tensorboard",
    }
    environment = json.loads((whole_expert / "environment.json").read_text())[0]
    assert environment["data_index_sha256"] == index_digest(drawn)
    assert environment["torch"] == torch.__version__
    assert json.loads((whole_expert / "recipe.json").read_text())["optimiser"]["betas"] == [0.9, 0.999]


def test_the_commit_is_the_packages_own(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")

    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", tmp_path, *who, *words], check=True)

    git("init", "--quiet")
    assert package_commit(package) is None  # in a repository, not of it
    git("add", "package")
    git("commit", "--quiet", "-m", "x")
    clean = package_commit(package)
    assert clean is not None and len(clean) == 40
    (package / "__init__.py").write_text("changed")
    assert package_commit(package) == f"{clean}+changes"


def _run(folder: Path, name: str = "e") -> Run:
    recipe = ExpertRecipe.model_validate({"task": "expert", "name": name, "steps": 1})
    return Run(folder, recipe, Processes(), resume=True)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, part = _run(tmp_path), nn.Linear(2, 2)
    run.save({"part": part})
    before = run.checkpoint_path.read_bytes()

    def fill_the_disk(content: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fill_the_disk)
    with pytest.raises(OutputError, match="--resume"):
        run.save({"part": part})
    assert run.checkpoint_path.read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_a_checkpoint_of_another_recipe_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    _run(tmp_path).save({"part": nn.Linear(2, 2)})
    recipe, environment = ((tmp_path / name).read_bytes() for name in ("recipe.json", "environment.json"))
    with pytest.raises(DataError, match="recipe"):
        _run(tmp_path, "another").load({"part": nn.Linear(3, 2)})
    assert (tmp_path / "recipe.json").read_bytes() == recipe
    assert (tmp_path / "environment.json").read_bytes() == environment


def test_randomness_of_a_gpu_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = ExpertRecipe.model_validate({"task": "expert", "name": "e", "steps": 4})
    states = {"cuda:0": torch.tensor([7], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[str(device)].clone())
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: states.update({str(device): state})
    )

    def processes(device: str) -> Processes:
        found = Processes()
        found.device = torch.device(device)
        return found

    def drawn_after(device: str) -> int:
        """What the GPU goes on with when a run is resumed on a device."""
        states["cuda:0"] = torch.tensor([9], dtype=torch.uint8)
        assert Run(tmp_path, recipe, processes(device), resume=True).load({})
        return int(states["cuda:0"])

    run = Run(tmp_path, recipe, processes("cuda:0"), resume=False)
    run.save({})
    assert drawn_after("cuda:0") == 7
    assert drawn_after("cpu") == 9
    # Of an earlier version, and of a run that had no GPU so far.
    saved = torch.load(run.checkpoint_path, weights_only=True)
    torch.save({name: value for name, value in saved.items() if name != "random_on_gpu"}, run.checkpoint_path)
    assert drawn_after("cuda:0") == 9
    Run(tmp_path, recipe, processes("cpu"), resume=True).save({})
    assert drawn_after("cuda:0") == 9


def test_a_list_of_sessions_that_a_full_disk_has_cut_off_ends_no_training(tmp_path: Path) -> None:
    part = {"part": nn.Linear(2, 2)}
    _run(tmp_path).save(part)
    path = tmp_path / "environment.json"
    path.write_bytes(path.read_bytes()[:40])
    assert _run(tmp_path).load(part)
    assert len(json.loads(path.read_text())) == 1
    assert _run(tmp_path).load(part)
    assert len(json.loads(path.read_text())) == 2


def test_no_room_for_the_curves_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill_the_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lipsmith.training.run.draw_curves", fill_the_disk)
    with pytest.raises(OutputError, match=r"no room left for .*curves\.png"):
        _run(tmp_path).log({"loss": 1.0})


def test_a_training_that_ended_for_want_of_patience_stays_ended(drawn: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "e.yaml"
    # A rate at which nothing gets better.
    changes = {"patience": 1, "validate_every": 1, "optimiser.learning_rate": 1e-9}
    recipe.write_text(EXPERT)
    done = train(recipe, drawn, tmp_path / "run", overrides=changes)
    assert (done.steps, done.stopped_early) == (2, True)
    log = (tmp_path / "run" / "log.jsonl").read_text()
    again = train(recipe, drawn, tmp_path / "run", overrides=changes, resume=True)
    assert (again.steps, again.stopped_early) == (2, True)
    assert (tmp_path / "run" / "log.jsonl").read_text() == log
    more = train(recipe, drawn, tmp_path / "run", overrides={**changes, "patience": 2}, resume=True)
    assert (more.steps, more.stopped_early) == (3, True)


def test_one_training_at_a_time_writes_into_a_folder(drawn: Path, tmp_path: Path) -> None:
    recipe, run = tmp_path / "e.yaml", tmp_path / "run"
    recipe.write_text(EXPERT)
    run.mkdir()
    (run / "log.jsonl").write_text("of the other training\n")
    with alone_in(run, "train"), pytest.raises(OutputError, match="Another `lipsmith train` is writing"):
        train(recipe, drawn, run)
    assert (run / "log.jsonl").read_text() == "of the other training\n"
    with pytest.raises(DataError):
        train(recipe, tmp_path / "absent", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_rows_in_parts() -> None:
    assert split_rows(5, 1) == [slice(0, 5)]
    assert split_rows(5, 2) == [slice(0, 2), slice(2, 5)]
    assert split_rows(2, 4) == [slice(0, 1), slice(1, 2)]


def test_a_batch_that_does_not_fit_is_halved_until_it_does(tmp_path: Path) -> None:
    run, tried = _run(tmp_path), []

    def work(parts: list[slice]) -> int:
        tried.append(len(parts))
        if max(part.stop - part.start for part in parts) > 2:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory"
            )
        return len(parts)

    assert in_parts(run, 7, work) == 4
    assert tried == [1, 2, 4]
    assert in_parts(run, 7, work) == 4 and tried[3:] == [4]  # it is remembered
    events = [json.loads(line)["event"] for line in run.log_path.read_text().splitlines()]
    assert len(events) == 2 and "4 parts" in events[-1]


def test_other_errors_are_not_about_memory(tmp_path: Path) -> None:
    def work(parts: list[slice]) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        in_parts(_run(tmp_path), 4, work)


def test_gradients_of_parts_add_up(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The dense expert has no batch norms: two parts learn what the whole does.
    recipe = tmp_path / "e.yaml"
    recipe.write_text(EXPERT.replace("dropout: 0.2", "dropout: 0").replace("steps: 6", "steps: 1"))
    train(recipe, drawn, tmp_path / "whole")
    short = iter([True])
    embed_lips = DenseLipSyncExpert.embed_lips

    def embed_or_fail(self: DenseLipSyncExpert, frames: torch.Tensor) -> torch.Tensor:
        if self.training and next(short, False):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed_lips(self, frames)

    monkeypatch.setattr(DenseLipSyncExpert, "embed_lips", embed_or_fail)
    train(recipe, drawn, tmp_path / "parts")
    whole, parts = (load_file(tmp_path / run / "best.safetensors") for run in ("whole", "parts"))
    assert _log(tmp_path / "whole")[-1]["loss"] == pytest.approx(
        _log(tmp_path / "parts")[-1]["loss"], abs=1e-4
    )
    for key, tensor in whole.items():
        # AdamW's first step is the sign of the gradient times the rate, however small the gradient: compare most.
        same = (tensor - parts[key]).abs() < 1e-6
        assert same.float().mean() > 0.98, key
