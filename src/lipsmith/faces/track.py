"""Faces over time: one smooth box for every frame in which a person's face can be seen.

Frames are shown to `FaceTracker` one after the other. The detector looks at a few frames a second, and at
more of them where a face moves fast, appears or vanishes, so that a track begins and ends on the right
frame. Most of these looks only check where the known faces went; the whole frame is searched less often, and
where it shows somebody new, the frames since the last search are searched, too. Between looks boxes are
interpolated, and then smoothed in both directions of time, so that they do not lag.
"""

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.errors import UsageError
from lipsmith.faces.detect import Detection, FaceDetector, FaceFollower
from lipsmith.geometry import Box, Image, resize
from lipsmith.picture import ArrayPicture, Picture

Floats = NDArray[np.float64]

# Proportions of an upright adult face, in units of the distance from the eyes' middle to the mouth's
# middle, and chosen such that `face_box` is on average the box that MTCNN returns (measured on 63
# real clips). Weights are trained on crops of this box: changing a number here changes what every trained
# network sees.
EYE_DISTANCE = 0.92
BOX_WIDTH = 1.955
BOX_HEIGHT = 2.74
ANCHOR_ROW = 0.572  # where, as a share of its height, the box has the middle between the eyes and the mouth

# How far a face may get between two looks at it, in its own widths: what is further away is somebody else.
REACH = 0.15
REACH_PER_SECOND = 5.0
MAX_REACH = 1.5
GROWTH = 1.35  # and how much larger or smaller it may be
GROWTH_PER_SECOND = 2.0
MAX_GROWTH = 1.8

# A face that is followed is looked for in the surroundings of its last box, in boxes' sides; a larger move than this
# of its width is for the search to believe.
SURROUNDINGS = 0.5
FOLLOWED_SHIFT = 0.3
FOLLOWED_GROWTH = 1.25
KEPT_BYTES = 64 * 2**20  # of frames between two searches; larger frames are searched more often

# Frames are halved before they are searched as long as this much is left of the shorter side.
SEARCH_SHORT_SIDE = 480

LEAST_SQUEEZE = 0.02  # of pixels that are not square; less is not seen in a face

# More than this between two looks, and the detector looks at the frames between, too.
LOOK_AGAIN_SHIFT = 0.15
LOOK_AGAIN_GROWTH = 1.25

CUT_DIFFERENCE = 18.0  # grey levels by which a cut changes the thumbnail, at least
CUT_CONTRAST = 4.0  # times the usual change from frame to frame
BLACK, WHITE = 12, 243  # grey levels of a thumbnail that shows nothing any more, or nothing yet
THUMBNAIL = (32, 18)
THUMBNAIL_SHIFT = (2, 4)  # a camera's largest move from frame to frame, in rows and columns of the thumbnail


@dataclass(frozen=True)
class FaceTrack:
    """One face over a stretch of frames without a gap.

    Attributes:
        id: Its place in the list that `FaceTracker.finish` returns: 0 is the largest.
        shot: Number of the shot that it is in, from 0; a scene cut starts the next one.
        first_frame: Index of the frame of its first box.
        boxes: (n, 4) float64, one row per frame: left, top, right, bottom in pixels, smoothed over time.
        scores: (n,) float64 confidence of the detector, 0 to 1, interpolated between detections.
        detected: (n,) bool, true where the detector itself looked at the frame and saw the face.
    """

    id: int
    shot: int
    first_frame: int
    boxes: Floats
    scores: Floats
    detected: NDArray[np.bool_]

    @property
    def num_frames(self) -> int:
        """Frames from the first to the last, both included."""
        return len(self.boxes)

    @property
    def last_frame(self) -> int:
        """Index of the frame of the last box."""
        return self.first_frame + len(self.boxes) - 1

    @property
    def presence(self) -> float:
        """Square pixels, summed over the frames: what "the largest face" is measured by."""
        size = self.boxes[:, 2:] - self.boxes[:, :2]
        return float((size[:, 0] * size[:, 1]).sum())

    def box(self, frame_index: int) -> Box | None:
        """The face's box in a frame, or None where the track does not reach."""
        if not self.first_frame <= frame_index <= self.last_frame:
            return None
        return Box(*self.boxes[frame_index - self.first_frame].tolist())


