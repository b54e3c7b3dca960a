import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lipsmith.evaluation.lse import (
    MAX_SHIFT_FRAMES,
    embed_clip,
    score_clip,
    score_embeddings,
    shifted_distances,
)
from lipsmith.timebase import SAMPLE_RATE_HZ

LSE_TOLERANCE = 1e-5


class TestParity:
    def test_scores_agree_with_the_published_system(self, parity: Path) -> None:
        reference = np.load(parity / "lse.npz")
        score = score_embeddings(reference["lip"], reference["audio"])
        assert np.abs(score.mean_distance - reference["mean_distance"]).max() < LSE_TOLERANCE
        assert score.lse_d == pytest.approx(float(reference["lse_d"]), abs=LSE_TOLERANCE)
        assert score.lse_c == pytest.approx(float(reference["lse_c"]), abs=LSE_TOLERANCE)
        assert score.av_offset_frames == int(reference["offset"])

    @pytest.mark.slow
    def test_real_network_runs_on_a_clip(self, parity: Path) -> None:
        syncnet_module = pytest.importorskip("lipsmith.models.syncnet")
        spec = importlib.util.spec_from_file_location("seeded", parity / "seeded.py")
        assert spec is not None and spec.loader is not None
        seeded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(seeded)
        model = syncnet_module.SyncNet()
        model.load_state_dict({k: torch.from_numpy(v) for k, v in seeded.state_dict("syncnet_v2").items()})
        rng = np.random.default_rng(0)
        faces = rng.integers(0, 256, (8, 112, 112, 3)).astype(np.uint8)
        samples = rng.normal(0, 0.1, SAMPLE_RATE_HZ).astype(np.float32)
        score = score_clip(model, faces, samples)
        assert score.num_windows == 3
        assert np.isfinite(score.mean_distance).all()


