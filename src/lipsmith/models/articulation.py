"""How far a generator moves the mouth, set after training.

What a generator makes of a sound passes through one layer whose output, the code of the sound, still depends on the
sound alone. Between the code of silence, with which the mouth rests, and that of a sound lies every smaller movement,
and beyond it larger ones. A generator that learned from a mean error moves less than people do: a factor a little above
1 gives back some of that, without another training.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lipsmith.conditioning import face_channels
from lipsmith.timebase import NUM_MELS, SILENCE, WINDOW_COLUMNS


class Articulated(Protocol):
    """A generator that can be told how far to move the mouth."""

    face_size: int

    @property
    def sound_code(self) -> nn.Module:
        """The last layer whose output depends on the sound alone; it ends in a ReLU."""
        ...


def articulate(network: Any, factor: float) -> None:
    """Move the code of each sound `factor` times as far from that of silence, no part of it below 0.

    Args:
        network: an `Articulated` generator in evaluation mode, float32; changed in place.
        factor: 0 is a mouth at rest, 1 as trained, 1.3 a little more.
    """
    codes: list[Tensor] = []
    layer = network.sound_code
    listening = layer.register_forward_hook(lambda module, given, code: codes.append(code.clone()))
    with torch.inference_mode():
        window = torch.full((1, 1, NUM_MELS, WINDOW_COLUMNS), SILENCE)
        network(
            window,
            torch.zeros(1, face_channels(network.num_references), network.face_size, network.face_size),
        )
    listening.remove()
    (at_rest,) = codes

    def extend(module: nn.Module, given: tuple[Tensor, ...], code: Tensor) -> Tensor:
        rest = at_rest.to(code)
        return (rest + factor * (code - rest)).clamp(min=0)

    layer.register_forward_hook(extend)
