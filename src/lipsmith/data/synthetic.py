"""Drawn people who speak: faces whose mouth follows a generated sound, for tests with known answers.

A clip is made in two steps. `perform` invents syllables — vowels, fricatives, closures (m, b, p), pauses —
and gives the sound together with the mouth that makes it; `draw_frames` draws a speaker with that mouth.

What ties picture and sound together is the mouth alone:

* loud is open, silent is closed; a closure is closed however loud its neighbours are;
* the vowel decides how wide the lips are, and the formants of the sound;
* s and f show the teeth in a narrow mouth and are heard as noise.

The words are drawn from the clip's seed and never from the speaker's, and the head, the eyes and the light
move on their own: whoever learns to tell in-sync from off-sync clips has learned it from the mouth.
"""

import tempfile
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.geometry import Box, Image
from lipsmith.timebase import SAMPLE_RATE_HZ, TRAINING_RATE_HZ, num_samples

if TYPE_CHECKING:
    from lipsmith.data.clips import ClipRecord
    from lipsmith.faces.detect import Detection

Track = NDArray[np.float64]
Points = NDArray[np.float64]
Colour = tuple[float, float, float]  # blue, green, red, 0 to 255

_CONTROL_RATE_HZ = 500  # articulation is described this often
_SUBPIXEL_BITS = 4
_OVERSAMPLING = 2
_ROOM_LEVEL = 3e-4  # a quiet room, about −70 dB: digital silence is a special case of its own


@dataclass(frozen=True, slots=True)
class _Phone:
    """What mouth and voice do for a moment."""

    opening: float  # 0 closed … 1 wide open
    width: float  # 0 rounded … 1 spread
    voice: float  # level of the voice
    hiss: float  # level of the noise
    formants_hz: tuple[float, float, float]


_VOWELS = (
    _Phone(1.00, 0.50, 1.00, 0.0, (760, 1250, 2600)),  # a
    _Phone(0.60, 0.85, 0.75, 0.0, (500, 1900, 2600)),  # e
    _Phone(0.35, 1.00, 0.55, 0.0, (300, 2300, 3000)),  # i
    _Phone(0.65, 0.15, 0.80, 0.0, (480, 880, 2500)),  # o
    _Phone(0.35, 0.00, 0.50, 0.0, (320, 700, 2300)),  # u
)
_FRICATIVES = (
    _Phone(0.16, 0.80, 0.0, 0.45, (400, 1700, 2600)),  # s
    _Phone(0.10, 0.50, 0.0, 0.20, (400, 1300, 2500)),  # f
)
_HUM = _Phone(0.0, 0.45, 0.22, 0.0, (260, 1000, 2200))  # m
_STOP = _Phone(0.0, 0.45, 0.0, 0.0, (300, 1000, 2200))  # b, p: silence, then a burst
_PAUSE = _Phone(0.0, 0.45, 0.0, 0.0, (500, 1500, 2500))


@dataclass(frozen=True)
class Performance:
    """A speech and the mouth that makes it, before anybody is drawn."""

    rate: Fraction
    """Frames a second of the tracks."""
    samples: NDArray[np.float32]
    """(n,) 16 kHz mono, exactly as long as the frames, within ± 1."""
    openness: NDArray[np.float32]
    """(T,) 0 closed … 1 wide open, in the middle of each frame's time."""
    width: NDArray[np.float32]
    """(T,) 0 rounded … 1 spread."""
    silent: NDArray[np.bool_]
    """(T,) frames within a pause."""
    closure: NDArray[np.bool_]
    """(T,) frames within an m, b or p."""


@dataclass(frozen=True)
class Conditions:
    """What makes a clip harder; the defaults are a good recording."""

    head_motion: float = 1.0
    """Scale of the head's sway; 0 holds it still."""
    jitter: float = 0.0
    """Standard deviation of a crop that trembles from frame to frame, as a share of its side."""
    picture_noise: float = 2.0
    """Standard deviation of the camera's noise, in grey levels."""
    light_flicker: float = 0.0
    """Standard deviation of the brightness from frame to frame, as a share."""
    sound_noise: float = 0.0
    """Level of background noise relative to the loudest speech."""


