import json
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from lipsmith.audio.mel import mel_spectrogram
from lipsmith.data.clips import Clip, ClipRecord, encode_crop, save_clip, stored_size, write_index
from lipsmith.data.synthetic import SyntheticSpeaker, synthesize_clip
from lipsmith.errors import DataError, UsageError
from lipsmith.evaluation import held_out
from lipsmith.evaluation.__main__ import main
from lipsmith.evaluation.held_out import (
    CONDITIONS,
    LEAKAGE,
    OpenGenerator,
    evaluate_generator,
    evaluate_pair,
    make_pairs,
    open_generator,
    pair_strip,
    score_real,
)
from lipsmith.models.dense_expert import DenseLipSyncExpert
from lipsmith.models.wav2lip import Wav2Lip
from lipsmith.timebase import SILENCE
from lipsmith.training.expert import build_expert
from lipsmith.training.recipe import ExpertModel
from lipsmith.training.run import save_weights


class SizedClip:
    """As much of a clip as pairs are drawn by."""

    def __init__(self, speaker: int, num_frames: int) -> None:
        self.record = SimpleNamespace(speaker=f"{speaker}")
        self.num_frames = num_frames

    def __len__(self) -> int:
        return self.num_frames


def clip_of(speaker: int, seed: int, seconds: float = 2.4) -> Clip:
    """A prepared clip of a drawn speaker."""
    drawn = synthesize_clip(SyntheticSpeaker(speaker), seconds, seed, size=stored_size(96))
    record = ClipRecord(
        id=f"{speaker}_{seed}",
        source=f"{speaker}/{seed}.mp4",
        speaker=str(speaker),
        num_frames=len(drawn.frames),
        face_size=96,
        rate_hz=25.0,
        face_pixels=96.0,
        sharpness=100.0,
    )
    times = [Fraction(i, 25) for i in range(len(drawn.frames))]
    return Clip(record, [encode_crop(f) for f in drawn.frames], times, mel_spectrogram(drawn.samples), 0)


def loudness(windows: torch.Tensor) -> torch.Tensor:
    """What the first frame of a window hears: the level of its first four columns, 0 to 1."""
    return (windows[..., :4].mean(dim=(-3, -2, -1)) - SILENCE) / 8


class LevelGenerator:
    """Paints the lower half as bright as the sound is loud: perfectly in sync, if that is what the judge
    sees."""

    face_size = 96

    def generate(self, mels: np.ndarray, faces: np.ndarray) -> np.ndarray:
        assert not faces[:, :3, 48:].any(), "the generator was shown what it is to paint"
        made = faces[:, 3:].copy()
        made[:, :, 48:] = loudness(torch.from_numpy(mels)).numpy()[:, None, None, None]
        return made


class CopyingGenerator:
    """Returns its reference: the old mouth."""

    face_size = 96

    def generate(self, mels: np.ndarray, faces: np.ndarray) -> np.ndarray:
        return faces[:, 3:].copy()


class LevelJudge:
    """Compares the brightness of the lower half in the first frame with the level of the first columns."""

    frames = 5

    def embed_lips(self, frames: torch.Tensor) -> torch.Tensor:
        return self._embed(frames[:, : frames.shape[1] - 4].mean(dim=(2, 3, 4)))

    def embed_sound(self, windows: torch.Tensor) -> torch.Tensor:
        return self._embed(loudness(windows))

    def _embed(self, level: torch.Tensor) -> torch.Tensor:
        return torch.stack([(3 * level).cos(), (3 * level).sin()], dim=-1)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [clip_of(speaker, seed) for speaker in range(3) for seed in (10 * speaker, 10 * speaker + 1)]


