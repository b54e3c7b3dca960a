"""A picture as the stages see it: BGR where one of them looks, the codec's own planes everywhere else.

Converting whole frames to BGR and back costs more than all that is done with them, and rounds every pixel twice. So a
picture hands out BGR of the rectangles and sizes that are asked for, and a change touches only the pixels it names.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.geometry import Crop, Image, resize

Plane = NDArray[np.uint8]

# Weights of red and blue in luma, by the code points of ITU-T H.273: those matrices that are a sum of this form.
LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
}


class Picture(Protocol):
    """What the stages ask of a picture. Nothing that is handed out may be written to."""

    @property
    def width(self) -> int:
        """Pixels from left to right, upright."""
        ...

    @property
    def height(self) -> int:
        """Pixels from top to bottom."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory of the pixels."""
        ...

    def bgr(self) -> Image:
        """The whole picture, height × width × 3."""
        ...

    def part(self, rows: slice, columns: slice) -> Image:
        """A rectangle that lies in the picture, in BGR; slices with a start and a stop."""
        ...

    def halved(self, times: int) -> Image:
        """The whole picture in BGR, its sides halved `times` times by averaging."""
        ...

    def sketch(self, width: int, height: int) -> Image:
        """The whole picture in BGR at a size much smaller than its own, from a sample of its pixels."""
        ...


