"""A generator with one reference, as a teacher of one with two.

Shown a mouth at rest it makes lips that close, and a dark bar where they open; shown an open one, teeth, and lips that
do not close. The teacher makes both, and mixes them by how far the first opens. That takes three passes for each frame,
one of them with silence; the pupil, a `PairedWav2Lip`, learns to do it in one.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lipsmith.models.wav2lip import PairedWav2Lip, RelightingWav2Lip, paint_with
from lipsmith.timebase import SILENCE
from lipsmith.training.batch import generate_faces
from lipsmith.training.regions import openness

# Of the way from where the mouth rests in silence to the open reference: where the open mouth begins to be seen, and
# where nothing else is.
_BEGINS, _IS_OPEN = 0.05, 0.4
_LEAST_OPENING = 0.02  # of two references that are alike
_SMOOTHING = (1, 2, 3, 2, 1)  # over neighbouring frames


@dataclass(frozen=True)
class PairedFaces:
    """What is made of two references, (B, T, 3, S, S) each.

    Attributes:
        at_rest: of the mouth at rest.
        opened: of the open one.
        share: of the second in what is seen, (B, T, 1, 1, 1), 0 to 1.
    """

    at_rest: Tensor
    opened: Tensor
    share: Tensor

    @property
    def mixed(self) -> Tensor:
        """What is seen."""
        return torch.lerp(self.at_rest, self.opened, self.share)


class Pairing:
    """A frozen generator with one reference that makes `PairedFaces` of two, and the pupil's.

    Args:
        pupil: Who learns.
    """

    def __init__(self, pupil: PairedWav2Lip) -> None:
        self._pupil = pupil
        self._network = RelightingWav2Lip(pupil.width, pupil.face_size).eval().requires_grad_(False)

    def made(self, shape: tuple[int, ...]) -> PairedFaces:
        """What the pupil made in its last pass, of B clips of T frames each."""
        at_rest, opened, share = (part.unflatten(0, shape) for part in self._pupil.parts)
        return PairedFaces(at_rest, opened, share)

    @torch.no_grad()
    def wanted(self, targets: Tensor, references: Tensor, windows: Tensor) -> PairedFaces:
        """What the teacher makes of (B, T, 3, S, S), references (B, T, 6, S, S) and windows (B, T, 1, 80, 16)."""
        self._network.to(targets.device)
        first, second = references.split(3, dim=2)
        at_rest, opened, silent = (
            generate_faces(self._network, targets, reference, heard)
            for reference, heard in (
                (first, windows),
                (second, windows),
                (first, torch.full_like(windows, SILENCE)),
            )
        )
        closed = openness(silent)
        way = (openness(at_rest) - closed) / (openness(second) - closed).clamp(min=_LEAST_OPENING)
        share = ((way - _BEGINS) / (_IS_OPEN - _BEGINS)).clamp(0, 1)
        share = share.square() * (3 - 2 * share)
        return PairedFaces(at_rest, opened, _smoothed(share)[..., None, None, None])

    def begin_with(self, tensors: dict[str, Tensor]) -> None:
        """Take over the weights of an earlier stage; `RuntimeError` where they are of other dimensions."""
        paint_with(self._network, tensors)

    def state_dict(self) -> dict[str, Any]:
        """Its tensors."""
        return self._network.state_dict()

    def load_state_dict(self, tensors: dict[str, Any]) -> None:
        """Become what `state_dict` gave."""
        self._network.load_state_dict(tensors)


def _smoothed(shares: Tensor) -> Tensor:
    """(B, T), each a mean of its neighbours'."""
    kernel = shares.new_tensor(_SMOOTHING).view(1, 1, -1)
    reach = len(_SMOOTHING) // 2
    padded = F.pad(shares[:, None], (reach, reach), mode="replicate")
    return F.conv1d(padded, kernel / kernel.sum())[:, 0]
