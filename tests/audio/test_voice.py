"""Voice activity on sounds whose speech is known."""

import numpy as np
import pytest

from lipsmith.audio.mel import mel_spectrogram
from lipsmith.audio.voice import activity_of_level, silence_pauses, speech_activity, voice_level
from lipsmith.timebase import SAMPLE_RATE_HZ, SILENCE

RNG = np.random.default_rng(0)


def _voice(seconds: float, level: float = 0.2) -> np.ndarray:
    """A hummed vowel: harmonics of 120 Hz whose loudness wobbles."""
    time = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tone = sum(np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 20))
    return (level * tone / 3 * (0.7 + 0.3 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)


def _noise(seconds: float, level: float) -> np.ndarray:
    return (level * RNG.standard_normal(round(seconds * SAMPLE_RATE_HZ))).astype(np.float32)


def _share(activity: np.ndarray, first: float, last: float) -> float:
    return float(activity[round(first * 80) : round(last * 80)].mean())


def test_speech_between_pauses_is_found():
    for noise in (0.0, 0.001):
        sound = np.concatenate([np.zeros(16_000), _voice(1), np.zeros(16_000), _voice(1)]).astype(np.float32)
        activity = speech_activity(mel_spectrogram(sound + _noise(4, noise)))
        assert activity.shape == (321,)
        assert _share(activity, 1.05, 1.95) == 1
        assert _share(activity, 3.05, 3.95) == 1
        assert _share(activity, 0, 0.75) == 0
        assert _share(activity, 2.25, 2.75) == 0


def test_digital_silence_has_no_activity():
    assert not speech_activity(mel_spectrogram(np.zeros(32_000, np.float32))).any()


def test_dither_is_not_speech():
    assert not speech_activity(mel_spectrogram(_noise(2, 2e-5))).any()


def test_speech_without_a_pause_is_speech_throughout():
    activity = speech_activity(mel_spectrogram(_voice(3)))
    assert _share(activity, 0.1, 2.9) > 0.95


def test_a_click_is_not_speech():
    sound = np.zeros(48_000, np.float32)
    sound[:16_000] += _voice(1)
    sound[32_000:32_100] = 0.5
    activity = speech_activity(mel_spectrogram(sound))
    assert _share(activity, 0.1, 0.9) == 1
    assert (
        _share(activity, 1.4, 3) < 0.3
    )  # the click spreads over five columns and is widened by 0.15 s, at most


@pytest.mark.parametrize("num_columns", [20, 100])
def test_activity_is_widened_by_twelve_columns_however_short_the_sound(num_columns):
    level = np.full(num_columns, SILENCE, np.float32)
    level[3:7] = 2
    np.testing.assert_array_equal(np.flatnonzero(activity_of_level(level)), np.arange(19))


def test_nothing_gives_nothing():
    assert speech_activity(np.zeros((80, 0), np.float32)).shape == (0,)


def test_the_level_is_the_mean_of_the_loudest_quarter_of_the_voice_bands():
    mel = np.full((80, 2), -4, np.float32)
    mel[20:33, 0] = 1  # thirteen of the 52 bands from 3 to 54
    mel[:3, 1] = mel[55:, 1] = 4  # beside them
    np.testing.assert_array_equal(voice_level(mel), np.float32([1, -4]))


def test_levels_that_come_in_pieces_decide_the_same():
    mel = mel_spectrogram(np.concatenate([_voice(1), _noise(1, 0.001), _voice(1)]))
    levels = [voice_level(piece) for piece in np.array_split(mel, 50, axis=1)]
    np.testing.assert_array_equal(activity_of_level(np.concatenate(levels)), speech_activity(mel))


def test_pauses_are_silenced_and_speech_is_kept():
    mel = RNG.uniform(-4, 4, (80, 3)).astype(np.float32)
    heard = silence_pauses(mel, np.float32([0, 1, 0]))
    assert heard.dtype == np.float32
    np.testing.assert_array_equal(heard[:, 1], mel[:, 1])
    assert (heard[:, [0, 2]] == SILENCE).all()
