"""The reference: the face whose lips, teeth and skin the generator takes over.

The published system shows the current frame as the reference. Its mouth then shines through: what the person
says in the video is seen again in the result, above all while nobody speaks. The `steady` form hides it: one
frame of a similar pose lends its lower face, laid on the current frame's, and is kept for as long as the head stays
near that pose: one whose mouth is at rest, of the frames of the next second where they are known. The one
implementation for training, inference and evaluation; faces are crops, S × S × 3 uint8 BGR.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.compose.detail import LentDetail, detail_of
from lipsmith.compose.masks import lower_face_mask
from lipsmith.conditioning import ReferenceForm, lower_half_start
from lipsmith.geometry import Image, resize
from lipsmith.timebase import TRAINING_RATE_HZ

Warp = NDArray[np.float32]  # 2 × 3: pixels of the face → pixels of the reference
SharpFace = Callable[[], Image]  # the same face crop at a higher resolution, made when it is asked for

_ITERATIONS, _PRECISION = 20, 1e-3
_AS_GOOD_AS_EQUAL = 0.5  # grey levels
_SMOOTHING = 5  # pixels of the filter under which alignment looks at faces
_LARGEST_TURN = 0.35  # radians
_LARGEST_SHIFT = 0.25  # of the crop's side
_SHAKE = 0.007  # of the side: smaller moves from frame to frame are halved, as most are noise
_CONTRAST_RANGE = (0.25, 2.0)

# Misfits, in grey levels.
_SAME_POSE = 9.0  # up to which a reference is kept
_NEW_POSE = 12.0  # from which the frame itself becomes a reference
_BETTER = 0.7  # of the misfit: with less, another reference takes over
_MOST_KEPT = 24
_FADED = (
    1.4  # times the contrast of a reference: with more, a face shows that the reference was taken in a fade
)
_MOST_TRIED = 2
_FADE_FRAMES = 4
_AS_CLEAR = 0.85  # of the contrast of the one that is kept: with less, a face does not take its place
# Of what is fine in another's upper half: less is out of focus. Between frames of one clip it is 0.85 to 1.18, after a
# blur of one pixel in 96 0.35 to 0.6.
_AS_SHARP, _SOFT = 0.75, 0.6
# Of the openness of the mouth that is kept: with less, no mouth is in sight, but a hand for example. None of 90 clips
# has a mouth below 0.46 of the one at rest; smooth skin before it has 0.24 at most.
_NO_MOUTH = 0.35

LOOK_AHEAD_SECONDS = 1
"""How far ahead of a frame a mouth at rest is looked for where frames are known before they are shown."""
MOUTH = (0.58, 0.85, 0.29, 0.71)  # rows from, to, columns from, to; shares of the side
DARK = 10.0  # grey levels: of darker mouths edges are noise
_MOST_JUDGED = 5
_RECENT_FRAMES = 25
_ELSEWHERE_FRAMES = 10  # least distance of an open mouth of another moment


@dataclass(frozen=True, slots=True)
class PlacedReference:
    """A reference laid on a face.

    Attributes:
        image: What the generator is shown.
        warp: The alignment.
        misfit: Mean difference of the upper halves in grey levels: how far the poses are apart.
        contrast: What the reference's contrast was multiplied by.
    """

    image: Image
    warp: Warp
    misfit: float
    contrast: float


def place_reference(reference: Image, face: Image, start: Warp | None = None) -> PlacedReference:
    """`face` with the lower face of `reference`, turned, shifted and coloured so that the upper halves agree.

    Args:
        reference: The frame that lends its mouth.
        face: The current frame; upper half and what lies outside of the lower face stay its own.
        start: A first guess of the alignment, that of the frame before.
    """
    return _placed(_Measured.of(reference), _Measured.of(face), start)


@dataclass(frozen=True, slots=True)
class Sight:
    """A face, and how to see it sharply: `sharp` is asked only where the face is kept."""

    face: Image
    sharp: SharpFace | None = None


def openness(face: Image) -> float:
    """How much shows of the inside of a mouth, 0 for none: edges of lips, teeth and shade, over its brightness.

    Lips that rest have hardly any edges from top to bottom. To be compared between faces of one person only.
    """
    size = face.shape[0]
    top, bottom, left, right = (round(share * size) for share in MOUTH)
    grey = cv2.cvtColor(np.ascontiguousarray(face[top:bottom, left:right]), cv2.COLOR_BGR2GRAY)
    edges = cv2.Sobel(grey, cv2.CV_16S, 0, 1)
    return cv2.norm(edges, cv2.NORM_L1) / edges.size / (cv2.mean(grey)[0] + DARK)


@dataclass(frozen=True, slots=True)
class MouthChoice:
    """Which mouths are kept.

    Attributes:
        rank: Of the faces to choose from, ordered by `openness`: 0 is the least open one, 1 the widest.
        better: Times the openness of the one that is kept: a face beyond that takes its place.
    """

    rank: float
    better: float

    def ordered(self, values: Sequence[float]) -> list[int]:
        """Places of the faces with these openness values, the most wanted first; those without a mouth are left out."""
        order = np.argsort(values, kind="stable")
        order = order[np.sort(values) >= _NO_MOUTH * np.median(values)]
        wanted = round(self.rank * (len(order) - 1))
        return [int(order[i]) for i in np.argsort(np.abs(np.arange(len(order)) - wanted), kind="stable")]

    def is_better(self, value: float, kept: float) -> bool:
        """Whether a face so open is to take the place of one that is `kept`."""
        return (
            _NO_MOUTH * kept <= value < self.better * kept if self.better < 1 else value > self.better * kept
        )


AT_REST = MouthChoice(rank=0.25, better=0.7)
"""Not the least open: lips pressed together, as for an m, are no rest."""
OPEN = MouthChoice(rank=1, better=1.3)
"""The widest."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """A face, and what is asked of it again and again."""

    image: Image
    grey: NDArray[np.uint8]
    mean: Sequence[float]  # of the upper half, by channel
    spread: float  # of the upper half's brightness
    sharpness: float  # of the upper half, in grey levels

    @classmethod
    def of(cls, face: Image) -> "_Measured":
        """Measure a face."""
        grey = np.asarray(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY), np.uint8)
        upper = grey[_upper_region(face.shape[0])]
        sharpness = cv2.norm(cv2.Laplacian(upper, cv2.CV_16S), cv2.NORM_L1) / upper.size
        return cls(face, grey, *_light(face), sharpness)


def _placed(reference: _Measured, face: _Measured, start: Warp | None) -> PlacedReference:
    size = face.image.shape[0]
    warp = _alignment(reference.grey, face.grey, start)
    moved = cv2.warpAffine(
        reference.image,
        warp,
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    shown = face.image.astype(np.float32)
    recoloured, contrast = _recoloured(np.asarray(moved, np.uint8), face)
    upper = _upper_region(size)
    misfit = cv2.norm(recoloured[upper], shown[upper], cv2.NORM_L1) / shown[upper].size
    lower = slice(lower_half_start(size), size)  # above, the mask is 0
    mask = lower_face_mask(size)[lower, :, None]
    image = face.image.copy()
    mixed = shown[lower] + mask * (recoloured[lower] - shown[lower])
    image[lower] = cv2.convertScaleAbs(mixed)  # rounds; what lies between two pictures is not negative
    return PlacedReference(image, warp, misfit, contrast)


def _alignment(other: NDArray[np.uint8], grey: NDArray[np.uint8], start: Warp | None) -> Warp:
    """Turn and shift that lay the upper half of `grey` on that of `other`; none where they share nothing."""
    size = grey.shape[0]
    region = _upper_region(size)
    corner = np.array([region[1].start, region[0].start])
    template = grey[region]

    def error(warp: Warp) -> float:
        moved = cv2.warpAffine(
            other,
            _from_corner(warp, corner),
            template.shape[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        )
        # The spread of the difference, not its size: light may have changed.
        return float(cv2.meanStdDev(cv2.subtract(template, moved, dtype=cv2.CV_16S))[1][0, 0])

    known = [np.eye(2, 3, dtype=np.float32)] + ([] if start is None else [start])
    guess, guess_error = min(((warp, error(warp)) for warp in known), key=lambda pair: pair[1])
    if guess_error < _AS_GOOD_AS_EQUAL:  # ECC wanders off from where nothing is left to gain
        return guess
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ITERATIONS, _PRECISION)
    try:
        _, found = cv2.findTransformECC(
            template,
            other,
            _from_corner(guess, corner),
            cv2.MOTION_EUCLIDEAN,
            criteria,
            _everywhere(size),
            _SMOOTHING,
        )
    except cv2.error:  # what OpenCV says of faces too unlike, or without any contrast
        return guess
    warp = _from_corner(np.asarray(found, np.float32), -corner)
    middle = np.array([size / 2, size / 2, 1.0])
    is_small = (
        abs(np.arctan2(warp[1, 0], warp[0, 0])) <= _LARGEST_TURN
        and np.abs(warp @ middle - middle[:2]).max() <= _LARGEST_SHIFT * size
    )
    if not is_small or error(warp) >= guess_error:
        return guess
    if start is not None and np.abs((warp - start) @ middle).max() < _SHAKE * size:
        return np.asarray((warp + start) / 2, np.float32)
    return warp


@lru_cache(maxsize=4)
def _everywhere(size: int) -> NDArray[np.uint8]:
    return np.full((size, size), 255, np.uint8)


def _from_corner(warp: Warp, corner: NDArray[np.int_]) -> Warp:
    """`warp` for coordinates that are counted from `corner`."""
    shift = warp[:, 2] + warp[:, :2] @ corner
    return np.concatenate((warp[:, :2], shift[:, None]), axis=1).astype(np.float32)


def _upper_region(size: int) -> tuple[slice, slice]:
    """Rows and columns of a face crop by which poses are compared: eyes and brows, without the edges."""
    edge = size // 12
    return slice(edge, lower_half_start(size)), slice(edge, size - edge)


def _recoloured(moved: Image, face: _Measured) -> tuple[NDArray[np.float32], float]:
    """`moved` with the brightness, contrast and tint of `face`, by their upper halves: light changes, scenes fade.

    And what the contrast was multiplied by.
    """
    old, old_spread = _light(moved)
    contrast = min(max((face.spread + 1) / (old_spread + 1), _CONTRAST_RANGE[0]), _CONTRAST_RANGE[1])
    change = np.zeros((3, 4))
    for channel in range(3):
        change[channel, channel] = contrast
        change[channel, 3] = face.mean[channel] - contrast * old[channel]
    recoloured = cv2.transform(moved.astype(np.float32), change)
    return np.asarray(np.clip(recoloured, 0, 255, out=recoloured), np.float32), contrast


def _light(face: Image) -> tuple[Sequence[float], float]:
    """Mean of each channel, and spread of the brightness, of the upper half."""
    upper = face[: lower_half_start(face.shape[0])]
    brightness = cv2.transform(upper.astype(np.float32), np.full((1, 3), 1 / 3))
    return cv2.mean(upper)[:3], float(cv2.meanStdDev(brightness)[1][0, 0])


@dataclass(slots=True)
class _Entry:
    face: _Measured
    pose: NDArray[np.float32]
    openness: float
    detail: NDArray[np.uint8] | None
    warp: Warp | None = None


class SteadyReference:
    """Keeps references of one person through one shot, and shows the right one; memory is bounded.

    The first face, or one of those that follow, is the first reference: the one whose mouth `choice` wants. It stays
    while the head is near its pose; when another kept reference is much nearer, that takes over within a few frames; in
    a pose never seen, one more is kept likewise. What was kept in a fade gives way as soon as the picture has more
    contrast, what was out of focus to what is in focus, and a mouth to one that the choice wants much more. A mouth at
    rest that shows far less than all of the last `_RECENT_FRAMES` was none: something lay before it.

    `lent` is the detail of the frame that the reference shown last was made of; none where `show` was given no sharp
    faces.
    """

    def __init__(self, choice: MouthChoice = AT_REST) -> None:
        self.choice = choice
        self.lent: tuple[LentDetail, ...] = ()
        self._entries: list[_Entry] = []
        self._current: _Entry | None = None
        self._previous: _Entry | None = None
        self._fade = 0
        # Openness of what was seen since the current one is shown.
        self._recent: deque[float] = deque(maxlen=_RECENT_FRAMES)

    def reset(self) -> None:
        """Forget everything: a new shot."""
        self._entries.clear()
        self._current = self._previous = None
        self.lent = ()
        self._fade = 0
        self._recent.clear()

    def show(self, face: Image, sharp: SharpFace | None = None, ahead: Sequence[Sight] = ()) -> Image:
        """What the generator sees beside the next `face`; always a new array.

        `ahead` are the faces that follow in the same shot, about `LOOK_AHEAD_SECONDS` of them, as far as known.
        """
        return self._show(_Measured.of(face), openness(face), Sight(face, sharp), ahead)

    def _show(self, measured: "_Measured", opened: float, now: Sight, ahead: Sequence[Sight]) -> Image:
        """`show` a face that was measured."""
        if self._current is None:
            self._current = self._keep(measured, now, ahead)
        self._recent.append(opened)
        if _is_unclear(self._current.face, measured):
            self._entries = [entry for entry in self._entries if not _is_unclear(entry.face, measured)]
            self._change_to(self._keep(measured, now, ahead))
        placed = self._place(self._current, measured)
        if placed.misfit > _SAME_POSE:
            placed = self._look_for_another(measured, placed, now, ahead)
        elif not self._fade and (self._is_wanted(measured, opened) or self._is_no_mouth()):
            self._entries = [entry for entry in self._entries if entry is not self._current]
            self._change_to(self._keep(measured, now))
            placed = self._place(self._current, measured)
        share = self._fade / (_FADE_FRAMES + 1) if self._previous is not None else 0.0
        image = placed.image
        if share and self._previous is not None:
            before = self._place(self._previous, measured).image
            image = np.asarray(cv2.addWeighted(image, 1 - share, before, share, 0), np.uint8)
            self._fade -= 1
        detail, strength = self._current.detail, (1 - share) * placed.contrast
        self.lent = () if detail is None else (LentDetail(image, detail, placed.warp, strength),)
        return image

    def _is_wanted(self, measured: _Measured, opened: float) -> bool:
        """Whether a face of the current pose is to take the current one's place."""
        assert self._current is not None
        kept = self._current.face
        is_clear = (
            measured.spread >= _AS_CLEAR * kept.spread and measured.sharpness >= _AS_SHARP * kept.sharpness
        )
        return is_clear and self.choice.is_better(opened, self._current.openness)

    def _is_no_mouth(self) -> bool:
        """Whether all that was seen of late shows so much more of a mouth that the current one is none."""
        assert self._current is not None
        is_long = len(self._recent) == self._recent.maxlen
        return is_long and self._current.openness < _NO_MOUTH * min(self._recent)

    def _look_for_another(
        self, face: _Measured, placed: PlacedReference, now: Sight, ahead: Sequence[Sight]
    ) -> PlacedReference:
        """Change to the reference that fits better than the current one, if there is one."""
        pose = _pose(face.image)
        others = [entry for entry in self._entries if entry is not self._current]
        others.sort(key=lambda entry: cv2.norm(entry.pose, pose, cv2.NORM_L1))
        tried = [(self._place(entry, face), entry) for entry in others[:_MOST_TRIED]]
        best, entry = min(tried, key=lambda pair: pair[0].misfit, default=(placed, None))
        if entry is None or best.misfit > _BETTER * placed.misfit:
            if min(best.misfit, placed.misfit) <= _NEW_POSE or len(self._entries) >= _MOST_KEPT:
                return placed
            entry = self._keep(face, now, ahead)
            best = self._place(entry, face)
        self._change_to(entry)
        return best

    def _change_to(self, entry: _Entry) -> None:
        self._previous, self._current, self._fade = self._current, entry, _FADE_FRAMES
        self._recent.clear()

    def _place(self, entry: _Entry, face: _Measured) -> PlacedReference:
        placed = _placed(entry.face, face, entry.warp)
        entry.warp = placed.warp
        return placed

    def _keep(self, face: _Measured, now: Sight, ahead: Sequence[Sight] = ()) -> _Entry:
        """Keep the face of the pose of `face` whose mouth is wanted most, of `now` and those `ahead`."""
        sights = [now, *ahead]
        values = [openness(sight.face) for sight in sights]
        chosen, number = face, 0
        for place in self.choice.ordered(values)[:_MOST_JUDGED]:
            if place == 0:
                break
            other = _Measured.of(sights[place].face)
            is_sharp = other.sharpness >= _AS_SHARP * face.sharpness
            if is_sharp and not _is_faded(other, face) and _placed(other, face, None).misfit <= _SAME_POSE:
                chosen, number = other, place
                break
        kept, sharp = replace(chosen, image=chosen.image.copy()), sights[number].sharp
        detail = None if sharp is None else detail_of(sharp())
        self._entries.append(_Entry(kept, _pose(kept.image), values[number], detail))
        return self._entries[-1]


