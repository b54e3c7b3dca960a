"""Colour matching: what a generator gets wrong everywhere is no movement, and is taken out.

A generator trained on other footage returns a face slightly too dark, too red or too flat. Round the mouth,
where nothing should move, comparing it with the crop that it was shown measures that error; its smooth
continuation over the mouth is undone. A gain, not an offset, so that the dark of an open mouth stays dark.
"""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.compose.masks import largest_channel, skin_mask

_REACH = 0.12  # sigma of the smooth field, in shares of the crop's side: wider than half a mouth is high
_OUTLIER = 12.0  # grey levels off the common gain at which skin counts as moved
_STEADY = 8.0  # grey levels added to both sides, so that near black the ratio means nothing
_GAIN_LIMITS = (0.7, 1.4)


def colour_gain(generated: NDArray[np.float32], shown: NDArray[np.float32]) -> NDArray[np.float32]:
    """Smooth field that brings `generated` to the colours of `shown`, all S × S × 3 in grey levels.

    Both may lack rows at the top. Normalised convolution over the skin round the mouth (`skin_mask`), per channel.
    Pixels far from the common gain have moved (an opening jaw, a shadow) and hardly count. 1 everywhere where both are
    the same.
    """
    rows, size = shown.shape[:2]
    skin = skin_mask(size)[size - rows :]
    sample = _skin_sample(size) - (size - rows) * size
    given, wanted = (_medians(image.reshape(-1, 3)[sample]) for image in (generated, shown))
    common = _limited((wanted + _STEADY) / (given + _STEADY))
    # Rows of pixels, not pixels of three channels, are what NumPy multiplies quickly.
    evened = (generated.reshape(rows, -1) * np.tile(common, size)).reshape(shown.shape)
    distance = largest_channel(evened - shown) / np.float32(_OUTLIER)
    weights = cv2.merge([skin / (1 + np.square(np.square(distance)))] * 3)
    # A Gaussian blur by way of a quarter of the size: the field has nothing finer.
    quarter = (size // 4, rows // 4)
    sigma = _REACH * size / 4
    fields = [
        cv2.GaussianBlur(
            cv2.resize(image * weights, quarter, interpolation=cv2.INTER_AREA),
            (0, 0),
            sigma,
            borderType=cv2.BORDER_REPLICATE,
        )
        for image in (shown, generated)
    ]
    # Far from all skin the measurement fades into the common gain instead of dividing nothing by nothing.
    gain = _limited((fields[0] + _STEADY * common) / (fields[1] + _STEADY))
    return np.asarray(cv2.resize(gain, (size, rows), interpolation=cv2.INTER_LINEAR), np.float32)


@lru_cache(maxsize=8)
def _skin_sample(size: int) -> NDArray[np.intp]:
    """Places of every fourth pixel of the skin in a face that is read row by row."""
    return np.flatnonzero(skin_mask(size) > 0.5)[::4]


def _medians(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each channel of (n, 3); `numpy.median` takes three times as long for so few."""
    middle = len(pixels) // 2
    places = [middle] if len(pixels) % 2 else [middle - 1, middle]
    return np.partition(np.ascontiguousarray(pixels.T), places, axis=1)[:, places].mean(axis=1)


def _limited(gain: NDArray) -> NDArray[np.float32]:
    return np.clip(gain, *_GAIN_LIMITS).astype(np.float32)
