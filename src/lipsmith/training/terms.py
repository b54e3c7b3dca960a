"""The named terms of the generator's loss, and their weights over the training.

A term is a mean over the clips that it concerns: those that say their own words, those with foreign words, or all. A
batch that is worked off in parts weighs each part by its share of the clips concerned, so that the sum of the parts is
the loss of the whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lipsmith.conditioning import lower_half
from lipsmith.errors import RecipeError
from lipsmith.models.dense_expert import DenseLipSyncExpert
from lipsmith.training.batch import StepTensors
from lipsmith.training.critics import Critic
from lipsmith.training.expert import Expert
from lipsmith.training.losses import contrast_with_moments, expert_sync_loss
from lipsmith.training.recipe import GeneratorLosses, GeneratorRecipe, SyncTerm, is_ever_on, value_at
from lipsmith.training.regions import edges, faces_for_expert, mouth_mask, moving_mask, within_reach

Rows = Literal["own", "foreign", "all"]
Compute = Callable[[StepTensors, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Term:
    """One term of the generator's loss.

    Attributes:
        name: As in `recipe.losses` and in the log.
        rows: Clips of a batch that it concerns.
        compute: Its value for a batch, the faces generated for it, and the step's source of randomness. It is asked
            only for batches in which `rows` is not empty.
    """

    name: str
    rows: Rows
    compute: Compute


@dataclass(frozen=True)
class Loss:
    """A term's value for one part of a batch, with what it counts in the sum."""

    weight: float
    value: Tensor
    share: float = 1.0
    """Of the whole batch's clips that the term concerns."""


def build_terms(recipe: GeneratorRecipe, expert: Expert | None, critic: Critic | None) -> tuple[Term, ...]:
    """The terms that are on at some time of the training.

    Raises:
        RecipeError: A term needs an expert of another form.
    """
    losses, size = recipe.losses, recipe.model.face_size
    terms = [Term("reconstruction", "own", _reconstruction(losses, size))]
    if is_ever_on(losses.edges):
        terms.append(Term("edges", "own", _edge_difference))
    if is_ever_on(losses.features):
        terms.append(Term("features", "own", _lip_features(expert)))
    if is_ever_on(losses.still):
        terms.append(Term("still", "foreign", _stillness(size)))
    if is_ever_on(losses.sync):
        assert expert is not None
        terms.append(Term("sync", "all", _sync(expert, recipe.sync_term)))
    if is_ever_on(losses.adversarial):
        assert critic is not None
        terms.append(Term("adversarial", "all", _adversarial(critic)))
    return tuple(terms)


def weights_at(losses: GeneratorLosses, step: int, sync_since: int | None = 0) -> dict[str, float]:
    """The weight of every term at `step`.

    Args:
        losses: the recipe's.
        sync_since: the step at which the sync term was let in, from which its schedule counts; None while it waits.
    """
    weights = {
        name: value_at(getattr(losses, name), step) for name in ("edges", "features", "adversarial", "still")
    }
    # Strictly later: the batch of the step at which a validation lets the term in is drawn before that validation.
    let_in = sync_since == 0 or (sync_since is not None and step > sync_since)
    weights["sync"] = value_at(losses.sync, step - (sync_since or 0)) if let_in else 0.0
    if losses.reconstruction == "remainder":
        weights["reconstruction"] = 1.0 - weights["sync"] - weights["adversarial"]
    else:
        weights["reconstruction"] = value_at(losses.reconstruction, step)
    return weights


def evaluate_terms(
    terms: tuple[Term, ...],
    weights: Mapping[str, float],
    batch: StepTensors,
    generated: Tensor,
    random: torch.Generator,
    clips: Mapping[Rows, int] | None = None,
) -> dict[str, Loss]:
    """The terms of a batch (or a part of one) whose weight is above 0, by name.

    Args:
        clips: how many clips of the whole batch each kind of `Rows` has; None when `batch` is the whole.
    """
    here = clips_by_kind(batch.foreign)
    whole = clips or here
    return {
        term.name: Loss(
            weights[term.name], term.compute(batch, generated, random), here[term.rows] / whole[term.rows]
        )
        for term in terms
        if here[term.rows] and (weights[term.name] > 0 or term.name == "reconstruction")
    }


def total_loss(losses: Mapping[str, Loss]) -> Tensor:
    """What is minimised: the weighted sum."""
    parts = [loss.weight * loss.share * loss.value.float() for loss in losses.values()]
    return torch.stack(parts).sum()


def clips_by_kind(foreign: Tensor) -> dict[Rows, int]:
    """How many clips each kind of `Rows` has, from the flags (B,) of those with foreign words."""
    count = int(foreign.sum())
    return {"own": len(foreign) - count, "foreign": count, "all": len(foreign)}


def _own(batch: StepTensors, generated: Tensor) -> tuple[Tensor, Tensor]:
    own = ~batch.foreign
    return generated[own], batch.targets[own]


