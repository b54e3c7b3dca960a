"""Changes to training clips that leave sync alone."""

import numpy as np
import pytest

from lipsmith.audio.mel import band_centres_hz, mel_spectrogram
from lipsmith.data.augment import SoundAugmentation, change_sound, warp_frequencies
from lipsmith.timebase import SAMPLE_RATE_HZ


def _tone(hz: float) -> np.ndarray:
    seconds = np.arange(SAMPLE_RATE_HZ // 2) / SAMPLE_RATE_HZ
    return mel_spectrogram((0.5 * np.sin(2 * np.pi * hz * seconds)).astype(np.float32))


def test_band_centres_follow_slaney() -> None:
    centres = band_centres_hz()
    assert len(centres) == 80 and (np.diff(centres) > 0).all()
    # Up to 1 kHz the bands are as far apart as each other, above at one ratio.
    low, high = centres[centres < 950], centres[centres > 1050]
    assert np.diff(low) == pytest.approx(np.diff(low)[0])
    assert high[1:] / high[:-1] == pytest.approx(high[1] / high[0])


@pytest.mark.parametrize("stretch", [0.9, 1.1])
def test_a_tone_moves_to_the_stretched_frequency(stretch: float) -> None:
    centres = band_centres_hz()
    warped = warp_frequencies(_tone(2000), stretch)[:, 20]
    loudest = centres[np.argmax(warped)]
    assert loudest == pytest.approx(2000 * stretch, rel=0.04)  # neighbouring bands are 7 % apart


def test_no_stretch_changes_nothing() -> None:
    mel = _tone(700)
    np.testing.assert_allclose(warp_frequencies(mel, 1.0), mel, atol=1e-6)


def test_a_stretch_stays_within_the_range_of_what_it_was() -> None:
    mel = np.random.default_rng(0).uniform(-4, 4, (80, 7)).astype(np.float32)
    warped = warp_frequencies(mel, 0.85)
    assert warped.shape == mel.shape and warped.dtype == np.float32
    assert warped.min() >= mel.min() and warped.max() <= mel.max()
    np.testing.assert_array_equal(warped[-1], mel[-1])  # from beyond the last band: that band


def test_drawn_within_the_range_and_only_when_asked_for() -> None:
    still = SoundAugmentation(gain=0, tilt=0, noise_floor=0, band_drop=0)
    mel = _tone(2000)
    np.testing.assert_array_equal(change_sound(np.random.default_rng(0), mel, still), mel)
    bent = SoundAugmentation(gain=0, tilt=0, noise_floor=0, band_drop=0, warp=0.1)
    loudest = {
        int(np.argmax(change_sound(np.random.default_rng(seed), mel, bent)[:, 20])) for seed in range(40)
    }
    allowed = np.flatnonzero(np.abs(band_centres_hz() / 2000 - 1) < 0.14)
    assert len(loudest) >= 3 and loudest <= set(allowed.tolist())
