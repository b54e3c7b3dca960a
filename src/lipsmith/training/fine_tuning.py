"""The expert that learns on with the generator: the paper's negative example (section 4.5, table 3)."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor
from torch.optim import Adam, Optimizer

from lipsmith.conditioning import lower_half
from lipsmith.training.batch import StepTensors, pick_moments
from lipsmith.training.expert import Expert
from lipsmith.training.losses import contrast_with_moments, cosine_bce_loss
from lipsmith.training.recipe import ExpertFineTuning, SyncTerm
from lipsmith.training.regions import faces_for_expert
from lipsmith.weights.store import network_file


class FineTunedExpert:
    """An expert that learns from real and generated faces; a `lipsmith.training.critics.Learner`.

    In the contrastive form, real lips are to find their own sound among other moments, and each sound is to prefer the
    real lips to the generated ones. In the other form, real lips with their own sound are in sync; real lips with
    another moment's, and generated lips, are not.

    Args:
        expert: Is changed.
        recipe: How fast it learns.
        term: The form of the generator's sync term, and the temperature.
    """

    def __init__(self, expert: Expert, recipe: ExpertFineTuning, term: SyncTerm) -> None:
        self.model: Expert = expert.requires_grad_(True)
        self.optimiser: Optimizer = Adam(expert.parameters(), lr=recipe.learning_rate, betas=recipe.betas)
        self.sync_term = term

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint needs."""
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The other way."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])

    def loss(self, batch: StepTensors, generated: Tensor) -> Tensor:
        """What the expert is to make small, or what some rows add to it.

        Clips with foreign words have no real lips to them and teach nothing.
        """
        own = ~batch.foreign
        if not own.any():
            return torch.zeros((), device=generated.device, requires_grad=True)
        real, made = (
            self.model.embed_lips(lower_half(faces_for_expert(faces[own])))
            for faces in (batch.targets, generated)
        )
        sound = self.model.embed_sound(batch.sync_windows[own])
        count, share = real.shape[1], batch.share("own")
        if self.sync_term.form == "bce":
            random = [
                source
                for source, says in zip(batch.random("off-sync moments"), own.tolist(), strict=True)
                if says
            ]
            others = pick_moments(sound[:, count:], count, random)
            off_sync = (cosine_bce_loss(real, others, 0.0) + cosine_bce_loss(made, sound[:, :count], 0.0)) / 2
            return share * (cosine_bce_loss(real, sound[:, :count], 1.0) + off_sync) / 2
        found = contrast_with_moments(real, sound, self.sync_term.temperature)
        # Which of the two lips does the sound belong to?
        alike = torch.stack([(lips * sound[:, :count]).sum(-1) for lips in (real, made)], dim=-1)
        first = torch.zeros(alike.numel() // 2, dtype=torch.long, device=alike.device)
        told_apart = F.cross_entropy(alike.flatten(0, 1) / self.sync_term.temperature, first)
        return share * (found + told_apart) / 2


def expert_metadata(named: str | Path) -> dict[str, str]:
    """What a trained expert's weights, named as for `lipsmith.training.expert.load_expert`, say of themselves."""
    with safe_open(network_file(named, "expert"), "pt") as file:
        return dict(file.metadata() or {})
