"""A training run's folder: resolved recipe, log, checkpoints; and what every training shares.

`checkpoint.pt` holds everything that a run needs to go on; `best.safetensors` the best weights so far by the held-out
measure; `log.jsonl` a line per validation.
"""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim import AdamW, Optimizer

from lipsmith.errors import DataError, OutputError
from lipsmith.training.recipe import ExpertRecipe, GeneratorRecipe, OptimiserRecipe

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
    """Where a run is."""

    step: int = 0
    best_step: int = 0
    best_value: float = -math.inf
    best: dict[str, float] = field(default_factory=dict)
    validations_since_best: int = 0
    seconds: float = 0.0


class Run:
    """The folder of one training run, and its state.

    Args:
        folder: Created when absent. When it holds a checkpoint, `resume` must be true.
        recipe: Written to `recipe.json` as resolved.
    """

    def __init__(self, folder: Path, recipe: ExpertRecipe | GeneratorRecipe, *, resume: bool) -> None:
        self.folder = folder
        self.state = RunState()
        self._started = time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"The run folder {folder} cannot be made: {error.strerror}.") from error
        if self.checkpoint_path.exists() and not resume:
            raise OutputError(
                f"{folder} already holds a training. Go on with --resume, or name another folder."
            )
        (folder / "recipe.json").write_text(recipe.model_dump_json(indent=1))

    @property
    def checkpoint_path(self) -> Path:
        """What a resumed run starts from."""
        return self.folder / "checkpoint.pt"

    def load(self, parts: dict[str, Any]) -> bool:
        """Fill modules and optimisers from the checkpoint; False when there is none."""
        if not self.checkpoint_path.exists():
            return False
        try:
            saved = torch.load(self.checkpoint_path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise DataError(f"The checkpoint {self.checkpoint_path} cannot be read: {error}.") from error
        for name, part in parts.items():
            part.load_state_dict(saved["parts"][name])
        self.state = RunState(**saved["state"])
        torch.set_rng_state(saved["random"])
        return True

    def save(self, parts: dict[str, Any]) -> None:
        """Write the checkpoint, whole or not at all."""
        now = time.monotonic()
        self.state.seconds += now - self._started
        self._started = now
        partial = self.checkpoint_path.with_suffix(".partial")
        torch.save(
            {
                "parts": {name: part.state_dict() for name, part in parts.items()},
                "state": dict(self.state.__dict__),
                "random": torch.get_rng_state(),
            },
            partial,
        )
        os.replace(partial, self.checkpoint_path)  # noqa: PTH105

    def log(self, measures: dict[str, float]) -> None:
        """Add a line to the log."""
        with (self.folder / "log.jsonl").open("a") as file:
            rounded = {name: round(value, 5) for name, value in measures.items()}
            file.write(json.dumps({"step": self.state.step, **rounded}) + "\n")

    def judge(
        self, value: float, measures: dict[str, float], model: nn.Module, metadata: dict[str, str]
    ) -> None:
        """Keep `model` as the best when `value`, which grows with quality, is the highest so far."""
        if value > self.state.best_value:
            self.state.best_value, self.state.best_step, self.state.best = (
                value,
                self.state.step,
                dict(measures),
            )
            self.state.validations_since_best = 0
            save_weights(model, self.folder / "best.safetensors", metadata)
        else:
            self.state.validations_since_best += 1

    def report(self, *, stopped_early: bool, skipped: dict[str, int] | None = None) -> TrainingReport:
        """How it ended."""
        state = self.state
        return TrainingReport(
            self.folder, state.step, state.best_step, state.best, state.seconds, stopped_early, skipped or {}
        )


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write a module's state dict as safetensors, whole or not at all."""
    partial = path.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial, metadata)
    os.replace(partial, path)  # noqa: PTH105


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
