"""What every face detector must do: a new entry of `DETECTORS` is finished when this passes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.testing import assert_allclose

from lipsmith.faces.detect import DETECTORS, resolve_detector

from ..faces.portrait import PORTRAIT_FACE, PORTRAIT_LANDMARKS, portrait, scene


@pytest.fixture(scope="module", params=sorted(DETECTORS))
def detector(request):
    return resolve_detector(request.param)


def test_it_carries_the_name_that_it_is_found_by(detector):
    assert resolve_detector(detector.name).name == detector.name
    assert detector.name in DETECTORS


def test_a_portrait_is_one_face_where_it_is(detector):
    (face,) = detector.detect(portrait())
    assert face.box.iou(PORTRAIT_FACE) > 0.6
    assert 0.5 < face.score <= 1


def test_landmarks_come_left_to_right_or_not_at_all(detector):
    (face,) = detector.detect(portrait())
    if face.landmarks is not None:
        assert face.landmarks.shape == (5, 2)
        assert face.landmarks.dtype == np.float64
        assert_allclose(face.landmarks, PORTRAIT_LANDMARKS, atol=8)


def test_an_image_without_a_face_has_none(detector):
    assert detector.detect(np.full((240, 320, 3), 127, np.uint8)) == []


def test_every_face_is_found_once_and_the_most_certain_comes_first(detector):
    places = [(110.0, 180.0, 100.0), (330.0, 180.0, 80.0), (530.0, 190.0, 90.0)]
    found = detector.detect(scene(640, 360, faces=places))
    assert len(found) == 3
    assert_allclose(sorted(face.box.center for face in found), [place[:2] for place in places], atol=15)
    scores = [face.score for face in found]
    assert scores == sorted(scores, reverse=True)


def test_the_same_image_gives_the_same_faces_and_stays_as_it_was(detector):
    image = portrait()
    image.flags.writeable = False
    before = image.copy()
    first = detector.detect(image)
    detector.detect(scene(faces=[(200.0, 180.0, 90.0)]))
    second = detector.detect(image)
    assert [face.box for face in first] == [face.box for face in second]
    assert np.array_equal(image, before)


def test_threads_that_ask_at_once_get_their_own_answers(detector):
    images = [portrait(), scene(faces=[(200.0, 180.0, 90.0)])]
    expected = [[face.box for face in detector.detect(image)] for image in images]

    def ask(place):
        return [[face.box for face in detector.detect(images[place])] for _ in range(5)]

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(ask, (0, 1))) == [[boxes] * 5 for boxes in expected]


def test_a_part_of_a_larger_array_is_read_as_it_is_seen(detector):
    image = portrait()
    within = np.zeros((600, 600, 3), np.uint8)
    within[40:552, 30:542] = image
    (expected,) = detector.detect(image)
    (face,) = detector.detect(within[40:552, 30:542])
    assert face.box == expected.box
