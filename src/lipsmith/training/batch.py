"""What one step of the generator's training looks at, as tensors."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from lipsmith.conditioning import mask_lower_half
from lipsmith.data.samples import GeneratorBatch

Rows = Literal["own", "foreign", "all"]
"""Clips of a batch: those that say their own words, those with foreign words, or all."""


@dataclass(frozen=True)
class StepTensors:
    """A `lipsmith.data.samples.GeneratorBatch` as tensors, or some rows of it.

    Losses are means over all clips of a kind in the whole batch. What some rows add to such a mean is `share` times
    their own mean, or `mean`: over parts and processes that adds up to the loss of the whole.

    Attributes:
        targets, references, frame_windows, sync_windows, foreign: As there.
        seeds: One for each row.
        whole: How many clips of each kind the whole batch has, over all parts and processes.
    """

    targets: Tensor
    references: Tensor
    frame_windows: Tensor
    sync_windows: Tensor
    foreign: Tensor
    seeds: tuple[int, ...]
    whole: Mapping[Rows, int]

    @classmethod
    def of(cls, batch: GeneratorBatch) -> "StepTensors":
        """The tensors of a drawn batch, which share its memory."""
        arrays = {field.name: getattr(batch, field.name) for field in fields(batch)}
        seeds = tuple(arrays.pop("seeds").tolist())
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return cls(**tensors, seeds=seeds, whole=clips_by_kind(tensors["foreign"]))

    def to(self, device: torch.device) -> "StepTensors":
        """The same on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def rows(self, part: slice) -> "StepTensors":
        """Some of the clips."""
        return replace(self._each(lambda tensor: tensor[part]), seeds=self.seeds[part])

    def share(self, kind: Rows) -> float:
        """These clips' share of all clips of a kind in the whole batch, which has some."""
        return clips_by_kind(self.foreign)[kind] / self.whole[kind]

    def mean(self, values: Tensor, kind: Rows) -> Tensor:
        """What `values` (B, …) add to their mean over all clips of a kind in the whole batch, which has some."""
        counted = {"own": ~self.foreign, "foreign": self.foreign, "all": torch.ones_like(self.foreign)}[kind]
        return (values.float().flatten(1).mean(1) * counted).sum() / self.whole[kind]

    def random(self, purpose: str) -> list[torch.Generator]:
        """A source of randomness for each row: the same for the same purpose, whatever rows are beside it."""
        salt = zlib.crc32(purpose.encode())
        return [torch.Generator().manual_seed(seed ^ salt) for seed in self.seeds]

    def __len__(self) -> int:
        return len(self.targets)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "StepTensors":
        return replace(
            self,
            targets=change(self.targets),
            references=change(self.references),
            frame_windows=change(self.frame_windows),
            sync_windows=change(self.sync_windows),
            foreign=change(self.foreign),
        )


def clips_by_kind(foreign: Tensor) -> dict[Rows, int]:
    """How many clips each kind of `Rows` has, from the flags (B,) of those with foreign words."""
    count = int(foreign.sum())
    return {"own": len(foreign) - count, "foreign": count, "all": len(foreign)}


def pick_moments(windows: Tensor, count: int, random: list[torch.Generator]) -> Tensor:
    """`count` of each row's moments, drawn with replacement: (B, M, …) → (B, count, …)."""
    drawn = [torch.randint(windows.shape[1], (count,), generator=source) for source in random]
    return torch.stack([row[chosen] for row, chosen in zip(windows, drawn, strict=True)])


def middle_frames(faces: Tensor, window_frames: int) -> Tensor:
    """The middle frames of all windows of `window_frames` (T_v) frames: (B, T, 3, S, S) → (B, T − T_v + 1, 3, S, S).

    The first of `sync_windows` are the windows' sounds, and their middle is this frame's time.
    """
    first = (window_frames - 1) // 2
    return faces[:, first : first + faces.shape[1] - window_frames + 1]


def generate_faces(
    generator: Callable[[Tensor, Tensor], Tensor], targets: Tensor, references: Tensor, windows: Tensor
) -> Tensor:
    """Run the generator on B stretches of T frames.

    Targets (B, T, 3, S, S), references the same, or (B, T, 6, S, S) of two, and windows (B, T, 1, 80, 16) →
    (B, T, 3, S, S).
    """
    faces = torch.cat([mask_lower_half(targets), references], dim=2).flatten(0, 1)
    faces = faces.contiguous(memory_format=torch.channels_last)
    return generator(windows.flatten(0, 1), faces).float().unflatten(0, targets.shape[:2])
