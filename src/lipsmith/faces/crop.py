"""Which part of a frame around a face the networks see."""

from dataclasses import dataclass

from lipsmith.conditioning import DEFAULT_PADDING
from lipsmith.errors import UsageError
from lipsmith.geometry import Box, Crop


@dataclass(frozen=True, slots=True)
class CropRule:
    """Padding of a face's box, and the side of the square that it is stretched to.

    Attributes:
        padding: Shares of the box's height (top, bottom) and width (left, right) that are added on each side.
        face_size: Side of the crop in pixels, even and at least 16.
    """

    padding: tuple[float, float, float, float] = DEFAULT_PADDING
    face_size: int = 96

    def __post_init__(self) -> None:
        if self.face_size < 16 or self.face_size % 2:
            raise UsageError(
                f"A face crop of {self.face_size} pixels: the side must be even and at least 16."
            )
        top, bottom, left, right = self.padding
        if min(1 + top + bottom, 1 + left + right) <= 0:
            raise UsageError(f"The crop padding {self.padding} leaves nothing of the box.")

    def crop(self, box: Box) -> Crop:
        """The crop of a tracked `box`, in whole pixels of the frame; it may hang over the frame's edge."""
        return Crop.around(box.padded(*self.padding), self.face_size)
