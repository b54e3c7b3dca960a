"""Which columns a frame hears."""

from fractions import Fraction

import numpy as np
import pytest

from lipsmith.audio.windows import WindowStream, published_starts, window_batch, window_mel
from lipsmith.timebase import SILENCE, frame_time, window_start

MEL = np.tile(np.arange(100, dtype=np.float32), (80, 1))  # every column holds its own number
RATES = {
    "24.0": Fraction(24),
    "25.0": Fraction(25),
    "29.97": Fraction(30_000, 1001),
    "30.0": Fraction(30),
    "50.0": Fraction(50),
    "60.0": Fraction(60),
}


def test_starts_agree_with_the_published_inference(parity):
    reference = np.load(parity / "mel_starts.npz")
    for name, rate in RATES.items():
        starts = published_starts(int(reference["mel_frames"]), rate)
        np.testing.assert_array_equal(starts, reference[f"fps_{name}"], err_msg=name)


def test_four_frames_at_25_are_sixteen_columns_less_the_fraction():
    assert [window_start(frame_time(i, Fraction(25))) for i in range(6)] == [0, 3, 6, 9, 12, 16]


def test_the_published_training_hears_one_frame_earlier():
    lead = Fraction(1, 25)
    assert [window_start(frame_time(i, Fraction(25)), lead) for i in range(4)] == [-4, 0, 3, 6]


def test_no_rate_drifts_over_an_hour():
    rate = Fraction(30_000, 1001)
    index = 30_000 * 3  # 3003 seconds
    assert window_start(frame_time(index, rate)) == 3003 * 80


@pytest.mark.parametrize("start", [0, 7, 84])
def test_a_window_is_its_sixteen_columns(start):
    np.testing.assert_array_equal(window_mel(MEL, start)[3], np.arange(start, start + 16))


def test_beyond_the_ends_there_is_silence():
    before, behind = window_mel(MEL, -4)[0], window_mel(MEL, 90)[0]
    np.testing.assert_array_equal(before, [SILENCE] * 4 + list(range(12)))
    np.testing.assert_array_equal(behind, [*range(90, 100)] + [SILENCE] * 6)
    assert (window_mel(MEL, 500) == SILENCE).all()
    assert (window_mel(MEL, -500) == SILENCE).all()


def test_a_batch_is_its_windows():
    batch = window_batch(MEL, [3, -2, 95])
    assert batch.shape == (3, 1, 80, 16)
    assert batch.dtype == np.float32
    for row, start in enumerate([3, -2, 95]):
        np.testing.assert_array_equal(batch[row, 0], window_mel(MEL, start))


@pytest.mark.parametrize("block_columns", [1, 7, 16, 64, 100])
def test_windows_of_a_mel_that_goes_by_are_those_of_the_whole(block_columns):
    stream = WindowStream(MEL[:, first : first + block_columns] for first in range(0, 100, block_columns))
    for starts in (
        [-20, -4],
        [-4, 0, 3],
        [3],
        [40, 43],
        [43, 80],
        [95],
        [110, 200],
    ):
        np.testing.assert_array_equal(stream.batch(starts), window_batch(MEL, starts))


def test_a_stream_reads_no_further_than_it_must():
    num_read = 0

    def blocks():
        nonlocal num_read
        for first in range(0, 100, 10):
            num_read += 1
            yield MEL[:, first : first + 10]

    stream = WindowStream(blocks())
    for starts, most in (([-16], 0), ([0], 2), ([4], 2), ([5, 60], 8), ([200], 10)):
        stream.batch(starts)
        assert num_read == most


def test_a_stream_does_not_go_back():
    stream = WindowStream([MEL])
    stream.batch([-3, 40])
    stream.batch([0, 41])
    stream.batch([9])
    with pytest.raises(ValueError, match="columns before 9 are forgotten"):
        stream.batch([8, 30])


def test_a_mel_without_columns_is_silence():
    assert (WindowStream([]).batch([0, 5]) == SILENCE).all()