class TestScores:
    def test_shift_of_two_copies(self) -> None:
        rows = np.random.default_rng(0).standard_normal((60, 32))
        # The sound of window i is that of moment i + 4: it comes four frames too early.
        score = score_embeddings(rows[:-4], rows[4:])
        assert score.av_offset_frames == 4
        # All but the four windows that lack their sound match exactly; those lie |lip| from the zero padding.
        lengths = np.linalg.norm(rows[:4], axis=1)
        assert score.lse_d == pytest.approx(lengths.sum() / 56, abs=1e-4)

    @pytest.mark.parametrize("early", range(-MAX_SHIFT_FRAMES, MAX_SHIFT_FRAMES + 1))
    def test_a_known_lag_is_the_offset_and_leaves_lse_alone(self, early: int) -> None:
        lip, sound = clip_with_known_lag(early, num_windows=100)
        score = score_embeddings(lip, sound)
        assert score.av_offset_frames == early
        # At the true shift 70 windows are at 0 and the 30 at the ends at 2; at every other shift all are at 2.
        assert score.lse_d == pytest.approx(0.3 * 2, abs=1e-4)
        assert score.lse_c == pytest.approx(0.7 * 2, abs=1e-4)

    def test_a_lag_beyond_the_reach_is_no_offset(self) -> None:
        lip, sound = clip_with_known_lag(MAX_SHIFT_FRAMES + 1, num_windows=100)
        assert score_embeddings(lip, sound).lse_c == pytest.approx(0, abs=1e-4)

    def test_known_distances(self) -> None:
        lip = np.array([[3.0, 0.0], [0.0, 0.0]])
        sound = np.array([[0.0, 4.0], [3.0, 0.0]])
        distances = shifted_distances(lip, sound, max_shift=1)
        assert distances == pytest.approx(np.array([[3, 5, 0], [4, 3, 0]]), abs=1e-5)

    @pytest.mark.parametrize("shapes", [((4, 2), (3, 2)), ((0, 2), (0, 2)), ((4,), (4,))])
    def test_other_shapes_are_refused(self, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        with pytest.raises(ValueError, match="one shape"):
            score_embeddings(np.zeros(shapes[0]), np.zeros(shapes[1]))


def clip_with_known_lag(early: int, num_windows: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (N, D) of a clip whose sound comes `early` frames too soon: sound i − early is that of lips i.

    All rows are two apart from one another and from the zeros that stand beyond the ends, so that no shift but the true
    one is better than another. The first and last 15 windows have no sound of their own, wherever the lag puts it:
    otherwise windows that the lag pushes out of the clip would count against it.
    """
    count = 2 * num_windows
    # Corners of a simplex: unit vectors stretched by √2, all raised by √2 in a direction of their own.
    rows = np.sqrt(2) * np.concatenate([np.eye(count), np.ones((count, 1))], axis=1)
    lip, sound = rows[:num_windows], rows[num_windows:].copy()
    inner = np.arange(MAX_SHIFT_FRAMES, num_windows - MAX_SHIFT_FRAMES)
    inner = inner[(inner - early >= 0) & (inner - early < num_windows)]
    sound[inner - early] = lip[inner]
    return lip, sound


class RecordingNetwork(nn.Module):
    """Keeps what it is shown and embeds it by its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.lips: list[torch.Tensor] = []
        self.mfcc: list[torch.Tensor] = []

    def embed_lips(self, frames: torch.Tensor) -> torch.Tensor:
        self.lips.append(frames)
        return frames.flatten(1).mean(dim=1, keepdim=True) * self.weight

    def embed_sound(self, mfcc: torch.Tensor) -> torch.Tensor:
        self.mfcc.append(mfcc)
        return mfcc.flatten(1).mean(dim=1, keepdim=True) * self.weight


def numbered_faces(count: int) -> list[np.ndarray]:
    return [np.full((224, 224, 3), (i, i + 1, i + 2), np.uint8) for i in range(count)]


class TestWindows:
    def test_frames_and_sound_of_each_window(self) -> None:
        network = RecordingNetwork()
        samples = np.random.default_rng(0).normal(0, 0.1, 2 * SAMPLE_RATE_HZ).astype(np.float32)
        lip, sound = embed_clip(network, iter(numbered_faces(40)), samples)
        lips, mfccs = torch.cat(network.lips), torch.cat(network.mfcc)
        assert lips.shape == (35, 3, 5, 224, 224) and mfccs.shape == (35, 1, 13, 20)
        assert lip.shape == sound.shape == (35, 1)
        # Window 20 shows frames 20 … 24, blue first, and hears 0.8 s to 1.0 s.
        assert lips[20, :, :, 0, 0].tolist() == [[20 + c + t for t in range(5)] for c in range(3)]
        from lipsmith.audio.mfcc import mfcc, to_int16

        assert torch.equal(mfccs[20, 0], torch.from_numpy(mfcc(to_int16(samples))[80:100].T))

    def test_the_shorter_of_picture_and_sound_counts(self) -> None:
        samples = np.zeros(SAMPLE_RATE_HZ, np.float32)  # 25 frames
        lip, sound = embed_clip(RecordingNetwork(), numbered_faces(40), samples)
        assert lip.shape == sound.shape == (20, 1)

    def test_any_size_is_resized(self) -> None:
        network = RecordingNetwork()
        embed_clip(network, [np.full((100, 90, 3), 7, np.uint8)] * 6, np.zeros(SAMPLE_RATE_HZ, np.float32))
        assert network.lips[0].shape == (1, 3, 5, 224, 224)
        assert torch.all(network.lips[0] == 7)

    @pytest.mark.parametrize(("num_frames", "seconds"), [(5, 1.0), (0, 1.0), (25, 0.2), (25, 0.0)])
    def test_too_short(self, num_frames: int, seconds: float) -> None:
        samples = np.zeros(int(seconds * SAMPLE_RATE_HZ), np.float32)
        with pytest.raises(ValueError, match="must last 6 frames"):
            embed_clip(RecordingNetwork(), numbered_faces(num_frames), samples)