def _is_faded(kept: _Measured, face: _Measured) -> bool:
    return face.spread > _FADED * kept.spread + 1  # a grey level of noise is no contrast


def _is_unclear(kept: _Measured, face: _Measured) -> bool:
    """Whether `face` shows that another was kept in a fade, or out of focus."""
    return _is_faded(kept, face) or _SOFT * face.sharpness > kept.sharpness + 1


def _pose(face: Image) -> NDArray[np.float32]:
    """The upper half as a small picture, 24 × 12."""
    return resize(face[: lower_half_start(face.shape[0])], 24, 12).astype(np.float32)


class PairedReference:
    """Keeps two references of one person through one shot: a mouth at rest, and one that is open."""

    def __init__(self) -> None:
        self._at_rest, self._open = SteadyReference(AT_REST), SteadyReference(OPEN)

    @property
    def lent(self) -> tuple[LentDetail, ...]:
        """See `SteadyReference`."""
        return self._at_rest.lent + self._open.lent

    def reset(self) -> None:
        """Forget everything: a new shot."""
        self._at_rest.reset()
        self._open.reset()

    def show(
        self, face: Image, sharp: SharpFace | None = None, ahead: Sequence[Sight] = ()
    ) -> NDArray[np.uint8]:
        """What the generator sees beside the next `face`, S × S × 6; see `SteadyReference`."""
        seen = _Measured.of(face), openness(face), Sight(face, sharp), ahead
        return np.concatenate([self._at_rest._show(*seen), self._open._show(*seen)], axis=2)


