"""Discriminators that learn along with the generator; each is one part of a run with its optimiser.

A critic answers two questions about a batch: what the generator is to make small (`term`), and what the critic itself
is to make small (`loss`). Of some rows of a batch the answer is what they add to that of the whole. Who asks, adds up
gradients and takes the steps. How often a critic's network runs depends on the whole batch, never on the rows at hand:
its norms may wait for the other processes'.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lipsmith.models.lipgan import LipGanDiscriminator
from lipsmith.models.quality import PatchDiscriminator, VisualQualityDiscriminator
from lipsmith.training.batch import StepTensors, middle_frames, pick_moments
from lipsmith.training.losses import (
    adversarial_loss,
    contrastive_distance_loss,
    discriminator_fake_loss,
    discriminator_real_loss,
    hinge_discriminator_loss,
)
from lipsmith.training.recipe import CriticRecipe, GeneratorRecipe
from lipsmith.training.regions import moving_mask


class Learner(Protocol):
    """A network that learns beside the generator, and its optimiser."""

    optimiser: Optimizer

    def state_dict(self) -> dict[str, Any]:
        """Everything that a checkpoint needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The other way."""
        ...

    def loss(self, batch: StepTensors, generated: Tensor) -> Tensor:
        """What the network is to make small; `generated` is without gradient."""
        ...


class Critic(Learner, Protocol):
    """A discriminator: its judgement is a term of the generator's loss."""

    model: nn.Module

    def term(self, batch: StepTensors, generated: Tensor) -> Tensor:
        """What the generator is to make small."""
        ...


class _CriticBase:
    def __init__(self, model: nn.Module, recipe: CriticRecipe) -> None:
        self.model = model
        self.optimiser: Optimizer = Adam(model.parameters(), lr=recipe.learning_rate, betas=recipe.betas)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])


class QualityCritic(_CriticBase):
    """The visual quality discriminator and its cross-entropy (paper, 3.5, equations 4 and 5)."""

    def __init__(self, recipe: GeneratorRecipe) -> None:
        super().__init__(
            VisualQualityDiscriminator(recipe.critic.width, recipe.model.face_size), recipe.critic
        )

    def term(self, batch: StepTensors, generated: Tensor) -> Tensor:
        """See `Critic`."""
        return batch.share("all") * adversarial_loss(self._score(generated))

    def loss(self, batch: StepTensors, generated: Tensor) -> Tensor:
        """See `Critic`."""
        real = discriminator_real_loss(self._score(batch.targets))
        return batch.share("all") * (real + discriminator_fake_loss(self._score(generated))) / 2

    def _score(self, faces: Tensor) -> Tensor:
        return self.model(faces.transpose(1, 2))  # (B, T, 3, S, S) → (B, 3, T, S, S)


class PatchCritic(_CriticBase):
    """Patches of the moving part of the face, by hinge; and its features, generated against real."""

    def __init__(self, recipe: GeneratorRecipe) -> None:
        super().__init__(PatchDiscriminator(recipe.critic.width), recipe.critic)
        self.features = recipe.critic.features
        size = recipe.model.face_size
        self.importance = F.interpolate(
            moving_mask(size)[..., size // 2 :, :], (size // 8, size // 4), mode="area"
        )

    def term(self, batch: StepTensors, generated: Tensor) -> Tensor:
        """See `Critic`."""
        importance = self.importance.to(generated.device)
        scores, features = self._score(generated, batch.references)
        loss = -batch.share("all") * (scores.float() * importance).mean() / importance.mean()
        if self.features > 0 and batch.whole["own"]:
            with torch.no_grad():
                _, wanted = self._score(batch.targets, batch.references)
            differences = [
                batch.mean((a.float() - b.float()).abs().unflatten(0, generated.shape[:2]), "own")
                for a, b in zip(features, wanted, strict=True)
            ]
            loss = loss + self.features * torch.stack(differences).mean()
        return loss

    def loss(self, batch: StepTensors, generated: Tensor) -> Tensor:
        """See `Critic`."""
        real, _ = self._score(batch.targets, batch.references)
        made, _ = self._score(generated, batch.references)
        return batch.share("all") * hinge_discriminator_loss(real, made, self.importance.to(made.device))

    def _score(self, faces: Tensor, references: Tensor) -> tuple[Tensor, list[Tensor]]:
        # Of two references the mouth at rest, beside which alone others are judged too.
        return self.model(faces.flatten(0, 1), references.flatten(0, 1)[:, :3])


class LipGanCritic(_CriticBase):
    """LipGAN's discriminator: how far one face and its sound are apart.

    It is to put real faces near their own sound, and far from the sound of other moments; generated faces are to be far
    from what they say, and the generator is to bring them near (margin 1).

    Args:
        recipe: the generator's.
        window_frames: T_v of the windows that the batches' sounds belong to, in whose middle the face is.
    """

    def __init__(self, recipe: GeneratorRecipe, window_frames: int) -> None:
        super().__init__(LipGanDiscriminator(recipe.critic.width, recipe.model.face_size), recipe.critic)
        self.window_frames = window_frames

    def term(self, batch: StepTensors, generated: Tensor) -> Tensor:
        """See `Critic`."""
        faces = middle_frames(generated, self.window_frames)
        distances = self._distances(faces, batch.sync_windows[:, : faces.shape[1]])
        return batch.share("all") * contrastive_distance_loss(distances, in_sync=True)

    def loss(self, batch: StepTensors, generated: Tensor) -> Tensor:
        """See `Critic`."""
        made = middle_frames(generated, self.window_frames)
        real = middle_frames(batch.targets, self.window_frames)
        count = made.shape[1]
        own, others = batch.sync_windows[:, :count], batch.sync_windows[:, count:]
        fake = batch.share("all") * contrastive_distance_loss(self._distances(made, own), in_sync=False)
        if not batch.whole["own"]:
            return fake
        heard = pick_moments(others, count, batch.random("off-sync moments"))
        # Foreign clips have no real pair; they pass through the norms, and do not count.
        in_sync = batch.mean(self._distances(real, own).square(), "own")
        off_sync = batch.mean(torch.relu(1 - self._distances(real, heard)).square(), "own")
        return (in_sync + (fake + off_sync) / 2) / 2

    def _distances(self, faces: Tensor, windows: Tensor) -> Tensor:
        return self.model(windows.flatten(0, 1), faces.flatten(0, 1)).unflatten(0, faces.shape[:2])


def make_critic(recipe: GeneratorRecipe, window_frames: int) -> Critic:
    """The untrained critic of the form that the recipe asks for."""
    if recipe.critic.form == "lipgan":
        return LipGanCritic(recipe, window_frames)
    return QualityCritic(recipe) if recipe.critic.form == "paper" else PatchCritic(recipe)
