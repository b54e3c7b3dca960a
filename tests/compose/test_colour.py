import cv2
import numpy as np

from lipsmith.compose.colour import colour_shift


def test_a_constant_error_is_found_exactly_also_over_the_mouth():
    difference = np.broadcast_to(np.float32([5, -7, 3]), (96, 96, 3)).copy()
    np.testing.assert_allclose(colour_shift(difference), difference, atol=1e-4)


def test_no_error_gives_exactly_zero():
    assert not colour_shift(np.zeros((96, 96, 3), np.float32)).any()


def test_a_moved_mouth_is_not_taken_for_a_colour_error():
    difference = np.zeros((96, 96, 3), np.float32)
    cv2.ellipse(difference, (48, 72), (22, 12), 0, 0, 360, (-60, -60, -60), -1)
    assert np.abs(colour_shift(difference)).max() < 1


def test_an_error_that_differs_from_side_to_side_is_followed():
    slope = np.linspace(-10, 10, 96, dtype=np.float32)
    difference = np.broadcast_to(slope[None, :, None], (96, 96, 3)).copy()
    left = np.abs(difference - colour_shift(difference))[48:, 16:80]
    assert left.max() < 2.5