@dataclass(frozen=True)
class SyntheticClip:
    """A drawn talking face with its sound."""

    frames: NDArray[np.uint8]
    """(T, S, S, 3) BGR face crops: eyes in the upper half, mouth in the lower."""
    samples: NDArray[np.float32]
    """(n,) 16 kHz mono, sample 0 at the time of frame 0."""
    rate: Fraction
    openness: NDArray[np.float32]
    """(T,) 0 closed … 1 wide open."""
    width: NDArray[np.float32]
    """(T,) 0 rounded … 1 spread."""
    silent: NDArray[np.bool_]
    closure: NDArray[np.bool_]
    speaker_seed: int


@dataclass(frozen=True)
class SyntheticSpeaker:
    """One drawn person: looks and voice, all from the seed.

    Shapes are in shares of the face box, in which (0, 0) is the top left and (1, 1) the bottom right.
    """

    seed: int
    skin: Colour = field(init=False)
    lips: Colour = field(init=False)
    hair: Colour = field(init=False)
    iris: Colour = field(init=False)
    backdrop: tuple[Colour, Colour] = field(init=False)
    teeth_level: float = field(init=False)
    face_width: float = field(init=False)
    eye_row: float = field(init=False)
    eye_distance: float = field(init=False)
    nose_length: float = field(init=False)
    mouth_row: float = field(init=False)
    mouth_width: float = field(init=False)
    lip_thickness: float = field(init=False)
    largest_gap: float = field(init=False)
    beard: float = field(init=False)
    """0 none … 1 full."""
    hairline: float = field(init=False)
    glasses: bool = field(init=False)
    light_from: float = field(init=False)
    """−1 left … 1 right."""
    pitch_hz: float = field(init=False)
    formant_scale: float = field(init=False)
    level: float = field(init=False)
    """Peak of the sound."""
    syllable_seconds: float = field(init=False)

    def __post_init__(self) -> None:
        """Draw every trait from the seed."""
        rng = np.random.default_rng([1, self.seed])
        light, dark = np.array([178, 203, 240.0]), np.array([48, 72, 108.0])
        skin = light + (dark - light) * rng.random() + rng.uniform(-10, 10, 3)
        red = np.array([70, 55, 165.0]) * rng.uniform(0.75, 1.1)
        # Lips between the skin, darkened, and red: some are hardly redder than the face.
        lips = 0.8 * skin + (red - 0.8 * skin) * rng.uniform(0.3, 0.9)
        hair = np.array([20, 25, 30.0]) + np.array([60, 100, 150.0]) * rng.random() ** 2
        high = rng.random() < 0.5
        traits: dict[str, object] = {
            "skin": _colour(skin),
            "lips": _colour(lips),
            "hair": _colour(hair),
            "iris": _colour(rng.uniform((30, 40, 30), (150, 120, 90))),
            "backdrop": (_colour(rng.uniform(20, 235, 3)), _colour(rng.uniform(20, 235, 3))),
            "teeth_level": rng.uniform(200, 245),
            "face_width": rng.uniform(0.74, 0.90),
            "eye_row": rng.uniform(0.33, 0.40),
            "eye_distance": rng.uniform(0.34, 0.42),
            "nose_length": rng.uniform(0.17, 0.23),
            "mouth_row": rng.uniform(0.71, 0.77),
            "mouth_width": rng.uniform(0.30, 0.40),
            "lip_thickness": rng.uniform(0.020, 0.040),
            "largest_gap": rng.uniform(0.11, 0.16),
            "beard": float(rng.choice([0.0, 0.0, 0.0, 0.35, 0.9])),
            "hairline": rng.uniform(0.10, 0.24),
            "glasses": bool(rng.random() < 0.2),
            "light_from": rng.uniform(-1, 1),
            "pitch_hz": rng.uniform(170, 240) if high else rng.uniform(90, 140),
            "formant_scale": rng.uniform(1.08, 1.2) if high else rng.uniform(0.9, 1.05),
            "level": rng.uniform(0.25, 0.8),
            "syllable_seconds": rng.uniform(0.14, 0.20),
        }
        for name, value in traits.items():
            object.__setattr__(self, name, value)


