"""The named terms of the generator's loss, and their weights over the training.

A term is a mean over the clips that it concerns: those that say their own words, those with foreign words, or all. Of a
batch that is worked off in parts, or by several processes, each part gives what it adds to the mean over the whole.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lipsmith.conditioning import lower_half
from lipsmith.errors import RecipeError
from lipsmith.models.dense_expert import DenseLipSyncExpert
from lipsmith.training.amplification import AmplifiedGenerator
from lipsmith.training.batch import Rows, StepTensors, clips_by_kind, generate_faces
from lipsmith.training.critics import Critic
from lipsmith.training.expert import Expert
from lipsmith.training.losses import contrast_with_moments, expert_sync_loss
from lipsmith.training.pairing import Pairing
from lipsmith.training.recipe import GeneratorLosses, GeneratorRecipe, SyncTerm, is_ever_on, value_at
from lipsmith.training.regions import (
    edges,
    faces_for_expert,
    mouth_mask,
    movement,
    movement_cells,
    moving_mask,
    within_reach,
)

_SHARE_GAIN = 0.3  # of the share of the open mouth in the loss of a pairing, beside differences of colours

Compute = Callable[[StepTensors, Tensor], Tensor]


@dataclass(frozen=True)
class Term:
    """One term of the generator's loss.

    Attributes:
        name: As in `recipe.losses` and in the log.
        rows: Clips of a batch that it concerns.
        compute: What a batch, or a part of one, and the faces generated for it add to the term's value for the whole.
            It is asked only for parts in which `rows` is not empty.
    """

    name: str
    rows: Rows
    compute: Compute


@dataclass(frozen=True)
class Loss:
    """What one part of a batch adds to a term's value, and how much that counts in the sum."""

    weight: float
    value: Tensor


def build_terms(
    recipe: GeneratorRecipe,
    expert: Expert | None,
    critic: Critic | None,
    amplified: AmplifiedGenerator | None = None,
    pairing: Pairing | None = None,
) -> tuple[Term, ...]:
    """The terms that are on at some time of the training.

    Raises:
        RecipeError: A term needs an expert of another form.
    """
    losses, size = recipe.losses, recipe.model.face_size
    terms = [Term("reconstruction", "own", _reconstruction(losses, size))]
    if is_ever_on(losses.edges):
        terms.append(Term("edges", "own", _edge_difference))
    if is_ever_on(losses.movement):
        terms.append(Term("movement", "own", _movement_difference(size)))
    if is_ever_on(losses.amplified):
        assert amplified is not None
        terms.append(Term("amplified", "all", _amplified_difference(amplified, losses, size)))
    if is_ever_on(losses.paired):
        assert pairing is not None
        terms.append(Term("paired", "all", _paired_difference(pairing, losses, size)))
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
    names = ("edges", "movement", "amplified", "paired", "features", "adversarial", "still")
    weights = {name: value_at(getattr(losses, name), step) for name in names}
    # Strictly later: the batch of the step at which a validation lets the term in is drawn before that validation.
    let_in = sync_since == 0 or (sync_since is not None and step > sync_since)
    weights["sync"] = value_at(losses.sync, step - (sync_since or 0)) if let_in else 0.0
    if losses.reconstruction == "remainder":
        weights["reconstruction"] = 1.0 - weights["sync"] - weights["adversarial"]
    else:
        weights["reconstruction"] = value_at(losses.reconstruction, step)
    return weights


def terms_in_use(
    terms: tuple[Term, ...], weights: Mapping[str, float], clips: Mapping[Rows, int]
) -> tuple[Term, ...]:
    """Those whose weight is above 0, and the reconstruction, as far as any clip concerns them."""
    return tuple(
        term
        for term in terms
        if clips[term.rows] and (weights[term.name] > 0 or term.name == "reconstruction")
    )


def evaluate_terms(
    terms: tuple[Term, ...], weights: Mapping[str, float], batch: StepTensors, generated: Tensor
) -> dict[str, Loss]:
    """The terms in use, of a batch or a part of one, by name."""
    return {
        term.name: Loss(weights[term.name], term.compute(batch, generated))
        for term in terms_in_use(terms, weights, clips_by_kind(batch.foreign))
    }


def total_loss(losses: Mapping[str, Loss]) -> Tensor:
    """What is minimised: the weighted sum."""
    return torch.stack([loss.weight * loss.value.float() for loss in losses.values()]).sum()


def _own(batch: StepTensors, generated: Tensor) -> tuple[Tensor, Tensor]:
    own = ~batch.foreign
    return generated[own], batch.targets[own]


def _reconstruction(losses: GeneratorLosses, size: int) -> Compute:
    """L1 (equation 2), weighted over the face."""
    importance = _importance(losses, size)

    def compute(batch: StepTensors, generated: Tensor) -> Tensor:
        return batch.share("own") * _weighted_difference(*_own(batch, generated), importance)

    return compute


