"""Face detectors: one protocol, one table, one way to resolve a name."""

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from lipsmith.errors import UsageError
from lipsmith.geometry import Box, Image


@dataclass(frozen=True, slots=True)
class Detection:
    """One face in one image.

    Attributes:
        box: The detector's own box in pixels of the image; it may hang over the image's edge.
        score: Confidence, 0 to 1.
        landmarks: (5, 2) float64 x, y in pixels, or None if the detector has none. Order: the eye on the
            left of the image, the eye on the right of the image, the tip of the nose, the mouth corner on
            the left of the image, the mouth corner on the right of the image (for a person facing the
            camera upright, the left of the image is their right side).
    """

    box: Box
    score: float
    landmarks: NDArray[np.float64] | None = None


class FaceDetector(Protocol):
    """Finds every face in one image. Stateless between images: the same image gives the same faces."""

    name: str

    def detect(self, image: Image) -> list[Detection]:
        """Faces in `image` (uint8 BGR, height × width × 3), the most certain first; empty if there is none."""
        ...


DETECTORS: dict[str, str] = {"mtcnn": "lipsmith.faces.mtcnn:MtcnnDetector"}
"""Name of a detector → "module:attribute" of what builds one without arguments."""


def resolve_detector(name: str) -> FaceDetector:
    """The detector called `name` in `DETECTORS`, with its default settings.

    Raises:
        UsageError: There is no such detector.
    """
    if name not in DETECTORS:
        raise UsageError(
            f"There is no face detector {name!r}; choose one of: {', '.join(sorted(DETECTORS))}."
        )
    module, attribute = DETECTORS[name].split(":")
    return cast(FaceDetector, getattr(import_module(module), attribute)())
