"""The mel: reference numbers, and the same columns however the sound arrives."""

import numpy as np
import pytest

from lipsmith.audio.mel import mel_from_blocks, mel_spectrogram
from lipsmith.timebase import HOP_SAMPLES, SAMPLE_RATE_HZ, SILENCE


def _noise(length: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(length)).astype(np.float32)


def test_agrees_with_the_reference(parity):
    reference = np.load(parity / "audio.npz")
    np.testing.assert_allclose(mel_spectrogram(reference["waveform"]), reference["mel"], atol=1e-4)


@pytest.mark.parametrize("length", [401, 402, 799, 800, 1000, 5000, 40_001])
@pytest.mark.parametrize("seed", [0, 1])
def test_pieces_give_the_columns_of_the_whole(length, seed):
    samples = _noise(length)
    cuts = np.sort(np.random.default_rng(seed).integers(0, length + 1, 9))
    whole = mel_spectrogram(samples)
    assert whole.shape == (80, 1 + length // HOP_SAMPLES)
    np.testing.assert_allclose(mel_from_blocks(np.split(samples, cuts)), whole, atol=1e-5)


def test_long_sound_is_transformed_in_several_blocks():
    samples = _noise(2048 * HOP_SAMPLES * 2 + 777)  # over two blocks of columns
    mel = mel_spectrogram(samples)
    assert mel.shape[1] == 1 + len(samples) // HOP_SAMPLES
    middle = slice(2000 * HOP_SAMPLES, 2100 * HOP_SAMPLES)
    np.testing.assert_allclose(mel[:, 2010:2090], mel_spectrogram(samples[middle])[:, 10:90], atol=1e-5)


def test_silence_is_minus_four_everywhere():
    mel = mel_spectrogram(np.zeros(SAMPLE_RATE_HZ, np.float32))
    assert mel.shape == (80, 81)
    assert (mel == SILENCE).all()


def test_no_samples_give_no_columns():
    assert mel_spectrogram(np.zeros(0, np.float32)).shape == (80, 0)


def test_a_few_samples_are_lengthened_with_silence():
    assert mel_spectrogram(_noise(5)).shape == (80, 3)  # as 401 samples


def test_ten_times_the_amplitude_is_one_point_six_more():
    samples = _noise(8000) * 0.1
    quiet, loud = mel_spectrogram(samples), mel_spectrogram(10 * samples)
    inside = (quiet > -3.9) & (loud < 3.9)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(
        (loud - quiet)[inside], 20 * 8 / 100, atol=1e-4
    )  # 20 dB of a range of 100 on 8


def test_a_tone_lights_its_own_band():
    time = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    bands = [
        int(mel_spectrogram((0.3 * np.sin(2 * np.pi * hz * time)).astype(np.float32))[:, 40].argmax())
        for hz in (200, 1000, 4000)
    ]
    # 82 equally spaced Slaney edges from 0.825 (55 Hz) to 44.5 (7600 Hz): 1000 Hz is mel 15, the 26.0th step.
    assert bands == sorted(bands)
    assert bands[1] == pytest.approx((15 - 0.825) / ((44.4845 - 0.825) / 81) - 1, abs=1)
