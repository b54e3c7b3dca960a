import numpy as np
import pytest

from lipsmith.compose.masks import lower_face_mask, mouth_mask, skin_mask, smoothstep


@pytest.mark.parametrize("size", [48, 96, 97, 128, 192])
def test_the_lower_face_mask_is_zero_above_and_on_all_edges_and_one_in_the_middle(size):
    mask = lower_face_mask(size)
    assert mask.shape == (size, size)
    assert not mask[: size // 2 + 1].any()
    assert not mask[-1].any()
    assert not mask[:, 0].any()
    assert not mask[:, -1].any()
    assert mask[round(0.75 * size), size // 2] == 1
    assert 0 <= mask.min() <= mask.max() == 1


def test_the_lower_face_mask_has_no_step_that_the_eye_could_find():
    mask = lower_face_mask(96)
    assert np.abs(np.diff(mask, axis=0)).max() < 0.25
    assert np.abs(np.diff(mask, axis=1)).max() < 0.25


@pytest.mark.parametrize("mask", [lower_face_mask, mouth_mask, skin_mask])
def test_masks_are_symmetric_between_left_and_right_and_cannot_be_changed(mask):
    np.testing.assert_allclose(mask(96), mask(96)[:, ::-1], atol=1e-6)
    with pytest.raises(ValueError, match="read-only"):
        mask(96)[0, 0] = 1


def test_skin_and_mouth_share_no_pixel_at_full_strength():
    assert (skin_mask(96) + mouth_mask(96)).max() <= 1 + 1e-6


def test_smoothstep_has_known_values():
    np.testing.assert_allclose(smoothstep(np.array([-1.0, 2, 3, 4, 9]), 2, 4), [0, 0, 0.5, 1, 1])
