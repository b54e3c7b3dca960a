"""What the generator is shown: the target face with its lower half hidden, and a reference face.

The one implementation for training and inference. Faces are BGR, 0 to 1, channels first.
"""

from typing import Literal, TypeVar

ReferenceForm = Literal["frame", "steady", "still"]
"""`frame`: the reference is the current frame itself at inference, another moment in training (paper, 3.4); `steady`:
a frame kept while the pose stays, see `lipsmith.reference`; `still`: one frame for a whole shot, of baselines that make
a still picture speak."""

PaintedRegion = Literal["lower half", "face"]
"""What of the crop a generator makes anew: the lower half, its pose given by the upper one; or, of a still picture that
is made to speak, all of it."""

DEFAULT_PADDING = (0.07, 0.11, 0.08, 0.08)
"""Padding of the project's own weights around a tracked box: top, bottom, left, right.

With `faces.track.face_box` it puts the eyes at about row 37 and the mouth at about row 67 of 96, so that the
eyebrows are in the upper half, and the whole mouth and an open jaw's chin in the lower half. The weights
are trained on it.
"""

Faces = TypeVar("Faces")  # a NumPy array or a torch tensor, (…, 3, S, S)


def lower_half_start(face_size: int) -> int:
    """First row of the lower half, which the generator repaints and the expert sees."""
    return face_size // 2


def mask_lower_half(faces: Faces) -> Faces:
    """A copy of `faces` (…, 3, S, S) with the rows from S // 2 down set to zero: the pose prior (paper, 3.4.1)."""
    masked = faces.clone() if hasattr(faces, "clone") else faces.copy()  # type: ignore[attr-defined]
    masked[..., lower_half_start(masked.shape[-2]) :, :] = 0
    return masked


def lower_half(faces: Faces) -> Faces:
    """A view of the rows of `faces` (…, 3, S, S) that the expert and the visual quality discriminator see."""
    return faces[..., lower_half_start(faces.shape[-2]) :, :]  # type: ignore[index,attr-defined]
