import json

import cv2
import numpy as np
import pytest

from lipsmith.data.synthetic import Conditions, SyntheticSpeaker, synthesize_clip
from lipsmith.evaluation.mouth import (
    closure_rank,
    gradient_energy,
    gradient_ratio,
    laplacian_variance,
    lip_redness,
    lip_redness_ratio,
    mouth_motion,
    mouth_region,
    mouth_variation,
    opening_correlation,
    psnr,
    sharpness_ratio,
    speech_motion,
    ssim,
)


def grey(values: np.ndarray) -> np.ndarray:
    """(T, H, W) → (T, H, W, 3) uint8."""
    return np.repeat(values[..., None], 3, axis=-1).astype(np.uint8)


class TestSharpness:
    def test_known_gradient(self) -> None:
        ramp = grey(np.tile(np.arange(0, 60, 3), (1, 20, 1)))  # 3 levels a column, nothing down the rows
        assert gradient_energy(ramp) == pytest.approx([9.0], rel=1e-5)

    def test_known_laplacian(self) -> None:
        # Checkerboard of 0 and 100: inside, the Laplacian is ± 400 (mirrored borders as well).
        board = grey((np.indices((20, 20)).sum(axis=0) % 2 * 100)[None])
        assert laplacian_variance(board) == pytest.approx([400.0**2], rel=1e-3)

    def test_blur_is_below_one_and_noise_above(self) -> None:
        clip = synthesize_clip(SyntheticSpeaker(6), 1.0, 0, conditions=Conditions(picture_noise=0))
        blurred = np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in clip.frames])
        rng = np.random.default_rng(0)
        noisy = np.clip(clip.frames + rng.normal(0, 20, clip.frames.shape), 0, 255).astype(np.uint8)
        for ratio in (sharpness_ratio, gradient_ratio):
            assert ratio(clip.frames, clip.frames) == 1.0
            assert ratio(blurred, clip.frames) < 0.5
            assert ratio(noisy, clip.frames) > 1.3

    def test_only_the_mouth_counts(self) -> None:
        clip = synthesize_clip(SyntheticSpeaker(6), 0.4, 0)
        changed = clip.frames.copy()
        changed[:, :50] = 0
        assert sharpness_ratio(changed, clip.frames) == 1.0

    def test_mouth_region_is_in_the_lower_half(self) -> None:
        assert mouth_region(np.zeros((2, 96, 96, 3))).shape == (2, 30, 48, 3)
        clip = synthesize_clip(SyntheticSpeaker(6), 0.4, 0)
        assert np.shares_memory(mouth_region(clip.frames), clip.frames)

    def test_floats_are_refused(self) -> None:
        with pytest.raises(ValueError, match="uint8"):
            laplacian_variance(np.zeros((1, 8, 8, 3), np.float32))  # type: ignore[arg-type]


class TestLikeness:
    def test_psnr_of_a_known_error(self) -> None:
        first = grey(np.full((2, 16, 16), 100))
        second = first.copy()
        second[1] += 10
        assert psnr(first, second).tolist() == [np.inf, pytest.approx(20 * np.log10(25.5))]

    def test_ssim_of_flat_images(self) -> None:
        # Without structure only the luminance term is left: (2ab + c1) / (a² + b² + c1).
        first, second = grey(np.full((1, 16, 16), 100)), grey(np.full((1, 16, 16), 150))
        c1 = (0.01 * 255) ** 2
        expected = (2 * 100 * 150 + c1) / (100**2 + 150**2 + c1)
        assert ssim(first, second) == pytest.approx([expected], abs=1e-6)

    def test_ssim_agrees_with_another_implementation(self) -> None:
        metrics = pytest.importorskip("skimage.metrics")
        first = synthesize_clip(SyntheticSpeaker(1), 0.2, 0).frames
        second = synthesize_clip(SyntheticSpeaker(1), 0.2, 1).frames
        ours = ssim(first, second)
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            theirs = metrics.structural_similarity(
                a, b, channel_axis=2, gaussian_weights=True, use_sample_covariance=False, data_range=255
            )
            assert ours[index] == pytest.approx(theirs, abs=1e-4)

    def test_equal_images(self) -> None:
        frames = synthesize_clip(SyntheticSpeaker(1), 0.2, 0).frames
        assert ssim(frames, frames) == pytest.approx(np.ones(5))

    def test_other_shapes_are_refused(self) -> None:
        small = np.zeros((1, 16, 16, 3), np.uint8)
        with pytest.raises(ValueError, match="one shape"):
            psnr(small, np.zeros((1, 16, 15, 3), np.uint8))
        with pytest.raises(ValueError, match="smaller than the window"):
            ssim(small[:, :8], small[:, :8])


