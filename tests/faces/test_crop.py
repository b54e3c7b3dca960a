import pytest

from lipsmith.conditioning import DEFAULT_PADDING
from lipsmith.errors import UsageError
from lipsmith.faces.crop import CropRule
from lipsmith.geometry import Box


def test_padding_is_a_share_of_the_box_on_each_side():
    crop = CropRule(padding=(0.1, 0.2, 0.3, 0.4), face_size=64).crop(Box(100, 200, 200, 400))
    assert (crop.left, crop.top, crop.right, crop.bottom, crop.size) == (70, 180, 240, 440, 64)


def test_no_padding_rounds_to_whole_pixels():
    crop = CropRule(padding=(0, 0, 0, 0)).crop(Box(10.4, 20.6, 30.4, 50.6))
    assert (crop.left, crop.top, crop.right, crop.bottom, crop.size) == (10, 21, 30, 51, 96)


def test_the_default_padding_is_the_one_that_the_weights_were_trained_on():
    # A change here changes what every trained network sees; cards carry the padding for that reason.
    assert DEFAULT_PADDING == (0.07, 0.11, 0.08, 0.08)
    assert CropRule() == CropRule(padding=(0.07, 0.11, 0.08, 0.08), face_size=96)


@pytest.mark.parametrize("face_size", [0, 15, 97])
def test_a_side_that_has_no_lower_half_is_refused(face_size):
    with pytest.raises(UsageError, match=str(face_size)):
        CropRule(face_size=face_size)


def test_a_padding_that_leaves_nothing_is_refused():
    with pytest.raises(UsageError, match="leaves nothing"):
        CropRule(padding=(-0.5, -0.5, 0, 0))
