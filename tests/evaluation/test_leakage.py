"""Leakage of outputs whose answer is known: they copy the old mouth, or show another, or none."""

from pathlib import Path

import numpy as np
import pytest

from lipsmith.errors import UsageError
from lipsmith.evaluation.judges import ExpertJudge
from lipsmith.evaluation.leakage import (
    LEAST_FRAMES,
    LeakageMeter,
    correlate_motion,
    kept_motion,
    leakage_of_model,
    output_paths,
    require_own_names,
    summarise_leakage,
)
from lipsmith.faces.crop import CropRule
from lipsmith.geometry import Box
from lipsmith.media.read import read_samples

from .test_file_score import FACE, FixedDetector, LevelExpert, levels_of, sound_of, write_clip

# Below the middle of the face crop: the upper face is still, the mouth is as bright as the sound is loud.
MOUTH = Box(50, 66, 110, 100)
COUNT = 80


def clip(path: Path, picture_seed: int | None, sound_seed: int | None, count: int = COUNT) -> Path:
    """A video whose mouth shows the levels of one seed and whose sound has those of another; None: a still mouth, or
    silence."""
    shown = np.full(count, 0.5) if picture_seed is None else levels_of(count, picture_seed)
    sound = (
        np.zeros(count * 640, np.float32) if sound_seed is None else sound_of(levels_of(count, sound_seed))
    )
    return write_clip(path, shown, sound, where=MOUTH)


@pytest.fixture
def meter() -> LeakageMeter:
    return LeakageMeter(ExpertJudge(LevelExpert(), "0" * 64, CropRule((0, 0, 0, 0))), FixedDetector(FACE))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("leakage") / "talk.mp4", 0, 0)


class TestMotion:
    def noise(self, seed: int, count: int = 200) -> np.ndarray:
        return np.random.default_rng(seed).normal(5, 1, count)

    def test_a_copy_is_one_and_far_above_chance(self) -> None:
        found = correlate_motion(self.noise(0), self.noise(0), self.noise(1))
        assert found.correlation == pytest.approx(1)
        assert abs(found.chance) < 0.05 and found.chance_high < 0.3

    def test_another_mouth_is_at_chance(self) -> None:
        values = [correlate_motion(self.noise(s), self.noise(s + 50), self.noise(s + 99)) for s in range(20)]
        assert np.mean([value.correlation for value in values]) == pytest.approx(0, abs=0.05)
        # By its definition one in twenty lies above.
        assert sum(value.correlation > value.chance_high for value in values) <= 4

    def test_what_the_head_explains_is_no_leakage(self) -> None:
        head = self.noise(0)
        generated, real = head + 0.1 * self.noise(1), 2 * head + 0.1 * self.noise(2)
        assert np.corrcoef(generated, real)[0, 1] > 0.95
        assert abs(correlate_motion(generated, real, head).correlation) < 0.2
        # A head that is still explains nothing.
        assert correlate_motion(generated, real, np.full(200, 3.0)).correlation > 0.95

    def test_partial_correlation_by_hand(self) -> None:
        # With the head's (1, −1, 1, −1, …) taken out, both are (1, 1, −1, −1, …) and its negative.
        head = np.tile([1.0, -1.0, 1.0, -1.0], 20)
        mouth = np.tile([1.0, 1.0, -1.0, -1.0], 20)
        found = correlate_motion(3 * head + mouth, 7 * head - 2 * mouth, head)
        assert found.correlation == pytest.approx(-1)
        # Of its moves by 25 … 55 the period of four makes −1 of 28, 32, …, 52 and +1 of 26, 30, …, 54, else 0.
        assert found.chance == pytest.approx((8 - 7) / 31)
        assert found.chance_high == pytest.approx(1)

    def test_a_still_mouth_keeps_nothing(self) -> None:
        assert correlate_motion(np.full(200, 2.0), self.noise(0), self.noise(1)).correlation == 0.0

    def test_of_faces(self) -> None:
        rng = np.random.default_rng(0)
        real = rng.integers(0, 256, (LEAST_FRAMES, 32, 32, 3), np.uint8)
        other = real.copy()
        other[:, 16:] = 90
        assert kept_motion(real, real).correlation == pytest.approx(1)
        assert kept_motion(other, real).correlation == 0.0
        with pytest.raises(ValueError, match="at least 65"):
            kept_motion(real[1:], real[1:])