class StillReference:
    """Shows the first face of each shot beside all of them."""

    lent: tuple[LentDetail, ...] = ()  # it paints another pose than the frame's

    def __init__(self) -> None:
        self._first: Image | None = None

    def reset(self) -> None:
        """Forget everything: a new shot."""
        self._first = None

    def show(self, face: Image, sharp: SharpFace | None = None, ahead: Sequence[Sight] = ()) -> Image:
        """What the generator sees beside the next `face`."""
        if self._first is None:
            self._first = face.copy()
        return self._first


def kept_reference(form: ReferenceForm) -> SteadyReference | PairedReference | StillReference | None:
    """What keeps references of `form` from frame to frame; None where each frame is its own."""
    return {
        "frame": None,
        "steady": SteadyReference(),
        "pair": PairedReference(),
        "still": StillReference(),
    }[form]


def clip_references(form: ReferenceForm, faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What inference shows beside each of the `faces` (T, S, S, 3) of one shot of 25 frames a second, in order."""
    kept = kept_reference(form)
    if kept is None:
        return faces
    count = int(LOOK_AHEAD_SECONDS * TRAINING_RATE_HZ)
    sights = [Sight(face) for face in faces]
    return np.stack(
        [kept.show(face, ahead=sights[index + 1 : index + 1 + count]) for index, face in enumerate(faces)]
    )


def placed_references(
    form: ReferenceForm, references: Iterable[NDArray[np.uint8]], faces: Iterable[Image]
) -> NDArray[np.uint8]:
    """What `form` shows of given `references` beside each of `faces`, (T, S, S, 3): for training and tests.

    Of the form `pair` the references, and what is shown of them, are (T, S, S, 6).
    """
    if form == "frame":
        return np.stack(list(references))
    if form == "still":
        shown = list(references)
        return np.stack(shown[:1] * len(shown))
    return np.stack(
        [
            np.concatenate([place_reference(one, face).image for one in views_of(reference)], axis=2)
            for reference, face in zip(references, faces, strict=True)
        ]
    )


def views_of(references: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """(…, 3 n) → n × (…, 3): the references that are shown at a time."""
    count = references.shape[-1] // 3
    return [np.ascontiguousarray(part) for part in np.split(references, count, axis=-1)]


def references_elsewhere(form: ReferenceForm, faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of another moment of the clip beside each of its `faces` (T, S, S, 3), so that the answer is not shown."""
    moved = np.roll(faces, len(faces) // 2, axis=0)
    if form == "pair":
        moved = np.concatenate([moved, _open_elsewhere(faces)], axis=-1)
    return placed_references(form, moved, faces)


def _open_elsewhere(faces: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """For each of the faces the widest open one that is `_ELSEWHERE_FRAMES` away, or as far as the clip goes."""
    values, times = np.array([openness(face) for face in faces]), np.arange(len(faces))
    distances = np.abs(times[:, None] - times)
    far = distances >= np.minimum(_ELSEWHERE_FRAMES, distances.max(axis=1, keepdims=True))
    return faces[np.where(far, values, -1).argmax(axis=1)]