class TestPairs:
    def test_speech_is_foreign_and_spread(self, clips: list[Clip]) -> None:
        pairs = make_pairs(clips, per_clip=2)
        assert len(pairs) == 12
        assert all(pair.face.record.speaker != pair.speech.record.speaker for pair in pairs)
        heard = [pair.speech.record.id for pair in pairs]
        assert all(1 <= heard.count(clip.record.id) <= 3 for clip in clips)

    def test_a_pair_is_as_long_as_its_shorter_clip(self) -> None:
        pairs = make_pairs([clip_of(0, 0, 3.0), clip_of(1, 1, 1.6)], max_frames=60)
        assert [pair.num_frames for pair in pairs] == [40, 40]

    def test_enough_speech_comes_first(self) -> None:
        long, short, other = clip_of(0, 0, 3.0), clip_of(1, 1, 1.2), clip_of(2, 2, 3.0)
        pairs = make_pairs([long, short, other])
        assert pairs[0].speech is other and pairs[2].speech is long

    def test_the_work_for_a_face_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(held_out, "_MOST_WEIGHED", 20, raising=False)
        num_asked = 0

        class Counted(SizedClip):
            def __len__(self) -> int:
                nonlocal num_asked
                num_asked += 1
                return super().__len__()

        clips = [Counted(number % 9, 100) for number in range(200)]
        pairs = make_pairs(clips)  # type: ignore[arg-type]
        assert num_asked <= 200 * (2 * 20 + 4)
        assert [pair.face for pair in pairs] == clips
        assert all(pair.face.record.speaker != pair.speech.record.speaker for pair in pairs)
        assert max(Counter(id(pair.speech) for pair in pairs).values()) <= 3

    def test_the_same_pairs_for_ever(self) -> None:
        clips = [SizedClip(number % 3, 25 + 7 * number) for number in range(9)]
        made = make_pairs(clips, per_clip=2, max_frames=60)  # type: ignore[arg-type]
        found = [(clips.index(pair.face), clips.index(pair.speech)) for pair in made]  # type: ignore[arg-type]
        assert [face for face, _ in found] == sorted([*range(9), *range(9)])
        assert [speech for _, speech in found] == [8, 7, 6, 5, 4, 3, 8, 7, 6, 5, 7, 6, 8, 5, 8, 6, 7, 6]

    def test_one_speaker_is_refused(self, clips: list[Clip]) -> None:
        with pytest.raises(DataError, match="fewer than two speakers"):
            make_pairs(clips[:2])

    def test_short_clips_are_left_out(self, clips: list[Clip]) -> None:
        assert len(make_pairs([*clips, clip_of(7, 7, 0.8)])) == len(clips)


class TestConditions:
    def test_a_perfect_generator(self, clips: list[Clip]) -> None:
        report = evaluate_generator(OpenGenerator(LevelGenerator()), LevelJudge(), make_pairs(clips))
        generated = report.sync["generated"]
        assert generated.preference_share.value > 0.95
        assert generated.offset_within_one_share.value == 1.0
        # The real faces do not speak this judge's language: brightness says nothing about a drawn mouth.
        assert report.sync["laid over"].preference_share.value < 0.7
        # A flat colour has no edges.
        assert report.sharpness.value < 0.05 and report.gradient.value < 0.05
        assert report.motion_in_silence.value == pytest.approx(0, abs=1e-6)

    def test_a_generator_that_copies_the_old_mouth(self, clips: list[Clip]) -> None:
        result = evaluate_pair(OpenGenerator(CopyingGenerator()), LevelJudge(), make_pairs(clips)[0])
        # Nothing generated is the foreign speech laid over the real face, by every measure.
        assert result.scores["generated"].preference_share == pytest.approx(
            result.scores["laid over"].preference_share, abs=1e-6
        )
        assert result.sharpness == 1.0 and result.gradient == 1.0
        assert result.variation_speech == result.variation_silence == result.variation_real
        assert result.opening == pytest.approx(1.0)
        assert result.closure == pytest.approx(0.1, abs=0.02)
        assert result.lip_redness == 1.0
        # With its own words it shows another moment's mouth.
        assert 15 < result.psnr_lower < 45

    def test_the_lead_moves_the_generator_not_the_judge(self, clips: list[Clip]) -> None:
        # A generator that hears its window 0.2 s earlier than the judge lags five frames: the sound is early.
        pairs = [pair for pair in make_pairs(clips) if pair.num_frames >= 60]
        late = OpenGenerator(LevelGenerator(), Fraction(1, 5))
        results = [evaluate_pair(late, LevelJudge(), pair) for pair in pairs]
        assert {result.scores["generated"].av_offset_frames for result in results} == {5}

    def test_other_face_size_is_refused(self, clips: list[Clip]) -> None:
        generator = LevelGenerator()
        generator.face_size = 128
        with pytest.raises(UsageError, match="faces of 128 pixels, the prepared clips have 96"):
            evaluate_generator(OpenGenerator(generator), LevelJudge(), make_pairs(clips))

    def test_the_old_mouth_leaks_through_a_frame_and_not_through_a_steady_reference(
        self, clips: list[Clip]
    ) -> None:
        still = make_pairs(clips)[0]
        pictures = np.repeat(still.face.stored(0, 1), still.num_frames, axis=0)
        for k, picture in enumerate(pictures):
            picture[75:95, 50:78] = 40 + 8 * (k % 12)  # the head is still, the mouth is not
        face = replace(still.face, jpegs=[encode_crop(picture) for picture in pictures], thumbnails={})
        pair = replace(still, face=face)
        frame = evaluate_pair(OpenGenerator(CopyingGenerator()), LevelJudge(), pair)
        steady = evaluate_pair(OpenGenerator(CopyingGenerator(), reference="steady"), LevelJudge(), pair)
        assert frame.scores["old words in silence"].preference_share == frame.scores["real"].preference_share
        assert frame.variation_silence == frame.variation_real > 5
        assert steady.variation_silence < 0.5

    def test_real_footage_alone(self, clips: list[Clip]) -> None:
        summary = score_real(LevelJudge(), clips)
        assert summary.num_clips == len(clips)
        assert summary.num_windows == sum(len(clip) - 4 for clip in clips)