class FixedBoxDetector:
    """A detector that finds the drawn face where it was drawn, to pass drawn videos through the pipeline."""

    name = "fixed"

    def __init__(self, box: Box) -> None:
        self.box = box

    def detect(self, image: Image) -> "list[Detection]":
        """The fixed box, whatever the image (uint8 BGR) shows."""
        from lipsmith.faces.detect import Detection

        left, top, width, height = self.box.left, self.box.top, self.box.width, self.box.height
        shares = np.array([[0.31, 0.37], [0.69, 0.37], [0.5, 0.55], [0.35, 0.74], [0.65, 0.74]])
        return [Detection(self.box, 1.0, shares * (width, height) + (left, top))]


def synthesize_clip(
    speaker: SyntheticSpeaker,
    seconds: float,
    seed: int,
    rate: Fraction | int = TRAINING_RATE_HZ,
    size: int = 96,
    conditions: Conditions = Conditions(),
) -> SyntheticClip:
    """A clip of face crops: `speaker` says what `seed` invents.

    Args:
        speaker: who is drawn and heard.
        seconds: rounded to whole frames, at least one.
        seed: decides the words and how the head moves.
        rate: frames a second.
        size: side of the crops in pixels.
        conditions: noise, jitter and motion.
    """
    performance = perform(speaker, seconds, seed, rate, conditions)
    frames = draw_frames(
        speaker, performance, seed, width=size, height=size, box=Box(0, 0, size, size), conditions=conditions
    )
    return SyntheticClip(
        frames=frames,
        samples=performance.samples,
        rate=performance.rate,
        openness=performance.openness,
        width=performance.width,
        silent=performance.silent,
        closure=performance.closure,
        speaker_seed=speaker.seed,
    )


def write_video(
    path: Path | str,
    speaker: SyntheticSpeaker,
    seconds: float,
    seed: int,
    *,
    rate: Fraction | int = TRAINING_RATE_HZ,
    width: int = 320,
    height: int = 240,
    box: Box | None = None,
    conditions: Conditions = Conditions(),
) -> Performance:
    """A video file of a drawn speaker with sound, the face in `box` (by default in the middle, two thirds high).

    `FixedBoxDetector(default_box(width, height))` finds it: no real detector is asked to like a drawing.

    Returns:
        What was performed: the known answer.
    """
    from lipsmith.media.write import VideoWriter

    performance = perform(speaker, seconds, seed, rate, conditions)
    frames = draw_frames(
        speaker,
        performance,
        seed,
        width=width,
        height=height,
        box=box or default_box(width, height),
        conditions=conditions,
    )
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "speech.wav"
        write_wav(sound, performance.samples)
        writer = VideoWriter(Path(path), width=width, height=height, rate=performance.rate, audio=sound)
        with writer:
            for index, frame in enumerate(frames):
                writer.write(frame, Fraction(index) / performance.rate)
    return performance


def prepare_synthetic(
    folder: Path,
    *,
    num_speakers: int,
    clips_per_speaker: int = 2,
    seconds: float = 2.4,
    face_size: int = 96,
    conditions: Conditions = Conditions(),
) -> list["ClipRecord"]:
    """Write a prepared folder of drawn people, as `lipsmith prepare` would of their videos: no detector is asked.

    Speaker k is `SyntheticSpeaker(k)` and called `drawn_k`; her clip number c says what seed
    `k * clips_per_speaker + c` invents.

    Returns:
        The records of the index.
    """
    from lipsmith.audio.mel import mel_spectrogram
    from lipsmith.data.clips import Clip, ClipRecord, encode_crop, save_clip, stored_size, write_index

    records = []
    side = stored_size(face_size)
    margin = (side - face_size) / 2
    box = Box(margin, margin, side - margin, side - margin)
    for number in range(num_speakers):
        speaker = SyntheticSpeaker(number)
        for seed in range(number * clips_per_speaker, (number + 1) * clips_per_speaker):
            performance = perform(speaker, seconds, seed, conditions=conditions)
            frames = draw_frames(
                speaker, performance, seed, width=side, height=side, box=box, conditions=conditions
            )
            record = ClipRecord(
                id=f"drawn_{number}_{seed}",
                source=f"drawn_{number}/{seed}.mp4",
                speaker=f"drawn_{number}",
                num_frames=len(frames),
                face_size=face_size,
                rate_hz=float(performance.rate),
                face_pixels=float(face_size),
                sharpness=0.0,
                licence="Apache-2.0",
                use="open",
                collection="drawn",
            )
            times = [Fraction(i) / performance.rate for i in range(len(frames))]
            crops = [encode_crop(frame) for frame in frames]
            save_clip(Clip(record, crops, times, mel_spectrogram(performance.samples), 0), folder)
            records.append(record)
    write_index(folder, records)
    return records


