import cv2
import numpy as np
import pytest

from lipsmith.compose.colour import colour_gain


@pytest.fixture
def shown():
    """A face's shading without texture."""
    rng = np.random.default_rng(0)
    return cv2.resize(
        rng.uniform(80, 200, (5, 5, 3)).astype(np.float32), (96, 96), interpolation=cv2.INTER_LINEAR
    )


def _with_mouth(face, level):
    return cv2.ellipse(face.copy(), (48, 68), (20, 10), 0, 0, 360, (level, level, level), -1)


def test_a_common_error_is_undone_also_under_the_mouth(shown):
    generated = shown * np.float32([0.9, 0.95, 1.1])
    restored = generated * colour_gain(generated, shown)
    np.testing.assert_allclose(restored[48:], shown[48:], atol=1.5)


def test_the_same_colours_give_exactly_one(shown):
    assert (colour_gain(shown, shown) == 1).all()


def test_a_moved_mouth_is_not_taken_for_a_colour_error(shown):
    gain = colour_gain(_with_mouth(shown, 10), shown)
    np.testing.assert_allclose(gain, 1, atol=0.015)


def test_a_dark_mouth_stays_dark_in_a_face_that_is_too_dark(shown):
    generated = _with_mouth(shown * np.float32(0.8), 10)
    restored = generated * colour_gain(generated, shown)
    assert restored[68, 48].max() < 14
    np.testing.assert_allclose(restored[80, 15], shown[80, 15], rtol=0.03)


def test_an_error_that_differs_from_side_to_side_is_followed(shown):
    generated = shown * np.linspace(0.9, 1.1, 96, dtype=np.float32)[None, :, None]
    restored = generated * colour_gain(generated, shown)
    before, after = (np.abs(face - shown)[54:90, 16:80].mean() for face in (generated, restored))
    assert after < before / 3


def test_the_gain_stays_within_bounds_whatever_comes_in(shown):
    for generated in (np.zeros_like(shown), np.full_like(shown, 255)):
        gain = colour_gain(generated, shown)
        assert 0.69 < gain.min() <= gain.max() < 1.41