class TestReport:
    def test_tables_and_json(self, clips: list[Clip]) -> None:
        report = evaluate_generator(OpenGenerator(LevelGenerator()), LevelJudge(), make_pairs(clips)[:3])
        data = json.loads(report.to_json())
        assert data["num_pairs"] == 3 and len(data["pairs"]) == 3
        assert set(data["sync"]) == {*CONDITIONS, *LEAKAGE}
        text = report.to_markdown()
        assert "| generated | 9" in text or "| generated | 100" in text
        assert "PSNR" in text

    def test_strip(self, clips: list[Clip]) -> None:
        strip = pair_strip(OpenGenerator(LevelGenerator()), make_pairs(clips)[0], num_frames=5)
        assert strip.shape == (18 + 3 * 128 + 80, 120 + 5 * 128, 3)


def test_command(tmp_path: Path, clips: list[Clip], capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    for clip in clips:
        save_clip(clip, data)
    write_index(data, [clip.record for clip in clips])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("task: expert\nname: x\nsteps: 1\ndata: {test: ['0', '1']}\n")
    model = ExpertModel(width=0.25, embedding=16)
    judge = tmp_path / "judge"
    judge.mkdir()
    expert = build_expert(model)
    assert isinstance(expert, DenseLipSyncExpert)
    save_weights(expert, judge / "best.safetensors", {"model": model.model_dump_json()})
    run = tmp_path / "run"
    run.mkdir()
    torch.manual_seed(0)
    save_weights(
        Wav2Lip(0.125),
        run / "best.safetensors",
        {
            "kind": "generator",
            "width": "0.125",
            "face_size": "96",
            "lead_seconds": "1/25",
            "reference": "steady",
        },
    )
    generator = open_generator(str(run))
    assert generator.network.face_size == 96
    assert (generator.lead_seconds, generator.reference) == (Fraction(1, 25), "steady")
    arguments = [str(run), "--judge", str(judge), "--data", str(data), "--recipe", str(recipe)]
    outputs = [
        "--json",
        str(tmp_path / "out.json"),
        "--strips",
        str(tmp_path / "strips"),
        "--num-strips",
        "1",
    ]
    assert main([*arguments, "--max-frames", "26", "--limit", "1", *outputs]) == 0
    assert capsys.readouterr().out.startswith("1 pairs, 1 speakers.")
    assert json.loads((tmp_path / "out.json").read_text())["pairs"][0]["num_frames"] == 26
    (strip,) = (tmp_path / "strips").iterdir()
    assert cv2.imread(str(strip)).shape[1] == 120 + 14 * 128
    assert main([*arguments[:3], "--data", str(tmp_path / "nowhere"), *arguments[5:]]) != 0
    assert "index.jsonl" in capsys.readouterr().err
