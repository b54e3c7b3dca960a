import cv2
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from lipsmith.geometry import Crop
from lipsmith.picture import ArrayPicture, PlanarPicture, face_in, to_bgr, to_planes


def planar(height=120, width=160, *, matrix=1, seed=0):
    """Smooth planes, as pictures have, with noise in the luma."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(60, 190, (3, 6, 8)).astype(np.float32)
    luma, blue, red = (
        cv2.resize(plane, (width // step, height // step), interpolation=cv2.INTER_CUBIC)
        for plane, step in zip(small, (1, 2, 2), strict=True)
    )
    luma = np.clip(luma + rng.normal(0, 5, luma.shape), 16, 235)
    blue, red = 128 + (blue - 128) / 3, 128 + (red - 128) / 3
    return PlanarPicture(*(np.rint(plane).astype(np.uint8) for plane in (luma, blue, red)), matrix)


def grey_planes(luma, blue, red, matrix):
    return to_bgr([np.full((2, 2), level, np.uint8) for level in (luma, blue, red)], matrix)[0, 0].tolist()


@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
def test_black_white_and_grey_are_the_ends_and_the_middle_of_the_limited_range(matrix):
    assert grey_planes(16, 128, 128, matrix) == [0, 0, 0]
    assert grey_planes(235, 128, 128, matrix) == [255, 255, 255]
    assert grey_planes(126, 128, 128, matrix) == [128, 128, 128]


@pytest.mark.parametrize(("matrix", "red"), [(1, (63, 102, 240)), (6, (81, 90, 240))])
def test_pure_red_has_the_planes_of_the_colour_bars(matrix, red):
    assert grey_planes(*red, matrix)[2] >= 253
    planes = to_planes(np.array([[[0, 0, 255]]], np.float32), matrix)[0, 0]
    assert_allclose(planes, red, atol=0.6)


def test_a_part_is_that_part_of_the_whole():
    picture = planar()
    whole = picture.bgr()
    assert whole.shape == (120, 160, 3)
    for rows, columns in (
        (slice(31, 78), slice(45, 99)),
        (slice(0, 7), slice(154, 160)),
        (slice(50, 51), slice(0, 1)),
    ):
        assert_array_equal(picture.part(rows, columns), whole[rows, columns])


def test_halves_are_averages():
    picture = planar()
    for times in (1, 2):
        small = ArrayPicture(picture.bgr()).halved(times)
        assert small.shape == (120 >> times, 160 >> times, 3)
        assert_allclose(picture.halved(times).astype(int), small, atol=4)
    assert_array_equal(picture.halved(0), picture.bgr())


def test_a_sketch_is_the_picture_in_small():
    picture = planar(480, 640)
    exact = cv2.resize(picture.bgr(), (32, 18), interpolation=cv2.INTER_AREA)
    for held in (picture, ArrayPicture(picture.bgr())):
        sketch = held.sketch(32, 18)
        assert sketch.shape == (18, 32, 3)
        assert np.abs(sketch.astype(int) - exact).mean() < 4


@pytest.mark.parametrize(
    "crop", [Crop(31, 20, 100, 111, 48), Crop(-9, 60, 70, 140, 48), Crop(120, -5, 190, 61, 48)]
)
def test_a_face_is_the_same_of_planes_and_of_bgr(crop):
    picture = planar()
    assert_array_equal(face_in(picture, crop), crop.extract(picture.bgr()))
    with pytest.raises(ValueError, match="outside"):
        face_in(picture, Crop(400, 20, 470, 111, 48))


def test_a_copy_is_one_block_of_memory_of_its_own():
    picture = planar()
    copied = picture.copy()
    for plane, other in zip(
        (picture.luma, picture.blue, picture.red), (copied.luma, copied.blue, copied.red), strict=True
    ):
        assert_array_equal(plane, other)
        other[:] = 7
    assert (copied.source == 7).all()
    assert copied.source.shape == (180, 160)
    assert not (picture.luma == 7).all()
    assert copied.nbytes == picture.nbytes == 120 * 160 * 3 // 2