def face_box(detection: Detection) -> Box:
    """The box that is tracked and cropped, placed by the landmarks of a detection.

    Landmarks shake half as much from frame to frame as the edges of MTCNN's box, and the mouth sits at the
    same place of it for everybody. A detection without landmarks keeps its own box.
    """
    if detection.landmarks is None:
        return detection.box
    left_eye, right_eye, _, left_mouth, right_mouth = detection.landmarks
    eyes, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    # A turned head brings the eyes together, a nod the eyes and the mouth: the larger of both tells the
    # size, softly so that it does not jump from one to the other.
    across = float(np.linalg.norm(right_eye - left_eye)) / EYE_DISTANCE
    down = float(np.linalg.norm(mouth - eyes))
    unit = ((across**4 + down**4) / 2) ** 0.25
    x, y = ((eyes + mouth) / 2).tolist()
    top = y - ANCHOR_ROW * BOX_HEIGHT * unit
    return Box(x - BOX_WIDTH * unit / 2, top, x + BOX_WIDTH * unit / 2, top + BOX_HEIGHT * unit)


@dataclass(slots=True)
class TrackedFace:
    """One detection, as trackers see it."""

    box: Box
    score: float
    found: Box | None = None  # the detector's own box

    @classmethod
    def of(cls, detection: Detection, pixel_aspect: float = 1.0) -> "TrackedFace":
        """A detection in pixels of the frame, or of one whose width is `pixel_aspect` times the frame's."""
        box, found = (_squeezed(box, pixel_aspect) for box in (face_box(detection), detection.box))
        return cls(box, detection.score, found)

    def shift(self, other: "TrackedFace") -> float:
        """Distance of the centres in widths of the mean face."""
        (x, y), (other_x, other_y) = self.box.center, other.box.center
        return float(np.hypot(x - other_x, y - other_y)) * 2 / max(self.box.width + other.box.width, 1e-6)

    def growth(self, other: "TrackedFace") -> float:
        """Ratio of the heights, at least 1."""
        small, large = sorted((max(self.box.height, 1e-6), max(other.box.height, 1e-6)))
        return large / small


def _squeezed(box: Box, factor: float) -> Box:
    """`box` in an image whose width is 1 / `factor` as large."""
    return box if factor == 1 else Box(box.left / factor, box.top, box.right / factor, box.bottom)


def _widened(image: Image, factor: float) -> Image:
    """`image` with `factor` times its width."""
    return resize(image, max(round(image.shape[1] * factor), 2), image.shape[0])


def search(detector: FaceDetector, picture: Picture, pixel_aspect: float = 1.0) -> list[TrackedFace]:
    """Every face of a whole frame, the most certain first.

    A face's proportions are those of an upright adult only where pixels are square: `pixel_aspect` is their width in
    heights.
    """
    times = 0
    while min(picture.width, picture.height) >> (times + 1) >= SEARCH_SHORT_SIDE:
        times += 1
    image = _widened(picture.halved(times), pixel_aspect)
    back = picture.width * pixel_aspect / image.shape[1], picture.height / image.shape[0]
    return [TrackedFace.of(found.placed(*back), pixel_aspect) for found in detector.detect(image)]


def follow(
    detector: FaceFollower, picture: Picture, face: TrackedFace, pixel_aspect: float = 1.0
) -> TrackedFace | None:
    """`face` of a frame a moment ago, found again in `picture`; None where that is not certain."""
    assert face.found is not None
    near = face.found.padded(*[SURROUNDINGS] * 4).clipped(picture.width, picture.height)
    left, top = int(near.left), int(near.top)
    rows, columns = slice(top, int(near.bottom)), slice(left, int(near.right))
    if rows.stop - rows.start < 2 or columns.stop - columns.start < 2:
        return None
    image = _widened(picture.part(rows, columns), pixel_aspect)
    aspect = image.shape[1] / (columns.stop - columns.start)
    found = detector.look_again(image, _squeezed(face.found.shifted(-left, -top), 1 / aspect))
    if found is None:
        return None
    followed = TrackedFace.of(found.placed(1, 1, left * aspect, top), aspect)
    if face.shift(followed) > FOLLOWED_SHIFT or face.growth(followed) > FOLLOWED_GROWTH:
        return None
    return followed


