"""A face followed as its frames come."""

from fractions import Fraction

import numpy as np
import pytest

from lipsmith.errors import UsageError
from lipsmith.faces.detect import Detection
from lipsmith.faces.live import LiveFaceTracker
from lipsmith.faces.mtcnn import MtcnnDetector
from lipsmith.faces.track import FaceTracker, face_box, primary_boxes
from lipsmith.geometry import Box
from lipsmith.media.read import read_pictures
from lipsmith.picture import ArrayPicture

FACE = Box(60, 40, 120, 124)


class Scene:
    """A detector that is told what there is to see, and a source of frames that do not matter."""

    name = "told"

    def __init__(self, *, follows=False):
        self.boxes = []
        self.num_searches = self.num_follows = 0
        if follows:
            self.look_again = self._look_again

    def frame(self, *boxes, grey=90):
        self.boxes = list(boxes)
        return ArrayPicture(np.full((200, 300, 3), grey, np.uint8))

    def detect(self, image):
        self.num_searches += 1
        return [Detection(box, 1.0) for box in self.boxes]

    def _look_again(self, image, near):
        self.num_follows += 1
        # What it is given is the surroundings of the face: the true one has the same corner.
        for box in self.boxes:
            if abs(box.width - near.width) < 5:
                return Detection(near, 0.9)
        return None


def seen(box):
    return face_box(Detection(box, 1.0))


def test_the_first_box_is_the_detectors():
    scene = Scene()
    box = LiveFaceTracker(scene).box(scene.frame(FACE))
    np.testing.assert_allclose([*box.center, box.width, box.height], _numbers(seen(FACE)))


def _numbers(box):
    return [*box.center, box.width, box.height]


def test_a_shaking_measure_of_a_still_face_is_steadied():
    scene = Scene()
    tracker = LiveFaceTracker(scene)
    rng = np.random.default_rng(0)
    true, boxes = [], []
    for _ in range(200):
        shake = rng.normal(0, 0.4, 2)
        measured = FACE.shifted(*shake)
        true.append(_numbers(seen(measured)))
        boxes.append(_numbers(tracker.box(scene.frame(measured))))
    assert np.std(np.diff(boxes, axis=0)[:, 0]) < np.std(np.diff(true, axis=0)[:, 0]) / 4


def test_a_moving_face_is_never_left_behind_by_more_than_a_few_hundredths_of_its_width():
    scene = Scene()
    tracker = LiveFaceTracker(scene)
    for index in range(60):
        speed = 0 if index < 10 else 3.0  # pixels a frame
        place = FACE.shifted(speed * max(index - 10, 0), 0)
        box = tracker.box(scene.frame(place))
        assert abs(box.center[0] - seen(place).center[0]) < 0.07 * FACE.width


def test_a_blink_of_the_detector_is_bridged_and_an_absence_is_not():
    scene = Scene()
    tracker = LiveFaceTracker(scene, rate=Fraction(25))
    assert tracker.box(scene.frame(FACE)) is not None
    held = [tracker.box(scene.frame()) is not None for _ in range(6)]
    assert held == [True, True, False, False, False, False]


def test_it_stays_with_a_person_though_a_larger_face_appears():
    scene = Scene()
    tracker = LiveFaceTracker(scene)
    larger = Box(180, 20, 280, 160)
    tracker.box(scene.frame(FACE))
    for _ in range(30):
        box = tracker.box(scene.frame(larger, FACE))
    assert abs(box.center[0] - seen(FACE).center[0]) < 1
    for index in range(10):  # out of sight for less than two seconds: nobody takes the place
        assert (tracker.box(scene.frame(larger)) is None) == (index > 1)
    assert abs(_first_box(tracker, scene, FACE, larger).center[0] - seen(FACE).center[0]) < 1
    assert tracker.shot == 1
    for _ in range(60):
        tracker.box(scene.frame())
    assert abs(_first_box(tracker, scene, FACE, larger).center[0] - seen(larger).center[0]) < 1
    assert tracker.shot == 2  # nothing that was kept of the first one's face is of use


def _first_box(tracker, scene, *boxes):
    return next(box for _ in range(10) if (box := tracker.box(scene.frame(*boxes))) is not None)


def test_a_rank_can_be_asked_for():
    scene = Scene()
    larger = Box(180, 20, 280, 160)
    second = LiveFaceTracker(scene, face=1).box(scene.frame(FACE, larger))
    assert abs(second.center[0] - seen(FACE).center[0]) < 1
    assert LiveFaceTracker(scene, face=2).box(scene.frame(FACE, larger)) is None


def test_a_cut_begins_anew():
    scene = Scene()
    tracker = LiveFaceTracker(scene)
    other = Box(180, 20, 280, 160)
    for _ in range(5):
        tracker.box(scene.frame(FACE, grey=20))
    assert tracker.shot == 1
    box = tracker.box(scene.frame(other, grey=220))
    assert tracker.shot == 2
    assert abs(box.center[0] - seen(other).center[0]) < 1


def test_a_face_that_can_be_followed_is_searched_for_once():
    scene = Scene(follows=True)
    tracker = LiveFaceTracker(scene)
    for _ in range(50):
        assert tracker.box(scene.frame(FACE)) is not None
    assert (scene.num_searches, scene.num_follows) == (1, 49)


def test_nobody_in_sight_costs_few_searches():
    scene = Scene()
    tracker = LiveFaceTracker(scene, rate=Fraction(25))
    for _ in range(100):
        assert tracker.box(scene.frame()) is None
    assert scene.num_searches <= 30


def test_a_rate_must_be_above_zero():
    with pytest.raises(UsageError, match="above 0"):
        LiveFaceTracker(Scene(), rate=Fraction(0))


def test_on_real_footage_it_agrees_with_the_tracker_that_looks_both_ways(shared_clips):
    path = next(iter(sorted((shared_clips / "promo").glob("*.mp4"))))
    detector = MtcnnDetector()
    tracker, live = FaceTracker(detector), LiveFaceTracker(detector)
    boxes = []
    for shown in read_pictures(path):
        if shown.index == 50:
            break
        tracker.add(shown.picture)
        boxes.append(live.box(shown.picture))
    whole = primary_boxes(tracker.finish(), len(boxes))
    pairs = [(one, other) for one, other in zip(boxes, whole, strict=True) if one and other]
    assert len(pairs) >= 0.9 * sum(box is not None for box in whole) > 20
    errors = [
        np.hypot(one.center[0] - other.center[0], one.center[1] - other.center[1]) / other.width
        for one, other in pairs
    ]
    assert max(errors) < 0.1
    assert np.mean(errors) < 0.03
