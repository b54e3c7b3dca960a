"""Paste a generated face into its frame: only what the generator changed is new, and it has no edge.

A generator works at its own face size S; the face on screen may be six times as large. Pasting its enlarged
output would blur skin that never moved. So the difference between what the generator returned and what it was
shown is split:

* its smooth part (light and shade of a moving jaw) is added to the frame, whose own texture stays;
* where that difference is large (the mouth), the generator's enlarged pixels replace the frame's;
* where there is none, the frame keeps its pixels. A generator that returns what it was shown changes nothing
  at all.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.compose.colour import colour_gain
from lipsmith.compose.masks import largest_channel, lower_face_mask, mouth_mask, smoothstep
from lipsmith.geometry import Crop, Image

Field = NDArray[np.float32]

_AGREE = 3.0  # grey levels of smooth difference up to which skin counts as the same
_DIFFER = 10.0  # and from which it counts as new
_SMOOTH_SHARE = 1 / 48  # sigma of "smooth", in shares of the crop's side: two pixels of 96


def paste_face(
    frame: Image,
    crop: Crop,
    generated: NDArray,
    shown: Image | None = None,
    *,
    match_colour: bool = True,
) -> Image:
    """`frame` with the lower face of `crop` taken from `generated`.

    `frame` is uint8 BGR and stays as it is. `generated` is S × S × 3 BGR in grey levels, uint8 or float in
    [0, 255]. `shown` is the crop that the generator saw, S × S × 3 uint8 (`crop.extract(frame)` when not
    given). Only pixels inside the crop's `lower_face_mask` change.
    """
    size = crop.size
    if generated.shape != (size, size, 3):
        raise ValueError(f"a generated face of {generated.shape} does not fit a crop of {size} × {size} × 3")
    if shown is None:
        shown = crop.extract(frame)
    result = frame.copy()
    face = generated.astype(np.float32)
    added, replaced, face = _plan_change(face, shown.astype(np.float32), match_colour)
    if not replaced.any() and np.abs(added).max() < 0.5:
        return result

    # From here on, work at the frame's resolution and on the rows of the lower half only.
    (rows, columns), (patch_rows, patch_columns) = crop.visible(*frame.shape[:2])
    hidden_rows = max(crop.height // 2 - 1 - patch_rows.start, 0)  # one row of slack for the interpolation
    rows = slice(min(rows.start + hidden_rows, rows.stop), rows.stop)
    patch = (slice(min(patch_rows.start + hidden_rows, patch_rows.stop), patch_rows.stop), patch_columns)
    target = result[rows, columns]
    if target.size == 0:
        return result
    original = target.astype(np.float32)
    new = crop.restore(face)[patch]
    new -= original
    new *= _enlarge(replaced, crop)[patch][..., None]
    new += _enlarge(added, crop)[patch]
    new += original
    np.rint(new, out=new)
    np.clip(new, 0, 255, out=new)
    target[...] = new
    return result


def change_mask(difference: Field) -> Field:
    """Where a face has changed, (S, S) from 0 to 1, given its smooth difference (S, S, 3) in grey levels.

    The mouth is taken as a whole: were parts of it that happen to agree left at the frame's resolution, its
    sharpness would flicker from frame to frame.
    """
    size = difference.shape[0]
    # The largest difference nearby: old detail beside a moved lip belongs to the old lip.
    amount = cv2.dilate(largest_channel(difference), _disc(size))
    mouth = mouth_mask(size)
    whole_mouth = float(smoothstep(np.asarray((amount * mouth).max()), _AGREE, _DIFFER))
    changed = np.maximum(smoothstep(amount, _AGREE, _DIFFER), mouth * whole_mouth)
    return _blurred(changed, 1.5 * _SMOOTH_SHARE * size)


def _plan_change(face: Field, shown: Field, match_colour: bool) -> tuple[Field, Field, Field]:
    """(what is added, how much is replaced, what it is replaced by), all at the crop's size.

    frame + added + replaced · (replacement − frame) is the result.
    """
    size = face.shape[0]
    if match_colour:
        face = face * colour_gain(face, shown)
    difference = face - shown
    smooth = _blurred(difference, _SMOOTH_SHARE * size)
    mask = lower_face_mask(size)
    changed = change_mask(smooth)
    added = smooth * (mask * (1 - changed))[..., None]
    return added, mask * changed, face


def _enlarge(field: Field, crop: Crop) -> Field:
    """A smooth field at the crop rectangle's resolution; linear, so that it never overshoots 0 or 1."""
    return np.asarray(
        cv2.resize(field, (crop.width, crop.height), interpolation=cv2.INTER_LINEAR), np.float32
    )


def _blurred(field: NDArray, sigma: float) -> Field:
    return np.asarray(cv2.GaussianBlur(field.astype(np.float32, copy=False), (0, 0), sigma), np.float32)


def _disc(size: int) -> NDArray[np.uint8]:
    side = 2 * max(1, round(size / 48)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
