from pathlib import Path

import numpy as np
import pytest

from lipsmith.audio.mfcc import MFCC_RATE_HZ, mfcc, to_int16
from lipsmith.timebase import SAMPLE_RATE_HZ


def test_agrees_with_the_published_features(parity: Path) -> None:
    reference = np.load(parity / "audio.npz")
    coefficients = mfcc(reference["waveform_int16"])
    assert coefficients.shape == (249, 13)
    assert np.abs(coefficients - reference["mfcc"]).max() < 1e-3


def test_digital_silence_is_finite() -> None:
    coefficients = mfcc(np.zeros(SAMPLE_RATE_HZ, np.int16))
    # ln of the floor, 2.2e-16, in the energy; a flat spectrum has no other coefficient.
    assert coefficients[:, 0] == pytest.approx(np.log(2.0**-52))
    assert np.abs(coefficients[:, 1:]).max() < 1e-4


def test_energy_of_a_known_impulse() -> None:
    # One sample of height h, then pre-emphasis leaves h and −0.97 h. Parseval over the half spectrum:
    # Σ_k |X_k|² over 257 bins is half of 512 · Σ x² plus half of the two end bins.
    height = 1000.0
    samples = np.zeros(400, np.int16)
    samples[100] = int(height)
    ends = (0.03 * height) ** 2 + (1.97 * height) ** 2
    energy = (512 * height**2 * (1 + 0.97**2) / 2 + ends / 2) / 512
    assert mfcc(samples)[0, 0] == pytest.approx(np.log(energy), abs=1e-5)


@pytest.mark.parametrize(
    ("num_samples", "num_rows"), [(0, 0), (1, 1), (400, 1), (401, 2), (560, 2), (561, 3), (16000, 99)]
)
def test_rows(num_samples: int, num_rows: int) -> None:
    assert mfcc(np.ones(num_samples, np.int16)).shape == (num_rows, 13)


def test_an_event_appears_at_its_time() -> None:
    samples = np.zeros(SAMPLE_RATE_HZ, np.int16)
    samples[8000] = 10000
    loud = np.flatnonzero(mfcc(samples)[:, 0] > 0)
    # 25 ms windows at 10 ms: the impulse at 0.5 s is heard from the window at 0.48 s to that at 0.50 s.
    assert loud.tolist() == [MFCC_RATE_HZ // 2 - 2, MFCC_RATE_HZ // 2 - 1, MFCC_RATE_HZ // 2]


def test_blocks_do_not_show() -> None:
    samples = np.random.default_rng(0).integers(-3000, 3000, 45 * SAMPLE_RATE_HZ).astype(np.int16)
    whole = mfcc(samples)
    start = 4000 * 160
    # The part starts without a predecessor for the pre-emphasis: skip its first window.
    assert np.array_equal(mfcc(samples[start:])[1:], whole[4001:])


def test_int16() -> None:
    values = to_int16(np.array([0.0, 0.5, -1.0, 1.0, 2.0, 1.5 / 32768], np.float32))
    assert values.tolist() == [0, 16384, -32768, 32767, 32767, 2]


def test_float_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="int16"):
        mfcc(np.zeros(400, np.float32))  # type: ignore[arg-type]
