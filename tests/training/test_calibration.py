"""What calibrates 8-bit weights is what inference gives the generator."""

from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import lipsmith.training.calibration as calibration
from lipsmith.audio.mel import mel_spectrogram
from lipsmith.audio.voice import silence_pauses, speech_activity
from lipsmith.audio.windows import window_batch
from lipsmith.conditioning import mask_lower_half
from lipsmith.data.clips import ClipRecord, read_index
from lipsmith.data.synthetic import (
    FixedBoxDetector,
    SyntheticSpeaker,
    default_box,
    prepare_synthetic,
    write_video,
)
from lipsmith.errors import NoFaceError, UsageError
from lipsmith.faces.crop import CropRule
from lipsmith.faces.detect import Detection
from lipsmith.geometry import Image
from lipsmith.media.read import read_frames, read_samples
from lipsmith.pipeline import to_network
from lipsmith.timebase import window_start
from lipsmith.training.calibration import calibration_batches, drawn_batches, video_batches
from lipsmith.weights.card import WeightCard

SIZE = 96
PADDING = (0.07, 0.11, 0.08, 0.08)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ClipRecord]]:
    """Prepared clips of three drawn people."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare_synthetic(folder, num_speakers=3, clips_per_speaker=1, seconds=1.2)
    return folder, read_index(folder)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn person who speaks for two seconds, as a file."""
    path = tmp_path_factory.mktemp("video") / "drawn.mp4"
    write_video(path, SyntheticSpeaker(3), 2, seed=3)
    return path


def card(lead: Fraction = Fraction(1, 25)) -> WeightCard:
    return WeightCard(
        name="small",
        kind="generator",
        architecture="wav2lip",
        width=0.125,
        face_size=SIZE,
        window_lead_seconds=lead,
        crop_padding=PADDING,
    )


def test_prepared_clips_are_shown_as_inference_shows_them(prepared: tuple[Path, list[ClipRecord]]) -> None:
    folder, records = prepared
    batches = list(calibration_batches(folder, records, SIZE))
    assert len(batches) == 3
    for mels, faces in batches:
        assert mels.shape == (4, 1, 80, 16) and faces.shape == (4, 6, SIZE, SIZE)
        assert mels.dtype == faces.dtype == np.float32
        assert not faces[:, :3, SIZE // 2 :].any()
        np.testing.assert_array_equal(faces[:, :3, : SIZE // 2], faces[:, 3:, : SIZE // 2])
        assert 0 < faces.max() <= 1
    # The second clip hears the first one's sound, the third its own.
    assert any(np.array_equal(batches[1][0][0], window) for window in batches[0][0])
    assert not any(np.array_equal(batches[2][0][0], window) for window in batches[1][0])


def test_faces_of_another_size(prepared: tuple[Path, list[ClipRecord]]) -> None:
    folder, records = prepared
    with pytest.raises(UsageError, match="--face-size 128"):
        next(calibration_batches(folder, records, 128))


def test_a_video_is_shown_as_sync_shows_it(video: Path) -> None:
    detector = FixedBoxDetector(default_box(320, 240))
    batches = video_batches([video], card(), detector)
    assert sum(len(mels) for mels, _ in batches) == 50  # every frame of two seconds

    box = calibration.LipSyncer(card(), calibration._Recorder(SIZE, "frame"), detector).track(
        frame.image for frame in islice(read_frames(video), 1)
    )[0]
    assert box is not None
    crop = CropRule(PADDING, SIZE).crop(box)
    shown = to_network([crop.extract(frame.image) for frame in islice(read_frames(video), 8)])
    mel = mel_spectrogram(read_samples(video))
    mel = silence_pauses(mel, speech_activity(mel))
    starts = [window_start(Fraction(index, 25), Fraction(1, 25)) for index in range(8)]
    mels, faces = batches[0]
    # The colours of a frame make their way from YUV to BGR by two routes, which round apart.
    np.testing.assert_allclose(faces[:8, 3:], shown, rtol=0, atol=6 / 255)
    np.testing.assert_array_equal(faces[:8, :3], mask_lower_half(faces[:8, 3:]))
    np.testing.assert_allclose(mels[:8], window_batch(mel, starts), rtol=0, atol=1e-4)


def test_batches_are_taken_from_all_over_a_video(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_VIDEO_BATCHES", 4)
    detector = FixedBoxDetector(default_box(320, 240))
    everything = np.concatenate([faces for _, faces in video_batches([video], card(), detector)])
    some = video_batches([video, video], card(), detector)
    assert [len(faces) for _, faces in some] == [8, 8, 8, 8]
    np.testing.assert_array_equal(some[0][1], everything[:8])
    np.testing.assert_array_equal(some[1][1], everything[24:32])  # one call in three
    np.testing.assert_array_equal(some[2][1], some[0][1])


class BlindDetector:
    """Finds nothing."""

    name = "blind"

    def detect(self, image: Image) -> list[Detection]:
        """Nothing."""
        return []


def test_a_video_without_a_face_is_named(video: Path) -> None:
    with pytest.raises(NoFaceError, match=r"No face.*first 50 frames of .*drawn\.mp4"):
        video_batches([video], card(), BlindDetector())


def test_drawn_people_are_many_and_speak() -> None:
    batches = drawn_batches(SIZE)
    mels, faces = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert mels.shape == (96, 1, 80, 16) and faces.shape == (96, 6, SIZE, SIZE)
    assert len({face.tobytes() for face in faces}) == 96
    assert mels.max() > 1  # loud, on the scale from -4 to 4
