"""A generator with larger movements than those it learned, as a teacher of them.

What a mean error teaches moves less than people do. What it has learned can be extended: between the last layer's
values for silence and those for a sound lies every smaller movement, and beyond them larger ones. Asked for at
inference that would take twice the time, as silence is to be heard beside each sound; so another training learns it.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from lipsmith.models.articulation import articulate
from lipsmith.models.wav2lip import Wav2Lip
from lipsmith.timebase import SILENCE
from lipsmith.training.recipe import Amplification


class AmplifiedGenerator:
    """A frozen copy of a generator; called like it, it gives faces that move farther from those for silence.

    Args:
        network: What is copied.
        recipe: How far.
    """

    def __init__(self, network: Wav2Lip, recipe: Amplification) -> None:
        self._recipe = recipe
        self._given = copy.deepcopy(network).eval().requires_grad_(False)
        self._articulate()

    def __call__(self, mel: Tensor, faces: Tensor) -> Tensor:
        """See `lipsmith.models.wav2lip.Wav2Lip.forward`."""
        rest = self._network.head(torch.full_like(mel, SILENCE), faces)
        said = self._network.head(mel, faces)
        return self._network.show(rest + self._recipe.factor * (said - rest), faces)

    def state_dict(self) -> dict[str, Any]:
        """The copy's tensors."""
        return self._given.state_dict()

    def load_state_dict(self, tensors: dict[str, Any]) -> None:
        """Become a copy of another network of the same dimensions."""
        self._given.load_state_dict(tensors)
        self._articulate()

    def _articulate(self) -> None:
        device = next(self._given.parameters()).device
        network = copy.deepcopy(self._given).cpu()
        articulate(network, self._recipe.articulation)
        self._network = network.to(device)