class TestMotion:
    def test_known_change(self) -> None:
        faces = grey(np.stack([np.full((96, 96), level) for level in (10, 14, 14, 8)]))
        assert mouth_motion(faces) == pytest.approx([4, 0, 6], abs=1e-4)
        assert mouth_variation(faces) == pytest.approx(np.std([10, 14, 14, 8]), abs=1e-4)

    def test_split_by_speech(self) -> None:
        faces = grey(np.stack([np.full((96, 96), level) for level in (10, 20, 31, 31, 32, 34)]))
        speaking = np.array([True, True, True, False, False, False])
        motion = speech_motion(faces, speaking)  # the change from frame 2 to 3 is neither
        assert motion.speech == pytest.approx(10.5, abs=1e-4)
        assert motion.silence == pytest.approx(1.5, abs=1e-4)
        assert motion.ratio == pytest.approx(7, abs=1e-3)

    def test_a_speaking_mouth_moves_and_a_silent_one_is_still(self) -> None:
        clip = synthesize_clip(
            SyntheticSpeaker(2), 6.0, 1, conditions=Conditions(head_motion=0, picture_noise=1)
        )
        assert speech_motion(clip.frames, ~clip.silent).ratio > 3

    def test_no_silence(self) -> None:
        faces = grey(np.stack([np.full((96, 96), level) for level in (10, 20)]))
        motion = speech_motion(faces, np.array([True, True]))
        assert np.isnan(motion.silence)
        assert json.loads(json.dumps(motion.to_dict(), allow_nan=False))["silence"] is None

    def test_lengths_must_agree(self) -> None:
        with pytest.raises(ValueError, match="2 frames, but 3"):
            speech_motion(np.zeros((2, 96, 96, 3), np.uint8), np.zeros(3, bool))


def opened(amplitudes: list[int]) -> np.ndarray:
    """Grey faces whose mouths are the more open, the larger the amplitude, and in proportion to it."""
    faces = np.full((len(amplitudes), 96, 96, 3), 100, np.uint8)
    for face, amplitude in zip(faces, amplitudes, strict=True):
        face[60:70, 30:66] += np.uint8(amplitude)
        face[70:80, 30:66] -= np.uint8(amplitude)
    return faces


class TestLips:
    SKIN, LIPS = (100, 100, 150), (100, 80, 180)  # luma 114.95 and 112.18

    def painted(self, lips: tuple[int, ...], light: float = 1) -> np.ndarray:
        faces = np.full((2, 96, 96, 3), self.SKIN, np.float64)
        faces[:, 62:70, 34:60] = lips  # more than an eighth of the region's 30 × 48 pixels
        return np.round(faces * light).astype(np.uint8)

    def test_known_redness(self) -> None:
        faces = self.painted(self.LIPS)
        assert lip_redness(faces) == pytest.approx([100 / 112.18 - 50 / 114.95] * 2, abs=1e-3)
        assert lip_redness(self.painted(self.SKIN)) == pytest.approx([0, 0], abs=1e-9)

    def test_pale_lips_are_below_one_in_any_light(self) -> None:
        real = self.painted(self.LIPS)
        pale = tuple(np.mean([self.SKIN, self.LIPS], axis=0))
        for light in (1, 0.6):
            assert lip_redness_ratio(self.painted(pale, light), real) == pytest.approx(0.5, abs=0.03)
        assert lip_redness_ratio(real, real) == 1

    def test_without_colour_there_is_no_ratio(self) -> None:
        without = grey(np.full((1, 96, 96), 90))
        assert np.isnan(lip_redness_ratio(without, without))


class TestOpenings:
    REAL = (0, 40, 10, 30, 20, 50, 5, 45, 15, 35)

    def test_the_same_openings_in_another_measure_correlate(self) -> None:
        real = opened(list(self.REAL))
        assert opening_correlation(opened([5 + value // 5 for value in self.REAL]), real) > 0.99
        assert opening_correlation(opened([50 - value for value in self.REAL]), real) < -0.99

    def test_a_mouth_that_never_moves_has_no_correlation(self) -> None:
        still = opened([10] * 10)
        assert np.isnan(opening_correlation(still, opened(list(self.REAL))))
        assert closure_rank(still, opened(list(self.REAL))) == 0.5

    def test_closures_are_ranked_among_all_frames(self) -> None:
        real = opened(list(self.REAL))  # least open in frames 0 and 6
        assert closure_rank(real, real) == pytest.approx(0.5 / 9)
        made = [
            10,
            40,
            20,
            30,
            25,
            50,
            45,
            5,
            15,
            35,
        ]  # there it is the second least open, and the second widest
        assert closure_rank(opened(made), real) == pytest.approx((1 + 8) / 2 / 9)
        assert closure_rank(opened([50 - value for value in self.REAL]), real) == pytest.approx(8.5 / 9)
