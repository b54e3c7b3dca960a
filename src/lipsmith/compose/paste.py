"""Paste a generated face into its frame: only what the generator changed is new, and it has no edge.

A generator works at its own face size S; the face on screen may be six times as large. Pasting all of its
enlarged output would blur skin that never moved. So the generated face, its colours matched to what the
generator was shown, replaces the frame only where the two differ: at the mouth, and wherever else something
moved. Everything else keeps the frame's own pixels. A generator that returns what it was shown changes
nothing at all.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.compose.colour import colour_gain
from lipsmith.compose.masks import largest_channel, lower_face_mask, mouth_mask, smoothstep
from lipsmith.compose.sharpness import match_sharpness
from lipsmith.geometry import Crop, Image

Field = NDArray[np.float32]

_AGREE = 4.0  # grey levels of smooth difference up to which skin counts as the same
_DIFFER = 14.0  # and from which it counts as new
_TOUCHED = (0.5, 2.0)  # the same for the mouth, where any generator but a copying one changes something
# In shares of the crop's side; two, three and three pixels of 96.
_NOISE_SHARE = 1 / 48  # sigma of the blur that takes a generator's noise out of the difference
_BLUR_SHARE = 1 / 32  # sigma of the blur that a generator may add without having moved anything
_FADE_SHARE = 1 / 32  # sigma of the fade from old to new


def paste_face(
    frame: Image,
    crop: Crop,
    generated: NDArray,
    shown: Image | None = None,
    *,
    match: bool = True,
) -> Image:
    """`frame` with the lower face of `crop` taken from `generated`.

    `frame` is uint8 BGR and stays as it is. `generated` is S × S × 3 BGR in grey levels, uint8 or float in
    [0, 255]. `shown` is the crop that the generator saw, S × S × 3 uint8 (`crop.extract(frame)` when not
    given). Colours and sharpness are matched first, unless `match` is false. Only pixels inside the crop's
    `lower_face_mask` change.
    """
    size = crop.size
    if generated.shape != (size, size, 3):
        raise ValueError(f"a generated face of {generated.shape} does not fit a crop of {size} × {size} × 3")
    if shown is None:
        shown = crop.extract(frame)
    result = frame.copy()
    old, new = shown.astype(np.float32), generated.astype(np.float32)
    if match:
        new = match_sharpness(new * colour_gain(new, old), old)
    share = lower_face_mask(size) * change_mask(new, old)
    if not share.any():
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
    change = crop.restore(new)[patch]
    change -= original
    change *= _enlarged(share, crop)[patch][..., None]
    change += original
    np.rint(change, out=change)
    np.clip(change, 0, 255, out=change)
    target[...] = change
    return result


def change_mask(new: Field, old: Field) -> Field:
    """Where the face `new` shows something else than `old`, both S × S × 3 in grey levels: (S, S), 0 to 1.

    Where `new` only lacks fine detail of `old` it is no change. The mouth is taken as a whole: were those of
    its parts that happen to agree left at the frame's resolution, its sharpness would flicker from frame to frame.
    """
    size = old.shape[0]
    mouth = mouth_mask(size)
    difference = largest_channel(_blurred(new - old, _NOISE_SHARE * size))
    blur_alone = largest_channel(_blurred(old, _BLUR_SHARE * size) - old)
    difference -= cv2.dilate(blur_alone, _disc(size)) * (1 - mouth)
    whole_mouth = float(smoothstep((difference * mouth).max(), *_TOUCHED))
    # The largest difference nearby: old detail beside a moved lip belongs to the old lip.
    amount = cv2.dilate(difference, _disc(size))
    changed = np.maximum(smoothstep(amount, _AGREE, _DIFFER), mouth * whole_mouth)
    return _blurred(changed, _FADE_SHARE * size)


def _enlarged(field: Field, crop: Crop) -> Field:
    """A smooth field at the crop rectangle's resolution; linear, so that it never overshoots 0 or 1."""
    return np.asarray(
        cv2.resize(field, (crop.width, crop.height), interpolation=cv2.INTER_LINEAR), np.float32
    )


def _blurred(field: NDArray, sigma: float) -> Field:
    return np.asarray(cv2.GaussianBlur(field.astype(np.float32, copy=False), (0, 0), sigma), np.float32)


def _disc(size: int) -> NDArray[np.uint8]:
    side = 2 * max(1, round(size / 48)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
