"""The running average of a network's weights: steadier than the last step's, and better on held-out people."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class AveragedWeights(Generic[Network]):
    """What is validated and kept in place of a network under training.

    Args:
        model: The network, whose copy `self.model` starts as the average.
        decay: Share of the average that a step keeps, once enough steps are done; 0: it is the network itself.
    """

    def __init__(self, model: Network, decay: float) -> None:
        self.model: Network = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    def update(self, model: Network, step: int) -> None:
        """Move the average towards `model`, after step number `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for own, new in zip(self.model.parameters(), model.parameters(), strict=True):
                own.lerp_(new, 1 - decay)
            for kept, latest in zip(self.model.buffers(), model.buffers(), strict=True):
                kept.copy_(kept.lerp(latest, 1 - decay) if kept.is_floating_point() else latest)