@dataclass(frozen=True, slots=True)
class ArrayPicture:
    """A picture that is held as BGR: `image` is height × width × 3."""

    image: Image

    @property
    def width(self) -> int:
        """See `Picture`."""
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        """See `Picture`."""
        return int(self.image.shape[0])

    @property
    def nbytes(self) -> int:
        """See `Picture`."""
        return self.image.nbytes

    def bgr(self) -> Image:
        """See `Picture`."""
        return self.image

    def part(self, rows: slice, columns: slice) -> Image:
        """See `Picture`."""
        return self.image[rows, columns]

    def halved(self, times: int) -> Image:
        """See `Picture`."""
        image = self.image
        for _ in range(times):
            image = resize(image, image.shape[1] // 2, image.shape[0] // 2)
        return image

    def sketch(self, width: int, height: int) -> Image:
        """See `Picture`."""
        return _sketched(self.image, width, height)


@dataclass(frozen=True, slots=True)
class PlanarPicture:
    """A picture as codecs hold it: 8 bits, limited range, a colour sample for each 2 × 2 pixels (4:2:0).

    Attributes:
        luma: (height, width), both even.
        blue, red: The colour differences, (height / 2, width / 2); a sample lies in the middle of its four pixels.
        matrix: Code point of ITU-T H.273, one of `LUMA_WEIGHTS`.
        source: What owns the memory of the planes; whoever writes pictures may know how to use it.
    """

    luma: Plane
    blue: Plane
    red: Plane
    matrix: int
    source: Any = field(default=None, compare=False)

    @property
    def width(self) -> int:
        """See `Picture`."""
        return int(self.luma.shape[1])

    @property
    def height(self) -> int:
        """See `Picture`."""
        return int(self.luma.shape[0])

    @property
    def nbytes(self) -> int:
        """See `Picture`."""
        return self.luma.size + self.blue.size + self.red.size

    def bgr(self) -> Image:
        """See `Picture`."""
        return self.part(slice(0, self.height), slice(0, self.width))

    def part(self, rows: slice, columns: slice) -> Image:
        """See `Picture`."""
        # One colour sample more on each side, for what the pixels at the edge take from their neighbours.
        rows_halved, columns_halved = (
            slice(max(wanted.start // 2 - 1, 0), min((wanted.stop + 1) // 2 + 1, limit))
            for wanted, limit in zip((rows, columns), self.blue.shape, strict=True)
        )
        inside = (
            slice(rows.start - 2 * rows_halved.start, rows.stop - 2 * rows_halved.start),
            slice(columns.start - 2 * columns_halved.start, columns.stop - 2 * columns_halved.start),
        )
        planes = [self.luma[rows, columns]]
        for plane in (self.blue, self.red):
            small = plane[rows_halved, columns_halved]
            large = cv2.resize(
                small, (2 * small.shape[1], 2 * small.shape[0]), interpolation=cv2.INTER_LINEAR
            )
            planes.append(np.asarray(large, np.uint8)[inside])
        return to_bgr(planes, self.matrix)

    def halved(self, times: int) -> Image:
        """See `Picture`."""
        if times == 0:
            return self.bgr()
        luma = resize(self.luma, self.width // 2, self.height // 2)
        planes = [luma, self.blue, self.red]
        for _ in range(times - 1):
            planes = [resize(plane, plane.shape[1] // 2, plane.shape[0] // 2) for plane in planes]
        return to_bgr(planes, self.matrix)

    def sketch(self, width: int, height: int) -> Image:
        """See `Picture`."""
        planes = [_sketched(plane, width, height) for plane in (self.luma, self.blue, self.red)]
        return to_bgr(planes, self.matrix)

    def copy(self) -> "PlanarPicture":
        """One to write to; its `source` is one array, (height · 3 / 2, width): luma, blue, red one after the other."""
        memory = np.empty((self.height * 3 // 2, self.width), np.uint8)
        flat, start = memory.reshape(-1), 0
        planes = []
        for plane in (self.luma, self.blue, self.red):
            planes.append(flat[start : start + plane.size].reshape(plane.shape))
            planes[-1][...] = plane
            start += plane.size
        luma, blue, red = planes
        return PlanarPicture(luma, blue, red, self.matrix, memory)


def face_in(picture: Picture, crop: Crop) -> Image:
    """The face crop, size × size × 3 BGR; see `Crop.extract`."""
    (rows, columns), _ = crop.visible(picture.height, picture.width)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise ValueError(f"the crop {crop} lies outside of a {picture.width}×{picture.height} frame")
    return crop.extract_part(picture.part(rows, columns), picture.height, picture.width)


def to_bgr(planes: list[Plane], matrix: int) -> Image:
    """Luma, blue and red difference, all of one size and limited range, as BGR."""
    return np.asarray(cv2.transform(cv2.merge(planes), _from_planes(matrix)), np.uint8)


def to_planes(image: NDArray[np.float32], matrix: int) -> NDArray[np.float32]:
    """BGR in grey levels, (height, width, 3) float32, as luma, blue and red difference of limited range."""
    return np.asarray(cv2.transform(image, _to_planes(matrix)), np.float32)


@lru_cache(maxsize=8)
def _to_planes(matrix: int) -> NDArray[np.float64]:
    """3 × 4: blue, green, red, 1 → luma, blue and red difference (ITU-T H.273, equations 38 to 40 and 20 to 22)."""
    red, blue = LUMA_WEIGHTS[matrix]
    luma = np.array([blue, 1 - red - blue, red])
    to_blue = (np.array([1, 0, 0]) - luma) / (2 * (1 - blue))
    to_red = (np.array([0, 0, 1]) - luma) / (2 * (1 - red))
    rows = np.stack([219 * luma, 224 * to_blue, 224 * to_red]) / 255
    return np.concatenate([rows, [[16.0], [128.0], [128.0]]], axis=1)


@lru_cache(maxsize=8)
def _from_planes(matrix: int) -> NDArray[np.float64]:
    """The inverse of `_to_planes`, 3 × 4."""
    forth = _to_planes(matrix)
    back = np.linalg.inv(forth[:, :3])
    return np.concatenate([back, -back @ forth[:, 3:]], axis=1)


def _sketched(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    # Every eighth of so many pixels does; an exact average of a large picture costs milliseconds.
    step = max(1, min(image.shape[0] // (4 * height), image.shape[1] // (4 * width)))
    return np.asarray(
        cv2.resize(image[::step, ::step], (width, height), interpolation=cv2.INTER_AREA), np.uint8
    )
