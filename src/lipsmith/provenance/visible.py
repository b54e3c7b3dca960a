"""The visible mark: a label burnt into the picture, for viewers who look at no metadata."""

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.errors import UsageError
from lipsmith.geometry import Image

DEFAULT_LABEL = "AI-generated lip movements"

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT_SHARE = 1 / 28  # height of a capital letter, as a share of the frame's shorter side
_MIN_TEXT_PIXELS = 8  # smaller letters of this font cannot be read
_WIDTH_SHARE = 0.9  # a label wider than this share of the frame is broken into lines, then shrunk
_BACKGROUND_WEIGHT = 0.75  # of black behind the letters: readable on white, the picture still shows


class VisibleMark:
    """A label for frames of one size: drawn once, then laid over each frame in microseconds.

    It stands in the lower right corner, white on darkened picture, letters scaled with the frame.
    """

    def __init__(self, width: int, height: int, text: str = DEFAULT_LABEL):
        """For frames of `width` × `height` pixels. `text` must be printable ASCII: the font has no more."""
        text = " ".join(text.split())
        if not text:
            raise UsageError("The visible mark needs a text.")
        if not (text.isascii() and text.isprintable()):
            raise UsageError(f"The visible mark {text!r} has letters that its font lacks: use plain ASCII.")
        self.width, self.height = width, height
        self._left, self._top, self._keep, self._add = _draw(width, height, text)

    def apply(self, frame: Image) -> Image:
        """Burn the label into `frame` (height × width × 3, BGR), in place; returns the frame."""
        if frame.shape[:2] != (self.height, self.width):
            rows, columns = frame.shape[:2]
            raise ValueError(f"the mark is for {self.width}×{self.height} frames, not {columns}×{rows}")
        rows, columns = self._keep.shape[:2]
        region = frame[self._top : self._top + rows, self._left : self._left + columns]
        region[:] = cv2.add(cv2.multiply(region, self._keep, scale=1 / 255), self._add)
        return frame


def burn_label(image: Image, text: str = DEFAULT_LABEL) -> Image:
    """A copy of one BGR image with the label; for many frames of one size use `VisibleMark`."""
    height, width = image.shape[:2]
    return VisibleMark(width, height, text).apply(image.copy())


def _draw(width: int, height: int, text: str) -> tuple[int, int, NDArray[np.uint8], NDArray[np.uint8]]:
    """(left, top, how much of the picture stays 0–255, what is added), the last two rows × columns × 3."""
    letter = max(_TEXT_SHARE * min(width, height), _MIN_TEXT_PIXELS)
    lines, scale = _fit(text, letter, _WIDTH_SHARE * width)
    thickness = max(1, round(letter / 9))
    sizes = [_text_size(line, scale, thickness) for line in lines]
    ascent = max(size[1] for size in sizes)
    descent = max(size[2] for size in sizes)
    padding = max(2, round(ascent / 2))
    pitch = ascent + descent + max(1, padding // 2)
    columns = max(size[0] for size in sizes) + 2 * padding
    rows = pitch * (len(lines) - 1) + ascent + descent + 2 * padding

    letters = np.zeros((rows, columns), np.uint8)
    for index, line in enumerate(lines):
        baseline = padding + ascent + index * pitch
        cv2.putText(letters, line, (padding, baseline), _FONT, scale, 255, thickness, cv2.LINE_AA)
    # Where a letter covers the pixel fully, nothing of the picture is kept.
    keep = (1 - _BACKGROUND_WEIGHT) * (255 - letters.astype(np.float64))
    margin = round(0.02 * min(width, height))
    left, top = max(width - columns - margin, 0), max(height - rows - margin, 0)
    inside = np.s_[: min(rows, height), : min(columns, width)]
    return left, top, _as_colour(np.rint(keep).astype(np.uint8)[inside]), _as_colour(letters[inside])


def _as_colour(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(plane[..., None], 3, axis=2)


def _text_size(line: str, scale: float, thickness: int) -> tuple[int, int, int]:
    """(width, height above the baseline, height below it) in pixels."""
    (columns, ascent), descent = cv2.getTextSize(line, _FONT, scale, thickness)
    return columns, ascent, descent


def _fit(text: str, letter: float, room: float) -> tuple[list[str], float]:
    """Lines of `text` at most `room` pixels wide, and the font scale for letters `letter` pixels high."""
    thickness = max(1, round(letter / 9))
    scale = letter / _text_size("X", 1.0, 1)[1]
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and _text_size(longer, scale, thickness)[0] > room:
            lines.append(word)
        else:
            lines[-1] = longer
    widest = max(_text_size(line, scale, thickness)[0] for line in lines)
    return lines, scale * min(1.0, room / widest)
