"""Two processes learn what one learns from the same batches; what goes wrong ends both, and is told once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lipsmith.data.synthetic import prepare_synthetic
from lipsmith.errors import DataError, RecipeError
from lipsmith.training.distributed import Processes

# No dropout: each process draws its own.
COMMON = """
seed: 3
steps: 4
validate_every: 2
validation_frames: 24
data: {validation: [drawn_3]}
optimiser: {learning_rate: 2.0e-4, warmup_steps: 0, decay_steps: 4}
"""
EXPERT = (
    "task: expert\nname: e\nmodel: {width: 0.125, embedding: 16, dropout: 0}\n"
    "batch: {stretches: [[5, 9], [2, 10]]}\n" + COMMON
)
# Five clips in two parts: the processes have unequal shares of each, and of its foreign clips.
GENERATOR = (
    "task: generator\nname: g\nmodel: {width: 0.0625}\nparts: 2\n"
    "batch: {clips: 5, frames: 5, negatives: 3, foreign_share: 0.4, reference_candidates: 2}\n"
    "losses: {edges: 1.0, sync: 0.02, adversarial: 0.1}\n"
    "critic: {form: patch, width: 0.125, features: 1.0, learning_rate: 2.0e-4}\n" + COMMON
)

# Trains into `argv[2]`, in single precision, then in double, where nothing is left to rounding. The expert's training
# is interrupted and resumed on the way.
TRAIN = """
import json
import sys
from pathlib import Path
import torch
from lipsmith.models.expert import LipSyncExpert
from lipsmith.training import train
from lipsmith.training.distributed import Processes

torch.set_num_threads(1)
folder, output, processes = Path(sys.argv[1]), Path(sys.argv[2]), Processes()

def train_both(output):
    steps = []
    def note(step, last, measures):
        steps.append(measures)
    for last, resume in ((2, False), (4, True)):
        changes = {"steps": last}
        train(
            folder / "e.yaml", folder / "drawn", output / "e",
            overrides=changes, resume=resume, on_progress=note,
        )
    expert = output / "e"
    report = train(folder / "g.yaml", folder / "drawn", output / "g", expert=expert, on_progress=note)
    assert bool(steps) == processes.is_main
    if processes.is_main:
        (output / "steps.json").write_text(json.dumps(steps))
    return report

train_both(output / "single")

torch.set_default_dtype(torch.float64)
from_numpy = torch.from_numpy
torch.from_numpy = lambda array: from_numpy(array.astype("f8") if array.dtype == "f4" else array)
torch.Tensor.float = torch.Tensor.double
report = train_both(output / "double")

torch.manual_seed(0)
network, lips, wanted = LipSyncExpert(0.0625), torch.rand(5, 5, 3, 48, 96), torch.rand(5, 1, 32)
processes.share_norms(network)
rows = list(processes.rows(5))
embedded = network.embed_lips(lips[rows])
(embedded * wanted[rows]).sum().backward()
processes.add_gradients(torch.optim.SGD(network.parameters()))
torch.save(
    {
        "embedded": dict(zip(rows, embedded.detach())),
        "gradients": {name: p.grad for name, p in network.named_parameters()},
        "buffers": dict(network.named_buffers()),
        "sums": processes.add([1.0, processes.index]),
        "reports": processes.gather((report.best_step, report.best["reconstruction"])),
    },
    output / f"{processes.index}.pt",
)
"""

COMMAND = """
import sys
from lipsmith.cli import main
main(["train", *sys.argv[1:]])
"""

FAILS_ALONE = """
import os, sys
from lipsmith.data.samples import ClipSampler
from lipsmith.errors import DataError
from lipsmith.cli import main
draw, left = ClipSampler.draw, iter(range(2))
def fail(*arguments):
    if os.environ["RANK"] == "1" and next(left, None) is None:
        raise DataError("Most samples are damaged.")
    return draw(*arguments)
ClipSampler.draw = fail
main(["train", *sys.argv[1:]])
"""


def _start(program: str, folder: Path, *words: object, count: int = 2) -> "subprocess.Popen[str]":
    """A program in `count` processes."""
    path = folder / f"program_{count}.py"
    path.write_text(program)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.Popen(
        [sys.executable, *(launcher if count > 1 else []), str(path), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `TRAIN` made, `1/…` by one process, `2/…` by two."""
    folder = tmp_path_factory.mktemp("trained")
    prepare_synthetic(folder / "drawn", num_speakers=4, clips_per_speaker=1, seconds=1.2)
    (folder / "e.yaml").write_text(EXPERT)
    (folder / "g.yaml").write_text(GENERATOR)
    running = [_start(TRAIN, folder, folder, folder / str(count), count=count) for count in (1, 2)]
    for program in running:
        _, errors = program.communicate()
        assert program.returncode == 0, errors
    return folder


def _steps(run: Path) -> list[dict[str, float]]:
    """The losses of every step, and the measures of every validation."""
    return [
        {name: value for name, value in step.items() if name != "threshold"}
        for step in json.loads((run / "steps.json").read_text())
    ]


