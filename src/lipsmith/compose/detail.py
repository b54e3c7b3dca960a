"""Detail that a generator of S pixels cannot paint, taken from the frame that lent it the reference.

On screen a face may be six times as large as the generator's, and a generator that learned from a mean error is soft
even at its own size. But the reference is a real frame of the same person: its pores, hairs, lips and teeth are there
at full resolution. Where what was generated is the reference moved, which the optical flow between both says, the
detail moves along. Where it is not, in a mouth that opens for example, nothing is added.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.compose.masks import mouth_mask
from lipsmith.geometry import Image

_NONE = 128  # what stands for no detail
_DETAIL_SHARE = 1 / 96  # sigma of what counts as detail, in shares of the side: one pixel of 96
_MOST_ENLARGED = 4  # times the generator's side: beyond, it costs more than is seen
_FLOW_SMOOTHING, _MISFIT_SMOOTHING = 1.5, 1.2  # sigmas in pixels of 96
_MISFIT = 10.0  # grey levels off the moved reference at which a third of the detail is left


@dataclass(frozen=True, slots=True)
class LentDetail:
    """The detail of a frame that lent its lower face as a reference.

    Attributes:
        reference: What was made of it, S × S × 3: what the generator saw beside the masked face.
        values: `detail_of` the frame's crop at its own resolution, R × R × 3.
        warp: 2 × 3: pixels of the face that is painted → pixels of the lending one, both of the generator's size.
        strength: What the detail is multiplied by: its light may have been another.
    """

    reference: Image
    values: NDArray[np.uint8]
    warp: NDArray[np.float32]
    strength: float = 1.0


def detail_side(width: int, height: int, size: int) -> int:
    """R for a face of so many pixels on screen and a generator of `size`."""
    return min(max(width, height, size), _MOST_ENLARGED * size)


def detail_of(face: Image) -> NDArray[np.uint8]:
    """What a blur takes from a face crop of any size, plus 128."""
    smooth = cv2.GaussianBlur(face, (0, 0), _DETAIL_SHARE * face.shape[0])
    return np.asarray(cv2.addWeighted(face, 1, smooth, -1, _NONE), np.uint8)


def with_detail(face: NDArray[np.float32], lent: Sequence[LentDetail], top: int) -> NDArray[np.float32]:
    """`face` at the resolution of the lent detail, R × R × 3, with as much of it as belongs there.

    Args:
        face: What was generated, S × S × 3 BGR in grey levels.
        lent: Of the frames that the references were made of. That whose mouth the face's is most like lends.
        top: First row of interest; what is above is left out, and 0 in the result.
    """
    nearest = (
        lent[0] if len(lent) == 1 else min(lent, key=lambda one: _mouth_difference(face, one.reference, top))
    )
    size, side = face.shape[0], nearest.values.shape[0]
    unit = size / 96
    new, old = face[top:], nearest.reference[top:]
    flow = cv2.GaussianBlur(_flow(new, old), (0, 0), _FLOW_SMOOTHING * unit)
    down, right = np.indices(flow.shape[:2], np.float32)
    places = flow + np.dstack((right, down))  # in the reference, from `top`
    moved = _picked(old.astype(np.float32), places, cv2.BORDER_REPLICATE)
    misfit = cv2.transform(cv2.absdiff(moved, new), np.full((1, 3), 1 / 3, np.float32))
    misfit = cv2.GaussianBlur(misfit, (0, 0), _MISFIT_SMOOTHING * unit)
    share = nearest.strength * np.exp(-np.square(misfit / _MISFIT))
    # From places in the reference to places in the lending face, and from pixels of S to pixels of R.
    scale = side / size
    turn, shift = nearest.warp[:, :2], nearest.warp[:, 2] + nearest.warp[:, :2] @ (0, top)
    lending = scale * (places @ turn.T + shift + 0.5) - 0.5
    rows = side - round(scale * top)
    fields = cv2.resize(
        np.dstack((lending, share)).astype(np.float32), (side, rows), interpolation=cv2.INTER_LINEAR
    )
    detail = _picked(nearest.values, fields, cv2.BORDER_CONSTANT)
    result = np.zeros((side, side, 3), np.float32)
    result[side - rows :] = cv2.resize(new, (side, rows), interpolation=cv2.INTER_CUBIC)
    detail = detail.astype(np.float32) - np.float32(_NONE)
    cv2.accumulateProduct(detail, cv2.merge([fields[..., 2]] * 3), result[side - rows :])
    return result


def _mouth_difference(face: NDArray[np.float32], reference: Image, top: int) -> float:
    """In grey levels, summed over the colours and the mouth, which is below `top`."""
    difference = cv2.absdiff(face[top:], reference[top:].astype(np.float32))
    return float(np.vdot(cv2.transform(difference, np.ones((1, 3))), mouth_mask(face.shape[0])[top:]))


def _picked(image: NDArray, places: NDArray, border: int) -> NDArray:
    """The pixels of `image` at `places`, whose first two channels are columns and rows."""
    columns, rows = (np.ascontiguousarray(places[..., channel]) for channel in (0, 1))
    return cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=border, borderValue=(_NONE,) * 3)


def _flow(new: NDArray[np.float32], reference: Image) -> NDArray[np.float32]:
    """Where in the reference each pixel of `new` comes from, as steps to the right and down."""
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    finder.setFinestScale(0)  # down to single pixels
    grey, other = (
        cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        for image in (cv2.convertScaleAbs(np.maximum(new, 0)), reference)
    )
    flow = np.zeros((*grey.shape, 2), np.float32)
    return np.asarray(finder.calc(grey, other, flow), np.float32)
