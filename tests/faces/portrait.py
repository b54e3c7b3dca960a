"""A real portrait for tests: a public-domain photograph that rides in scikit-image."""

import cv2
import numpy as np
import pytest

from lipsmith.geometry import Box, Image

# Read off the picture by eye, in its own pixels.
PORTRAIT_FACE = Box(182, 62, 267, 173)
PORTRAIT_LANDMARKS = np.array(
    [[203.4, 100.6], [246.6, 103.0], [225.0, 125.0], [204.4, 140.0], [243.0, 141.0]]
)


def portrait() -> Image:
    """The astronaut Eileen Collins, 512 × 512 BGR; skips the test where scikit-image is not installed."""
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.astronaut()[..., ::-1])


def scene(
    width: int = 480, height: int = 360, *, faces: list[tuple[float, float, float]], grey: int = 110
) -> Image:
    """A grey picture with the portrait's head for each of `faces`: x, y of its centre, and its width."""
    image = np.full((height, width, 3), grey, np.uint8)
    source = portrait()[20:215, 125:335]  # head and hair
    center = np.array(PORTRAIT_FACE.center) - (125, 20)
    for x, y, face_width in faces:
        factor = face_width / PORTRAIT_FACE.width
        move = np.array(
            [[factor, 0, x - factor * center[0]], [0, factor, y - factor * center[1]]], np.float64
        )
        mask = cv2.warpAffine(np.ones(source.shape[:2], np.float32), move, (width, height))[..., None]
        head = cv2.warpAffine(source, move, (width, height), flags=cv2.INTER_AREA)
        image = (image * (1 - mask) + head * mask).round().astype(np.uint8)
    return image
