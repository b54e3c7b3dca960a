"""How a generator does on people it was not trained on, in numbers and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipsmith.conditioning import lower_half
from lipsmith.data.clips import Clip
from lipsmith.data.samples import expert_windows
from lipsmith.evaluation.strips import film_strip
from lipsmith.evaluation.sync_score import score_clip, summarise
from lipsmith.geometry import Image
from lipsmith.reference import clip_references, references_elsewhere
from lipsmith.timebase import MEL_RATE_HZ
from lipsmith.training.batch import generate_faces
from lipsmith.training.descent import autocast
from lipsmith.training.expert import Expert
from lipsmith.training.losses import expert_sync_loss
from lipsmith.training.recipe import GeneratorRecipe
from lipsmith.training.regions import edges, faces_for_expert, movement, movement_cells, moving_mask

_STRIP_CELLS = 12
_STRIP_EVERY = 2


@dataclass
class Validation:
    """Measures by name, and film strips of a few clips below one another (uint8 BGR), None when none were asked for."""

    measures: dict[str, float]
    samples: Image | None


@dataclass
class _Sums:
    errors: list[float] = field(default_factory=list)
    squares: list[float] = field(default_factory=list)
    made_edges: list[float] = field(default_factory=list)
    real_edges: list[float] = field(default_factory=list)
    made_movement: list[float] = field(default_factory=list)
    real_movement: list[float] = field(default_factory=list)
    sync_losses: list[float] = field(default_factory=list)


def validate_generator(
    generator: nn.Module,
    expert: Expert | None,
    recipe: GeneratorRecipe,
    clips: Sequence[Clip],
    *,
    num_strips: int = 0,
) -> Validation:
    """Measures on people that were not trained on.

    Own speech with a reference from elsewhere in the clip: `l1_lower`, `psnr_lower`, `mouth_sharpness` (mean edge
    strength of the mouth region, generated over real), and, with an expert, `sync_loss` (equation 3). Foreign speech as
    at inference, when there is an expert: `preference`, `offset_within_one`, by that expert, and `mouth_movement`: by
    how much the mouth's brightness varies over the clip, generated over real.
    """
    size, half = recipe.model.face_size, recipe.model.face_size // 2
    device = next(generator.parameters()).device
    mouth = (
        slice(None),
        slice(None),
        slice(int(0.55 * size), int(0.86 * size)),
        slice(size // 4, 3 * size // 4),
    )

    moving = movement_cells(moving_mask(size))[0].to(device)

    def generate(faces: Tensor, references: Tensor, windows: NDArray[np.float32]) -> Tensor:
        heard = torch.from_numpy(windows).to(device)
        with autocast(recipe.precision, device):
            return generate_faces(generator, faces[None], references[None], heard[None])[0]

    sums, scores, strips = _Sums(), [], []
    was_training = generator.training
    generator.eval()
    with torch.inference_mode():
        for index, clip in enumerate(clips):
            count = min(len(clip), recipe.validation_frames)
            pictures, form = clip.faces(0, count), recipe.batch.reference
            faces = _network_faces(pictures).to(device)
            elsewhere = references_elsewhere(form, pictures)
            made = generate(
                faces, _network_faces(elsewhere).to(device), clip.windows(recipe.lead_seconds)[:count]
            )
            difference = made[..., half:, :] - faces[..., half:, :]
            sums.errors.append(float(difference.abs().mean()))
            sums.squares.append(float(difference.square().mean()))
            sums.made_edges.append(sum(float(e.abs().mean()) for e in edges(made[mouth])))
            sums.real_edges.append(sum(float(e.abs().mean()) for e in edges(faces[mouth])))
            rows = {"real": pictures, "own words": _pictures(made)}
            if expert is not None:
                own = torch.from_numpy(expert_windows(clip, 0, count, expert.frames)).to(device)
                lips = expert.embed_lips(lower_half(faces_for_expert(made))[None])
                sums.sync_losses.append(float(expert_sync_loss(expert.embed_sound(own[None]), lips)))
            other = clips[(index + 1) % len(clips)]
            count = min(count, len(other))
            if expert is not None or index < num_strips:
                shown = _network_faces(clip_references(form, pictures[:count])).to(device)
                dubbed = generate(faces[:count], shown, other.windows(recipe.lead_seconds)[:count])
                rows["foreign\nwords"] = _pictures(dubbed)
            if expert is not None:
                heard = expert_windows(other, 0, count, expert.frames)
                halves = lower_half(faces_for_expert(dubbed)).cpu().numpy()
                scores.append(score_clip(expert, halves, heard))
                sums.made_movement.append(float((moving * movement(dubbed[None])).mean()))
                sums.real_movement.append(float((moving * movement(faces[None, :count])).mean()))
            if index < num_strips:
                strips.append(_strip(rows, other, count))
    generator.train(was_training)
    measures = {
        "l1_lower": float(np.mean(sums.errors)),
        "psnr_lower": float(np.mean(-10 * np.log10(sums.squares))),
        "mouth_sharpness": float(np.sum(sums.made_edges) / np.sum(sums.real_edges)),
    }
    if scores:
        summary = summarise(scores, num_resamples=1)
        measures["sync_loss"] = float(np.mean(sums.sync_losses))
        measures["preference"] = summary.preference_share.value
        measures["mouth_movement"] = float(np.sum(sums.made_movement) / np.sum(sums.real_movement))
        measures["offset_within_one"] = summary.offset_within_one_share.value
    return Validation(measures, np.concatenate(strips) if strips else None)


def quality(measures: dict[str, float]) -> float:
    """The value by which the best weights are chosen.

    The preference share, plus a hundredth of the lower half's PSNR, plus half of the mouth's sharpness.
    """
    sharpness = min(1.0, measures["mouth_sharpness"])
    return measures["psnr_lower"] / 100 + sharpness / 2 + measures.get("preference", 0.0)


def _strip(rows: dict[str, NDArray[np.uint8]], speech: Clip, count: int) -> Image:
    """What was generated of one clip, over the foreign speech that the last row says."""
    start = float(speech.starts()[0] / MEL_RATE_HZ)
    first = max(0, min(5, count - _STRIP_CELLS * _STRIP_EVERY))
    return film_strip(
        rows,
        speech.mel,
        first_frame=first,
        num_frames=_STRIP_CELLS,
        every=_STRIP_EVERY,
        mel_seconds=start,
        cell=96,
    )


def _network_faces(pictures: NDArray[np.uint8]) -> Tensor:
    """(T, S, S, 3) uint8 → (T, 3, S, S), 0–1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255


def _pictures(faces: Tensor) -> NDArray[np.uint8]:
    """(T, 3, S, S) 0–1 → (T, S, S, 3) uint8."""
    return (faces.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
