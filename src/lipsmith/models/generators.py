"""All generators that a recipe can name: those that are shipped and run, and the baselines of the paper's tables."""

from typing import Protocol

from torch import Tensor, nn

from lipsmith.models.lipgan import LipGan
from lipsmith.models.speech2vid import Speech2Vid
from lipsmith.models.wav2lip import GENERATORS, Wav2Lip


class Generator(Protocol):
    """What every generator is made of and does."""

    width: float
    face_size: int
    num_references: int

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """Mel (n, 1, 80, 16) and faces (n, 3 + 3 · num_references, S, S) → faces (n, 3, S, S), BGR 0 to 1."""
        ...


BASELINES: dict[str, type[nn.Module]] = {"lipgan": LipGan, "speech2vid": Speech2Vid}
"""Generators that are trained to be compared with."""


def build_generator(form: str, width: float, face_size: int) -> nn.Module:
    """An untrained generator.

    Args:
        form: a name in `lipsmith.models.wav2lip.GENERATORS` or `BASELINES`.
        width: channels relative to the published network.
        face_size: side of the face crop in pixels.
    """
    return {**GENERATORS, **BASELINES}[form](width, face_size)


def paint_lower_part(network: nn.Module) -> None:
    """Where `network` can, let it paint only what is pasted (`Wav2Lip.paint_lower_part`): for use, not for training."""
    if isinstance(network, Wav2Lip):
        network.paint_lower_part()
