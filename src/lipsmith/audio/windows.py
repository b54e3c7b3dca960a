"""The 16 mel columns that a frame hears, cut from a whole mel, or from one that goes by.

`lipsmith.timebase.window_start` says where a frame's window begins; here it is cut.
"""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lipsmith.audio.mel import SAMPLES_AHEAD
from lipsmith.audio.voice import activity_of_level, silence_pauses, voice_level
from lipsmith.timebase import (
    HOP_SAMPLES,
    MEL_RATE_HZ,
    NUM_MELS,
    SAMPLE_RATE_HZ,
    SILENCE,
    WINDOW_COLUMNS,
    frame_time,
    window_start,
)

FloatArray = NDArray[np.float32]

_REMEMBERED_COLUMNS = 10 * MEL_RATE_HZ  # by which a live sound's pauses are told from its speech


def window_mel(mel: FloatArray, start: int) -> FloatArray:
    """Columns `start` … `start + 15` of `mel` (80, n), as (80, 16).

    What lies before the first column or behind the last one is silence, so that a frame near an end hears its own
    moment; the published code pulls the last window back instead and stops about three frames early.
    """
    stop = start + WINDOW_COLUMNS
    if start >= 0 and stop <= mel.shape[1]:
        return mel[:, start:stop]
    window = np.full((NUM_MELS, WINDOW_COLUMNS), SILENCE, np.float32)
    first, last = max(start, 0), min(stop, mel.shape[1])
    if first < last:
        window[:, first - start : last - start] = mel[:, first:last]
    return window


def published_starts(num_columns: int, rate_hz: Fraction) -> list[int]:
    """First columns of all frames that the published inference makes of a mel of `num_columns`.

    The rule is `window_start`, except at the end: the first window that would run over it is pulled back to fit and is
    the last, so that the video ends about three frames before the sound. Kept for comparisons with published results;
    Lipsmith itself goes on to the end (see `window_mel`). At least 16 columns are needed.
    """
    starts: list[int] = []
    while (start := window_start(frame_time(len(starts), rate_hz))) + WINDOW_COLUMNS <= num_columns:
        starts.append(start)
    return [*starts, num_columns - WINDOW_COLUMNS]


def window_batch(mel: FloatArray, starts: Sequence[int]) -> FloatArray:
    """The windows that begin at `starts`, as the networks take them: float32 (len(starts), 1, 80, 16)."""
    batch = np.empty((len(starts), 1, NUM_MELS, WINDOW_COLUMNS), np.float32)
    for row, start in enumerate(starts):
        batch[row, 0] = window_mel(mel, start)
    return batch


class WindowStream:
    """Windows of a mel that comes in `blocks` of columns, (80, n) each, in constant memory.

    Windows are asked for forwards in time; what lies before the last ones is forgotten.
    """

    def __init__(self, blocks: Iterable[FloatArray]) -> None:
        self._blocks = iter(blocks)
        self._held = np.zeros((NUM_MELS, 0), np.float32)
        self._first = 0  # column of the mel that is the first of those held

    def batch(self, starts: Sequence[int]) -> FloatArray:
        """`window_batch` of the whole mel.

        Raises:
            ValueError: a window begins before one of an earlier batch.
        """
        first, stop = min(starts), max(starts) + WINDOW_COLUMNS
        if max(first, 0) < self._first:
            raise ValueError(f"columns before {self._first} are forgotten; a window begins at {first}")
        while True:
            passed = min(max(first - self._first, 0), self._held.shape[1])
            self._held, self._first = self._held[:, passed:], self._first + passed
            if self._first + self._held.shape[1] >= stop or (block := next(self._blocks, None)) is None:
                break
            self._held = np.concatenate([self._held, block], axis=1)
        return window_batch(self._held, [start - self._first for start in starts])


class LiveWindowStream(WindowStream):
    """A `WindowStream` whose pauses are silenced by what was heard till now: of a live sound there is no whole.

    A column is told to be speech or not by `activity_of_level` of the last ten seconds, and of what else its block has,
    each time that a window shows it. So where speech begins, the first windows that reach it lack the 150 ms before it;
    they come back in the next.
    """

    def __init__(self, blocks: Iterable[FloatArray]) -> None:
        super().__init__(self._noted(blocks))
        self._levels = np.zeros(0, np.float32)
        self._num_columns = 0

    def _noted(self, blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
        for block in blocks:
            self._levels = np.concatenate([self._levels, voice_level(block)])
            self._num_columns += block.shape[1]
            yield block

    def batch(self, starts: Sequence[int]) -> FloatArray:
        """See `WindowStream.batch`."""
        batch = super().batch(starts)
        # Back from what is heard, not from the newest column: a block may be longer than all that is remembered.
        first = self._num_columns - len(self._levels)
        self._levels = self._levels[max(max(starts) + WINDOW_COLUMNS - _REMEMBERED_COLUMNS - first, 0) :]
        activity = activity_of_level(self._levels)
        first = self._num_columns - len(activity)
        for row, start in enumerate(starts):
            places = np.arange(start, start + WINDOW_COLUMNS) - first
            is_known = (places >= 0) & (places < len(activity))
            speaks = np.zeros(WINDOW_COLUMNS, np.float32)
            speaks[is_known] = activity[places[is_known]]
            batch[row, 0] = silence_pauses(batch[row, 0], speaks)
        return batch


def look_ahead_seconds(lead_seconds: Fraction) -> Fraction:
    """How far beyond a frame's time its window hears, at most: so much later it can be generated at the earliest."""
    return Fraction((WINDOW_COLUMNS - 1) * HOP_SAMPLES + SAMPLES_AHEAD, SAMPLE_RATE_HZ) - lead_seconds
