import json

import numpy as np
import pytest
import torch
from torch import nn

from lipsmith.evaluation.sync_score import (
    SyncScore,
    bootstrap_ratio,
    clip_similarity,
    offset_curve,
    preference_shares,
    score_clip,
    score_similarity,
    summarise,
)


class PlaneExpert(nn.Module):
    """A judge that reads its answers off: the moment is written in pixel [0, 0, 0] and in mel [0, 0]."""

    def __init__(self, frames: int = 5) -> None:
        super().__init__()
        self.frames = frames
        self.dropout = nn.Dropout(0.9)  # shows if the judge is asked in training mode
        self.scale = nn.Parameter(torch.ones(1))

    def embed_lips(self, frames: torch.Tensor) -> torch.Tensor:
        return self._embed(frames[:, : frames.shape[1] - self.frames + 1, 0, 0, 0])

    def embed_sound(self, windows: torch.Tensor) -> torch.Tensor:
        return self._embed(windows[:, :, 0, 0, 0])

    def _embed(self, moment: torch.Tensor) -> torch.Tensor:
        angle = moment * self.scale
        return self.dropout(torch.stack([angle.cos(), angle.sin()], dim=-1))


def clip(num_frames: int, sound_from: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frame i shows moment i, window i (of five frames) sounds like moment i + sound_from, 0.1 rad apart."""
    faces = np.zeros((num_frames, 3, 48, 96), np.float32)
    faces[:, 0, 0, 0] = np.arange(num_frames) * 0.1
    windows = np.zeros((num_frames - 4, 1, 80, 16), np.float32)
    windows[:, 0, 0, 0] = (np.arange(num_frames - 4) + sound_from) * 0.1
    return faces, windows


class TestPreference:
    def test_definition_on_a_table(self) -> None:
        similarity = np.zeros((7, 7))
        similarity[0, 0] = 0.5
        similarity[0, 5], similarity[0, 6] = 0.4, 0.6  # one far sound lost, one preferred
        similarity[0, 1] = 0.9  # a neighbour: not compared with
        shares = preference_shares(similarity)
        assert shares[0] == 0.5
        assert shares[1] == 0.5  # all equal: a tie is a half
        assert np.isnan(shares[2:5]).all()  # nothing is five frames away from the middle of seven
        assert np.isfinite(shares[5:]).all()

    def test_noise_is_at_chance(self) -> None:
        noise = np.random.default_rng(0).standard_normal((200, 200))
        assert score_similarity(noise).preference_share == pytest.approx(0.5, abs=0.03)

    def test_an_expert_that_answers_the_same_to_everything_is_at_chance(self) -> None:
        assert score_similarity(np.ones((40, 40))).preference_share == 0.5

    def test_in_sync(self) -> None:
        assert score_clip(PlaneExpert(), *clip(34)).preference_share == 1.0


class TestDistances:
    def test_of_unit_vectors(self) -> None:
        curve = np.full(31, 0.5)  # distance 1
        curve[15] = 1.0  # distance 0
        curve[0] = np.nan
        score = SyncScore(40, 1.0, 0, 0.5, curve)
        assert (score.lse_d, score.lse_c) == pytest.approx((0.0, 1.0))

    def test_a_clip_without_a_curve_has_none(self) -> None:
        score = SyncScore(2, 1.0, None, 0.5, np.full(31, np.nan))
        assert np.isnan(score.lse_d) and np.isnan(score.lse_c)

    def test_summary_means_over_clips(self) -> None:
        flat, peak = np.full(31, 0.5), np.full(31, 0.5)
        peak[15] = 0.875  # distance 0.5
        summary = summarise([SyncScore(40, 1.0, 0, 0.0, flat), SyncScore(40, 1.0, 0, 0.375, peak)])
        assert summary.lse_d.value == pytest.approx(0.75)
        assert summary.lse_c.value == pytest.approx(0.25)


class TestOffset:
    def test_in_sync(self) -> None:
        score = score_clip(PlaneExpert(), *clip(54))
        assert score.av_offset_frames == 0
        offsets = np.arange(-15, 16)
        assert score.curve == pytest.approx(np.cos(0.1 * offsets), abs=1e-5)
        assert score.confidence == pytest.approx(1 - np.median(np.cos(0.1 * offsets)), abs=1e-5)

    @pytest.mark.parametrize("early", [-7, -1, 3, 15])
    def test_sign_positive_when_the_sound_is_early(self, early: int) -> None:
        # Window i already sounds like moment i + early: sound comes `early` frames too soon.
        score = score_clip(PlaneExpert(), *clip(60, sound_from=early))
        assert score.av_offset_frames == early

    def test_offsets_at_which_few_windows_meet_are_left_out(self) -> None:
        curve = offset_curve(np.ones((12, 12)), least_pairs=8)
        assert np.isfinite(curve).sum() == 9  # −4 … 4
        assert np.isfinite(curve[11:20]).all()

    def test_too_short_for_any_answer(self) -> None:
        score = score_similarity(np.eye(4))
        assert np.isnan(score.preference_share) and np.isnan(score.confidence)
        assert score.av_offset_frames is None
        assert json.loads(json.dumps(score.to_dict(), allow_nan=False))["preference_share"] is None


class TestJudging:
    def test_one_window_per_frame_is_as_good(self) -> None:
        faces, windows = clip(30)
        padded = np.concatenate([windows, np.full((4, 1, 80, 16), 7, np.float32)])
        expected = clip_similarity(PlaneExpert(), faces, windows)
        assert np.array_equal(clip_similarity(PlaneExpert(), faces, padded), expected)
        assert np.array_equal(clip_similarity(PlaneExpert(), faces, windows[:, 0]), expected)

    def test_mode_is_put_back(self) -> None:
        expert = PlaneExpert().train()
        first = clip_similarity(expert, *clip(20))
        assert expert.training
        assert np.array_equal(first, clip_similarity(expert.eval(), *clip(20)))
        assert not expert.training

    def test_too_few_windows_are_refused(self) -> None:
        faces, windows = clip(30)
        with pytest.raises(ValueError, match="25 mel windows do not cover the 26 windows of 30 frames"):
            clip_similarity(PlaneExpert(), faces, windows[:25])

    def test_the_window_is_the_experts(self) -> None:
        faces, windows = clip(30)
        similarity = clip_similarity(PlaneExpert(frames=3), faces[:28], windows)
        assert similarity.shape == (26, 26)
        assert score_similarity(similarity).av_offset_frames == 0
        with pytest.raises(ValueError, match="26 mel windows do not cover the 28 windows of 30 frames"):
            clip_similarity(PlaneExpert(frames=3), faces, windows)

    def test_fewer_than_five_frames_are_refused(self) -> None:
        with pytest.raises(ValueError, match="fewer than the 5"):
            clip_similarity(
                PlaneExpert(), np.zeros((4, 3, 48, 96), np.float32), np.zeros((4, 80, 16), np.float32)
            )


class TestSummary:
    def test_windows_weigh_alike(self) -> None:
        perfect = score_similarity(np.eye(40))
        chance = score_similarity(np.zeros((120, 120)))
        summary = summarise([perfect, chance])
        assert summary.preference_share.value == pytest.approx((40 * 1 + 120 * 0.5) / 160)
        assert summary.num_windows == 160 and summary.num_clips == 2

    def test_offsets_are_counted(self) -> None:
        scores = [score_clip(PlaneExpert(), *clip(60, sound_from=early)) for early in (0, 1, -1, 4)]
        summary = summarise(scores)
        assert summary.offsets == {-1: 1, 0: 1, 1: 1, 4: 1}
        assert summary.offset_within_one_share.value == 0.75
        assert summary.offset_within_one_share.low < 0.75 <= summary.offset_within_one_share.high

    def test_short_clips_are_counted_not_averaged(self) -> None:
        summary = summarise([score_similarity(np.eye(40)), score_similarity(np.eye(3))])
        assert (summary.num_clips, summary.num_unscored) == (1, 1)
        assert summary.preference_share.value == 1.0

    def test_nothing_at_all(self) -> None:
        summary = summarise([])
        assert np.isnan(summary.preference_share.value)
        assert json.dumps(summary.to_dict(), allow_nan=False)

    def test_speakers_widen_the_interval(self) -> None:
        # Two speakers of ten equal clips each: twenty clips look like twenty witnesses, but there are two.
        scores = [score_similarity(np.eye(40))] * 10 + [score_similarity(np.zeros((40, 40)))] * 10
        speakers = ["a"] * 10 + ["b"] * 10
        by_clip, by_speaker = summarise(scores), summarise(scores, speakers)
        assert by_clip.preference_share.value == by_speaker.preference_share.value == pytest.approx(0.75)
        assert (by_speaker.preference_share.low, by_speaker.preference_share.high) == (0.5, 1.0)
        assert by_clip.preference_share.low > 0.6

    def test_bootstrap_covers_the_mean_of_a_known_sample(self) -> None:
        values = np.random.default_rng(1).normal(3.0, 1.0, 400)
        interval = bootstrap_ratio(values, np.ones(400), [str(i) for i in range(400)])
        assert interval.value == pytest.approx(values.mean())
        # Standard error 0.05: the 95 % interval is about ± 0.098.
        assert interval.high - interval.low == pytest.approx(4 * 0.05 * values.std(), rel=0.15)

    def test_resamples_do_not_depend_on_how_many_are_drawn_at_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values, labels = np.arange(50.0), [str(i) for i in range(50)]
        together = bootstrap_ratio(values, np.ones(50), labels, num_resamples=301)
        monkeypatch.setattr("lipsmith.evaluation.sync_score._DRAWN_AT_ONCE", 350)
        assert bootstrap_ratio(values, np.ones(50), labels, num_resamples=301) == together
