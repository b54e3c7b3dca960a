"""Where a generated face may change the frame: fixed, feathered shapes over a square crop.

The shapes do not follow landmarks: an edge that moves with the lips is itself a visible cue, and the
generator may repaint any pixel of the lower half. All are float32, size × size, 0 to 1, and cached (read only).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lipsmith.conditioning import lower_half_start

Mask = NDArray[np.float32]

# Shapes in shares of the crop's side: (x, y) of the middle, half axes. A wide open jaw ends at row 0.99, the
# cheeks beside the mouth at columns 0.1 and 0.9 (`faces.crop`), the corners below them are neck and background.
_FACE_CENTER, _FACE_AXES = (0.5, 0.75), (0.46, 0.25)
_FACE_SQUARENESS = 2.5  # exponent; 2 is an ellipse, which would cut into an open jaw
_FACE_FEATHER = 0.3  # of the way from the rim to the middle: above and below about 7 pixels of 96
# The mouth's middle lies at 0.70 ± 0.006; published weights see it a little lower.
_MOUTH_CENTER, _MOUTH_AXES = (0.5, 0.72), (0.31, 0.20)
_MOUTH_FEATHER = 0.35
# To below the chin, but not as wide as the jaw.
_CORE_CENTER, _CORE_AXES = (0.5, 0.76), (0.33, 0.26)
_CORE_FEATHER = 0.4
_EDGE_FEATHER = 0.1


def smoothstep(values: ArrayLike, low: float, high: float) -> NDArray:
    """0 up to `low`, 1 from `high` on, a cubic with level ends between."""
    share = np.clip((np.asarray(values) - low) / (high - low), 0, 1)
    return share * share * (3 - 2 * share)


def largest_channel(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest absolute value over the channels of an (S, S, 3) image."""
    blue, green, red = np.abs(image).transpose(2, 0, 1)
    return np.maximum(np.maximum(blue, green), red)


@lru_cache(maxsize=8)
def lower_face_mask(size: int) -> Mask:
    """How much of a pixel may be replaced: 1 over mouth and jaw, falling to 0 at all edges of the lower half.

    A rounded shape in the rows from size // 2 down. Exactly 0 on the rows above, on the first of these rows
    and on the outermost row and columns of the crop, so that nothing meets the frame with a step.
    """
    mask = smoothstep(1 - _radius(size, _FACE_CENTER, _FACE_AXES, _FACE_SQUARENESS), 0, _FACE_FEATHER)
    mask[: lower_half_start(size) + 1] = 0
    mask[-1] = 0
    return _frozen(mask)


@lru_cache(maxsize=8)
def whole_face_mask(size: int) -> Mask:
    """How much of a pixel is replaced where all of the crop is: 1, falling to 0 at its edges."""
    edge = np.minimum(np.arange(size), np.arange(size)[::-1]) / size
    line = smoothstep(edge, 0, _EDGE_FEATHER)
    return _frozen(line[:, None] * line)


@lru_cache(maxsize=8)
def mouth_mask(size: int) -> Mask:
    """Soft ellipse where a talking mouth is: 1 at the lips, 0 from cheeks and nose on."""
    return _frozen(smoothstep(1 - _radius(size, _MOUTH_CENTER, _MOUTH_AXES, 2), 0, _MOUTH_FEATHER))


@lru_cache(maxsize=8)
def core_mask(size: int) -> Mask:
    """Mouth and chin, 1 in the middle: what has to be replaced as a whole, since lips and chin move together."""
    return _frozen(smoothstep(1 - _radius(size, _CORE_CENTER, _CORE_AXES, 2), 0, _CORE_FEATHER))


@lru_cache(maxsize=8)
def skin_mask(size: int) -> Mask:
    """Where generated and original should agree: the lower face round the mouth, 1 inside, without background.

    The upper half is left out because a generator that copies it well may still be wrong where it must paint.
    """
    mask = (_radius(size, _FACE_CENTER, _FACE_AXES, _FACE_SQUARENESS) < 1).astype(np.float32)
    return _frozen(mask * (1 - mouth_mask(size)))


def _radius(
    size: int, center: tuple[float, float], axes: tuple[float, float], squareness: float
) -> NDArray[np.float64]:
    """Of each pixel, 0 in the middle of the shape and 1 on its rim."""
    places = (np.arange(size) + 0.5) / size
    across, down = (np.abs(places - center[axis]) / axes[axis] for axis in (0, 1))
    return (across[None, :] ** squareness + down[:, None] ** squareness) ** (1 / squareness)


def _frozen(mask: NDArray) -> Mask:
    mask = np.ascontiguousarray(mask, np.float32)
    mask.setflags(write=False)
    return mask
