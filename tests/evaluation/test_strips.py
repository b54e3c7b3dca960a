from fractions import Fraction

import numpy as np
import pytest

from lipsmith.evaluation.strips import film_strip

LABEL, TIMES, MEL = 120, 18, 80


def numbered(count: int, size: int = 32) -> np.ndarray:
    return np.stack([np.full((size, size, 3), 10 * i, np.uint8) for i in range(count)])


def test_cells_show_their_moments() -> None:
    strip = film_strip(
        {"real": numbered(20), "generated": numbered(20, 64) + 3},
        first_frame=2,
        num_frames=4,
        every=3,
        cell=40,
    )
    assert strip.shape == (TIMES + 2 * 40, LABEL + 4 * 40, 3) and strip.dtype == np.uint8
    middles = [strip[TIMES + 20, LABEL + 20 + 40 * k, 0] for k in range(4)]
    assert middles == [20, 50, 80, 110]
    assert [strip[TIMES + 60, LABEL + 20 + 40 * k, 0] for k in range(4)] == [23, 53, 83, 113]


def test_a_video_that_ends_leaves_black_cells() -> None:
    strip = film_strip({"short": numbered(3) + 100}, num_frames=3, every=2, cell=32)
    cells = [strip[TIMES + 16, LABEL + 16 + 32 * k, 0] for k in range(3)]
    assert cells == [100, 120, 0]


def test_wide_frames_keep_their_shape() -> None:
    frames = np.full((1, 30, 60, 3), 200, np.uint8)
    strip = film_strip({"wide": frames}, num_frames=1, cell=40)
    cell = strip[TIMES:, LABEL:, 0]
    assert (cell[:10] == 0).all() and (cell[10:30] == 200).all() and (cell[30:] == 0).all()


def test_sound_lies_under_its_frames() -> None:
    # A loud moment from 0.40 s to 0.48 s: frames 10 and 11 at 25 a second.
    mel = np.full((80, 200), -4.0, np.float32)
    mel[:, 32:39] = 4.0
    strip = film_strip({"real": numbered(20)}, mel, first_frame=8, num_frames=8, every=1, cell=20)
    assert strip.shape[0] == TIMES + 20 + MEL
    loud = strip[TIMES + 20 + 40, LABEL:].astype(int).sum(axis=1) > 300
    cells = np.flatnonzero(loud.reshape(8, 20).mean(axis=1) > 0.5)
    assert cells.tolist() == [2, 3]


def test_mel_that_starts_elsewhere_and_another_rate() -> None:
    mel = np.full((80, 200), -4.0, np.float32)
    mel[:, 100:] = 4.0  # from 1.25 s of the mel, which is 0.25 s of the video
    strip = film_strip(
        {"a": numbered(20)}, mel, num_frames=10, every=1, cell=20, rate=Fraction(20), mel_seconds=1.0
    )
    loud = strip[TIMES + 20 + 40, LABEL:].astype(int).sum(axis=1) > 300
    assert np.flatnonzero(loud.reshape(10, 20).mean(axis=1) > 0.5).tolist() == [5, 6, 7, 8, 9]


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        film_strip({})
