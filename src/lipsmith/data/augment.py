"""Changes to training clips that leave sync alone: flips, colour, crop jitter, blur, noise, loudness, tone, room noise.

Every change is drawn once per clip and holds for all of its frames, since a change from frame to frame would be a cue.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.audio.mel import band_centres_hz
from lipsmith.timebase import SILENCE

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class FaceAugmentation:
    """Ranges of the changes to pictures; 0 (or `probability` 0) turns one off.

    Attributes:
        flip: Probability of a mirror image.
        shift: Largest shift of the crop, share of its side.
        scale: Largest change of the crop's scale, e.g. 0.08 for 0.92 to 1.08.
        rotate: Largest turn, degrees.
        colour: Largest change of a channel's gain, and of the brightness.
        blur: Probability of a Gaussian blur of up to 1.2 pixels.
        noise: Largest standard deviation of added noise, colour units 0 to 1.
        grey: Probability of a grey picture.
    """

    flip: float = 0.5
    shift: float = 0.05
    scale: float = 0.08
    rotate: float = 4.0
    colour: float = 0.15
    blur: float = 0.2
    noise: float = 0.02
    grey: float = 0.1


@dataclass(frozen=True)
class SoundAugmentation:
    """Ranges of the changes to mels, in mel units (0.08 each dB).

    Attributes:
        gain: Largest change of loudness; 0.5 is 6 dB.
        tilt: Largest change of tone, from the lowest band to the highest.
        noise_floor: Probability of a noise floor between −3.5 and −1.5.
        band_drop: Probability that up to ten neighbouring bands fall silent.
        warp: Largest stretch of the frequencies, e.g. 0.1 for 0.9 to 1.1: a longer or shorter vocal tract, so that few
            speakers sound like more.
    """

    gain: float = 0.5
    tilt: float = 0.4
    noise_floor: float = 0.3
    band_drop: float = 0.3
    warp: float = 0.0


@dataclass(frozen=True)
class CropMotion:
    """Where in the stored crop the face crop is taken from, for one clip."""

    matrix: NDArray[np.float64]  # 2 × 3, stored pixels → crop pixels
    flip: bool


def draw_motion(
    rng: np.random.Generator, stored: int, size: int, augmentation: FaceAugmentation
) -> CropMotion:
    """A random crop of `size` in a stored picture of side `stored`, about the middle."""
    scale = 1 + rng.uniform(-augmentation.scale, augmentation.scale)
    angle = rng.uniform(-augmentation.rotate, augmentation.rotate)
    shift = rng.uniform(-augmentation.shift, augmentation.shift, 2) * size
    middle = (stored - 1) / 2
    matrix = np.asarray(cv2.getRotationMatrix2D((middle, middle), angle, scale), np.float64)
    matrix[:, 2] = matrix[:, 2] + (size - stored) / 2 + shift
    return CropMotion(matrix, bool(rng.random() < augmentation.flip))


def centre_motion(stored: int, size: int) -> CropMotion:
    """The crop of inference, unchanged."""
    margin = (stored - size) / 2
    return CropMotion(np.array([[1.0, 0.0, -margin], [0.0, 1.0, -margin]]), False)


def move_crop(image: NDArray[np.uint8], motion: CropMotion, size: int) -> NDArray[np.uint8]:
    """The face crop, uint8 (size, size, 3), of one stored picture."""
    crop: NDArray[np.uint8] = cv2.warpAffine(  # type: ignore[assignment]
        image, motion.matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return crop[:, ::-1] if motion.flip else crop


def upper_shift(image: NDArray[np.uint8], target: NDArray[np.uint8]) -> tuple[float, float]:
    """By how many pixels (x, y) `image` must move for its upper face to lie on that of `target`; both stored crops.

    Phase correlation of the eyes' region. An answer of over 8 % of the side is a mistake, and no move at all is made.
    """
    side = image.shape[0]
    region = (slice(side // 8, side // 2), slice(side // 6, side - side // 6))
    grey = [
        cv2.cvtColor(np.ascontiguousarray(picture[region]), cv2.COLOR_BGR2GRAY) for picture in (image, target)
    ]
    first, second = (np.asarray(picture, np.float32) for picture in grey)
    (x, y), _ = cv2.phaseCorrelate(first, second, cv2.createHanningWindow(first.shape[::-1], cv2.CV_32F))
    return (x, y) if max(abs(x), abs(y)) <= 0.08 * side else (0.0, 0.0)


def recolour(rng: np.random.Generator, faces: FloatArray, augmentation: FaceAugmentation) -> FloatArray:
    """Colour changes of faces (T, S, S, 3) in 0 to 1; one draw for all of them."""
    gain = 1 + rng.uniform(-augmentation.colour, augmentation.colour) / 2
    gains = gain * (1 + rng.uniform(-augmentation.colour, augmentation.colour, 3) / 2)
    faces = faces * gains.astype(np.float32)
    faces += np.float32(rng.uniform(-1, 1) * augmentation.colour / 3)
    if rng.random() < augmentation.grey:
        faces = np.repeat(faces.mean(axis=-1, keepdims=True), 3, axis=-1)
    return np.clip(faces, 0, 1, out=faces)


def roughen(rng: np.random.Generator, faces: FloatArray, augmentation: FaceAugmentation) -> FloatArray:
    """Blur and noise on faces (T, S, S, 3) in 0 to 1: what the expert must not mind and must not be bribed with."""
    if rng.random() < augmentation.blur:
        sigma = rng.uniform(0.4, 1.2)
        faces = np.stack([cv2.GaussianBlur(face, (0, 0), sigma) for face in faces])
    if augmentation.noise > 0 and rng.random() < 0.5:
        sigma = rng.uniform(0, augmentation.noise)
        noise = rng.standard_normal(faces.shape, dtype=np.float32)
        noise *= sigma
        noise += faces
        faces = noise
    return np.clip(faces, 0, 1)


def change_sound(rng: np.random.Generator, mel: FloatArray, augmentation: SoundAugmentation) -> FloatArray:
    """A mel (80, n) heard through another microphone, in another room."""
    if augmentation.warp > 0:
        mel = warp_frequencies(mel, rng.uniform(1 - augmentation.warp, 1 + augmentation.warp))
    bands = np.linspace(-0.5, 0.5, mel.shape[0], dtype=np.float32)[:, None]
    gain = rng.uniform(-augmentation.gain, augmentation.gain)
    tilt = rng.uniform(-augmentation.tilt, augmentation.tilt)
    changed = mel + np.float32(gain) + np.float32(tilt) * bands
    if rng.random() < augmentation.noise_floor:
        floor = rng.uniform(-3.5, -1.5) + 0.15 * rng.standard_normal(mel.shape, dtype=np.float32)
        changed = np.maximum(changed, floor)
    if rng.random() < augmentation.band_drop:
        first = rng.integers(0, mel.shape[0] - 10)
        changed[first : first + rng.integers(2, 11)] = SILENCE
    return np.clip(changed, -4, 4).astype(np.float32)


def warp_frequencies(mel: FloatArray, stretch: float) -> FloatArray:
    """A mel (80, n) with what was at frequency f at `stretch` · f; what lay beyond the bands is their last one.

    Levels between two bands are interpolated. Resonances of a vocal tract lie in inverse proportion to its length.
    """
    centres = band_centres_hz()
    sources = np.interp(centres / stretch, centres, np.arange(len(centres)))
    below = np.minimum(sources.astype(np.intp), len(centres) - 2)
    share = (sources - below).astype(np.float32)[:, None]
    return (1 - share) * mel[below] + share * mel[below + 1]