def write_wav(path: Path, samples: NDArray[np.float32]) -> None:
    """Write mono 16 kHz `samples` in [−1, 1] as a 16-bit WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE_HZ)
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())


def default_box(width: int, height: int) -> Box:
    """Where `write_video` draws the face: in the middle, as wide as high, two thirds of the shorter side."""
    side = min(width, height) * 2 / 3
    left, top = (width - side) / 2, (height - side) / 2
    return Box(left, top, left + side, top + side)


# The speech.


def perform(
    speaker: SyntheticSpeaker,
    seconds: float,
    seed: int,
    rate: Fraction | int = TRAINING_RATE_HZ,
    conditions: Conditions = Conditions(),
) -> Performance:
    """Invent a speech of `seconds`, in `speaker`'s voice, with words from `seed` alone."""
    rate = Fraction(rate)
    num_frames = max(1, round(Fraction(seconds) * rate))
    duration = num_frames / rate
    rng = np.random.default_rng([2, seed])
    num_controls = int(duration * _CONTROL_RATE_HZ) + 2
    phones, starts = _invent(rng, float(duration), speaker.syllable_seconds)
    time = np.arange(num_controls) / _CONTROL_RATE_HZ
    index = np.searchsorted(starts, time, side="right") - 1

    def track(values: Sequence[float], smooth_seconds: float) -> Track:
        return _smooth(np.asarray(values, dtype=np.float64)[index], smooth_seconds)

    closed = np.array([phone.opening == 0 for phone in phones])
    opening = track([phone.opening for phone in phones], 0.07)
    # Smoothing alone would leave a short closure half open, and m, b, p are what the eye looks for.
    opening *= 1 - _smooth(closed[index].astype(np.float64), 0.03)
    width = track([phone.width for phone in phones], 0.08)
    voice = track([phone.voice for phone in phones], 0.03)
    hiss = track([phone.hiss for phone in phones], 0.02)
    formants = np.stack([track([phone.formants_hz[k] for phone in phones], 0.04) for k in range(3)])
    count = num_samples(duration)
    samples = _voice(rng, speaker, voice, formants, count) + _hiss(rng, hiss, width, count)
    samples *= speaker.level / max(float(np.abs(samples).max()), 1e-9)
    noise = np.random.default_rng([3, seed])
    samples += noise.standard_normal(count) * (_ROOM_LEVEL + conditions.sound_noise * speaker.level / 3)
    middle = (np.arange(num_frames) + 0.5) / float(rate)
    at = np.minimum(np.searchsorted(starts, middle, side="right") - 1, len(phones) - 1)
    pause = np.array([phone is _PAUSE for phone in phones])
    return Performance(
        rate=rate,
        samples=np.clip(samples, -1, 1).astype(np.float32),
        openness=np.interp(middle, time, opening).astype(np.float32),
        width=np.interp(middle, time, width).astype(np.float32),
        silent=pause[at],
        closure=(closed & ~pause)[at],
    )


def _invent(
    rng: np.random.Generator, duration: float, syllable_seconds: float
) -> tuple[list[_Phone], NDArray[np.float64]]:
    """Phones, and the second at which each begins, until `duration` is full."""
    phones: list[_Phone] = []
    lengths: list[float] = []

    def say(phone: _Phone, seconds: float) -> None:
        phones.append(phone)
        lengths.append(seconds)

    if rng.random() < 0.5:
        say(_PAUSE, rng.uniform(0.1, 0.4))
    while sum(lengths) < duration + 0.1:
        for _ in range(int(rng.integers(2, 7))):
            onset = rng.random()
            if onset < 0.22:
                say(_HUM, rng.uniform(0.09, 0.13))
            elif onset < 0.40:
                say(_STOP, rng.uniform(0.09, 0.12))
            elif onset < 0.62:
                say(_FRICATIVES[rng.integers(len(_FRICATIVES))], rng.uniform(0.08, 0.14))
            vowel = _VOWELS[rng.integers(len(_VOWELS))]
            stress = rng.uniform(0.6, 1.0)
            stressed = _Phone(
                vowel.opening * stress, vowel.width, vowel.voice * stress, vowel.hiss, vowel.formants_hz
            )
            say(stressed, syllable_seconds * rng.uniform(0.7, 1.5))
        say(_PAUSE, rng.uniform(0.15, 0.5))
    return phones, np.concatenate([[0.0], np.cumsum(lengths)[:-1]])


