"""Does a mouth look right? Sharpness, likeness to the real one, and whether it moves when it should.

Pictures are uint8 BGR, time first: (T, H, W, 3). A face crop shows the padded face box, so the mouth lies in
a fixed part of it; `mouth_region` is that part.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lipsmith.geometry import LUMA_BGR
from lipsmith.reference import openness

Images = NDArray[np.uint8]

MOUTH_ROWS = (0.55, 0.86)
MOUTH_COLUMNS = (0.25, 0.75)
_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_PEAK = 255.0
_CLOSED_SHARE = 0.2
_LIP_SHARE = 1 / 8  # of the mouth region


def mouth_region(faces: NDArray) -> NDArray:
    """The part of face crops (…, S, S, 3) that shows the mouth, a view."""
    size = faces.shape[-2]
    rows = slice(round(MOUTH_ROWS[0] * size), round(MOUTH_ROWS[1] * size))
    columns = slice(round(MOUTH_COLUMNS[0] * size), round(MOUTH_COLUMNS[1] * size))
    return faces[..., rows, columns, :]


def laplacian_variance(images: Images) -> NDArray[np.float64]:
    """Variance of the Laplacian of the luma of each image, (T,): high for edges, and for noise and specks."""
    luma = _luma(images)
    return np.array([cv2.Laplacian(image, cv2.CV_32F).var(dtype=np.float64) for image in luma])


def gradient_energy(images: Images) -> NDArray[np.float64]:
    """Mean squared difference of neighbouring pixels' luma of each image, (T,): less moved by noise."""
    luma = _luma(images).astype(np.float64)
    down, across = np.diff(luma, axis=1), np.diff(luma, axis=2)
    return (down**2).mean(axis=(1, 2)) + (across**2).mean(axis=(1, 2))


def sharpness_ratio(generated: Images, real: Images) -> float:
    """Laplacian variance of the mouths of generated face crops over that of real ones: 1 is as sharp as real.

    The medians over time are compared, so frames of the two need not show the same words. Well below 1 is a
    blur; well above 1 is no triumph but noise or specks: look at the strip.
    """
    return _ratio_of_medians(
        laplacian_variance(mouth_region(generated)), laplacian_variance(mouth_region(real))
    )


def gradient_ratio(generated: Images, real: Images) -> float:
    """As `sharpness_ratio`, by `gradient_energy`."""
    return _ratio_of_medians(gradient_energy(mouth_region(generated)), gradient_energy(mouth_region(real)))