def _importance(losses: GeneratorLosses, size: int) -> Tensor:
    """Weights of the pixels in the reconstruction, (1, 1, S, S)."""
    importance = torch.full((1, 1, size, size), losses.upper_share)
    importance[..., size // 2 :, :] = 1.0
    return importance + losses.mouth_gain * mouth_mask(size)


def _weighted_difference(made: Tensor, wanted: Tensor, importance: Tensor) -> Tensor:
    weight = importance.to(made.device)
    return ((made - wanted).abs() * weight).mean() / weight.mean()


def _edge_difference(batch: StepTensors, generated: Tensor) -> Tensor:
    return batch.share("own") * _difference_of_edges(*_own(batch, generated))


def _difference_of_edges(made: Tensor, wanted: Tensor) -> Tensor:
    pairs = zip(edges(lower_half(made)), edges(lower_half(wanted)), strict=True)
    return torch.stack([(a - b).abs().mean() for a, b in pairs]).mean()


def _difference_with_edges(made: Tensor, wanted: Tensor, importance: Tensor) -> Tensor:
    return _weighted_difference(made, wanted, importance) + _difference_of_edges(made, wanted)


def _amplified_difference(amplified: AmplifiedGenerator, losses: GeneratorLosses, size: int) -> Compute:
    importance = _importance(losses, size)

    def compute(batch: StepTensors, generated: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = generate_faces(amplified, batch.targets, batch.references, batch.frame_windows)
        return batch.share("all") * _difference_with_edges(generated, wanted, importance)

    return compute


def _paired_difference(pairing: Pairing, losses: GeneratorLosses, size: int) -> Compute:
    importance = _importance(losses, size)

    def compute(batch: StepTensors, generated: Tensor) -> Tensor:
        wanted = pairing.wanted(batch.targets, batch.references, batch.frame_windows)
        made = pairing.made(batch.targets.shape[:2])
        of_faces = sum(
            _difference_with_edges(face, teachers, importance)
            for face, teachers in (
                (generated, wanted.mixed),
                (made.at_rest, wanted.at_rest),
                (made.opened, wanted.opened),
            )
        )
        return batch.share("all") * (of_faces + _SHARE_GAIN * (made.share - wanted.share).abs().mean())

    return compute


def _movement_difference(size: int) -> Compute:
    cells = movement_cells(moving_mask(size))[0]

    def compute(batch: StepTensors, generated: Tensor) -> Tensor:
        made, real = (movement(faces) for faces in _own(batch, generated))
        return batch.share("own") * _weighted_difference(made, real, cells)

    return compute


def _lip_features(expert: Expert | None) -> Compute:
    if not isinstance(expert, DenseLipSyncExpert) or expert.fusion != "late":
        raise RecipeError("losses.features needs an expert of the dense form with late fusion.")

    def compute(batch: StepTensors, generated: Tensor) -> Tensor:
        made, real = (lower_half(faces_for_expert(faces)).flatten(0, 1) for faces in _own(batch, generated))
        with torch.no_grad():
            wanted = expert.lip_features(real)
        got = expert.lip_features(made)
        differences = [F.l1_loss(a.float(), b.float()) for a, b in zip(got, wanted, strict=True)]
        return batch.share("own") * torch.stack(differences).mean()

    return compute


def _stillness(size: int) -> Compute:
    """L1 outside of what speech moves, where the words are foreign and the mouth's answer is not known."""
    outside = 1 - moving_mask(size)

    def compute(batch: StepTensors, generated: Tensor) -> Tensor:
        made, real = generated[batch.foreign], batch.targets[batch.foreign]
        return batch.share("foreign") * _weighted_difference(made, real, outside)

    return compute


def _sync(expert: Expert, term: SyncTerm) -> Compute:
    def compute(batch: StepTensors, generated: Tensor) -> Tensor:
        seen = faces_for_expert(within_reach(generated, term.reach))
        halves = roughened_halves(seen, term, batch.random("roughening"))
        return batch.share("all") * sync_loss(expert, term, halves, batch.sync_windows)

    return compute


def _adversarial(critic: Critic) -> Compute:
    def compute(batch: StepTensors, generated: Tensor) -> Tensor:
        return critic.term(batch, generated)

    return compute


def roughened_halves(faces: Tensor, term: SyncTerm, random: list[torch.Generator]) -> Tensor:
    """Lower halves of (B, T, 3, S, S), each stretch shifted, blurred and noised by its own source of randomness.

    An expert that sees every picture a little differently each time cannot be bribed with specks.
    """
    frames, reach = faces.shape[1], term.jitter_pixels
    padded = F.pad(faces.flatten(1, 2), (reach, reach, 0, reach), mode="replicate")
    rows = [_roughened_half(row, term, source) for row, source in zip(padded, random, strict=True)]
    return torch.stack(rows).unflatten(1, (frames, 3))


def _roughened_half(padded: Tensor, term: SyncTerm, random: torch.Generator) -> Tensor:
    """(n, S + reach, S + 2·reach) → (n, S/2, S)."""
    reach = term.jitter_pixels
    size = padded.shape[-1] - 2 * reach
    down, right = torch.randint(-reach, reach + 1, (2,), generator=random).tolist()
    top, left = size // 2 + down, reach + right
    half = padded[:, top : top + size // 2, left : left + size]
    if term.blur > 0 and float(torch.rand((), generator=random)) < term.blur:
        sigma = 0.4 + 0.8 * float(torch.rand((), generator=random))
        x = torch.arange(-3.0, 4.0, device=padded.device)
        kernel = torch.exp(-(x**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
        half = F.conv2d(F.pad(half.unsqueeze(1), (3, 3, 0, 0), mode="replicate"), kernel)
        half = F.conv2d(F.pad(half, (0, 0, 3, 3), mode="replicate"), kernel.transpose(2, 3)).squeeze(1)
    if term.noise > 0:
        strength = term.noise * float(torch.rand((), generator=random))
        half = half + strength * torch.randn(half.shape, generator=random).to(half.device)
    return half


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
