"""Sharpness matching: a generator trained on a mean error paints softer than it was shown.

How much softer is measured where nothing moves, on the skin round the mouth, and made up for by unsharp
masking. A generator that keeps the detail of what it was shown is left alone.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.compose.masks import skin_mask

_DETAIL_SHARE = 1 / 96  # sigma of what counts as detail, in shares of the crop's side: one pixel of 96
_MOST_ADDED = 1.0  # times the detail that is there: more would show rings along the lips
_LEAST_DETAIL = 0.5  # grey levels; below this there is nothing to measure


def match_sharpness(generated: NDArray[np.float32], shown: NDArray[np.float32]) -> NDArray[np.float32]:
    """`generated` with its detail strengthened to that of `shown`, at most doubled; both S × S × 3 in grey levels.

    Both may lack rows at the top.
    """
    detail = _detail(generated)
    there, wanted = _strength(detail), _strength(_detail(shown))
    added = min(max(wanted / max(there, _LEAST_DETAIL) - 1, 0.0), _MOST_ADDED)
    return generated + np.float32(added) * detail if added > 0 else generated


def _detail(image: NDArray[np.float32]) -> NDArray[np.float32]:
    smooth = cv2.GaussianBlur(image, (0, 0), _DETAIL_SHARE * image.shape[1])
    return np.asarray(image - smooth, np.float32)


def _strength(detail: NDArray[np.float32]) -> float:
    """Standard deviation on the skin, in grey levels."""
    rows, size = detail.shape[:2]
    skin = skin_mask(size)[size - rows :]
    energy = cv2.transform(cv2.multiply(detail, detail), np.ones((1, 3)))  # summed over the channels
    return float(np.sqrt(np.vdot(energy, skin) / (3 * skin.sum())))
