"""`Box`, and `Crop`: the reversible map between a rectangle of a frame and a square face crop.

Coordinates are pixel edges: a box from 0 to 10 covers ten pixels, x to the right, y down. Images are uint8 BGR,
height × width × 3.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

LUMA_BGR = (0.114, 0.587, 0.299)
"""What blue, green and red weigh in the brightness of a face crop (ITU-R BT.601)."""


@dataclass(frozen=True, slots=True)
class Box:
    """An axis-aligned rectangle in pixels, edges included-excluded as in array slices."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Pixels from left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Pixels from top to bottom."""
        return self.bottom - self.top

    @property
    def area(self) -> float:
        """Square pixels; 0 for a box turned inside out."""
        return max(self.width, 0.0) * max(self.height, 0.0)

    @property
    def center(self) -> tuple[float, float]:
        """(x, y) of the middle."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    def scaled(self, factor: float) -> "Box":
        """The same box in an image whose sides are `factor` times as long."""
        return Box(self.left * factor, self.top * factor, self.right * factor, self.bottom * factor)

    def shifted(self, right: float, down: float) -> "Box":
        """The same box moved by so many pixels."""
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down)

    def padded(self, top: float, bottom: float, left: float, right: float) -> "Box":
        """Grown on each side by a share of the box's own height (top, bottom) or width (left, right)."""
        return Box(
            self.left - left * self.width,
            self.top - top * self.height,
            self.right + right * self.width,
            self.bottom + bottom * self.height,
        )

    def clipped(self, width: int, height: int) -> "Box":
        """The part that lies in an image of `width` × `height`."""
        return Box(max(self.left, 0), max(self.top, 0), min(self.right, width), min(self.bottom, height))

    def iou(self, other: "Box") -> float:
        """Intersection over union, 0 to 1."""
        shared = Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )
        shared_area = shared.area if shared.width > 0 and shared.height > 0 else 0.0
        union = self.area + other.area - shared_area
        return shared_area / union if union > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle of whole pixels, seen as a square of `size` × `size`.

    `extract` and `restore` are each other's inverse up to resampling. The rectangle may hang over the frame's edge:
    what lies outside is filled with the edge's pixels on the way in and dropped on the way out.
    """

    left: int
    top: int
    right: int
    bottom: int
    size: int

    @classmethod
    def around(cls, box: Box, size: int) -> "Crop":
        """The crop of `box` rounded to whole pixels, at least two pixels a side."""
        left, top = round(box.left), round(box.top)
        return cls(left, top, max(round(box.right), left + 2), max(round(box.bottom), top + 2), size)

    @property
    def width(self) -> int:
        """Pixels of the frame from left to right."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Pixels of the frame from top to bottom."""
        return self.bottom - self.top

    @property
    def box(self) -> Box:
        """The rectangle in the frame."""
        return Box(self.left, self.top, self.right, self.bottom)

    def source(self, image: Image) -> Image:
        """The rectangle's own pixels, height × width × 3, edge pixels repeated where it hangs over the frame."""
        rows, columns = image.shape[:2]
        (inside_rows, inside_columns), _ = self.visible(rows, columns)
        if inside_rows.start >= inside_rows.stop or inside_columns.start >= inside_columns.stop:
            raise ValueError(f"the crop {self} lies outside of a {columns}×{rows} frame")
        return self._filled_up(image[inside_rows, inside_columns], rows, columns)

    def extract(self, image: Image) -> Image:
        """The face crop, size × size × 3."""
        return resize(self.source(image), self.size, self.size)

    def extract_part(self, inside: Image, rows: int, columns: int) -> Image:
        """`extract`, given only what `visible` says of a frame of `rows` × `columns`."""
        return resize(self._filled_up(inside, rows, columns), self.size, self.size)

    def _filled_up(self, inside: Image, rows: int, columns: int) -> Image:
        over = (
            max(-self.top, 0),
            max(self.bottom - rows, 0),
            max(-self.left, 0),
            max(self.right - columns, 0),
        )
        if not any(over):
            return inside
        return np.asarray(cv2.copyMakeBorder(inside, *over, cv2.BORDER_REPLICATE), np.uint8)

    def restore(self, crop: NDArray) -> NDArray:
        """A size × size image (any dtype cv2 resizes) at the rectangle's own resolution, height × width."""
        return resize(crop, self.width, self.height)

    def visible(self, rows: int, columns: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Slices of a rows × columns frame, and of the rectangle, that show the same pixels."""
        top, bottom = max(self.top, 0), min(self.bottom, rows)
        left, right = max(self.left, 0), min(self.right, columns)
        frame = (slice(top, bottom), slice(left, right))
        patch = (slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left))
        return frame, patch


def resize(image: NDArray, width: int, height: int) -> NDArray:
    """Resample to `width` × `height`: area average when shrinking (no aliasing), cubic when growing."""
    if image.shape[1] == width and image.shape[0] == height:
        return image
    shrinking = width * height < image.shape[0] * image.shape[1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)