def _reconstruction(losses: GeneratorLosses, size: int) -> Compute:
    """L1 (equation 2), weighted over the face."""
    importance = torch.full((1, 1, size, size), losses.upper_share)
    importance[..., size // 2 :, :] = 1.0
    importance = importance + losses.mouth_gain * mouth_mask(size)

    def compute(batch: StepTensors, generated: Tensor, random: torch.Generator) -> Tensor:
        made, real = _own(batch, generated)
        weight = importance.to(made.device)
        return ((made - real).abs() * weight).mean() / weight.mean()

    return compute


def _edge_difference(batch: StepTensors, generated: Tensor, random: torch.Generator) -> Tensor:
    made, real = _own(batch, generated)
    differences = [
        (a - b).abs().mean() for a, b in zip(edges(lower_half(made)), edges(lower_half(real)), strict=True)
    ]
    return torch.stack(differences).mean()


def _lip_features(expert: Expert | None) -> Compute:
    if not isinstance(expert, DenseLipSyncExpert) or expert.fusion != "late":
        raise RecipeError("losses.features needs an expert of the dense form with late fusion.")

    def compute(batch: StepTensors, generated: Tensor, random: torch.Generator) -> Tensor:
        made, real = (lower_half(faces_for_expert(faces)).flatten(0, 1) for faces in _own(batch, generated))
        with torch.no_grad():
            wanted = expert.lip_features(real)
        got = expert.lip_features(made)
        differences = [F.l1_loss(a.float(), b.float()) for a, b in zip(got, wanted, strict=True)]
        return torch.stack(differences).mean()

    return compute


def _stillness(size: int) -> Compute:
    """L1 outside of what speech moves, where the words are foreign and the mouth's answer is not known."""
    outside = 1 - moving_mask(size)

    def compute(batch: StepTensors, generated: Tensor, random: torch.Generator) -> Tensor:
        weight = outside.to(generated.device)
        difference = (generated[batch.foreign] - batch.targets[batch.foreign]).abs() * weight
        return difference.mean() / weight.mean()

    return compute


def _sync(expert: Expert, term: SyncTerm) -> Compute:
    def compute(batch: StepTensors, generated: Tensor, random: torch.Generator) -> Tensor:
        seen = faces_for_expert(within_reach(generated, term.reach))
        halves = roughened_halves(seen, term, random)
        return sync_loss(expert, term, halves, batch.sync_windows)

    return compute


def _adversarial(critic: Critic) -> Compute:
    def compute(batch: StepTensors, generated: Tensor, random: torch.Generator) -> Tensor:
        return critic.term(batch, generated)

    return compute


def roughened_halves(faces: Tensor, term: SyncTerm, generator: torch.Generator) -> Tensor:
    """Lower halves of (B, T, 3, S, S), shifted, blurred and noised alike over a stretch.

    An expert that sees every picture a little differently each time cannot be bribed with specks.
    """
    batch, _, _, size, _ = faces.shape
    reach = term.jitter_pixels
    shifts = torch.randint(-reach, reach + 1, (batch, 2), generator=generator).tolist()
    padded = F.pad(faces.flatten(1, 2), (reach, reach, 0, reach), mode="replicate")
    rows = []
    for stretch, (down, right) in zip(padded, shifts, strict=True):
        top = size // 2 + down
        rows.append(stretch[:, top : top + size // 2, reach + right : reach + right + size])
    halves = torch.stack(rows).unflatten(1, (faces.shape[1], 3))
    if term.blur > 0 and float(torch.rand((), generator=generator)) < term.blur:
        sigma = 0.4 + 0.8 * float(torch.rand((), generator=generator))
        x = torch.arange(-3.0, 4.0, device=faces.device)
        kernel = torch.exp(-(x**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
        flat = halves.flatten(0, 2).unsqueeze(1)
        flat = F.conv2d(F.pad(flat, (3, 3, 0, 0), mode="replicate"), kernel)
        flat = F.conv2d(F.pad(flat, (0, 0, 3, 3), mode="replicate"), kernel.transpose(2, 3))
        halves = flat.squeeze(1).view_as(halves)
    if term.noise > 0:
        strength = term.noise * torch.rand((batch, 1, 1, 1, 1), generator=generator)
        noise = torch.randn(halves.shape, generator=generator)
        halves = halves + (strength * noise).to(halves.device)
    return halves


def sync_loss(expert: Expert, term: SyncTerm, halves: Tensor, windows: Tensor) -> Tensor:
    """The expert's term for generated lower halves (B, T, 3, S/2, S) and windows (B, M, 1, 80, 16).

    The first T − T_v + 1 windows belong to the stretch. `contrastive`: the lips of each window are to prefer their own
    sound to the other moments of the same sound; neighbours within one frame are left out.
    """
    lips = expert.embed_lips(halves)
    with torch.no_grad():
        sound = expert.embed_sound(windows)
    if term.form == "bce":
        return expert_sync_loss(sound[:, : lips.shape[1]], lips)
    return contrast_with_moments(lips, sound, term.temperature)
