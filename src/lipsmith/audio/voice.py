"""Where somebody speaks: voice activity from the mel that the networks hear anyway."""

import numpy as np
from numpy.typing import NDArray

from lipsmith.timebase import MEL_RATE_HZ, SILENCE

FloatArray = NDArray[np.float32]

_SPEECH_BANDS = slice(3, 55)  # about 150 to 3500 Hz, where voices carry
_ABSOLUTE_FLOOR = -2.6  # mel units; about -82 dB full scale per band: digital silence and dither lie below
_ABOVE_NOISE = 0.9  # mel units over the recording's own noise; 11 dB
_BELOW_SPEECH = 3.2  # mel units under the recording's loud speech; 40 dB
_HANGOVER_SECONDS = 0.15  # speech does not end with its last loud column
_SHORTEST_SECONDS = 0.05  # a click is not speech


def speech_activity(mel: FloatArray) -> FloatArray:
    """1 where the sound is speech and 0 where it is not, per column of `mel` (80, n): float32 (n,).

    See `activity_of_level`, which decides, and needs no mel in memory.
    """
    return activity_of_level(voice_level(mel))


def voice_level(mel: FloatArray) -> FloatArray:
    """How loud the voice bands of each column of `mel` (80, n) are, in mel units: float32 (n,)."""
    return np.sort(mel[_SPEECH_BANDS], axis=0)[-13:].mean(axis=0)  # the loudest quarter of the voice bands


def activity_of_level(level: FloatArray) -> FloatArray:
    """1 where the sound is speech and 0 where it is not, from the `voice_level` of all its columns: float32 (n,).

    A column is active when its level in the voice bands stands out from the recording's own noise floor and is not
    far below its loud speech; activity shorter than 50 ms is dropped, and every stretch is widened by 150 ms on both
    sides, so that soft onsets and endings keep their sound. A sound that is silent throughout has no activity.
    """
    if not len(level):
        return np.zeros(0, np.float32)
    noise, speech = np.quantile(level, 0.05), np.quantile(level, 0.95)
    # In a sound without pauses the quietest twentieth is speech as well: then "40 dB below" decides.
    threshold = max(
        np.float32(_ABSOLUTE_FLOOR),
        min(noise + _ABOVE_NOISE, speech - _ABOVE_NOISE),
        speech - _BELOW_SPEECH,
    )
    active = _opened(level > threshold, round(_SHORTEST_SECONDS * MEL_RATE_HZ))
    return _widened(active, round(_HANGOVER_SECONDS * MEL_RATE_HZ)).astype(np.float32)


def silence_pauses(mel: FloatArray, activity: FloatArray) -> FloatArray:
    """`mel` (80, n) with silence where its `activity` (n,) is 0: what a generator hears, so that room noise moves no
    lips."""
    return np.where(activity[None] > 0, mel, np.float32(SILENCE))


def _widened(active: NDArray[np.bool_], columns: int) -> NDArray[np.bool_]:
    """With every stretch begun `columns` earlier and ended as much later."""
    wide = np.zeros_like(active)
    for start, stop in _stretches(active):
        wide[max(start - columns, 0) : stop + columns] = True
    return wide


def _opened(active: NDArray[np.bool_], columns: int) -> NDArray[np.bool_]:
    """Without the stretches that are shorter than `columns`."""
    kept = np.zeros_like(active)
    for start, stop in _stretches(active):
        kept[start:stop] = stop - start >= columns
    return kept


def _stretches(active: NDArray[np.bool_]) -> NDArray[np.intp]:
    """First column of each stretch of activity, and the first one after it: (n, 2)."""
    return np.flatnonzero(np.diff(active, prepend=False, append=False)).reshape(-1, 2)