def psnr(first: Images, second: Images) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each pair of images, (T,), decibels; infinite for equal ones."""
    _require_same(first, second)
    squares = (first.astype(np.float64) - second.astype(np.float64)) ** 2
    error = squares.reshape(len(first), -1).mean(axis=1)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(_PEAK**2 / error)


def ssim(first: Images, second: Images) -> NDArray[np.float64]:
    """Structural similarity of each pair of images, (T,), −1 to 1, mean over the three colours.

    Wang et al., 2004: Gaussian window of 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03; only where the window fits.
    """
    _require_same(first, second)
    if min(first.shape[1:3]) < _SSIM_WINDOW:
        raise ValueError(
            f"images of {first.shape[2]} × {first.shape[1]} are smaller than the window of {_SSIM_WINDOW}"
        )
    return np.array(
        [_ssim(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(first, second, strict=True)]
    )


def mouth_motion(faces: Images) -> NDArray[np.float64]:
    """Mean absolute change of the mouth region from each frame to the next, (T − 1,), grey levels 0 to 255.

    A head that moves changes these pixels too: compare two videos of the same head, or speech with silence.
    """
    return image_motion(mouth_region(faces))


def image_motion(images: Images) -> NDArray[np.float64]:
    """Mean absolute change of the luma of images from each to the next, (T − 1,), grey levels 0 to 255."""
    luma = _luma(images).astype(np.float64)
    return np.abs(np.diff(luma, axis=0)).mean(axis=(1, 2))


def mouth_variation(faces: Images) -> float:
    """Standard deviation of each pixel of the mouth region over time, averaged: 0 for a still mouth."""
    return float(_luma(mouth_region(faces)).astype(np.float64).std(axis=0).mean())


def opening_correlation(generated: Images, real: Images) -> float:
    """Pearson's correlation over time of how open the generated mouth is with how open the real one is, same words.

    By `lipsmith.reference.openness` of each face crop; NaN where one of them never moves.
    """
    made, wanted = _openness(generated, real)
    if np.ptp(made) == 0 or np.ptp(wanted) == 0:
        return float("nan")
    return float(np.corrcoef(made, wanted)[0, 1])


def closure_rank(generated: Images, real: Images) -> float:
    """How closed the generated mouth is where the real one closes, same words: 0 to 1, chance is 0.5.

    Of the fifth of the frames in which the real mouth is least open, such as at m, b, p and in pauses, the mean rank of
    the generated one by openness among all its frames, 0 for the least open. Where it closes in the same frames: 0.1.
    """
    made, wanted = _openness(generated, real)
    count = max(1, round(_CLOSED_SHARE * len(wanted)))
    closed = np.argsort(wanted, kind="stable")[:count]
    # Frames that are equally open share their rank.
    ranks = (made[closed, None] > made).sum(axis=1) + ((made[closed, None] == made).sum(axis=1) - 1) / 2
    return float(ranks.mean() / max(1, len(made) - 1))


def lip_redness(faces: Images) -> NDArray[np.float64]:
    """How much redder the lips of each face crop are than what is around them, (T,): near 0 for pale ones.

    Red less green over luma, the mean of the reddest eighth of the mouth region less the region's median. It does not
    change with exposure.
    """
    mouths = mouth_region(faces)
    redness = (mouths[..., 2].astype(np.float64) - mouths[..., 1]) / np.maximum(_luma(mouths), 1.0)
    redness = np.sort(redness.reshape(len(faces), -1), axis=1)
    reddest = redness[:, -max(1, round(_LIP_SHARE * redness.shape[1])) :]
    return np.asarray(reddest.mean(axis=1) - np.median(redness, axis=1), np.float64)


def lip_redness_ratio(generated: Images, real: Images) -> float:
    """Medians over time of `lip_redness`, generated over real: 1 is as red, well below 1 is pale."""
    return _ratio_of_medians(lip_redness(generated), lip_redness(real))


def _openness(*videos: Images) -> list[NDArray[np.float64]]:
    _require_same(*videos)
    return [np.array([openness(face) for face in faces], np.float64) for faces in videos]


@dataclass(frozen=True, slots=True)
class SpeechMotion:
    """How much a mouth moves while somebody speaks and while nobody does."""

    speech: float
    """Mean `mouth_motion` within speech; NaN without any."""
    silence: float
    """Mean `mouth_motion` within silence; NaN without any."""

    @property
    def ratio(self) -> float:
        """Speech over silence: well above 1 for a mouth that follows the sound."""
        return (
            self.speech / self.silence
            if self.silence > 0
            else float("inf")
            if self.speech > 0
            else float("nan")
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values; what is not finite as None."""
        values = {"speech": self.speech, "silence": self.silence, "ratio": self.ratio}
        return {name: value if np.isfinite(value) else None for name, value in values.items()}


def speech_motion(faces: Images, speaking: NDArray[np.bool_]) -> SpeechMotion:
    """Split `mouth_motion` by whether both frames of a change are `speaking` (T,) or both are not."""
    if len(faces) != len(speaking):
        raise ValueError(f"{len(faces)} frames, but {len(speaking)} answers to whether somebody speaks")
    motion = mouth_motion(faces)
    both = speaking[1:] & speaking[:-1]
    neither = ~speaking[1:] & ~speaking[:-1]
    return SpeechMotion(
        float(motion[both].mean()) if both.any() else float("nan"),
        float(motion[neither].mean()) if neither.any() else float("nan"),
    )


def _luma(images: Images) -> NDArray[np.float32]:
    """(T, H, W), 0 to 255."""
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images must be (T, H, W, 3) uint8, got {images.shape} {images.dtype}")
    return images.astype(np.float32) @ np.array(LUMA_BGR, np.float32)


def _ratio_of_medians(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    below = float(np.median(second))
    return float(np.median(first)) / below if below > 0 else float("nan")


def _ssim(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    half = _SSIM_WINDOW // 2

    def local_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        blurred = cv2.GaussianBlur(values, (_SSIM_WINDOW, _SSIM_WINDOW), _SSIM_SIGMA)
        return blurred[half:-half, half:-half].astype(np.float64)

    mean_1, mean_2 = local_mean(first), local_mean(second)
    variance_1 = local_mean(first * first) - mean_1**2
    variance_2 = local_mean(second * second) - mean_2**2
    covariance = local_mean(first * second) - mean_1 * mean_2
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    luminance = (2 * mean_1 * mean_2 + c1) / (mean_1**2 + mean_2**2 + c1)
    structure = (2 * covariance + c2) / (variance_1 + variance_2 + c2)
    return float((luminance * structure).mean())


def _require_same(first: Images, second: Images) -> None:
    if first.shape != second.shape or first.ndim != 4:
        raise ValueError(f"images {first.shape} and {second.shape} must be of one shape (T, H, W, 3)")
