"""What the generator is shown: the target face with its lower half hidden, and a reference face.

The one implementation for training and inference. Faces are BGR, 0 to 1, channels first.
"""

from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from lipsmith.geometry import LUMA_BGR

FloatArray = NDArray[np.float32]

ReferenceForm = Literal["frame", "steady", "pair", "still"]
"""`frame`: the reference is the current frame itself at inference, another moment in training (paper, 3.4); `steady`:
a frame kept while the pose stays, see `lipsmith.reference`; `pair`: two such frames, one whose mouth is at rest and one
whose mouth is open; `still`: one frame for a whole shot, of baselines that make a still picture speak."""

NUM_REFERENCES: dict[ReferenceForm, int] = {"frame": 1, "steady": 1, "pair": 2, "still": 1}
"""How many faces a generator sees beside the masked one."""

PaintedRegion = Literal["lower half", "face"]
"""What of the crop a generator makes anew: the lower half, its pose given by the upper one; or, of a still picture that
is made to speak, all of it."""

DEFAULT_PADDING = (0.07, 0.11, 0.08, 0.08)
"""Padding of the project's own weights around a tracked box: top, bottom, left, right.

With `faces.track.face_box` it puts the eyes at about row 37 and the mouth at about row 67 of 96, so that the
eyebrows are in the upper half, and the whole mouth and an open jaw's chin in the lower half. The weights
are trained on it.
"""

_WHOLE_ROWS = 8  # a multiple of each coarser grid that generators paint with

Faces = TypeVar("Faces")  # a NumPy array or a torch tensor, (…, 3, S, S)


def face_channels(num_references: int) -> int:
    """Channels of what a generator is given: three colours of the masked face, and of each reference."""
    return 3 * (1 + num_references)


def lower_half_start(face_size: int) -> int:
    """First row of the lower half, which the generator repaints and the expert sees."""
    return face_size // 2


def first_painted_row(face_size: int) -> int:
    """First row that a generator at work computes: far enough above the lower half for all that looks around there."""
    return face_size // 3 // _WHOLE_ROWS * _WHOLE_ROWS


def mask_lower_half(faces: Faces) -> Faces:
    """A copy of `faces` (…, 3, S, S) with the rows from S // 2 down set to zero: the pose prior (paper, 3.4.1)."""
    masked = faces.clone() if hasattr(faces, "clone") else faces.copy()  # type: ignore[attr-defined]
    masked[..., lower_half_start(masked.shape[-2]) :, :] = 0
    return masked


def lower_half(faces: Faces) -> Faces:
    """A view of the rows of `faces` (…, 3, S, S) that the expert and the visual quality discriminator see."""
    return faces[..., lower_half_start(faces.shape[-2]) :, :]  # type: ignore[index,attr-defined]


# Eyes, brows and nostrils are darker than this in any light; where they are not, something white lies over the face.
_VEILED = 0.3
_CLEAR = 0.1  # what the darkest of a face has without it
_DARKEST_SHARE = 0.02


def visibility(faces: FloatArray) -> FloatArray:
    """How much of each face is seen through a fade from or to white: 1 is all.

    A fade shows `v * face + (1 - v)`. Generators were not trained on any, and paint a mouth as dark as it is without.

    Args:
        faces: (n, 3, S, S) BGR, 0 to 1, the frame's own: only upper halves are looked at.

    Returns:
        (n, 1, 1, 1), above 0 to 1.
    """
    upper = np.tensordot(
        np.array(LUMA_BGR, np.float32), faces[:, :, : lower_half_start(faces.shape[-2])], ((0,), (1,))
    )
    upper = upper.reshape(len(faces), -1)
    rank = int(_DARKEST_SHARE * upper.shape[1])
    darkest = np.partition(upper, rank, axis=1)[:, rank]
    # Without a step where the veil begins to be one.
    clear = np.maximum(_VEILED - 2 * (darkest - _VEILED), _CLEAR)
    seen = np.where(darkest > _VEILED, (1 - darkest) / (1 - clear), 1).clip(0.05, 1)
    return np.asarray(seen, np.float32)[:, None, None, None]


def unveiled(faces: FloatArray, seen: FloatArray) -> FloatArray:
    """`faces` as they are without the fade of which `seen` is the `visibility`, as far as can be."""
    return faces if (seen == 1).all() else np.clip((faces - (1 - seen)) / seen, 0, 1)


def veiled(faces: FloatArray, seen: FloatArray) -> FloatArray:
    """`faces` in that fade again."""
    return faces if (seen == 1).all() else faces * seen + (1 - seen)


def generator_faces(shown: FloatArray, references: FloatArray, seen: FloatArray) -> FloatArray:
    """What a generator is given at inference: the targets, lower halves hidden, then the references.

    Args:
        shown: (n, 3, S, S) BGR, 0 to 1.
        references: (n, 3, S, S), or of the form `pair` (n, 6, S, S).
        seen: the `visibility` of `shown`; what is generated is to be `veiled` by it.

    Returns:
        (n, 6, S, S) or (n, 9, S, S).
    """
    return np.concatenate([mask_lower_half(unveiled(shown, seen)), unveiled(references, seen)], axis=1)
