"""What one step of the generator's training looks at, as tensors."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from lipsmith.conditioning import mask_lower_half
from lipsmith.data.samples import GeneratorBatch


@dataclass(frozen=True)
class StepTensors:
    """A `lipsmith.data.samples.GeneratorBatch` as tensors, or some rows of it."""

    targets: Tensor
    references: Tensor
    frame_windows: Tensor
    sync_windows: Tensor
    foreign: Tensor

    @classmethod
    def of(cls, batch: GeneratorBatch) -> "StepTensors":
        """The tensors of a drawn batch, which share its memory."""
        return cls(**{field.name: torch.from_numpy(getattr(batch, field.name)) for field in fields(cls)})

    def to(self, device: torch.device) -> "StepTensors":
        """The same on a device."""
        return StepTensors(*(getattr(self, field.name).to(device) for field in fields(self)))

    def rows(self, part: slice) -> "StepTensors":
        """Some of the clips."""
        return StepTensors(*(getattr(self, field.name)[part] for field in fields(self)))

    def __len__(self) -> int:
        return len(self.targets)


def middle_frames(faces: Tensor, window_frames: int) -> Tensor:
    """The middle frames of all windows of `window_frames` (T_v) frames: (B, T, 3, S, S) → (B, T − T_v + 1, 3, S, S).

    The first of `sync_windows` are the windows' sounds, and their middle is this frame's time.
    """
    first = (window_frames - 1) // 2
    return faces[:, first : first + faces.shape[1] - window_frames + 1]


def generate_faces(generator: nn.Module, targets: Tensor, references: Tensor, windows: Tensor) -> Tensor:
    """Run the generator on B stretches of T frames: (B, T, 3, S, S) ×2 and (B, T, 1, 80, 16) → (B, T, 3, S, S)."""
    faces = torch.cat([mask_lower_half(targets), references], dim=2).flatten(0, 1)
    faces = faces.contiguous(memory_format=torch.channels_last)
    return generator(windows.flatten(0, 1), faces).float().unflatten(0, targets.shape[:2])
