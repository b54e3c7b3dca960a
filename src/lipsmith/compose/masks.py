"""Where a generated face may change the frame: fixed, feathered shapes over a square crop.

The shapes do not follow landmarks: an edge that moves with the lips is itself a visible cue, and the
generator may repaint any pixel of the lower half. All are float32, size × size, 0 to 1, and cached (read
only).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lipsmith.conditioning import lower_half_start

Mask = NDArray[np.float32]

_FEATHER = 0.3  # of the way from the rim to the middle: the seam is about 7 of 96 pixels wide above and below
# Exponent of the rounded rectangle; 2 would be an ellipse, which leaves the corners of the jaw out.
_SQUARENESS = 4

# Middle and half axes of an open mouth in shares of the crop's side, with what heads differ by (`faces.crop`
# puts the mouth's middle at 0.70 ± 0.006; published weights see it a little lower).
_MOUTH_CENTER = (0.5, 0.72)
_MOUTH_AXES = (0.30, 0.18)


def smoothstep(values: NDArray, low: float, high: float) -> NDArray:
    """0 up to `low`, 1 from `high` on, a cubic with level ends between."""
    share = np.clip((values - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def largest_channel(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest absolute value over the channels of an (S, S, 3) image."""
    blue, green, red = np.abs(image).transpose(2, 0, 1)
    return np.maximum(np.maximum(blue, green), red)


@lru_cache(maxsize=8)
def lower_face_mask(size: int) -> Mask:
    """How much of a pixel may be replaced: 1 over mouth and jaw, falling to 0 at all edges of the lower half.

    A rounded rectangle over the rows from size // 2 down. Exactly 0 on the rows above, on the first of these
    rows and on the outermost row and columns of the crop, so that nothing meets the frame with a step.
    """
    start = lower_half_start(size)
    rows = np.arange(size) - (start + size - 1) / 2
    columns = np.arange(size) - (size - 1) / 2
    across = np.abs(columns / ((size - 1) / 2))
    down = np.abs(rows / ((size - 1 - start) / 2))
    radius = (across[None, :] ** _SQUARENESS + down[:, None] ** _SQUARENESS) ** (1 / _SQUARENESS)
    mask = smoothstep(1 - radius, 0, _FEATHER)
    mask[:start] = 0
    return _frozen(mask)


@lru_cache(maxsize=8)
def mouth_mask(size: int) -> Mask:
    """Soft ellipse where a talking mouth is: 1 at the lips, 0 from cheeks and nose on."""
    columns = (np.arange(size) + 0.5) / size - _MOUTH_CENTER[0]
    rows = (np.arange(size) + 0.5) / size - _MOUTH_CENTER[1]
    radius = np.hypot(columns[None, :] / _MOUTH_AXES[0], rows[:, None] / _MOUTH_AXES[1])
    return _frozen(smoothstep(1 - radius, 0, 0.4))


@lru_cache(maxsize=8)
def skin_mask(size: int) -> Mask:
    """Where generated and original should agree: the lower half round the mouth.

    The outermost 3 % are left out (background, and what the generator's padding does there). The upper half
    is left out because a generator that copies it well may still be wrong where it must paint.
    """
    start = lower_half_start(size)
    rim = max(1, round(0.03 * size))
    mask = np.zeros((size, size), np.float32)
    mask[start : size - rim, rim : size - rim] = 1
    return _frozen(mask * (1 - mouth_mask(size)))


def _frozen(mask: NDArray) -> Mask:
    mask = np.ascontiguousarray(mask, np.float32)
    mask.setflags(write=False)
    return mask
