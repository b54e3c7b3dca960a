"""Two processes learn what one learns from the same batches; what goes wrong ends both, and is told once."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lipsmith.data.synthetic import prepare_synthetic
from lipsmith.errors import DataError, RecipeError
from lipsmith.training import distributed
from lipsmith.training.distributed import Processes

pytestmark = pytest.mark.slow

# No dropout: each process draws its own.
COMMON = """
seed: 3
steps: 3
validate_every: 3
validation_frames: 24
data: {validation: [drawn_3]}
optimiser: {learning_rate: 2.0e-4, warmup_steps: 0, decay_steps: 3}
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

# What is slow to import is imported once: the processes are copies of this one, told of each other as `torchrun` tells
# them. Nobody starts a thread before.
SPREAD = """
import os
import sys
from multiprocessing import get_context
from multiprocessing.connection import wait
import torch
import lipsmith.training.expert
import lipsmith.training.run
from lipsmith.training import train

torch.set_num_threads(1)
lipsmith.training.run.draw_curves = lipsmith.training.expert.draw_accuracy = lambda *_, **__: None

def begin(work, index, count, port):
    if count > 1:
        rank = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ |= {name: str(value) for name, value in rank.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    work(count)

def spread(work, counts, port):
    started = [
        get_context("fork").Process(target=begin, args=(work, index, count, port))
        for count in counts for index in range(count)
    ]
    for process in started:
        process.start()
    while running := [process.sentinel for process in started if process.is_alive()]:
        wait(running)
        if any(process.exitcode for process in started):
            for process in started:
                process.join(60)
                process.kill()
            sys.exit(1)
"""

# Trains into `1` and `2` of a folder, in single precision, then in double, where nothing is left to rounding. There the
# expert's training is interrupted and resumed on the way.
TRAIN = (
    SPREAD
    + """
import json
from pathlib import Path
from lipsmith.models.expert import LipSyncExpert
from lipsmith.training.distributed import Processes

folder = Path(sys.argv[1])

def train_both(output, processes, last, stop=None):
    steps = []
    def note(step, last, measures):
        steps.append(measures)
    expert = output / "e"
    for end in filter(None, (stop, last)):
        train(
            folder / "e.yaml", folder / "drawn", expert,
            overrides={"steps": end}, resume=stop is not None, on_progress=note,
        )
    report = train(
        folder / "g.yaml", folder / "drawn", output / "g",
        expert=expert, overrides={"steps": last}, on_progress=note,
    )
    assert bool(steps) == processes.is_main
    if processes.is_main:
        (output / "steps.json").write_text(json.dumps(steps))
    return report

def work(count):
    output, processes = folder / str(count), Processes()
    train_both(output / "single", processes, 2)

    torch.set_default_dtype(torch.float64)
    from_numpy = torch.from_numpy
    torch.from_numpy = lambda array: from_numpy(array.astype("f8") if array.dtype == "f4" else array)
    torch.Tensor.float = torch.Tensor.double
    report = train_both(output / "double", processes, 3, stop=1)

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

spread(work, (1, 2), sys.argv[2])
"""
)

COMMAND = (
    SPREAD
    + """
from lipsmith.cli import main

port, *words = sys.argv[1:]
spread(lambda count: main(["train", *words]), (2,), port)
"""
)

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


LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def _run(program: str, folder: Path, *words: object, launcher: Sequence[str] = ()) -> tuple[int, str]:
    """A program's exit status and what it said to standard error."""
    path = folder / "program.py"
    path.write_text(program)
    done = subprocess.run(
        [sys.executable, *launcher, str(path), *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stderr


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `TRAIN` made, `1/…` by one process, `2/…` by two."""
    folder = tmp_path_factory.mktemp("trained")
    prepare_synthetic(folder / "drawn", num_speakers=4, clips_per_speaker=1, seconds=1.2)
    (folder / "e.yaml").write_text(EXPERT)
    (folder / "g.yaml").write_text(GENERATOR)
    status, errors = _run(TRAIN, folder, folder, _free_port())
    assert status == 0, errors
    return folder


def _steps(run: Path) -> list[dict[str, float]]:
    """The losses of every step, and the measures of every validation."""
    return [
        {name: value for name, value in step.items() if name != "threshold"}
        for step in json.loads((run / "steps.json").read_text())
    ]


def test_the_curves_of_two_processes_are_those_of_one(trained: Path) -> None:
    one, two = (_steps(trained / count / "double") for count in "12")
    assert len(one) == 6 and {"reconstruction", "still", "sync", "critic"} <= one[3].keys()
    for step, other in zip(one, two, strict=True):
        assert other == pytest.approx(step, rel=1e-8, abs=1e-10)


def test_in_single_precision_they_are_so_but_for_rounding(trained: Path) -> None:
    one, two = (_steps(trained / count / "single") for count in "12")
    # At the first step; then Adam turns what rounding leaves of a gradient into steps of full length.
    for number in (0, 2):
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
    assert len((run / "log.jsonl").read_text().splitlines()) == 1
    for index in range(2):
        found = torch.load(trained / "2" / f"{index}.pt", weights_only=True)
        assert found["sums"] == [2.0, 1.0]
        assert found["reports"][0] == found["reports"][1]


def test_a_mistake_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text(EXPERT)
    words = (tmp_path / "e.yaml", "--data", tmp_path / "nowhere", "--output", tmp_path / "run")
    status, errors = _run(COMMAND, tmp_path, _free_port(), *words)
    assert status != 0
    assert errors.count("Error: ") == 1 and "nowhere" in errors
    assert not (tmp_path / "run").exists()


def test_a_process_that_fails_ends_the_other(trained: Path, tmp_path: Path) -> None:
    words = (trained / "e.yaml", "--data", trained / "drawn", "--output", tmp_path / "run")
    status, errors = _run(FAILS_ALONE, tmp_path, *words, launcher=LAUNCHER)
    assert status != 0
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


@pytest.mark.parametrize(("quota", "threads"), [(1, 1), (64, 3), (None, 3)])
def test_no_more_threads_than_the_container_grants(
    quota: int | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.setattr(distributed, "core_quota", lambda: quota)
    torch.set_num_threads(3)
    try:
        Processes()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


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
