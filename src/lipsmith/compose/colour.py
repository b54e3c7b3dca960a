"""Colour matching: what a generator gets wrong everywhere is no movement, and is taken out.

A generator trained on other footage returns a face slightly too dark, too red or too flat. Round the mouth,
where nothing should move, its difference from the crop that it was shown measures that error; a smooth
continuation of the measurement over the mouth is subtracted.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.compose.masks import skin_mask

_REACH = 0.12  # sigma of the smooth field, in shares of the crop's side: wider than a mouth's half height
_OUTLIER = 12.0  # grey levels away from the crop's common shift at which skin counts as moved


def colour_shift(difference: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth field of the colour error in `difference` = generated − shown, both (S, S, 3) in grey levels.

    Normalised convolution over the skin round the mouth (`skin_mask`). Pixels far from the common shift have
    moved (an opening jaw, a shadow) and hardly count. Zero where `difference` is zero everywhere.
    """
    size = difference.shape[0]
    skin = skin_mask(size)
    common = np.median(difference[skin > 0.5], axis=0)
    distance = np.abs(difference - common).max(axis=2)
    weights = skin / (1 + (distance / _OUTLIER) ** 4)
    sigma = _REACH * size
    total = _smooth(weights, sigma)
    # Far from all skin the measurement fades into the common shift instead of dividing nothing by nothing.
    prior = 0.02
    measured = _smooth(difference * weights[..., None], sigma) + prior * common
    return (measured / (total[..., None] + prior)).astype(np.float32)


def _smooth(image: NDArray, sigma: float) -> NDArray:
    """Gaussian blur by blurring a quarter-size image: the fields wanted here have nothing finer."""
    small = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / 4, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