class CutWatch:
    """Tells scene cuts from pans, frame by frame; what comes out of black or white is another scene, too."""

    def __init__(self) -> None:
        self._thumbnail: Image | None = None
        self._is_blank = False
        self._usual_change = 0.0

    def is_cut(self, picture: Picture) -> bool:
        """Whether a new shot begins with this, the next frame."""
        thumbnail = picture.sketch(*THUMBNAIL)
        before, self._thumbnail = self._thumbnail, thumbnail
        was_blank = self._is_blank
        self._is_blank = bool(thumbnail.max() <= BLACK or thumbnail.min() >= WHITE)
        if before is None:
            return False
        change = _change(before, thumbnail)
        # From nothing a scene fades in too slowly to differ much from the frame before.
        is_faded_in = was_blank and not self._is_blank
        if is_faded_in or (change > CUT_DIFFERENCE and change > CUT_CONTRAST * self._usual_change):
            self._usual_change = 0.0
            return True
        self._usual_change += (change - self._usual_change) / 4
        return False


@dataclass(slots=True)
class _Look:
    """What the detector saw in one frame."""

    frame: int
    faces: list[TrackedFace]


@dataclass(slots=True, eq=False)
class _Course:
    """A track in the making: the frames in which its face was detected, in arrays, as a shot may last for hours."""

    last: TrackedFace
    frames: "array[int]" = field(default_factory=lambda: array("q"))
    # Centre x, y, width, height and score in each of them.
    states: "array[float]" = field(default_factory=lambda: array("d"))
    # Boxes from its first frame on that no look to come can move, as far as they were asked for.
    settled: Floats = field(default_factory=lambda: np.empty((0, 4)))

    @property
    def num_frames(self) -> int:
        """Frames from the first to the last detection, both included."""
        return self.frames[-1] - self.frames[0] + 1

    def add(self, frame: int, face: TrackedFace) -> None:
        """Go on with `face` in `frame`."""
        self.last = face
        self.frames.append(frame)
        self.states.extend([*face.box.center, face.box.width, face.box.height, face.score])


