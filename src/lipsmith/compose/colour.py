"""Colour matching: what a generator gets wrong everywhere is no movement, and is taken out.

A generator trained on other footage returns a face slightly too dark, too red or too flat. Round the mouth,
where nothing should move, comparing it with the crop that it was shown measures that error; its smooth
continuation over the mouth is undone. A gain, not an offset, so that the dark of an open mouth stays dark.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.compose.masks import largest_channel, skin_mask

_REACH = 0.12  # sigma of the smooth field, in shares of the crop's side: wider than half a mouth is high
_OUTLIER = 12.0  # grey levels off the common gain at which skin counts as moved
_STEADY = 8.0  # grey levels added to both sides, so that near black the ratio means nothing
_GAIN_LIMITS = (0.7, 1.4)


def colour_gain(generated: NDArray[np.float32], shown: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth field (S, S, 3) that brings `generated` to the colours of `shown`, both S × S × 3 in grey levels.

    Normalised convolution over the skin round the mouth (`skin_mask`), per channel. Pixels far from the
    common gain have moved (an opening jaw, a shadow) and hardly count. 1 everywhere where both are the same.
    """
    size = shown.shape[0]
    skin = skin_mask(size)
    inside = skin > 0.5
    common = _limited(
        (np.median(shown[inside], axis=0) + _STEADY) / (np.median(generated[inside], axis=0) + _STEADY)
    )
    distance = largest_channel(generated * common - shown)
    weights = (skin / (1 + (distance / _OUTLIER) ** 4))[..., None]
    sigma = _REACH * size
    wanted, given = _smooth(shown * weights, sigma), _smooth(generated * weights, sigma)
    # Far from all skin the measurement fades into the common gain instead of dividing nothing by nothing.
    return _limited((wanted + _STEADY * common) / (given + _STEADY))


def _limited(gain: NDArray) -> NDArray[np.float32]:
    return np.clip(gain, *_GAIN_LIMITS).astype(np.float32)


def _smooth(image: NDArray, sigma: float) -> NDArray:
    """Gaussian blur by way of a quarter of the size: the fields wanted here have nothing finer."""
    rows, columns = image.shape[:2]
    small = cv2.resize(image, (columns // 4, rows // 4), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / 4, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(small, (columns, rows), interpolation=cv2.INTER_LINEAR))