class TestFiles:
    def test_a_copied_mouth_leaks_all(self, original: Path, meter: LeakageMeter, tmp_path: Path) -> None:
        row = meter.measure(
            original, clip(tmp_path / "speech.mp4", 0, 1), clip(tmp_path / "silence.mp4", 0, None)
        )
        assert row.failure is None and row.num_frames == COUNT
        real = row.scores["real"].preference_share
        assert real > 0.9
        for kind in ("old words", "old words in silence"):
            assert row.scores[kind].preference_share == pytest.approx(real, abs=0.01)
            assert row.motion[kind].correlation > 0.98 > row.motion[kind].chance_high
        assert row.scores["generated"].preference_share < 0.65
        report = summarise_leakage([row])
        assert report.motion_in_silence.value == pytest.approx(1, abs=0.02)

    def test_another_mouth_leaks_nothing(self, original: Path, meter: LeakageMeter, tmp_path: Path) -> None:
        row = meter.measure(
            original, clip(tmp_path / "speech.mp4", 1, 1), clip(tmp_path / "silence.mp4", None, None)
        )
        assert row.scores["generated"].preference_share > 0.9
        assert 0.35 < row.scores["old words"].preference_share < 0.65
        assert abs(row.motion["old words"].correlation) < 0.3
        report = summarise_leakage([row])
        assert report.motion_in_silence.value < 0.05
        assert report.motion_in_speech.value == pytest.approx(1, abs=0.2)

    def test_what_cannot_be_measured_is_a_row(
        self, original: Path, meter: LeakageMeter, tmp_path: Path
    ) -> None:
        whole = clip(tmp_path / "whole.mp4", 1, 1)
        short = clip(tmp_path / "short.mp4", 0, 0, 40)
        mute = write_clip(tmp_path / "mute.mp4", levels_of(COUNT), None)
        text = tmp_path / "text.mp4"
        text.write_text("no video")
        gone = tmp_path / "gone.mp4"
        rows = {
            "missing": meter.measure(gone, whole, whole),
            "missing ": meter.measure(original, whole, gone),
            "no sound": meter.measure(mute, whole, whole),
            "too short": meter.measure(original, whole, short),
            "unreadable": meter.measure(text, whole, whole),
            "no face": LeakageMeter(meter.judge, FixedDetector()).measure(original, whole, whole),
        }
        for kind, row in rows.items():
            assert row.failure_kind == kind.strip(), (kind, row.failure)
            assert row.failure and not row.is_scored
        report = summarise_leakage(list(rows.values()))
        assert report.num_failed == 6 and np.isnan(report.motion["old words"].value)
        assert report.to_dict()["above_chance"]["old words"]["value"] is None
        assert len(report.to_csv().splitlines()) == 7

    def test_too_few_seconds_are_refused(self, meter: LeakageMeter) -> None:
        with pytest.raises(UsageError, match=r"at least 2\.6 s"):
            LeakageMeter(meter.judge, seconds=1)


class Syncer:
    """Writes a mouth of its own, and keeps what it was to say."""

    def __init__(self) -> None:
        self.heard: list[np.ndarray] = []

    def sync(self, video: Path, audio: Path, output: Path, *, options: object) -> None:
        self.heard.append(read_samples(audio))
        write_clip(output, levels_of(COUNT, 5), self.heard[-1], where=MOUTH)


class TestModel:
    @pytest.fixture
    def talks(self, tmp_path: Path) -> list[Path]:
        return [clip(tmp_path / f"{seed}.mp4", seed, seed) for seed in range(2)]

    def test_speech_is_the_next_video_s_and_silence_is_digital(
        self, talks: list[Path], meter: LeakageMeter, tmp_path: Path
    ) -> None:
        syncer, seen = Syncer(), []
        gone = tmp_path / "gone.mp4"
        rows = leakage_of_model(
            [*talks, gone],
            syncer,  # type: ignore[arg-type]
            meter,
            keep=tmp_path / "kept",
            on_progress=lambda done, total: seen.append((done, total)),
        )
        assert [row.failure_kind for row in rows] == [None, None, "missing"]
        assert seen == [(1, 3), (2, 3), (3, 3)]
        foreign, silence, back, _ = syncer.heard
        count = COUNT * 640
        assert len(foreign) == len(silence) == count and not silence.any()
        # The sound was encoded on its way.
        assert np.corrcoef(foreign, read_samples(talks[1])[:count])[0, 1] > 0.99
        assert np.corrcoef(back, read_samples(talks[0])[:count])[0, 1] > 0.99
        again = meter.measure(talks[0], *output_paths(tmp_path / "kept", talks[0]))
        assert again.to_dict() == rows[0].to_dict()

    def test_a_single_video_hears_the_demo_or_what_is_given(
        self, talks: list[Path], meter: LeakageMeter
    ) -> None:
        syncer = Syncer()
        leakage_of_model(talks[:1], syncer, meter)  # type: ignore[arg-type]
        leakage_of_model(talks[:1], syncer, meter, speech=talks[1])  # type: ignore[arg-type]
        demo, given = syncer.heard[0], syncer.heard[2]
        assert np.abs(demo).max() > 0.05
        assert np.corrcoef(given, read_samples(talks[1])[: COUNT * 640])[0, 1] > 0.99
        assert abs(np.corrcoef(demo, given)[0, 1]) < 0.1

    def test_two_videos_of_one_name_are_refused(self) -> None:
        require_own_names([Path("a/x.mp4"), Path("y.mp4")])
        with pytest.raises(UsageError, match="have one name"):
            require_own_names([Path("a/x.mp4"), Path("b/x.mp4")])
