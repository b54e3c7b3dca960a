"""Paste a generated face into its frame: only what the generator changed is new, and it has no edge.

A generator works at its own face size S; the face on screen may be six times as large. Pasting all of its
enlarged output would blur skin that never moved. So the generated face, its colours matched to what the
generator was shown, replaces the frame only where the two differ: at the mouth, and wherever else something
moved. Everything else keeps the frame's own pixels. A generator that returns what it was shown changes
nothing at all.

A reference that is not the frame itself lies on it only roughly: cheeks, jaw and background beside them are a
little elsewhere. Away from mouth and chin only what the generator did to its reference is new, to each of several.

Detail that the generator cannot paint comes from the frame that lent the reference (`lipsmith.compose.detail`).

Generators that make a still picture speak paint another pose than the frame's, and so all of the face: it is pasted as
it is, with soft edges.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.compose.colour import colour_gain
from lipsmith.compose.detail import LentDetail, with_detail
from lipsmith.compose.masks import (
    core_mask,
    largest_channel,
    lower_face_mask,
    mouth_mask,
    smoothstep,
    whole_face_mask,
)
from lipsmith.compose.sharpness import match_sharpness
from lipsmith.conditioning import PaintedRegion, lower_half_start
from lipsmith.geometry import Crop, Image
from lipsmith.picture import ArrayPicture, Picture, PlanarPicture, to_planes

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
    references: Sequence[Image] = (),
    paints: PaintedRegion = "lower half",
    lent: Sequence[LentDetail] = (),
    *,
    match: bool = True,
) -> Image:
    """`frame` with the lower face of `crop` taken from `generated`, or, as `paints` says, the whole face.

    `frame` is uint8 BGR and stays as it is. `generated` is S × S × 3 BGR in grey levels, uint8 or float in
    [0, 255]. `shown` is the frame's crop that the generator saw, S × S × 3 uint8 (`crop.extract(frame)` when not
    given), `references` other frames' faces that it saw beside it, `lent` the detail of the frames that they were
    made of. Colours and sharpness are matched first, unless `match` is false. Only pixels inside the
    crop's `lower_face_mask` change. A whole face is not matched, and has the mask `whole_face_mask`.
    """
    if shown is None:
        shown = crop.extract(frame)
    change = face_change(generated, shown, crop.size, references, paints, lent, match=match)
    result = frame.copy()
    if change is not None:
        target, new, share = _placed(result, crop, *change, paints)
        _mix(target, new, share)
    return result


def paste_into(
    picture: Picture,
    crop: Crop,
    generated: NDArray,
    shown: Image,
    references: Sequence[Image] = (),
    paints: PaintedRegion = "lower half",
    lent: Sequence[LentDetail] = (),
) -> Picture:
    """`paste_face` for a picture of any form: of planes, those pixels alone change, and as planes.

    A new picture, or `picture` itself where nothing changes. A colour sample changes with its four pixels.
    """
    if isinstance(picture, ArrayPicture):
        return ArrayPicture(paste_face(picture.image, crop, generated, shown, references, paints, lent))
    assert isinstance(picture, PlanarPicture)
    change = face_change(generated, shown, crop.size, references, paints, lent)
    if change is None:
        return picture
    new, share = change
    result = picture.copy()
    planes = cv2.split(_to_bytes(to_planes(new, picture.matrix)))
    target, new_luma, share = _placed(result.luma, crop, planes[0], share, paints)
    if not target.size:
        return picture
    _mix(target, new_luma, share)
    (rows, columns), patch = _patch(crop, result.height, result.width, paints)
    # Fill up to whole pairs of rows and columns with pixels that do not change, and average the pairs.
    over = (rows.start % 2, rows.stop % 2, columns.start % 2, columns.stop % 2)
    pairs = (slice(rows.start // 2, -(-rows.stop // 2)), slice(columns.start // 2, -(-columns.stop // 2)))
    share = _halved(cv2.copyMakeBorder(share, *over, cv2.BORDER_CONSTANT, value=0))
    for target, plane in ((result.blue[pairs], planes[1]), (result.red[pairs], planes[2])):
        new_plane = cv2.copyMakeBorder(crop.restore(plane)[patch], *over, cv2.BORDER_REPLICATE)
        _mix(target, _halved(new_plane), share)
    return result


def face_change(
    generated: NDArray,
    shown: Image,
    size: int,
    references: Sequence[Image] = (),
    paints: PaintedRegion = "lower half",
    lent: Sequence[LentDetail] = (),
    *,
    match: bool = True,
) -> tuple[Field, Field] | None:
    """The generated face as it is pasted, and how much of each pixel it replaces; None where nothing changes.

    The face at the size of the crop, S × S × 3 BGR, or with `lent` detail at that of the detail; the share (S, S), from
    0 to 1.
    """
    if generated.shape != (size, size, 3):
        raise ValueError(f"a generated face of {generated.shape} does not fit a crop of {size} × {size} × 3")
    if paints == "face":
        return np.ascontiguousarray(generated, np.float32), whole_face_mask(size)
    top = first_compared_row(size)
    old, new = (np.ascontiguousarray(image[top:], np.float32) for image in (shown, generated))
    if match:
        new = match_sharpness(new * colour_gain(new, old), old)
    share = np.zeros((size, size), np.float32)
    share[top:] = lower_face_mask(size)[top:] * change_mask(new, old)
    if references:
        beside = [np.ascontiguousarray(reference[top:], np.float32) for reference in references]
        made = np.minimum.reduce([change_mask(new, one) for one in beside])
        share[top:] *= np.maximum(core_mask(size)[top:], made)
    if not share.any():
        return None
    face = np.zeros((size, size, 3), np.float32)
    face[top:] = new
    if lent:
        face = with_detail(face, lent, top)
    return face, share


def first_compared_row(size: int) -> int:
    """First row that is looked at to paste a lower half: of the upper one, what the blurs at their border see.

    Not above `lipsmith.conditioning.first_painted_row`, from which a generator at work paints.
    """
    return max(lower_half_start(size) - size // 8, 0) // 4 * 4


def _patch(
    crop: Crop, height: int, width: int, paints: PaintedRegion
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where `crop`, or its lower half, lies: slices of a frame, and of the crop's rectangle."""
    (rows, columns), (patch_rows, patch_columns) = crop.visible(height, width)
    if paints == "face":
        return (rows, columns), (patch_rows, patch_columns)
    hidden_rows = max(crop.height // 2 - 1 - patch_rows.start, 0)  # one row of slack for the interpolation
    rows = slice(min(rows.start + hidden_rows, rows.stop), rows.stop)
    return (rows, columns), (
        slice(min(patch_rows.start + hidden_rows, patch_rows.stop), patch_rows.stop),
        patch_columns,
    )


def _placed(
    frame: NDArray[np.uint8], crop: Crop, new: NDArray, share: Field, paints: PaintedRegion
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Field]:
    """Of a frame or plane: what is painted over (a view), and what to put there, at the frame's resolution."""
    height, width = frame.shape[:2]
    place, patch = _patch(crop, height, width, paints)
    enlarged = cv2.resize(
        share, (crop.width, crop.height), interpolation=cv2.INTER_LINEAR
    )  # never beyond 0 or 1
    return frame[place], crop.restore(_to_bytes(new))[patch], np.asarray(enlarged, np.float32)[patch]


def _mix(target: NDArray[np.uint8], new: NDArray[np.uint8], share: Field) -> None:
    """Replace the `share` of each pixel of `target` by `new`, in place."""
    if target.size:
        target[...] = cv2.blendLinear(np.ascontiguousarray(new), target, share, 1 - share)


def _to_bytes(image: NDArray) -> NDArray[np.uint8]:
    """Rounded to grey levels 0 to 255."""
    return (
        image if image.dtype == np.uint8 else np.asarray(cv2.convertScaleAbs(np.maximum(image, 0)), np.uint8)
    )


def _halved(plane: NDArray) -> NDArray:
    return np.asarray(
        cv2.resize(plane, (plane.shape[1] // 2, plane.shape[0] // 2), interpolation=cv2.INTER_AREA)
    )


def change_mask(new: Field, old: Field) -> Field:
    """Where the face `new` shows something else than `old`, both S × S × 3 in grey levels: (S, S), 0 to 1.

    All may lack rows at the top. Where `new` only lacks fine detail of `old` it is no change. The mouth is taken as a
    whole: were those of its parts that happen to agree left at the frame's resolution, its sharpness would flicker from
    frame to frame.
    """
    rows, size = old.shape[:2]
    mouth = mouth_mask(size)[size - rows :]
    difference = largest_channel(_blurred(new - old, _NOISE_SHARE * size))
    blur_alone = largest_channel(_blurred(old, _BLUR_SHARE * size) - old)
    difference -= cv2.dilate(blur_alone, _disc(size)) * (1 - mouth)
    whole_mouth = float(smoothstep((difference * mouth).max(), *_TOUCHED))
    # The largest difference nearby: old detail beside a moved lip belongs to the old lip.
    amount = cv2.dilate(difference, _disc(size))
    changed = np.maximum(smoothstep(amount, _AGREE, _DIFFER), mouth * whole_mouth)
    return _blurred(changed, _FADE_SHARE * size)


def _blurred(field: NDArray, sigma: float) -> Field:
    return np.asarray(cv2.GaussianBlur(field.astype(np.float32, copy=False), (0, 0), sigma), np.float32)


def _disc(size: int) -> NDArray[np.uint8]:
    side = 2 * max(1, round(size / 48)) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
