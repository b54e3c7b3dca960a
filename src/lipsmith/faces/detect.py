"""Face detectors: one protocol, one table, one way to resolve a name."""

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast, runtime_checkable

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

    def placed(self, across: float, down: float, left: float = 0.0, top: float = 0.0) -> "Detection":
        """The same face in an image that is this many times as large, and has this one's corner at `left`, `top`."""
        box = Box(
            self.box.left * across + left,
            self.box.top * down + top,
            self.box.right * across + left,
            self.box.bottom * down + top,
        )
        landmarks = None if self.landmarks is None else self.landmarks * (across, down) + (left, top)
        return Detection(box, self.score, landmarks)


class FaceDetector(Protocol):
    """Finds every face in one image. Stateless between images: the same image gives the same faces, in any thread."""

    name: str

    def detect(self, image: Image) -> list[Detection]:
        """Faces in `image` (uint8 BGR, height × width × 3), the most certain first; empty if there is none."""
        ...


@runtime_checkable
class FaceFollower(Protocol):
    """A detector that can also check cheaply whether a face that it found is still there."""

    def look_again(self, image: Image, near: Box) -> Detection | None:
        """The face that was at `near` a moment ago, or None where it is not certain to be there.

        Where `detect` finds it, the answer is that face, up to the detector's noise. `image` is uint8 BGR and may be
        no more than the surroundings of the box.
        """
        ...


@runtime_checkable
class SlowStarter(Protocol):
    """A detector whose first image takes longer than others."""

    def prepare(self) -> None:
        """Do now what the first image would have to wait for; calling it again does nothing."""
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