@dataclass
class FaceTracker:
    """Follows every face through a video, frame by frame, in memory that does not grow with the picture's size.

    At most the frames since the detector's last search are kept, by reference: do not write to an image after
    giving it to `add`.

    Attributes:
        detector: Finds the faces of one frame; only one that is a `FaceFollower`, too, need not search at each look.
        rate: Frames a second; a variable rate's average will do.
        pixel_aspect: Width of a pixel in heights.
        detect_seconds: Time between two looks of the detector, when nothing moves much.
        search_seconds: Time between two looks at the whole frame, while all known faces can be followed.
        max_gap_seconds: A face that is not seen for longer than this is a new track when it comes back.
        smooth_seconds: Standard deviation of the smoothing; 0 turns it off.
        min_track_seconds: Shorter tracks in a longer shot are taken for errors of the detector.
    """

    detector: FaceDetector
    rate: Fraction = field(default=Fraction(25), kw_only=True)
    pixel_aspect: Fraction = field(default=Fraction(1), kw_only=True)
    detect_seconds: float = field(default=0.16, kw_only=True)
    search_seconds: float = field(default=0.64, kw_only=True)
    max_gap_seconds: float = field(default=0.5, kw_only=True)
    smooth_seconds: float = field(default=0.2, kw_only=True)
    min_track_seconds: float = field(default=0.25, kw_only=True)

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise UsageError(f"A rate of {self.rate} frames a second: it must be above 0.")
        aspect = float(self.pixel_aspect)
        # Next to square is square; and what nobody films with is an error of the file.
        self._aspect = aspect if abs(aspect - 1) >= LEAST_SQUEEZE and 1 / 3 <= aspect <= 3 else 1.0
        self._every = max(1, round(self.detect_seconds * float(self.rate)))
        self._sigma = self.smooth_seconds * float(self.rate)
        self._reach = smoothing_reach(self._sigma)
        self._next = 0
        self._waiting: list[Picture] = []  # frames since the last search, the newest last
        self._search: _Look | None = None  # the last look at a whole frame
        self._followed: list[_Look] = []  # the looks since then
        self._cuts = CutWatch()
        self.shot_starts: list[int] = []
        self._shot = 0
        self._shot_start = 0
        self._open: list[_Course] = []
        self._shot_courses: list[_Course] = []
        self._tracks: list[FaceTrack] = []
        self._num_settled = 0
        self._settled: list[Floats] = []  # of the shot that goes on
        self.is_overruled = False
        """Whether `settled` has given boxes of one person, and another is the largest by now."""
        self._finished = False

    def add(self, picture: Picture | Image, index: int | None = None) -> None:
        """Take the next frame.

        Args:
            picture: The frame; an array is uint8 BGR, height × width × 3. All frames of a video have the same size.
            index: The frame's number if the caller counts, to be checked: frames come in order, from 0, without gaps.
        """
        if self._finished:
            raise ValueError("this tracker is finished; start another one for another video")
        if index is not None and index != self._next:
            raise ValueError(f"frame {self._next} was expected, not frame {index}")
        if isinstance(picture, np.ndarray):
            picture = ArrayPicture(picture)
        if self._cuts.is_cut(picture):
            self._end_shot()
        if self._next == self._shot_start:
            self.shot_starts.append(self._next)
        self._waiting.append(picture)
        self._next += 1
        last = self._followed[-1] if self._followed else self._search
        if last is None or self._next - 1 - last.frame >= self._every:
            self._look_at_newest(last)

    def settled(self) -> Floats:
        """Boxes of the largest face in the next frames that no frame to come can move any more, (n, 4) or NaN.

        They come about `look_ahead` seconds late. Together the answers are what `primary_box_rows` says in the end,
        unless the face that was largest so far is not that of its whole shot: see `is_overruled`, and compare.
        """
        first = self._num_settled
        rows = np.full((0, 4), np.nan)
        if first < self._shot_start:
            shot = bisect_right(self.shot_starts, first) - 1
            tracks = [track for track in self._tracks if track.shot >= shot]
            rows = primary_box_rows(tracks, self._shot_start)[first:]
        elif self._search is not None:
            rows = self._settled_in_shot(first, self._search.frame + 1)
            if len(rows):
                self._settled.append(rows)
        self._num_settled += len(rows)
        return rows

    @property
    def look_ahead(self) -> float:
        """How many seconds `settled` is late while one face can be followed."""
        return (self._reach + 2 * self._every) / float(self.rate) + self.search_seconds

    def _settled_in_shot(self, first: int, end: int) -> Floats:
        """`settled` of the shot that goes on, searched up to frame `end`."""
        shortest = self.min_track_seconds * float(self.rate)
        courses = list(self._open)
        courses += [course for course in self._shot_courses if course.num_frames >= shortest]
        for course in courses:
            if course.num_frames < shortest:
                end = min(end, course.frames[0])  # it may yet be taken for an error
            elif course in self._open:
                end = min(end, course.frames[-2] - self._reach)  # the last size may yet be taken for an error
        if first >= end:
            return np.full((0, 4), np.nan)
        courses = [course for course in courses if course.num_frames >= shortest]
        if len(courses) > 1:
            boxes = primary_box_rows([self._track_so_far(course) for course in courses], end)
            if self._settled:
                said = np.concatenate(self._settled)
                self._settled = [said]
                now = boxes[first - len(said) : first]
                self.is_overruled |= not np.allclose(said, now, rtol=0, atol=1e-3, equal_nan=True)
            return boxes[first:]
        rows = np.full((end - first, 4), np.nan)
        for course in courses:
            start, stop = max(first, course.frames[0]), min(end, course.frames[-1] + 1)
            if start < stop:
                rows[start - first : stop - first] = self._boxes(course, start, stop)
        return rows

    def finish(self) -> list[FaceTrack]:
        """All tracks, the largest first (by area, summed over its frames)."""
        if not self._finished:
            self._end_shot()
            self._finished = True
            self._tracks.sort(key=lambda track: -track.presence)
            self._tracks = [
                FaceTrack(number, track.shot, track.first_frame, track.boxes, track.scores, track.detected)
                for number, track in enumerate(self._tracks)
            ]
        return list(self._tracks)

    def _end_shot(self) -> None:
        if self._waiting:
            self._search_newest()
        self._shot_courses += self._open
        num_frames = self._next - self._shot_start
        shortest = min(self.min_track_seconds * float(self.rate), num_frames / 2)
        for course in self._shot_courses:
            if course.num_frames >= shortest:
                self._tracks.append(self._track(course))
        self._open, self._shot_courses, self._search = [], [], None
        self._settled.clear()
        if num_frames > 0:
            self._shot += 1
            self._shot_start = self._next

    def _look_at_newest(self, last: _Look | None) -> None:
        frame, picture = self._next - 1, self._waiting[-1]
        most = max(
            self._every, min(round(self.search_seconds * float(self.rate)), KEPT_BYTES // picture.nbytes)
        )
        if last is not None and self._search is not None and frame - self._search.frame < most:
            look = self._follow(frame, picture, last)
            if look is not None:
                self._followed.append(look)
                return
        self._search_newest()

    def _search_newest(self) -> None:
        """Search the newest frame, and settle what happened since the last search."""
        newest = self._detect(self._next - 1, self._waiting[-1])
        first_waiting = self._next - len(self._waiting)
        if self._search is not None:
            looks = [look for look in self._followed if look.frame < newest.frame]
            if looks and _shows_others(looks[-1], newest):
                looks = [
                    self._detect(look.frame, self._waiting[look.frame - first_waiting]) for look in looks
                ]
            for before, after in pairwise([self._search, *looks, newest]):
                for look in self._looks_between(before, after, first_waiting):
                    self._associate(look)
                self._associate(after)
        else:
            self._associate(newest)
        self._search = newest
        self._followed.clear()
        self._waiting.clear()

    def _detect(self, frame: int, picture: Picture) -> _Look:
        """Search a whole frame."""
        return _Look(frame, search(self.detector, picture, self._aspect))

    def _follow(self, frame: int, picture: Picture, last: _Look) -> _Look | None:
        """A look for no more than the faces of `last`; None if one of them is not found again for certain."""
        if not last.faces or not isinstance(self.detector, FaceFollower):
            return None
        faces: list[TrackedFace] = []
        for face in last.faces:
            followed = follow(self.detector, picture, face, self._aspect)
            if followed is None:
                return None
            if any(
                followed.shift(other) < FOLLOWED_SHIFT for other in faces
            ):  # two that came to the same face
                return None
            faces.append(followed)
        return _Look(frame, faces)

    def _looks_between(self, before: _Look, after: _Look, first_waiting: int) -> list[_Look]:
        """Looks at the frames between two looks, as many as it takes to follow what changed."""
        middle = (before.frame + after.frame) // 2
        if middle == before.frame or not _differ(before, after):
            return []
        look = self._detect(middle, self._waiting[middle - first_waiting])
        earlier = self._looks_between(before, look, first_waiting)
        return [*earlier, look, *self._looks_between(look, after, first_waiting)]

    def _associate(self, look: _Look) -> None:
        """Give each face to the track whose last face is nearest, or start a track with it."""
        rate = float(self.rate)
        pairs = []
        for number, course in enumerate(self._open):
            seconds = (look.frame - course.frames[-1]) / rate
            reach = min(REACH + REACH_PER_SECOND * seconds, MAX_REACH)
            growth = min(GROWTH + GROWTH_PER_SECOND * seconds, MAX_GROWTH)
            for place, face in enumerate(look.faces):
                shift = course.last.shift(face)
                if shift <= reach and course.last.growth(face) <= growth:
                    pairs.append((shift, number, place))
        taken_courses: set[int] = set()
        taken_faces: set[int] = set()
        for _, number, place in sorted(pairs):
            if number not in taken_courses and place not in taken_faces:
                taken_courses.add(number)
                taken_faces.add(place)
                self._open[number].add(look.frame, look.faces[place])
        still_open: list[_Course] = []
        for course in self._open:
            lost_seconds = (look.frame - course.frames[-1]) / rate
            (still_open if lost_seconds <= self.max_gap_seconds else self._shot_courses).append(course)
        for place, face in enumerate(look.faces):
            if place not in taken_faces:
                still_open.append(_Course(face))
                still_open[-1].add(look.frame, face)
        self._open = still_open

    def _track(self, course: _Course) -> FaceTrack:
        first, last = course.frames[0], course.frames[-1]
        frames = np.arange(first, last + 1)
        scores = np.interp(frames, course.frames, np.array(course.states).reshape(-1, 5)[:, 4])
        detected = np.isin(frames, course.frames)
        return FaceTrack(-1, self._shot, first, self._boxes(course, first, last + 1), scores, detected)

    def _track_so_far(self, course: _Course) -> FaceTrack:
        """`_track` without scores, in a time that does not grow with the track."""
        first, stop = course.frames[0], course.frames[-1] + 1
        boxes, known = course.settled, first + len(course.settled)
        if known < stop:
            boxes = np.concatenate([boxes, self._boxes(course, known, stop)])
            sure = course.frames[-2] - self._reach if course in self._open else stop
            course.settled = boxes[: max(sure, known) - first]
        return FaceTrack(-1, self._shot, first, boxes, np.empty(0), np.empty(0, np.bool_))

    def _boxes(self, course: _Course, start: int, stop: int) -> Floats:
        """Smooth boxes of frames `start` to `stop` of a course, of the looks that have a say in them."""
        low = max(bisect_right(course.frames, start - self._reach) - 3, 0)
        high = bisect_left(course.frames, stop + self._reach) + 3
        seen = np.array(course.frames[low:high])
        knots = np.array(course.states[5 * low : 5 * high]).reshape(-1, 5)[:, :4]
        knots[:, 2:] = np.log(np.maximum(knots[:, 2:], 1e-6))
        if len(knots) > 2:  # one look that got the size wrong does not matter
            knots[1:-1, 2:] = np.median([knots[:-2, 2:], knots[1:-1, 2:], knots[2:, 2:]], axis=0)
        frames = np.arange(seen[0], seen[-1] + 1)
        states = np.stack([np.interp(frames, seen, column) for column in knots.T], axis=1)
        states = smooth(states, sigma=self._sigma)[start - seen[0] : stop - seen[0]]
        centers, halves = states[:, :2], np.exp(states[:, 2:]) / 2
        return np.concatenate([centers - halves, centers + halves], axis=1)


def _change(before: Image, after: Image) -> float:
    """Mean difference of two thumbnails in grey levels, at the shift where it is least: a pan is no cut."""
    reach_y, reach_x = THUMBNAIL_SHIFT
    inner = before[reach_y:-reach_y, reach_x:-reach_x]
    rows, columns = inner.shape[:2]
    changes = [
        cv2.norm(after[down : down + rows, right : right + columns], inner, cv2.NORM_L1)
        for down in range(2 * reach_y + 1)
        for right in range(2 * reach_x + 1)
    ]
    return min(changes) / inner.size


def _differ(before: _Look, after: _Look) -> bool:
    """Whether a prominent face came, went, moved or grew so much that the frames between need a look."""
    return _shows_others(before, after) or _shows_others(after, before)


def _shows_others(before: _Look, after: _Look) -> bool:
    """Whether `after` has a prominent face that is in another place of `before`, or not there at all."""
    widest = max((face.box.width for face in before.faces + after.faces), default=0.0)
    return any(
        not any(
            face.shift(other) <= LOOK_AGAIN_SHIFT and face.growth(other) <= LOOK_AGAIN_GROWTH
            for other in before.faces
        )
        for face in after.faces
        if face.box.width >= widest / 2
    )


def smooth(states: Floats, *, sigma: float) -> Floats:
    """Boxes over time without shaking, and without lag.

    A Gaussian of `sigma` frames, fitted with a line at each frame so that a steady motion and the ends of
    the track stay where they are. Where that strays from what a narrower Gaussian says, the head really
    moves, and the narrower one wins.

    Args:
        states: (n, 4) centre x, y in pixels, logarithm of width and height.
        sigma: Standard deviation in frames; 0 returns the states as they are.
    """
    if sigma < _LEAST_SIGMA or len(states) < 3:
        return states
    close_sigma = _close_sigma(sigma)
    steady, close = _fit_lines(states[:, :2], sigma), _fit_lines(states[:, :2], close_sigma)
    # A face's size hardly changes, and its measure shakes more than its place: smooth it for longer.
    sizes = _fit_lines(states[:, 2:], sigma * _SIZE_SIGMA)
    stray = np.linalg.norm(close - steady, axis=1) / np.exp(sizes[:, 0])
    trust = np.clip((stray - 0.02) / 0.04, 0, 1)
    # Trust it a little before and after, too, where the motion starts and stops, and change over without a
    # jump.
    reach = round(2 * close_sigma)
    trust = np.lib.stride_tricks.sliding_window_view(np.pad(trust, reach), 2 * reach + 1).max(axis=1)
    trust = np.clip(_fit_lines(trust[:, None], close_sigma), 0, 1)
    return np.concatenate([steady + trust * (close - steady), sizes], axis=1)


def smoothing_reach(sigma: float) -> int:
    """Frames that a box depends on, to each side, when `smooth` has done with it."""
    if sigma <= 0:
        return 1
    close_sigma = _close_sigma(sigma)
    return _reach(sigma * _SIZE_SIGMA) + round(2 * close_sigma) + _reach(close_sigma)


_LEAST_SIGMA = (
    0.1  # with less, as in a slide show, a neighbour's weight is nothing, and soon no number at all
)
_SIZE_SIGMA = 1.5  # in the sigma of the places


def _close_sigma(sigma: float) -> float:
    return max(sigma * 0.3, 0.8)


def _reach(sigma: float) -> int:
    return int(np.ceil(3 * sigma))


def _fit_lines(values: Floats, sigma: float) -> Floats:
    """Value at each row of the line through its neighbours, weighted by a Gaussian of `sigma` rows; (n, c)."""
    reach = min(_reach(sigma), len(values) - 1)
    offsets = np.arange(-reach, reach + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)

    def total(column: Floats, kernel: Floats) -> Floats:
        """Sum over the neighbours at `offsets` of column × kernel; nothing lies beyond the ends."""
        return np.convolve(column, kernel[::-1])[reach : reach + len(column)]

    ones = np.ones(len(values))
    count, first, second = (total(ones, weights * offsets**power) for power in range(3))
    sums = np.stack([total(column, weights) for column in values.T], axis=1)
    leaning = np.stack([total(column, weights * offsets) for column in values.T], axis=1)
    spread = count * second - first**2
    return (second[:, None] * sums - first[:, None] * leaning) / spread[:, None]


def primary_boxes(tracks: list[FaceTrack], num_frames: int, which: int | None = None) -> list[Box | None]:
    """One box per frame: the face to sync, or None where it cannot be seen. See `primary_box_rows`."""
    rows = primary_box_rows(tracks, num_frames, which)
    return [None if np.isnan(row[0]) else Box(*row.tolist()) for row in rows]


def primary_box_rows(tracks: list[FaceTrack], num_frames: int, which: int | None = None) -> Floats:
    """One box per frame, (num_frames, 4) as in `FaceTrack`: the face to sync, or NaN where it cannot be seen.

    Faces are counted by size anew in each shot, so that after a cut the same role goes on. A face that
    comes back after a while, of about the size that it had, while nobody else took its place, counts as the same one.

    Args:
        tracks: What `FaceTracker.finish` returned.
        num_frames: Length of the result.
        which: 0 or None is the largest face of each shot, 1 the second largest, and so on.
    """
    boxes = np.full((num_frames, 4), np.nan)
    for shot in {track.shot for track in tracks}:
        people = _people([track for track in tracks if track.shot == shot])
        for track in people[which or 0] if (which or 0) < len(people) else []:
            rows = boxes[track.first_frame : track.last_frame + 1]
            rows[:] = track.boxes[: len(rows)]
    return boxes


def _people(tracks: list[FaceTrack]) -> list[list[FaceTrack]]:
    """Tracks of one shot, grouped into those that may be the same person, the largest person first."""
    people: list[list[FaceTrack]] = []
    for track in sorted(tracks, key=lambda track: -track.presence):
        same = next(
            (person for person in people if all(_may_be_same(track, other) for other in person)), None
        )
        if same is None:
            people.append([track])
        else:
            same.append(track)
    return sorted(people, key=lambda person: -sum(track.presence for track in person))


def _may_be_same(track: FaceTrack, other: FaceTrack) -> bool:
    if track.first_frame <= other.last_frame and other.first_frame <= track.last_frame:
        return False
    earlier, later = sorted((track, other), key=lambda track: track.first_frame)
    before, after = TrackedFace(Box(*earlier.boxes[-1]), 1.0), TrackedFace(Box(*later.boxes[0]), 1.0)
    return before.shift(after) <= 3.0 and before.growth(after) <= 2.0