def _voice(
    rng: np.random.Generator, speaker: SyntheticSpeaker, level: Track, formants_hz: Track, count: int
) -> Track:
    """Harmonics of a wandering pitch under a formant envelope, (count,)."""
    time = np.arange(count) / SAMPLE_RATE_HZ
    control = np.arange(len(level)) / _CONTROL_RATE_HZ
    wander = _smooth(rng.standard_normal(len(level)), 0.3)
    pitch = speaker.pitch_hz * np.exp(0.12 * wander / max(float(np.abs(wander).max()), 1e-9))
    phase = 2 * np.pi * np.cumsum(np.interp(time, control, pitch)) / SAMPLE_RATE_HZ
    formants = formants_hz * speaker.formant_scale
    bandwidths = np.array([45.0, 60.0, 90.0])[:, None]
    gains = np.array([1.0, 0.55, 0.25])[:, None]
    sound = np.zeros(count)
    for harmonic in range(1, int(7000 / speaker.pitch_hz) + 1):
        frequency = pitch * harmonic
        resonance = (gains / (1 + ((frequency - formants) / bandwidths) ** 2)).sum(axis=0)
        amplitude = level * (resonance + 0.02) / np.sqrt(harmonic)
        sound += np.interp(time, control, amplitude) * np.sin(harmonic * phase)
    return sound


