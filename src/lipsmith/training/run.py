"""A training run's folder: resolved recipe, environment, log, checkpoints; and what every training shares.

Of several processes all hold the run's state, and the main one writes the folder.

`checkpoint.pt` holds everything that a run needs to go on as if it had never stopped; `best.safetensors` the best
weights so far by the held-out measure; `log.jsonl` a line per validation and per event, drawn in `curves.png` and
written for TensorBoard under `tensorboard/`; `recipe.json` and `environment.json` what was trained, with what, on what.
"""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from torch.optim import AdamW, Optimizer

from lipsmith.data.storage import Location, room_for, write_whole
from lipsmith.errors import DataError, OutputError
from lipsmith.training.curves import CurveWriter, draw_curves
from lipsmith.training.distributed import Processes
from lipsmith.training.environment import describe_environment
from lipsmith.training.recipe import ExpertRecipe, GeneratorRecipe, OptimiserRecipe

ENVIRONMENT_NAME = "environment.json"
Report = Callable[[int, int, dict[str, float]], None]  # step, steps, latest measures


@dataclass(frozen=True)
class TrainingReport:
    """How a training ended."""

    folder: Path
    steps: int
    best_step: int
    best: dict[str, float]
    seconds: float
    stopped_early: bool
    skipped: dict[str, int] = field(default_factory=dict)
    """Samples that could not be read, by reason."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**self.__dict__, "folder": str(self.folder)}


@dataclass
class RunState:
    """Where a run is. All of it is in the checkpoint.

    Attributes:
        step: Steps done.
        best_step, best_value, best: The best validation so far.
        validations_since_best: For `patience`.
        seconds: Trained so far, over all sessions.
        sums: Losses since the last validation: name → (sum, count).
        parts: In how many parts a batch is worked off, see `lipsmith.training.memory`.
        sync_since: For a sync term that waits: the step at which it was let in.
        log_bytes: Length of the log; what is beyond it was written after the checkpoint. None in checkpoints of the
            first version.
    """

    step: int = 0
    best_step: int = 0
    best_value: float = -math.inf
    best: dict[str, float] = field(default_factory=dict)
    validations_since_best: int = 0
    seconds: float = 0.0
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    parts: int = 1
    sync_since: int | None = None
    log_bytes: int | None = None


class Run:
    """The folder of one training run, and its state.

    Args:
        folder: Created when absent. When it holds a checkpoint, `resume` must be true.
        recipe: Written to `recipe.json` as resolved; where there is a checkpoint, once that has been found to fit.
        processes: Those that train.
        data: The prepared folder, whose digest goes into `environment.json`.
        resume: Go on from the checkpoint, if there is one.
    """

    def __init__(
        self,
        folder: Path,
        recipe: ExpertRecipe | GeneratorRecipe,
        processes: Processes,
        *,
        data: Location | None = None,
        resume: bool,
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self.processes = processes
        self.state = RunState(parts=recipe.parts)
        self._data = data
        self._started = time.monotonic()
        self._curves: CurveWriter | None = None
        processes.from_main(lambda: self._open(resume))

    @property
    def checkpoint_path(self) -> Path:
        """What a resumed run starts from."""
        return self.folder / "checkpoint.pt"

    @property
    def log_path(self) -> Path:
        """A JSON object a line."""
        return self.folder / "log.jsonl"

    @property
    def seconds(self) -> float:
        """Trained so far, over all sessions."""
        return self.state.seconds + time.monotonic() - self._started

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether the recipe asks for a checkpoint after this step, validation or not."""
        every = self.recipe.checkpoint_every
        return every > 0 and self.state.step % every == 0

    @property
    def is_out_of_patience(self) -> bool:
        """Whether so many validations were no better that the recipe wants the training to end."""
        return 0 < self.recipe.patience <= self.state.validations_since_best

    def load(self, parts: Mapping[str, Any]) -> bool:
        """Fill modules and optimisers from the checkpoint; False when there is none.

        The processes' sources of randomness go on where they were, if they are as many as before.
        """
        saved = self.processes.from_main(self._read_checkpoint)
        if saved is None:
            return False
        with self.processes.together(), self._usable_checkpoint():
            for name, part in parts.items():
                part.load_state_dict(saved["parts"][name])
            known = {entry.name for entry in fields(RunState)}
            self.state = RunState(**{name: value for name, value in saved["state"].items() if name in known})
            random = saved["random"]
            random_on_gpu = saved.get("random_on_gpu", [])  # not in those of earlier versions
        self.state.parts = max(self.state.parts, self.recipe.parts)
        random = [random] if isinstance(random, torch.Tensor) else random  # of the first version
        if len(random) == self.processes.count:
            torch.set_rng_state(random[self.processes.index])
        if len(random_on_gpu) == self.processes.count and self.processes.device.type == "cuda":
            own = random_on_gpu[self.processes.index]
            if own is not None:  # else it was computed on a CPU so far
                torch.cuda.set_rng_state(own, self.processes.device)
        self.processes.from_main(self._go_on)
        return True

    def save(self, parts: Mapping[str, Any]) -> None:
        """Write the checkpoint, whole or not at all.

        Raises:
            OutputError: It cannot be written; the one before stays.
        """
        now = time.monotonic()
        self.state.seconds += now - self._started
        self._started = now
        device = self.processes.device
        random = {
            "random": self.processes.gather(torch.get_rng_state()),
            # Each process computes on one GPU; dropout draws there.
            "random_on_gpu": self.processes.gather(
                torch.cuda.get_rng_state(device) if device.type == "cuda" else None
            ),
        }
        self.processes.from_main(lambda: self._write_checkpoint(parts, random))

    def add(self, losses: Mapping[str, float]) -> None:
        """Count a step's losses in the means of the next line of the log."""
        for name, value in losses.items():
            total, count = self.state.sums.get(name, (0.0, 0))
            self.state.sums[name] = (total + value, count + 1)

    def take_means(self) -> dict[str, float]:
        """The means of what was added since the last time, by name."""
        means = {name: total / count for name, (total, count) in self.state.sums.items()}
        self.state.sums = {}
        return means

    def log(self, measures: Mapping[str, float]) -> None:
        """Add a line of measures to the log, with the time so far, and draw the curves anew."""
        rounded = {name: round(value, 5) for name, value in measures.items()}
        self._write({"step": self.state.step, **rounded, "seconds": round(self.seconds, 1)})
        picture = self.folder / "curves.png"
        with room_for(picture):
            if self._curves is None:
                self._curves = CurveWriter(self.folder / "tensorboard", self.state.step)
            self._curves.write(self.state.step, measures)
            draw_curves(self.log_path, picture, self.recipe.name)

    def note(self, event: str) -> None:
        """Add a sentence about something unusual to the log."""
        if self.processes.is_main:
            self._write({"step": self.state.step, "event": event})

    def judge(
        self, value: float, measures: Mapping[str, float], model: nn.Module, metadata: dict[str, str]
    ) -> None:
        """Keep `model` as the best when `value`, which grows with quality, is the highest so far."""
        value = -math.inf if math.isnan(value) else value  # clips too short to be judged
        if value > self.state.best_value or not self.state.best_step:
            self.state.best_value, self.state.best_step, self.state.best = (
                value,
                self.state.step,
                dict(measures),
            )
            self.state.validations_since_best = 0
            save_weights(model, self.folder / "best.safetensors", metadata)
        else:
            self.state.validations_since_best += 1

    def report(self, *, skipped: dict[str, int]) -> TrainingReport:
        """How it ended; `skipped` is what this process skipped."""
        state, everywhere = self.state, Counter[str]()
        for counts in self.processes.gather(skipped):
            everywhere.update(counts)
        return TrainingReport(
            self.folder,
            state.step,
            state.best_step,
            state.best,
            state.seconds,
            self.is_out_of_patience and state.step < self.recipe.steps,
            dict(everywhere),
        )

    def _open(self, resume: bool) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.checkpoint_path.exists():
                # Of a run that was ended before its first checkpoint.
                self.log_path.unlink(missing_ok=True)
                self._describe([])
            elif not resume:
                raise OutputError(
                    f"{self.folder} already holds a training. Go on with --resume, or name another folder."
                )
        except OSError as error:
            raise OutputError(f"The run folder {self.folder} cannot be made: {error.strerror}.") from error

    def _go_on(self) -> None:
        """Let the folder say that the training goes on from the checkpoint."""
        try:
            sessions = json.loads((self.folder / ENVIRONMENT_NAME).read_text())
        except (OSError, ValueError):  # lost, or cut off by a full disk
            sessions = []
        self._describe(sessions)
        self._forget_later_lines()

    @contextmanager
    def _usable_checkpoint(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, EOFError, KeyError, ValueError) as error:
            raise DataError(
                f"The checkpoint {self.checkpoint_path} cannot be used ({error}). Resume with the recipe that the run "
                "was begun with, or begin another run."
            ) from error

    def _read_checkpoint(self) -> dict[str, Any] | None:
        if not self.checkpoint_path.exists():
            return None
        with self._usable_checkpoint():
            return torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)

    def _write_checkpoint(self, parts: Mapping[str, Any], random: Mapping[str, Any]) -> None:
        partial = self.checkpoint_path.with_suffix(".partial")
        try:
            self.state.log_bytes = self.log_path.stat().st_size if self.log_path.exists() else 0
            torch.save(
                {
                    "parts": {name: part.state_dict() for name, part in parts.items()},
                    "state": dict(self.state.__dict__),
                    **random,
                },
                partial,
            )
            os.replace(partial, self.checkpoint_path)  # noqa: PTH105
        except (OSError, RuntimeError) as error:  # PyTorch reports a full disk as the latter
            partial.unlink(missing_ok=True)
            raise OutputError(
                f"The checkpoint of step {self.state.step} cannot be written to {self.folder} "
                f"({str(error).splitlines()[0]}). The one before is whole: make room, and go on with --resume."
            ) from error

    def _write(self, line: dict[str, Any]) -> None:
        try:
            with self.log_path.open("a") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OutputError(f"{self.log_path} cannot be written: {error.strerror}.") from error

    def _describe(self, sessions: list[dict[str, Any]]) -> None:
        """Write the recipe, and add this session to the former `sessions`."""
        found = [*sessions, describe_environment(self._data, self.processes.count)]
        write_whole(self.folder / "recipe.json", self.recipe.model_dump_json(indent=1).encode())
        write_whole(self.folder / ENVIRONMENT_NAME, f"{json.dumps(found, indent=1)}\n".encode())

    def _forget_later_lines(self) -> None:
        """Cut off what the log says of steps after the checkpoint: they are made again."""
        length = self.state.log_bytes
        if length is None or not self.log_path.exists() or self.log_path.stat().st_size <= length:
            return
        with self.log_path.open("r+b") as file:
            file.truncate(length)


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write a module's state dict as safetensors, whole or not at all; raises `OutputError`."""
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    # Not by `save_file`: its files are for their owner alone, whatever the umask says.
    write_whole(path, save(tensors, metadata))


def make_optimiser(model: nn.Module, recipe: OptimiserRecipe) -> Optimizer:
    """AdamW; norms and biases do not decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=recipe.betas,
    )


def set_learning_rate(optimiser: Optimizer, recipe: OptimiserRecipe, step: int, steps: int) -> None:
    """Linear warm-up, then half a cosine down to the final share."""
    if step < recipe.warmup_steps:
        share = (step + 1) / recipe.warmup_steps
    else:
        end = recipe.decay_steps or steps
        progress = min(1.0, (step - recipe.warmup_steps) / max(1, end - recipe.warmup_steps))
        share = recipe.final_share + (1 - recipe.final_share) * (1 + math.cos(math.pi * progress)) / 2
    for group in optimiser.param_groups:
        group["lr"] = recipe.learning_rate * share