def test_the_curves_of_two_processes_are_those_of_one(trained: Path) -> None:
    one, two = (_steps(trained / count / "double") for count in "12")
    assert len(one) == 8 and {"reconstruction", "still", "sync", "critic"} <= one[4].keys()
    for step, other in zip(one, two, strict=True):
        assert other == pytest.approx(step, rel=1e-8, abs=1e-10)


def test_in_single_precision_they_are_so_but_for_rounding(trained: Path) -> None:
    one, two = (_steps(trained / count / "single") for count in "12")
    # At the first step; then Adam turns what rounding leaves of a gradient into steps of full length.
    for number in (0, 4):
        assert two[number] == pytest.approx(one[number], rel=1e-4)
    for step, other in zip(one, two, strict=True):
        for loss in {"loss", "reconstruction", "edges", "still", "adversarial", "critic"} & step.keys():
            assert other[loss] == pytest.approx(step[loss], rel=0.01), loss


@pytest.mark.parametrize("name", ["e", "g"])
def test_two_processes_learn_the_same_weights(trained: Path, name: str) -> None:
    one, two = (
        torch.load(trained / count / "double" / name / "checkpoint.pt", weights_only=True) for count in "12"
    )
    assert len(one["random"]) == 1 and len(two["random"]) == 2
    # Optimisers and the average too.
    torch.testing.assert_close(two["parts"], one["parts"], rtol=1e-6, atol=1e-9)
    best, other = (load_file(trained / count / "double" / name / "best.safetensors") for count in "12")
    torch.testing.assert_close(other, best, rtol=1e-6, atol=1e-9)


def test_norms_see_the_rows_of_both_processes(trained: Path) -> None:
    first, second, alone = (
        torch.load(trained / path, weights_only=True) for path in ("2/0.pt", "2/1.pt", "1/0.pt")
    )
    assert sorted(first["embedded"]) == [0, 2, 4] and sorted(second["embedded"]) == [1, 3]
    torch.testing.assert_close(first["embedded"] | second["embedded"], alone["embedded"])
    for found in (first, second):
        for part in ("gradients", "buffers"):
            assert found[part].keys() == alone[part].keys()
            torch.testing.assert_close(found[part], alone[part], rtol=1e-7, atol=1e-9)


def test_one_process_writes_and_all_know(trained: Path) -> None:
    run = trained / "2" / "single" / "g"
    environment = json.loads((run / "environment.json").read_text())
    assert [session["processes"] for session in environment] == [2]
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert len((run / "log.jsonl").read_text().splitlines()) == 2
    for index in range(2):
        found = torch.load(trained / "2" / f"{index}.pt", weights_only=True)
        assert found["sums"] == [2.0, 1.0]
        assert found["reports"][0] == found["reports"][1]


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(EXPERT)
    words = (tmp_path / "e.yaml", "--data", tmp_path / "nowhere", "--output", tmp_path / "run")
    program = _start(COMMAND, tmp_path, *words)
    _, errors = program.communicate()
    assert program.returncode != 0
    told = [
        line for line in errors.splitlines() if line.startswith("Error: ")
    ]  # not the launcher's own words
    assert len(told) == 1 and "nowhere" in told[0]
    assert not (tmp_path / "run").exists()


def test_a_process_that_fails_ends_the_other(trained: Path, tmp_path: Path) -> None:
    words = (trained / "e.yaml", "--data", trained / "drawn", "--output", tmp_path / "run")
    program = _start(FAILS_ALONE, tmp_path, *words)
    _, errors = program.communicate()
    assert program.returncode != 0
    assert errors.count("Error: Most samples are damaged.") == 1
    assert "An error in Lipsmith itself" not in errors


class _One(Processes):
    """One of several processes, alone."""

    def __init__(self, index: int, count: int) -> None:
        super().__init__()
        self.index, self.count = index, count


def test_rows_and_parts_are_dealt_out() -> None:
    dealt = [_One(index, 3) for index in range(3)]
    assert [list(one.rows(8)) for one in dealt] == [[0, 3, 6], [1, 4, 7], [2, 5]]
    for part in (slice(0, 4), slice(4, 8)):
        rows = sorted(row for one in dealt for row in list(one.rows(8))[one.own_part(part)])
        assert rows == list(range(8))[part]
    with pytest.raises(RecipeError, match="2 clips cannot be divided among 3 processes"):
        dealt[0].rows(2)


def test_alone_nothing_is_shared(tmp_path: Path) -> None:
    processes = Processes()
    assert (processes.is_main, processes.count) == (True, 1)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    processes.share_norms(network)
    assert type(network[1]) is nn.BatchNorm2d and not processes.norms_are_shared
    assert processes.from_main(lambda: 3) == 3 and processes.gather("a") == ["a"]
    with pytest.raises(DataError, match="wrong") as raised, processes.together():
        raise DataError("wrong")
    assert not raised.value.is_told_elsewhere
