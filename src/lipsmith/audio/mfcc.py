"""Mel-frequency cepstral coefficients as SyncNet (evaluation) hears them: 13 numbers, 100 times a second.

Chung and Zisserman, "Out of time", 2016; the settings are the defaults of the feature extractor they used,
which works on integer samples: coefficient 0 is the logarithm of the energy and depends on that scale.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from lipsmith.timebase import SAMPLE_RATE_HZ

MFCC_RATE_HZ = 100
NUM_COEFFICIENTS = 13
_WINDOW_SAMPLES = SAMPLE_RATE_HZ * 25 // 1000
_HOP_SAMPLES = SAMPLE_RATE_HZ // MFCC_RATE_HZ
_FFT_SIZE = 512
_NUM_FILTERS = 26
_PREEMPHASIS = 0.97
_LIFTER = 22
_BLOCK_WINDOWS = 4096  # 41 s at a time, so that memory does not grow with the spectrum of an hour


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Float samples in [−1, 1] as the 16-bit integers of a WAV file, clipped."""
    return np.clip(np.rint(np.asarray(samples, dtype=np.float64) * 32768.0), -32768, 32767).astype(np.int16)


def mfcc(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """Cepstral coefficients of 16 kHz mono speech.

    Args:
        samples: (n,) 16-bit integers (`to_int16` makes them of floats).

    Returns:
        (windows, 13) float32, one row each 10 ms, each of the 25 ms from there; the last window is filled
        with zeros. Fewer than 400 samples give one row; none gives none.

    Raises:
        ValueError: samples that are no 16-bit integers, or not in one dimension.
    """
    if samples.ndim != 1 or samples.dtype != np.int16:
        raise ValueError(f"samples must be (n,) int16, got {samples.shape} {samples.dtype}: see to_int16")
    if samples.size == 0:
        return np.zeros((0, NUM_COEFFICIENTS), np.float32)
    signal = samples.astype(np.float64)
    signal[1:] -= _PREEMPHASIS * samples[:-1]
    num_windows = 1 + max(0, -(-(signal.size - _WINDOW_SAMPLES) // _HOP_SAMPLES))
    padding = (num_windows - 1) * _HOP_SAMPLES + _WINDOW_SAMPLES - signal.size
    signal = np.pad(signal, (0, max(padding, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(signal, _WINDOW_SAMPLES)[::_HOP_SAMPLES][:num_windows]
    blocks = [
        _coefficients(windows[start : start + _BLOCK_WINDOWS])
        for start in range(0, num_windows, _BLOCK_WINDOWS)
    ]
    return np.concatenate(blocks)


def _coefficients(windows: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows of 400 samples → rows of 13 coefficients."""
    # Parity: no taper (a rectangular window), though Hamming is usual: the published SyncNet weights heard
    # this.
    power = np.abs(np.fft.rfft(windows, _FFT_SIZE, axis=1)) ** 2 / _FFT_SIZE
    # Parity: the floor stands for exactly zero alone (digital silence), it is not added.
    floor = np.finfo(np.float64).eps
    energy = power.sum(axis=1)
    bands = power @ _filterbank().T
    coefficients = np.log(np.where(bands == 0, floor, bands)) @ _cosines().T
    coefficients *= 1 + _LIFTER / 2 * np.sin(np.pi * np.arange(NUM_COEFFICIENTS) / _LIFTER)
    coefficients[:, 0] = np.log(np.where(energy == 0, floor, energy))
    return coefficients.astype(np.float32)


@cache
def _filterbank() -> NDArray[np.float64]:
    """(26, 257) triangles, evenly spaced on the mel scale from 0 Hz to 8 kHz."""
    top_mel = 2595 * np.log10(1 + SAMPLE_RATE_HZ / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top_mel, _NUM_FILTERS + 2) / 2595) - 1)
    # Parity: edges fall on whole FFT bins, so neighbouring low triangles are lopsided.
    edges = np.floor((_FFT_SIZE + 1) * edges_hz / SAMPLE_RATE_HZ)
    bins = np.arange(_FFT_SIZE // 2 + 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (bins - low) / (middle - low)
    falling = (high - bins) / (high - middle)
    return np.where(bins < middle, np.maximum(rising, 0.0), np.maximum(falling, 0.0))


@cache
def _cosines() -> NDArray[np.float64]:
    """(13, 26): the first rows of the orthonormal cosine transform, type II."""
    order = np.arange(NUM_COEFFICIENTS)[:, None]
    cosines = np.cos(np.pi * order * (2 * np.arange(_NUM_FILTERS) + 1) / (2 * _NUM_FILTERS))
    cosines *= np.sqrt(2 / _NUM_FILTERS)
    cosines[0] /= np.sqrt(2)
    return cosines
