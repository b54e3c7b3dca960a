"""Film strips: frames of several videos below one another at the same moments, with the sound underneath.

Numbers prove little alone: a strip shows whether lips have edges, teeth are where teeth belong, and mouths close.
"""

from collections.abc import Mapping
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.geometry import Image, resize
from lipsmith.timebase import MEL_RATE_HZ, TRAINING_RATE_HZ

_LABEL_WIDTH = 120
_TIME_HEIGHT = 18
_MEL_HEIGHT = 80
_BACKGROUND = 24
_INK = (235, 235, 235)
_MEL_FLOOR, _MEL_CEILING = -4.0, 4.0


def film_strip(
    rows: Mapping[str, NDArray[np.uint8]],
    mel: NDArray[np.float32] | None = None,
    *,
    first_frame: int = 0,
    num_frames: int = 12,
    every: int = 2,
    rate: Fraction = TRAINING_RATE_HZ,
    mel_seconds: float = 0.0,
    cell: int = 128,
    label_width: int = _LABEL_WIDTH,
) -> Image:
    """One picture of several videos that run at the same time.

    Args:
        rows: label (ASCII) → frames (T, H, W, 3) uint8 BGR of any size; such as real, foreign speech laid
            over, generated. A video that ends early leaves black cells.
        mel: (80, n) what is heard, drawn under the frames so that the columns below a cell are the sound from
            this frame to the next one shown.
        first_frame: of the first cell.
        num_frames: cells in a row.
        every: frames from one cell to the next.
        rate: frames a second.
        mel_seconds: time of frame 0 within `mel`.
        cell: side of a cell in pixels.
        label_width: pixels left of the cells for the labels; 0 leaves the labels out.

    Returns:
        The strip, uint8 BGR.
    """
    if not rows or num_frames < 1 or every < 1:
        raise ValueError("a strip needs at least one row and one frame")
    shown = range(first_frame, first_frame + num_frames * every, every)
    parts = [_times(shown, rate, cell, label_width)]
    for label, frames in rows.items():
        cells = [_cell(frames, index, cell) for index in shown]
        parts.append(np.concatenate([_label(label, cell, label_width), *cells], axis=1))
    if mel is not None:
        start = mel_seconds + float(first_frame / rate)
        sound = _sound(mel, start, every, rate, num_frames, cell)
        parts.append(np.concatenate([_label("sound", _MEL_HEIGHT, label_width), sound], axis=1))
    return np.concatenate(parts, axis=0)


def _cell(frames: NDArray[np.uint8], index: int, cell: int) -> Image:
    if not 0 <= index < len(frames):
        return np.zeros((cell, cell, 3), np.uint8)
    height, width = frames[index].shape[:2]
    scale = cell / max(height, width)
    picture = resize(frames[index], max(1, round(width * scale)), max(1, round(height * scale)))
    square = np.zeros((cell, cell, 3), np.uint8)
    top, left = (cell - picture.shape[0]) // 2, (cell - picture.shape[1]) // 2
    square[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return square


def _label(text: str, height: int, width: int) -> Image:
    block = np.full((height, width, 3), _BACKGROUND, np.uint8)
    if width == 0:
        return block
    for line, words in enumerate(text.split("\n")):
        cv2.putText(block, words, (4, 16 + 16 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)
    return block


def _times(shown: range, rate: Fraction, cell: int, label_width: int) -> Image:
    line = np.full((_TIME_HEIGHT, label_width + cell * len(shown), 3), _BACKGROUND, np.uint8)
    for position, index in enumerate(shown):
        corner = (label_width + position * cell + 3, _TIME_HEIGHT - 5)
        text = f"{float(index / rate):.2f} s"
        cv2.putText(line, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.38, _INK, 1, cv2.LINE_AA)
    return line


def _sound(
    mel: NDArray[np.float32], start_seconds: float, every: int, rate: Fraction, num_frames: int, cell: int
) -> Image:
    """The mel from the first cell's moment to the end of the last one's, low bands below."""
    width = cell * num_frames
    seconds = start_seconds + np.arange(width) / cell * float(every / rate)
    # Column c is centred on 12.5 ms · c.
    columns = np.rint(seconds * MEL_RATE_HZ).astype(int)
    inside = (columns >= 0) & (columns < mel.shape[1])
    shown = np.full((mel.shape[0], width), _MEL_FLOOR, np.float32)
    shown[:, inside] = mel[:, columns[inside]]
    level = (shown[::-1] - _MEL_FLOOR) / (_MEL_CEILING - _MEL_FLOOR)
    grey = np.clip(level * 255, 0, 255).astype(np.uint8)
    picture = cv2.applyColorMap(cv2.resize(grey, (width, _MEL_HEIGHT)), cv2.COLORMAP_INFERNO)
    return np.asarray(picture, np.uint8)
