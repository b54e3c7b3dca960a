"""The mel spectrogram exactly as the published weights expect it, without librosa.

Pre-emphasis 0.97; centred STFT of 800 samples every 200 with a Hann window; magnitudes through 80 Slaney mel bands
from 55 to 7600 Hz; decibels with a floor of 1e-5, minus 20; [-100, 0] dB mapped onto [-4, 4] and clipped. One column
each 12.5 ms; column c is centred on sample 200 · c.
"""

from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lipsmith.timebase import HOP_SAMPLES, NUM_MELS, SAMPLE_RATE_HZ

FloatArray = NDArray[np.float32]

SAMPLES_AHEAD = 400  # how far a column hears beyond its middle

_FFT_SIZE = 800
_HALF = SAMPLES_AHEAD
_PREEMPHASIS = 0.97
_LOWEST_HZ, _HIGHEST_HZ = 55.0, 7600.0
_FLOOR = 1e-5  # amplitude; -100 dB
_REFERENCE_DB = 20.0
_BLOCK_COLUMNS = 2048  # columns transformed at once: 26 MB of spectrum, however long the sound


def _hz_to_slaney(hz: NDArray) -> NDArray:
    """Slaney's mel scale: linear to 1 kHz, logarithmic above."""
    linear = hz * 3 / 200
    with np.errstate(divide="ignore"):
        return np.where(hz < 1000, linear, 15 + 27 * np.log(hz / 1000) / np.log(6.4))


def _slaney_to_hz(mel: NDArray) -> NDArray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def band_centres_hz() -> NDArray:
    """The frequency in the middle of each mel band, (80,), rising."""
    return _band_edges_hz()[1:-1]


def _band_edges_hz() -> NDArray:
    ends = _hz_to_slaney(np.array([_LOWEST_HZ, _HIGHEST_HZ]))
    return _slaney_to_hz(np.linspace(ends[0], ends[1], NUM_MELS + 2))


@cache
def _filterbank() -> FloatArray:
    """Triangular bands of equal area, (80, 401)."""
    edges = _band_edges_hz()
    bins = np.fft.rfftfreq(_FFT_SIZE, 1 / SAMPLE_RATE_HZ)
    width = np.diff(edges)
    slopes = edges[:, None] - bins[None, :]
    rising = -slopes[:-2] / width[:-1, None]
    falling = slopes[2:] / width[1:, None]
    bands = np.maximum(0, np.minimum(rising, falling))
    return (bands * (2 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


@cache
def _hann() -> FloatArray:
    """Periodic Hann window of the FFT's size."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_FFT_SIZE) / _FFT_SIZE)).astype(np.float32)


def _columns(padded: FloatArray) -> FloatArray:
    """Columns of a pre-emphasised, already padded signal: (80, 1 + (len - 800) // 200)."""
    windows = np.lib.stride_tricks.sliding_window_view(padded, _FFT_SIZE)[::HOP_SAMPLES]
    magnitude = np.abs(np.fft.rfft(windows * _hann(), axis=1)).astype(np.float32)
    decibels = 20 * np.log10(np.maximum(_FLOOR, _filterbank() @ magnitude.T)) - _REFERENCE_DB
    return np.clip(8 * (decibels + 100) / 100 - 4, -4, 4).astype(np.float32)


def mel_column_blocks(blocks: Iterable[FloatArray]) -> Iterator[FloatArray]:
    """Mel columns of a sound that comes in pieces, as arrays (80, n), in constant memory.

    `blocks` are mono samples at 16 kHz in [-1, 1], of any lengths. Together the columns equal `mel_spectrogram` of the
    joined samples: 1 + len // 200 of them. A sound too short to be mirrored at its ends (under 401 samples) is
    lengthened with silence to that length; no samples at all give no columns.
    """
    held = np.zeros(0, np.float32)  # pre-emphasised (and, at the start, mirrored) samples not yet used up
    last_sample = np.float32(0)
    started = False
    for block in blocks:
        block = np.asarray(block, np.float32)
        if not len(block):
            continue
        emphasised = block.copy()
        emphasised[1:] -= np.float32(_PREEMPHASIS) * block[:-1]
        emphasised[0] -= np.float32(_PREEMPHASIS) * last_sample
        last_sample = block[-1]
        held = np.concatenate([held, emphasised])
        if not started and len(held) > _HALF:
            held = np.concatenate([held[_HALF:0:-1], held])
            started = True
        # A column comes with the last sample that it hears; what stays behind is enough to mirror the end.
        while started and (ready := (len(held) - _FFT_SIZE) // HOP_SAMPLES + 1) > 0:
            count = min(ready, _BLOCK_COLUMNS)
            yield _columns(held[: (count - 1) * HOP_SAMPLES + _FFT_SIZE])
            held = held[count * HOP_SAMPLES :]
    if not len(held):
        return
    if not started:
        held = np.concatenate([held, np.zeros(_HALF + 1 - len(held), np.float32)])
        held = np.concatenate([held[_HALF:0:-1], held])
    held = np.concatenate([held, held[-2 : -_HALF - 2 : -1]])
    for first in range(0, 1 + (len(held) - _FFT_SIZE) // HOP_SAMPLES, _BLOCK_COLUMNS):
        piece = held[first * HOP_SAMPLES : (first + _BLOCK_COLUMNS - 1) * HOP_SAMPLES + _FFT_SIZE]
        yield _columns(piece)


def mel_from_blocks(blocks: Iterable[FloatArray]) -> FloatArray:
    """The whole mel, (80, n), of a sound that comes in pieces (see `mel_column_blocks`)."""
    columns = list(mel_column_blocks(blocks))
    return np.concatenate(columns, axis=1) if columns else np.zeros((NUM_MELS, 0), np.float32)


def mel_spectrogram(samples: FloatArray) -> FloatArray:
    """Mel of mono `samples` (n,) at 16 kHz in [-1, 1]: float32 (80, 1 + n // 200) in [-4, 4]."""
    return mel_from_blocks([samples])
