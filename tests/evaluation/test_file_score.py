"""Files are scored by judges whose answer is known: the picture is as bright as the sound is loud."""

import json
import wave
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipsmith.errors import InputError, UsageError
from lipsmith.evaluation.file_score import (
    FileScore,
    FileScorer,
    ScoreSettings,
    ScoreStore,
    find_videos,
    frames_at_rate,
    summarise_files,
)
from lipsmith.evaluation.judges import ExpertJudge, SyncNetJudge, score_unit_embeddings, syncnet_crop
from lipsmith.evaluation.lse import score_embeddings
from lipsmith.evaluation.sync_score import score_similarity
from lipsmith.faces.crop import CropRule
from lipsmith.faces.detect import Detection
from lipsmith.geometry import Box
from lipsmith.media.read import Frame
from lipsmith.media.write import VideoWriter
from lipsmith.timebase import SAMPLE_RATE_HZ

RATE = 25
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // RATE
WIDTH, HEIGHT = 160, 120
FACE = Box(50, 20, 110, 100)
WHOLE = Box(0, 0, WIDTH, HEIGHT)


def levels_of(num_frames: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(0, 1, num_frames)


def sound_of(levels: NDArray[np.float64]) -> NDArray[np.float32]:
    """Noise whose level in decibels, over 40 ms each, is what `levels` (0 to 1) say: 40 dB from 0 to 1."""
    noise = np.random.default_rng(7).normal(0, 0.3, len(levels) * SAMPLES_PER_FRAME)
    return (noise * np.repeat(10 ** (2 * (levels - 1)), SAMPLES_PER_FRAME)).clip(-1, 1).astype(np.float32)


def write_clip(
    path: Path,
    levels: NDArray[np.float64],
    samples: NDArray[np.float32] | None,
    *,
    rate: int = RATE,
    where: Box = FACE,
    backdrop: Sequence[int] = (100,),
) -> Path:
    """A video, `where` as bright as `levels` say before a backdrop of grey for each equal part of it, with a sound."""
    sound = None
    if samples is not None:
        sound = path.with_suffix(".wav")
        with wave.open(str(sound), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE_HZ)
            file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    with VideoWriter(path, width=WIDTH, height=HEIGHT, rate=Fraction(rate), audio=sound) as writer:
        for index, level in enumerate(levels):
            image = np.full((HEIGHT, WIDTH, 3), backdrop[index * len(backdrop) // len(levels)], np.uint8)
            image[int(where.top) : int(where.bottom), int(where.left) : int(where.right)] = round(
                80 + 30 * level
            )
            writer.write(image, Fraction(index, rate))
    if sound is not None:
        sound.unlink()
    return path


class LevelExpert(nn.Module):
    """Embeds a window by the brightness of its first frame, and a sound by the loudness of its first 40 ms."""

    frames = 5

    def embed_lips(self, frames: Tensor) -> Tensor:
        level = (frames.mean(dim=(-3, -2, -1)) * 255 - 80) / 30
        return self._unit(level[:, : frames.shape[1] - self.frames + 1])

    def embed_sound(self, windows: Tensor) -> Tensor:
        # 40 dB are 3.2 of the mel's units; column 2 is the middle of the frame's 40 ms.
        return self._unit(windows[:, :, 0, :, 2].mean(dim=-1) / 3.2 + 0.68)

    @staticmethod
    def _unit(level: Tensor) -> Tensor:
        angle = level * torch.pi / 2
        return torch.stack([angle.cos(), angle.sin()], dim=-1)


class LevelSyncNet(nn.Module):
    """The same in SyncNet's place; keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.lips: list[Tensor] = []

    def embed_lips(self, frames: Tensor) -> Tensor:
        self.lips.append(frames)
        middle = frames[:, :, 0, 100:130, 100:130].mean(dim=(1, 2, 3))
        return ((middle - 80) / 30)[:, None]

    def embed_sound(self, mfcc: Tensor) -> Tensor:
        return mfcc[:, 0, 0, 1:2] / 9.2 - 1.65  # the logarithm of the energy


class FixedDetector:
    """Finds the same faces in every frame."""

    name = "fixed"

    def __init__(self, *boxes: Box) -> None:
        self.boxes = boxes

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        return [Detection(box, 1.0) for box in self.boxes]


def scorer(protocol: str = "tracked-crop", **settings: object) -> FileScorer:
    expert = ExpertJudge(LevelExpert(), "0" * 64, CropRule((0, 0, 0, 0)))
    return FileScorer(expert, protocol, detector=FixedDetector(FACE), **settings)  # type: ignore[arg-type]


def shifted(samples: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
    """The sound `frames` of 40 ms earlier, silence where nothing is left."""
    moved = np.zeros_like(samples)
    count = abs(frames) * SAMPLES_PER_FRAME
    if frames >= 0:
        moved[: len(samples) - count] = samples[count:]
    else:
        moved[count:] = samples[: len(samples) - count]
    return moved


class TestKnownLag:
    def test_every_lag_is_found_and_leaves_the_scores_alone(self) -> None:
        """A thousand moments that are all equally unlike, at rest before and after: only the lag differs."""
        count, rest = 1000, 40
        moments = np.concatenate([np.zeros(rest, int), np.arange(1, count + 1), np.zeros(rest, int)])
        rows = np.eye(count + 1) / np.sqrt(2)
        lip = rows[moments]
        scores = {}
        for lag in range(-15, 16):
            sound = rows[np.roll(moments, -lag)]  # what belongs to moment i is heard `lag` windows earlier
            scores[lag] = score_embeddings(lip, sound)
            assert scores[lag].av_offset_frames == lag
        # The 1e-6 that the published distance adds to each of the 1001 differences: nothing else is left.
        assert [score.lse_d for score in scores.values()] == pytest.approx(
            [scores[0].lse_d] * 31, abs=1.5 * 15 / len(lip)
        )
        # Two unlike moments are 1 apart.
        assert [score.lse_c for score in scores.values()] == pytest.approx(
            [scores[0].lse_c] * 31, abs=1.5 * 15 / len(lip)
        )
        assert scores[0].lse_d < 1e-4 and scores[0].lse_c == pytest.approx(1, abs=0.08)

    @pytest.mark.parametrize("frames", [-5, -2, 0, 3])
    @pytest.mark.parametrize("protocol", ["tracked-crop", "whole-clip"])
    def test_a_file_whose_sound_is_shifted(self, tmp_path: Path, frames: int, protocol: str) -> None:
        levels = levels_of(75)
        path = write_clip(
            tmp_path / "clip.mp4",
            levels,
            shifted(sound_of(levels), frames),
            where=FACE if protocol == "tracked-crop" else WHOLE,
        )
        score = scorer(protocol).score(path)
        assert score.failure is None
        assert score.av_offset_frames == frames
        assert score.lse_d is not None and score.lse_d < 0.25
        assert score.lse_c is not None and score.lse_c > 0.3

    def test_syncnet_finds_it_too(self, tmp_path: Path) -> None:
        levels = levels_of(75)
        judge = SyncNetJudge(LevelSyncNet(), "1" * 64)
        for frames in (0, 4):
            path = write_clip(tmp_path / f"{frames}.mp4", levels, shifted(sound_of(levels), frames))
            for protocol in ("whole-clip", "tracked-crop"):
                found = FileScorer(judge, protocol, detector=FixedDetector(FACE)).score(path)  # type: ignore[arg-type]
                assert (found.failure, found.av_offset_frames, found.num_windows) == (None, frames, 70)

    def test_other_frame_rates_are_scored_at_25(self, tmp_path: Path) -> None:
        levels = levels_of(75)
        fast = write_clip(tmp_path / "50.mp4", np.repeat(levels, 2), sound_of(levels), rate=50, where=WHOLE)
        score = scorer("whole-clip").score(fast)
        assert (score.failure, score.av_offset_frames) == (None, 0)
        assert score.duration_seconds == 3.0


class TestExpertScores:
    def test_equal_to_the_definition_by_similarities(self) -> None:
        rng = np.random.default_rng(0)
        lip, sound = (rows / np.linalg.norm(rows, axis=1)[:, None] for rows in rng.normal(size=(2, 40, 8)))
        found, expected = score_unit_embeddings(lip, sound), score_similarity(lip @ sound.T)
        assert found.lse_d == pytest.approx(expected.lse_d, abs=1e-9)
        assert found.lse_c == pytest.approx(expected.lse_c, abs=1e-9)
        assert found.av_offset_frames == expected.av_offset_frames

    def test_shift_and_offset_have_opposite_signs(self) -> None:
        rows = np.random.default_rng(1).normal(size=(60, 8))
        rows /= np.linalg.norm(rows, axis=1)[:, None]
        score = score_unit_embeddings(rows[:-4], rows[4:])  # the sound comes four frames too early
        assert score.av_offset_frames == 4
        assert int(score.mean_distance.argmin()) == 15 - 4

    @pytest.mark.parametrize("early", range(-15, 16))
    def test_a_known_lag_is_the_offset_and_leaves_lse_alone(self, early: int) -> None:
        # Every moment is at a right angle to every other: distance 0 at the true shift, √2 at all others.
        rows = np.eye(100)
        score = score_unit_embeddings(rows[20:80], rows[20 + early : 80 + early])
        assert score.av_offset_frames == early
        assert (score.lse_d, score.lse_c) == pytest.approx((0, np.sqrt(2)))

    def test_long_clips_are_embedded_in_stretches_alike(self, tmp_path: Path) -> None:
        levels = levels_of(200)
        path = write_clip(tmp_path / "long.mp4", levels, sound_of(levels))
        score = scorer().score(path)
        assert score.num_windows == 196
        expert = LevelExpert()
        judge = ExpertJudge(expert, "", CropRule((0, 0, 0, 0)))
        stretch = judge.hear(sound_of(levels))(0, 200)
        face = np.zeros((96, 96, 3), np.uint8)
        for index, level in enumerate(levels):
            face[:] = round(80 + 30 * level)
            stretch.add(face, Fraction(index, 25))
        whole = stretch.finish()
        assert whole.num_windows == 196
        # The written file went through two lossy codecs.
        assert score.lse_d == pytest.approx(whole.lse_d, abs=0.02)

    @pytest.mark.parametrize(("first", "num_windows"), [(0, 16), (30, 16)])
    def test_windows_whose_sound_is_missing_do_not_count(self, first: int, num_windows: int) -> None:
        sound = sound_of(levels_of(first + 20))  # the sound ends with the 20th frame of the stretch
        stretch = scorer().judge.hear(sound)(first, 60)
        for index in range(first, first + 60):
            stretch.add(np.zeros((96, 96, 3), np.uint8), Fraction(index, 25))
        assert stretch.finish().num_windows == num_windows


class TestTracks:
    def test_every_track_has_its_score_and_the_most_present_is_the_file_s(self, tmp_path: Path) -> None:
        levels = levels_of(75)
        path = write_clip(tmp_path / "two.mp4", levels, sound_of(levels))
        small, large = Box(5, 5, 35, 45), Box(60, 10, 140, 110)
        two = replace(scorer(), detector=FixedDetector(small, large))
        score = two.score(path)
        assert [track.face_pixels for track in score.tracks] == [100, 40]
        assert [track.num_frames for track in score.tracks] == [75, 75]
        assert (score.lse_d, score.num_windows) == (score.tracks[0].lse_d, score.tracks[0].num_windows)

    def test_a_cut_starts_another_track_with_its_own_sound(self, tmp_path: Path) -> None:
        """One shot is in sync, the other is four frames off: each track says so."""
        first, second = levels_of(50, 1), levels_of(50, 2)
        sound = np.concatenate([sound_of(first), shifted(sound_of(second), 4)])
        # Halves of the clip before two backdrops.
        path = write_clip(tmp_path / "cut.mp4", np.concatenate([first, second]), sound, backdrop=(60, 200))
        score = scorer().score(path)
        assert [(track.first_frame, track.num_frames) for track in score.tracks] == [(0, 50), (50, 50)]
        assert [track.av_offset_frames for track in score.tracks] == [0, 4]
        assert score.av_offset_frames == 0

    def test_short_tracks_are_left_out(self, tmp_path: Path) -> None:
        levels = levels_of(30)
        path = write_clip(tmp_path / "short.mp4", levels, sound_of(levels))
        long_tracks = scorer(settings=ScoreSettings(min_track_frames=31))
        score = long_tracks.score(path)
        assert score.failure_kind == "too short"
        assert "no face stays for 1.24 s; the longest for 1.20 s" in str(score.failure)


class TestSyncNetCrop:
    def test_published_proportions(self) -> None:
        image = np.zeros((400, 400, 3), np.uint8)
        # A box of 100 × 80 around (200, 150): half a side is 50; left 1.4, up 1, down 1.8 of it.
        image[100:240, 130:270] = 255
        assert (syncnet_crop(image, Box(160, 100, 240, 200)) == 255).all()
        image[100:240, 130:270] = 0
        image[99, 130:270] = image[240, 130:270] = 255
        image[100:240, 129] = image[100:240, 270] = 255
        assert (syncnet_crop(image, Box(160, 100, 240, 200)) == 0).all()

    def test_grey_beyond_the_edge(self) -> None:
        image = np.full((100, 100, 3), 7, np.uint8)
        crop = syncnet_crop(image, Box(-40, 0, 40, 80))
        assert crop.shape == (224, 224, 3)
        assert (crop[:, :110] == 110).all() and (crop[:80, 120:] == 7).all()
        assert (syncnet_crop(image, Box(500, 500, 600, 600)) == 110).all()

    def test_what_the_network_sees(self, tmp_path: Path) -> None:
        network = LevelSyncNet()
        judge = SyncNetJudge(network, "")
        levels = levels_of(30)
        FileScorer(judge, "whole-clip").score(
            write_clip(tmp_path / "a.mp4", levels, sound_of(levels), where=WHOLE)
        )
        seen = torch.cat(network.lips)
        assert seen.shape == (25, 3, 5, 224, 224)
        assert seen[3, 0, 2].mean().item() == pytest.approx(80 + 30 * levels[5], abs=2)


class TestFailures:
    @pytest.fixture
    def broken(self, tmp_path: Path) -> dict[str, Path]:
        levels = levels_of(40)
        whole = write_clip(tmp_path / "whole.mp4", levels, sound_of(levels))
        corrupt = tmp_path / "corrupt.mp4"
        corrupt.write_bytes(whole.read_bytes()[:2000])
        text = tmp_path / "text.mp4"
        text.write_text("no video")
        picture = tmp_path / "picture.mp4"
        cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((40, 40, 3), np.uint8))
        (tmp_path / "picture.png").rename(picture)
        return {
            "missing": tmp_path / "nowhere.mp4",
            "unreadable": corrupt,
            "unreadable ": text,
            "unreadable  ": tmp_path,
            "no picture": picture,
            "no sound": write_clip(tmp_path / "silent.mp4", levels, None),
            "too short": write_clip(tmp_path / "blink.mp4", levels[:8], sound_of(levels[:8])),
            "too short ": write_clip(tmp_path / "mute.mp4", levels, sound_of(levels[:4])),
        }

    @pytest.mark.parametrize("protocol", ["whole-clip", "tracked-crop"])
    def test_each_is_a_row_with_its_reason(self, broken: dict[str, Path], protocol: str) -> None:
        for kind, path in broken.items():
            row = scorer(protocol).score(path)
            assert row.failure_kind == kind.strip(), (kind, row.failure)
            assert path.name in str(row.failure)
            assert row.lse_d is row.lse_c is row.av_offset_frames is None
            assert not row.is_scored and row.tracks == ()

    def test_no_face(self, tmp_path: Path) -> None:
        levels = levels_of(40)
        path = write_clip(tmp_path / "wall.mp4", levels, sound_of(levels))
        row = replace(scorer(), detector=FixedDetector()).score(path)
        assert (row.failure_kind, row.failure) == ("no face", f"{path}: no face in 40 frames.")
        assert row.duration_seconds == 1.6

    def test_a_fault_of_the_program_is_a_row_too(self, tmp_path: Path) -> None:
        class Broken(LevelExpert):
            def embed_lips(self, frames: Tensor) -> Tensor:
                raise ZeroDivisionError("oh")

        levels = levels_of(40)
        path = write_clip(tmp_path / "clip.mp4", levels, sound_of(levels))
        store = ScoreStore(tmp_path / "scores.jsonl")
        broken = FileScorer(ExpertJudge(Broken(), ""), "whole-clip", store=store)
        row = broken.score(path)
        assert (row.failure_kind, len(store)) == ("failed", 0)
        assert "ZeroDivisionError: oh" in str(row.failure)

    def test_unknown_protocol(self) -> None:
        with pytest.raises(UsageError, match="no protocol 'half'"):
            scorer("half")


class TestKeptScores:
    def test_nothing_is_scored_twice(self, tmp_path: Path) -> None:
        levels = levels_of(40)
        path = write_clip(tmp_path / "clip.mp4", levels, sound_of(levels))
        file = tmp_path / "kept" / "scores.jsonl"
        first = replace(scorer(), store=ScoreStore(file))
        made = first.score(path)
        moved = path.rename(tmp_path / "moved.mp4")

        class Forbidden(LevelExpert):
            def embed_lips(self, frames: Tensor) -> Tensor:
                raise AssertionError("scored twice")

        judge = ExpertJudge(Forbidden(), "0" * 64)
        again = FileScorer(judge, store=ScoreStore(file), detector=FixedDetector(FACE)).score(moved)
        assert again == replace(made, path=moved)
        assert len(file.read_text().splitlines()) == 1

    def test_the_key_names_file_judge_protocol_and_settings(self) -> None:
        base = scorer()
        keys = {
            base.key("a"),
            base.key("b"),
            scorer("whole-clip").key("a"),
            scorer(settings=ScoreSettings(min_track_frames=30)).key("a"),
            replace(base, judge=ExpertJudge(LevelExpert(), "1" * 64)).key("a"),
        }
        assert len(keys) == 5
        assert base.key("a") == scorer().key("a")

    def test_a_line_that_was_cut_off_costs_only_itself(self, tmp_path: Path) -> None:
        file = tmp_path / "scores.jsonl"
        store = ScoreStore(file)
        row = scorer().failed(Path("x"), "no face", "none")
        store.keep("one", row)
        store.keep("two", row)
        file.write_text(file.read_text()[:-20])
        again = ScoreStore(file)
        assert (again.get("one"), again.get("two")) == (row, None)
        again.keep("three", row)
        assert ScoreStore(file).get("three") == row and len(ScoreStore(file)) == 2

    def test_rows_survive_json(self, tmp_path: Path) -> None:
        levels = levels_of(40)
        row = scorer().score(write_clip(tmp_path / "clip.mp4", levels, sound_of(levels)))
        assert FileScore.from_dict(json.loads(json.dumps(row.to_dict()))) == row


class TestSummary:
    def test_failures_are_counted_and_in_no_average(self) -> None:
        base = scorer()
        good = [
            replace(
                base.failed(Path(str(d)), "failed", ""),
                failure=None,
                failure_kind=None,
                lse_d=d,
                lse_c=1.0,
                av_offset_frames=o,
            )
            for d, o in ((6.0, 0), (8.0, 0), (10.0, -2))
        ]
        bad = [base.failed(Path("x"), "no face", "none"), base.failed(Path("y"), "missing", "gone")]
        found = summarise_files([*good, *bad])
        assert (found.num_files, found.num_scored) == (5, 3)
        assert found.failures == {"missing": 1, "no face": 1}
        assert (found.lse_d.value, found.lse_c.value, found.offsets) == (8.0, 1.0, {-2: 1, 0: 2})
        assert found.av_offset_frames.value == pytest.approx(-2 / 3)
        assert found.offset_within_one_share.value == pytest.approx(2 / 3)
        assert 6.0 <= found.lse_d.low < 8.0 < found.lse_d.high <= 10.0

    def test_nothing_scored_is_no_number(self) -> None:
        found = summarise_files([scorer().failed(Path("x"), "no face", "none")])
        assert found.to_dict()["lse_d"] == {"value": None, "low": None, "high": None}


class TestFiles:
    def test_folders_are_searched_and_files_kept(self, tmp_path: Path) -> None:
        for name in ("b.mp4", "a.MKV", "deep/c.avi", "notes.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        gone = tmp_path / "gone.mp4"
        found = find_videos([tmp_path, gone, tmp_path / "b.mp4"])
        assert found == [tmp_path / "a.MKV", tmp_path / "b.mp4", tmp_path / "deep/c.avi", gone]

    def test_a_folder_without_videos_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no video in"):
            find_videos([tmp_path])


class TestFrameRates:
    @pytest.mark.parametrize(
        ("rate", "count", "expected"),
        [
            (25, 5, [0, 1, 2, 3, 4]),
            (50, 6, [0, 2, 4]),
            (10, 2, [0, 0, 1, 1, 1]),
            (25, 1, [0]),
            (30, 7, [0, 1, 2, 4, 5, 6]),
        ],
    )
    def test_nearest_frame_of_each_tick(self, rate: int, count: int, expected: list[int]) -> None:
        pixel = np.zeros((1, 1, 3), np.uint8)
        frames = [Frame(index, Fraction(index, rate), pixel) for index in range(count)]
        assert [frame.index for frame in frames_at_rate(frames)] == expected

    def test_time_stamps_that_tremble_change_nothing(self) -> None:
        pixel = np.zeros((1, 1, 3), np.uint8)
        tremble = [0, 3, -4, 2, -3, 1, -5]
        frames = [Frame(index, Fraction(40 * index + ms, 1000), pixel) for index, ms in enumerate(tremble)]
        assert [frame.index for frame in frames_at_rate(frames)] == list(range(7))
