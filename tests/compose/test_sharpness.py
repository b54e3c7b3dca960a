import cv2
import numpy as np
import pytest

from lipsmith.compose.sharpness import match_sharpness


@pytest.fixture
def shown():
    """Shading with texture of three pixels."""
    texture = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 30, (96, 96, 3)), (0, 0), 1)
    return (128 + texture).astype(np.float32)


def _distance(image, other):
    return np.abs(image - other)[50:94, 10:86].mean()


def test_what_is_as_sharp_stays_exactly_as_it_is(shown):
    assert match_sharpness(shown, shown) is shown


def test_what_is_sharper_is_not_blurred(shown):
    smooth = cv2.GaussianBlur(shown, (0, 0), 1)
    np.testing.assert_array_equal(match_sharpness(shown, smooth), shown)


def test_what_was_blurred_gets_closer_to_what_it_was(shown):
    blurred = cv2.GaussianBlur(shown, (0, 0), 0.6)
    assert _distance(match_sharpness(blurred, shown), shown) < 0.5 * _distance(blurred, shown)


def test_detail_is_doubled_at_most(shown):
    blurred = cv2.GaussianBlur(shown, (0, 0), 3)
    detail = blurred - cv2.GaussianBlur(blurred, (0, 0), 1)
    np.testing.assert_allclose(match_sharpness(blurred, shown), blurred + detail, atol=1e-3)


def test_a_flat_picture_has_nothing_to_strengthen(shown):
    flat = np.full_like(shown, 90)
    np.testing.assert_allclose(match_sharpness(flat, shown), flat, atol=1e-3)
