"""Frame ⇄ second ⇄ sample ⇄ mel column, exact: the only home of 16000, 200, 80, 16, 25 and 5.

Times are `Fraction` seconds from the first frame of the picture, so that no rate (29.97, 23.976, variable) drifts.
Constants: paper, section 3.4, and the published audio settings.
"""

from fractions import Fraction

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 200
MEL_RATE_HZ = SAMPLE_RATE_HZ // HOP_SAMPLES  # 80 columns a second, one each 12.5 ms
NUM_MELS = 80
SILENCE = -4.0  # what a mel column without any sound holds
WINDOW_COLUMNS = 16  # what one frame, or one five-frame window of the expert, hears: 0.2 s
EXPERT_FRAMES = 5  # T_v of the paper, as published: 0.2 s at the training rate; 1 and 3 are its ablations
TRAINING_RATE_HZ = Fraction(25)
WINDOW_SECONDS = Fraction(WINDOW_COLUMNS, MEL_RATE_HZ)


def frame_time(index: int, rate_hz: Fraction) -> Fraction:
    """Seconds at which frame `index` (from 0) appears at a constant `rate_hz`."""
    return Fraction(index) / rate_hz


def window_start(time: Fraction, lead_seconds: Fraction = Fraction(0)) -> int:
    """First mel column that the frame shown at `time` hears; it hears `WINDOW_COLUMNS` columns from there.

    This is the project's one definition of "the sound around a frame". `lead_seconds` starts the window that much
    earlier than the frame: 0 is the published inference rule, 1/25 the published training rule. The value belongs to
    a set of weights and stands in its card. The result may be negative or beyond the end: `audio.windows` pads.
    """
    # (time − lead) · 80, rounded down, in whole numbers: fractions took a third of the training reader's time.
    (above, below), (lead_above, lead_below) = time.as_integer_ratio(), lead_seconds.as_integer_ratio()
    return (above * lead_below - lead_above * below) * MEL_RATE_HZ // (below * lead_below)


def expert_lead(num_frames: int) -> Fraction:
    """Seconds by which the sound of an expert's window begins before the first of its `num_frames` frames (T_v).

    The sound lasts 0.2 s whatever T_v is, and its middle is the middle of the frames: 0 for five frames, one frame for
    three, two frames for one.
    """
    return (WINDOW_SECONDS - num_frames / TRAINING_RATE_HZ) / 2


def num_samples(duration: Fraction) -> int:
    """Samples in `duration` seconds, rounded to the nearest."""
    return round(duration * SAMPLE_RATE_HZ)
