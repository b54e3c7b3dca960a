"""A face as its frames come: a box for each of them at once, which no frame to come can change.

`FaceTracker` looks both ways in time and is up to two seconds late; for live use that is too much. Here a face is
followed from frame to frame, and its box is smoothed over the past alone: steady while the head is, quick when it
moves.
"""

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lipsmith.errors import UsageError
from lipsmith.faces.detect import FaceDetector, FaceFollower
from lipsmith.faces.track import GROWTH, MAX_GROWTH, MAX_REACH, CutWatch, TrackedFace, follow, search
from lipsmith.geometry import Box
from lipsmith.picture import Picture

# How far a box may stay behind, in widths of the face and as a ratio of sizes, while it is smoothed; and from where on
# it goes with the face.
_STEADY_SHIFT, _MOVING_SHIFT = 0.02, 0.06
_STEADY_GROWTH, _MOVING_GROWTH = 0.03, 0.10
_SIZE_SECONDS = 1.5  # how long a size is smoothed, in the time of a place


@dataclass
class LiveFaceTracker:
    """Follows one person; a box for each frame when it comes.

    It begins with the largest face, or with the one of the wanted rank, and stays with that person: through a turn of
    the head and out of sight for a while. After a scene cut, or a longer absence, it begins again.

    Attributes:
        detector: Finds the faces. One that is no `FaceFollower` searches every frame, which takes longer.
        rate: Frames a second.
        face: 0 or None begins with the largest face, 1 with the second largest, and so on.
        search_seconds: Time between two searches while nobody is in sight.
        hold_seconds: For so long a face that is not found keeps its place: a blink of the detector is no absence.
        memory_seconds: After so long an absence anybody will do.
        smooth_seconds: Time constant of the smoothing; 0 turns it off.
    """

    detector: FaceDetector
    rate: Fraction = field(default=Fraction(25), kw_only=True)
    face: int | None = field(default=None, kw_only=True)
    search_seconds: float = field(default=0.16, kw_only=True)
    hold_seconds: float = field(default=0.1, kw_only=True)
    memory_seconds: float = field(default=2.0, kw_only=True)
    smooth_seconds: float = field(default=0.2, kw_only=True)

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise UsageError(f"A rate of {self.rate} frames a second: it must be above 0.")
        self.shot = 1
        """Number of the shot that the last frame was in; somebody who may be another person is another shot, too."""
        self._cuts = CutWatch()
        self._person: TrackedFace | None = None  # as last seen
        self._missing = 0  # frames since then
        self._state: NDArray[np.float64] | None = None  # centre x, y, logarithm of width and height

    def box(self, picture: Picture) -> Box | None:
        """The face in the next frame, or None where it is not to be seen."""
        if self._cuts.is_cut(picture):
            self._forget()
        found = self._find(picture)
        if found is None:
            self._missing += 1
            if self._missing > self.memory_seconds * float(self.rate):
                self._forget()
            if self._missing > self.hold_seconds * float(self.rate):
                self._state = None
        else:
            self._person, self._missing = found, 0
            self._smooth(found.box)
        return self._smoothed()

    def _forget(self) -> None:
        self.shot += 1
        self._person, self._state, self._missing = None, None, 0

    def _find(self, picture: Picture) -> TrackedFace | None:
        person = self._person
        if person is not None and not self._missing and isinstance(self.detector, FaceFollower):
            followed = follow(self.detector, picture, person)
            if followed is not None:
                return followed
        if self._missing > self.hold_seconds * float(self.rate):
            every = max(1, round(self.search_seconds * float(self.rate)))
            if self._missing % every:
                return None
        faces = search(self.detector, picture)
        if person is not None:
            near = [
                face
                for face in faces
                if person.shift(face) <= MAX_REACH
                and person.growth(face) <= (MAX_GROWTH if self._missing else GROWTH)
            ]
            return min(near, key=person.shift, default=None)
        faces.sort(key=lambda face: -face.box.width * face.box.height)
        rank = self.face or 0
        return faces[rank] if rank < len(faces) else None

    def _smooth(self, box: Box) -> None:
        measured = np.array([*box.center, np.log(max(box.width, 1e-6)), np.log(max(box.height, 1e-6))])
        if self._state is None or self.smooth_seconds <= 0:
            self._state = measured
            return
        away = measured - self._state
        frames = self.smooth_seconds * float(self.rate)
        shift = float(np.hypot(away[0], away[1]) / np.exp(self._state[2]))
        growth = float(np.abs(away[2:]).max())
        trusts = (
            _share(shift, _STEADY_SHIFT, _MOVING_SHIFT),
            _share(growth, _STEADY_GROWTH, _MOVING_GROWTH),
        )
        gains = [
            gain + (1 - gain) * trust
            for gain, trust in zip(
                (1 - np.exp(-1 / frames), 1 - np.exp(-1 / (_SIZE_SECONDS * frames))), trusts, strict=True
            )
        ]
        self._state = self._state + np.repeat(gains, 2) * away

    def _smoothed(self) -> Box | None:
        if self._state is None:
            return None
        x, y = self._state[:2].tolist()
        width, height = np.exp(self._state[2:]).tolist()
        return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _share(value: float, low: float, high: float) -> float:
    return min(max((value - low) / (high - low), 0.0), 1.0)
