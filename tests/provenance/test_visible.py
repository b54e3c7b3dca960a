import numpy as np
import pytest

from lipsmith.errors import UsageError
from lipsmith.provenance import VisibleMark, burn_label

SIZES = [(1280, 720), (720, 1280), (360, 288), (96, 96), (65, 47), (16, 9)]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_label_stands_out_from_a_plain_picture(width, height, level):
    frame = np.full((height, width, 3), level, np.uint8)

    marked = burn_label(frame)

    changed = np.argwhere((marked != frame).any(axis=2))
    assert len(changed) > 0
    # Lower right: nothing of it in the upper third of a frame that has room.
    if height >= 47:
        assert changed[:, 0].min() > height / 3
    assert marked.max() - marked.min() > 100


def test_letters_are_readable_on_white():
    marked = burn_label(np.full((720, 1280, 3), 255, np.uint8))
    background = marked[-20, -20]
    assert background.max() <= 70  # contrast of white letters to it above 7 : 1
    assert (marked[-70:, -400:] == 255).all(axis=2).any()


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (640, 360)])
def test_label_scales_with_the_frame(width, height):
    frame = np.zeros((height, width, 3), np.uint8)
    rows = np.flatnonzero((burn_label(frame) > 0).any(axis=(1, 2)))
    letters = rows.max() - rows.min() + 1
    assert 0.025 < letters / height < 0.06


def test_only_the_label_changes():
    frame = np.random.default_rng(0).integers(0, 256, (360, 640, 3), np.uint8)
    mark = VisibleMark(640, 360)
    outside = mark.apply(np.full_like(frame, 255)) == 255
    outside &= mark.apply(np.zeros_like(frame)) == 0
    assert 0.95 < outside.mean() < 0.99
    assert np.array_equal(mark.apply(frame.copy())[outside], frame[outside])


def test_mark_is_laid_in_place_and_the_single_image_copied():
    frame = np.zeros((90, 160, 3), np.uint8)
    assert burn_label(frame) is not frame
    assert frame.max() == 0
    assert VisibleMark(160, 90).apply(frame) is frame
    assert frame.max() > 200


def test_frame_that_is_a_view_is_marked_too():
    video = np.zeros((2, 90, 160, 3), np.uint8)
    VisibleMark(160, 90).apply(video[1])
    assert video[1].max() > 200 and video[0].max() == 0


def test_frame_of_another_size_is_refused():
    with pytest.raises(ValueError, match="160×90"):
        VisibleMark(160, 90).apply(np.zeros((160, 90, 3), np.uint8))


@pytest.mark.parametrize("text", ["", "  \n", "künstlich", "a\x07b"])
def test_text_that_cannot_be_drawn_is_refused(text):
    with pytest.raises(UsageError):
        VisibleMark(160, 90, text)