def _hiss(rng: np.random.Generator, level: Track, width: Track, count: int) -> Track:
    """Noise of fricatives, (count,): sharp (s) where the lips are spread, dull (f) where they are not."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.fft.rfftfreq(count, 1 / SAMPLE_RATE_HZ)
    sharp = np.fft.irfft(spectrum / (1 + np.exp(-(frequency - 4200) / 250)), count)
    dull = np.fft.irfft(spectrum * np.exp(-(((frequency - 2000) / 1800) ** 2)), count)
    time = np.arange(count) / SAMPLE_RATE_HZ
    control = np.arange(len(level)) / _CONTROL_RATE_HZ
    sharpness = np.clip((np.interp(time, control, width) - 0.5) / 0.3, 0, 1)
    return np.interp(time, control, level) * 0.5 * (sharpness * sharp + (1 - sharpness) * dull)


def _smooth(values: Track, seconds: float) -> Track:
    """Weighted mean over a Hann window of `seconds`, ends repeated."""
    half = max(1, round(seconds * _CONTROL_RATE_HZ / 2))
    kernel = np.hanning(2 * half + 3)[1:-1]
    return np.convolve(np.pad(values, half, mode="edge"), kernel / kernel.sum(), mode="valid")


# The picture.


def draw_frames(
    speaker: SyntheticSpeaker,
    performance: Performance,
    seed: int,
    *,
    width: int,
    height: int,
    box: Box,
    conditions: Conditions = Conditions(),
) -> NDArray[np.uint8]:
    """Draw `speaker` performing, (T, height, width, 3) BGR, the face filling `box`; `seed` moves the head."""
    rng = np.random.default_rng([4, seed])
    num_frames = len(performance.openness)
    seconds = np.arange(num_frames) / float(performance.rate)
    sway = conditions.head_motion
    across = sway * _wander(rng, seconds, 0.025) + conditions.jitter * rng.standard_normal(num_frames)
    down = sway * _wander(rng, seconds, 0.02) + conditions.jitter * rng.standard_normal(num_frames)
    turn = sway * _wander(rng, seconds, 0.07)
    zoom = 1 + sway * _wander(rng, seconds, 0.025)
    gaze = sway * _wander(rng, seconds, 0.3)
    light = 1 + conditions.light_flicker * rng.standard_normal(num_frames)
    blink = _blinks(rng, seconds)
    # OpenCV's own antialiasing leaves teeth and lips ragged at 96 pixels: draw larger, then average.
    fine = _OVERSAMPLING
    backdrop = _backdrop(speaker, rng, width * fine, height * fine)
    shade = _shade(speaker, width, height, box)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for t in range(num_frames):
        canvas = backdrop.copy()
        place = _Placement(box.scaled(fine), float(across[t]), float(down[t]), float(turn[t]), float(zoom[t]))
        _draw_head(
            canvas,
            place,
            speaker,
            opening=float(performance.openness[t]),
            spread=float(performance.width[t]),
            gaze=float(gaze[t]),
            lid=float(blink[t]),
        )
        picture = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
        lit = picture.astype(np.float32) * (shade * np.float32(light[t]))
        if conditions.picture_noise > 0:
            lit += rng.standard_normal(lit.shape, dtype=np.float32) * np.float32(conditions.picture_noise)
        frames[t] = np.clip(lit + 0.5, 0, 255)
    return frames


@dataclass(frozen=True, slots=True)
class _Placement:
    """Where the face's own coordinates lie in the picture."""

    box: Box
    across: float
    down: float
    turn: float
    zoom: float

    def pixels(self, points: Points) -> NDArray[np.int32]:
        """Points (n, 2) in shares of the face to fixed-point pixels for OpenCV."""
        centred = (np.asarray(points, dtype=np.float64) - 0.5) * self.zoom
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        x = centred[:, 0] * cos - centred[:, 1] * sin + 0.5 + self.across
        y = centred[:, 0] * sin + centred[:, 1] * cos + 0.5 + self.down
        # OpenCV counts from the middle of a pixel, boxes from its edge.
        pixels = np.stack(
            [self.box.left + x * self.box.width - 0.5, self.box.top + y * self.box.height - 0.5], axis=1
        )
        return np.rint(pixels * (1 << _SUBPIXEL_BITS)).astype(np.int32)

    def fill(self, canvas: Image, points: Points, colour: Colour) -> None:
        """A filled, antialiased polygon."""
        cv2.fillPoly(canvas, [self.pixels(points)], colour, cv2.LINE_AA, _SUBPIXEL_BITS)

    def line(
        self, canvas: Image, points: Points, colour: Colour, thickness: float, closed: bool = False
    ) -> None:
        """An antialiased line, `thickness` as a share of the face."""
        pixels = max(1, round(thickness * self.box.height * self.zoom))
        cv2.polylines(canvas, [self.pixels(points)], closed, colour, pixels, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_head(
    canvas: Image,
    place: _Placement,
    speaker: SyntheticSpeaker,
    *,
    opening: float,
    spread: float,
    gaze: float,
    lid: float,
) -> None:
    gap = opening * speaker.largest_gap
    half = speaker.face_width / 2
    drop = 0.45 * gap  # the jaw follows the lower lip
    neck = np.array([[0.5 - 0.55 * half, 0.8], [0.5 + 0.55 * half, 0.8], [0.8, 1.3], [0.2, 1.3]])
    place.fill(canvas, neck, _scaled(speaker.skin, 0.78))
    place.fill(canvas, _ellipse(0.5, 0.36, half * 1.12, 0.42), speaker.hair)
    for side in (-1, 1):
        place.fill(canvas, _ellipse(0.5 + side * half, 0.5, 0.045, 0.09), _scaled(speaker.skin, 0.9))
    place.fill(canvas, _face_outline(half, drop), speaker.skin)
    if speaker.beard > 0:
        _draw_beard(canvas, place, speaker, half, drop)
    forehead = np.array([[0.5 - half, 0.0], [0.5 + half, 0.0], [0.5 + half, speaker.hairline - 0.02]])
    brow = _arc(0.5, speaker.hairline, half, -0.05)[::-1]
    place.fill(canvas, np.concatenate([forehead, brow]), speaker.hair)
    _draw_eyes(canvas, place, speaker, gaze, lid)
    _draw_nose(canvas, place, speaker)
    _draw_mouth(canvas, place, speaker, gap, spread)


def _draw_beard(
    canvas: Image, place: _Placement, speaker: SyntheticSpeaker, half: float, drop: float
) -> None:
    colour = _mix(speaker.skin, speaker.hair, speaker.beard)
    outline = _face_outline(half, drop)
    jaw = outline[outline[:, 1] > 0.62]
    jaw = jaw[np.argsort(np.arctan2(jaw[:, 1] - 0.6, jaw[:, 0] - 0.5))]
    upper = speaker.mouth_row - 0.075
    inner = np.array([[0.5 - 0.75 * half, 0.66], [0.36, upper], [0.64, upper], [0.5 + 0.75 * half, 0.66]])
    place.fill(canvas, np.concatenate([jaw, inner]), colour)


def _draw_eyes(canvas: Image, place: _Placement, speaker: SyntheticSpeaker, gaze: float, lid: float) -> None:
    for side in (-1, 1):
        x, y = 0.5 + side * speaker.eye_distance / 2, speaker.eye_row
        place.fill(canvas, _ellipse(x, y, 0.062, 0.034 * (1 - lid) + 0.003), (238, 240, 242))
        if lid < 0.7:
            place.fill(canvas, _ellipse(x + 0.04 * gaze, y, 0.026, 0.03 * (1 - lid)), speaker.iris)
            place.fill(canvas, _ellipse(x + 0.04 * gaze, y, 0.012, 0.014 * (1 - lid)), (15, 15, 15))
        place.line(canvas, _arc(x, y - 0.004, 0.064, -0.036 * (1 - lid)), _scaled(speaker.skin, 0.5), 0.012)
        place.line(canvas, _arc(x, y - 0.075, 0.075, -0.02), _scaled(speaker.hair, 0.9), 0.022)
        if speaker.glasses:
            place.line(canvas, _ellipse(x, y + 0.005, 0.1, 0.075), (40, 40, 45), 0.012, closed=True)
    if speaker.glasses:
        bridge = np.array([[0.5 - 0.1, speaker.eye_row], [0.5 + 0.1, speaker.eye_row]])
        inner = speaker.eye_distance / 2 - 0.1
        bridge[:, 0] = (0.5 - inner, 0.5 + inner)
        place.line(canvas, bridge, (40, 40, 45), 0.012)


def _draw_nose(canvas: Image, place: _Placement, speaker: SyntheticSpeaker) -> None:
    tip = speaker.eye_row + speaker.nose_length
    side = 1 if speaker.light_from < 0 else -1
    ridge = np.array([[0.5 + side * 0.02, speaker.eye_row + 0.02], [0.5 + side * 0.05, tip]])
    place.line(canvas, ridge, _scaled(speaker.skin, 0.84), 0.014)
    place.line(canvas, _arc(0.5, tip, 0.06, 0.025), _scaled(speaker.skin, 0.68), 0.014)
    for nostril in (-1, 1):
        place.fill(
            canvas, _ellipse(0.5 + nostril * 0.03, tip + 0.008, 0.014, 0.008), _scaled(speaker.skin, 0.4)
        )


def _draw_mouth(
    canvas: Image, place: _Placement, speaker: SyntheticSpeaker, gap: float, spread: float
) -> None:
    half = speaker.mouth_width / 2 * (0.72 + 0.43 * spread)
    thickness = speaker.lip_thickness * (1.25 - 0.4 * spread)
    row = speaker.mouth_row
    x = np.linspace(-1, 1, 33)
    arch = (1 - x**2) ** 0.7
    # Two thirds of the gap open downwards, with the jaw.
    inner_top, inner_bottom = row - gap / 3 * arch, row + gap * 2 / 3 * arch
    bow = 1 - 0.22 * np.exp(-((x / 0.18) ** 2))
    outer_top, outer_bottom = inner_top - thickness * arch * bow, inner_bottom + 1.25 * thickness * arch
    across = 0.5 + half * x

    def between(top: Points, bottom: Points) -> Points:
        return np.concatenate([np.stack([across, top], 1), np.stack([across, bottom], 1)[::-1]])

    shadow = np.stack([0.5 + 0.6 * half * x, outer_bottom + 0.022], 1)
    place.line(canvas, shadow, _scaled(speaker.skin, 0.85), 0.014)
    place.fill(canvas, between(outer_top, inner_top), _scaled(speaker.lips, 0.9))
    place.fill(canvas, between(inner_bottom, outer_bottom), speaker.lips)
    if gap > 0.004:
        place.fill(canvas, between(inner_top, inner_bottom), (28, 18, 48))
        teeth = np.minimum(inner_bottom, inner_top + np.minimum(0.032, 0.75 * gap) * arch)
        white = speaker.teeth_level
        place.fill(canvas, between(inner_top, teeth), (0.9 * white, 0.97 * white, white))
        if gap > 0.05:
            tongue = np.maximum(inner_bottom - 0.45 * (gap - 0.03) * arch, teeth)
            middle = slice(6, 27)
            tongue_outline = np.concatenate(
                [
                    np.stack([across, tongue], 1)[middle],
                    np.stack([across, inner_bottom], 1)[middle][::-1],
                ]
            )
            place.fill(canvas, tongue_outline, (92, 82, 168))
    else:
        # The line between closed lips.
        place.line(canvas, np.stack([across, inner_top + gap / 3], 1), _scaled(speaker.lips, 0.5), 0.008)


def _face_outline(half: float, drop: float) -> Points:
    """An egg, round above and narrower at the chin, whose jaw hangs lower by `drop`."""
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x, y = np.cos(angle), np.sin(angle)
    rows = 0.45 + np.where(y > 0, 0.505, 0.43) * y
    # Only what lies below the cheekbones hangs: the upper half must not tell what the mouth does.
    rows += drop * np.clip((rows - 0.6) / 0.35, 0, 1)
    return np.stack([0.5 + half * x * (1 - 0.14 * np.maximum(y, 0) ** 2), rows], axis=1)


def _ellipse(x: float, y: float, half_width: float, half_height: float) -> Points:
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return np.stack([x + half_width * np.cos(angle), y + half_height * np.sin(angle)], axis=1)


def _arc(x: float, y: float, half_width: float, rise: float) -> Points:
    """A bow from left to right whose middle lies `rise` below its ends (above, where negative)."""
    along = np.linspace(-1, 1, 17)
    return np.stack([x + half_width * along, y + rise * (1 - along**2)], axis=1)


def _backdrop(speaker: SyntheticSpeaker, rng: np.random.Generator, width: int, height: int) -> Image:
    """A wall that changes colour from one corner to the other, with a few blurred things on it."""
    across = np.linspace(0, 0.5, width)[None, :, None] + np.linspace(0, 0.5, height)[:, None, None]
    first, second = (np.array(colour) for colour in speaker.backdrop)
    wall = (first + (second - first) * across).astype(np.uint8)
    for _ in range(4):
        corner = rng.uniform((0, 0), (width, height)).astype(int)
        size = (rng.uniform(0.1, 0.35, 2) * (width, height)).astype(int)
        colour = _colour(rng.uniform(20, 235, 3))
        cv2.rectangle(wall, corner.tolist(), (corner + size).tolist(), colour, -1)
    return cv2.GaussianBlur(wall, (0, 0), max(min(width, height) / 60, 0.5))


def _shade(speaker: SyntheticSpeaker, width: int, height: int, box: Box) -> NDArray[np.float32]:
    """Light from one side, (height, width, 1): round the head, even behind it."""
    x = (np.arange(width) + 0.5 - box.left) / box.width
    y = (np.arange(height) + 0.5 - box.top) / box.height
    slope = 0.22 * speaker.light_from * np.clip(2 * x - 1, -1, 1)[None, :]
    fall = -0.10 * np.clip(2 * y - 1, -1, 1)[:, None]
    return (1 + slope + fall)[:, :, None].astype(np.float32)


def _wander(rng: np.random.Generator, seconds: Track, size: float) -> Track:
    """A slow random movement of about `size`, below 1 Hz, slower than syllables."""
    moved = np.zeros_like(seconds)
    for frequency in rng.uniform(0.08, 0.8, 4):
        moved += rng.normal() * np.sin(2 * np.pi * (frequency * seconds + rng.random()))
    return size * moved / 2


def _blinks(rng: np.random.Generator, seconds: Track) -> Track:
    """0 open … 1 shut."""
    lid = np.zeros_like(seconds)
    time = rng.uniform(0, 3)
    while len(seconds) and time < seconds[-1] + 0.2:
        lid = np.maximum(lid, np.clip(1.6 - np.abs(seconds - time) / 0.07, 0, 1))
        time += rng.uniform(1.5, 5)
    return lid


def _colour(values: NDArray[np.floating]) -> Colour:
    blue, green, red = (float(value) for value in np.clip(values, 0, 255))
    return blue, green, red


def _scaled(colour: Colour, factor: float) -> Colour:
    return _colour(np.array(colour) * factor)


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    return _colour(np.array(first) * (1 - share) + np.array(second) * share)
