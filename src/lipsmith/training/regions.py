"""Which parts of a face crop the losses care for, and what the expert is shown of it."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lipsmith.models.colour import luma
from lipsmith.reference import DARK, MOUTH

Reach = Literal["face", "mouth"]

EXPERT_FACE_SIZE = 96
"""Side of the faces whose lower halves, 48 × 96, an expert is trained on."""
_MOVEMENT_CELLS = 24
_LEAST_VARIANCE = 1e-5  # about a grey level, squared: no slope without end where nothing moves


def _ellipse(size: int, row: float, half_rows: float, half_columns: float) -> Tensor:
    """A soft ellipse on the middle column, (1, 1, S, S), 1 inside; positions are shares of the face crop's side."""
    rows = (torch.arange(size) + 0.5).view(-1, 1) / size
    columns = (torch.arange(size) + 0.5).view(1, -1) / size
    distance = (((rows - row) / half_rows) ** 2 + ((columns - 0.5) / half_columns) ** 2).sqrt()
    return torch.sigmoid((1 - distance) * 12).view(1, 1, size, size)


def mouth_mask(size: int) -> Tensor:
    """Where the mouth is in a face crop (centre at 70 % of the height), (1, 1, S, S), soft, 0 to 1."""
    return _ellipse(size, 0.71, 0.17, 0.27)


def moving_mask(size: int) -> Tensor:
    """Where speech moves a face: mouth, chin and the jaw's line, (1, 1, S, S), soft, 0 to 1."""
    return _ellipse(size, 0.77, 0.28, 0.36)


def faces_for_expert(faces: Tensor) -> Tensor:
    """(…, 3, S, S) → (…, 3, 96, 96), with gradient: experts look at one size, generators paint several."""
    if faces.shape[-1] == EXPERT_FACE_SIZE:
        return faces
    flat = faces.reshape(-1, *faces.shape[-3:])
    side = (EXPERT_FACE_SIZE, EXPERT_FACE_SIZE)
    return F.interpolate(flat, side, mode="bilinear", antialias=True).unflatten(0, faces.shape[:-3])


def within_reach(faces: Tensor, reach: Reach) -> Tensor:
    """The same faces (…, 3, S, S), BGR; what is learnt through them reaches only what `reach` names.

    `mouth` is the brightness of the mouth: an expert is also pleased by specks on a chin and by purple lips.
    """
    if reach == "face":
        return faces
    bright_mouth = mouth_mask(faces.shape[-1])[0].to(faces.device) * luma(faces)
    return bright_mouth + (faces - bright_mouth).detach()


def edges(faces: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels of (…, H, W): down and across."""
    return faces[..., 1:, :] - faces[..., :-1, :], faces[..., :, 1:] - faces[..., :, :-1]


def movement(faces: Tensor) -> Tensor:
    """Standard deviation over time of the brightness of each of 24 × 24 cells: (B, T, 3, S, S) → (B, 24, 24)."""
    brightness = movement_cells(luma(faces.float()).flatten(0, 1)).unflatten(0, faces.shape[:2])
    return (brightness.squeeze(2).var(dim=1, unbiased=False) + _LEAST_VARIANCE).sqrt()


def movement_cells(images: Tensor) -> Tensor:
    """(n, 1, S, S) → (n, 1, 24, 24): lips move by such cells, noise does not."""
    return F.adaptive_avg_pool2d(images, _MOVEMENT_CELLS)


def openness(faces: Tensor) -> Tensor:
    """`lipsmith.reference.openness` of each of (…, 3, S, S), 0 to 1: (…)."""
    size = faces.shape[-1]
    top, bottom, left, right = (round(share * size) for share in MOUTH)
    light = 255 * luma(faces[..., top:bottom, left:right].float()).flatten(0, -4)
    kernel = light.new_tensor([[-1, -2, -1], [0, 0, 0], [1, 2, 1]]).view(1, 1, 3, 3)
    edges = F.conv2d(F.pad(light, (1, 1, 1, 1), mode="reflect"), kernel).abs().mean((1, 2, 3))
    return (edges / (light.mean((1, 2, 3)) + DARK)).view(faces.shape[:-3])
