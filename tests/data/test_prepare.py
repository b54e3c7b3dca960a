"""From videos to prepared clips, offline with a detector that looks where the drawn face is."""

from fractions import Fraction

import numpy as np
import pytest

from lipsmith.data import synthetic
from lipsmith.data.clips import dropped_counts, load_clip, read_index
from lipsmith.data.prepare import PrepareOptions, prepare
from lipsmith.data.sources import find_sources, read_manifest
from lipsmith.errors import DataError
from lipsmith.faces import detect

from ..media_samples import make_clip, make_sound

WIDTH, HEIGHT = 320, 240


class DrawnFaceDetector(synthetic.FixedBoxDetector):
    """Sees the face of `synthetic.write_video`, and nobody in small pictures."""

    def __init__(self) -> None:
        super().__init__(synthetic.default_box(WIDTH, HEIGHT))

    def detect(self, image):
        return super().detect(image) if image.shape[0] >= 200 else []


@pytest.fixture
def options(monkeypatch):
    monkeypatch.setitem(detect.DETECTORS, "drawn", f"{__name__}:DrawnFaceDetector")
    return PrepareOptions(detector="drawn")


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("footage")
    for speaker, rate in (("ada", 25), ("grace", 30)):
        (folder / speaker).mkdir()
        synthetic.write_video(folder / speaker / "one.mp4", synthetic.SyntheticSpeaker(3), 2.0, 5, rate=rate)
    make_clip(folder / "small.mp4", num_frames=40, sound_seconds=1.6)  # nobody in it
    make_clip(folder / "mute.mp4", num_frames=40)
    (folder / "text.mp4").write_text("not a video")
    return folder


def test_every_video_is_a_clip_or_a_reason(footage, options, tmp_path):
    seen = []
    report = prepare(
        [footage], tmp_path, options=options, workers=1, on_progress=lambda *done: seen.append(done)
    )
    assert report.num_videos == 5
    assert (report.num_clips, report.num_speakers) == (2, 2)
    assert report.dropped == {"no face": 1, "no sound": 1, "unreadable": 1}
    assert seen == [(i, 5) for i in range(6)]
    records = {record.speaker: record for record in read_index(tmp_path)}
    assert set(records) == {"ada", "grace"}
    assert records["ada"].num_frames == 50
    assert records["grace"].num_frames == 50  # 60 frames in two seconds, 50 at the training rate


def test_the_sound_of_a_clip_is_the_sound_of_its_frames(footage, options, tmp_path):
    prepare([footage / "ada" / "one.mp4"], tmp_path, options=options, workers=1)
    (record,) = read_index(tmp_path)
    clip = load_clip(record, tmp_path)
    assert clip.times == [Fraction(i, 25) for i in range(50)]
    performance = synthetic.perform(synthetic.SyntheticSpeaker(3), 2.0, 5)
    loudness = clip.windows()[:, 0].mean(axis=(1, 2))
    # What is heard from a frame on follows the mouth that the drawing opens there.
    openness = np.array([performance.openness[i : i + 5].mean() for i in range(45)])
    assert np.corrcoef(loudness[:45], openness)[0, 1] > 0.6


def test_it_goes_on_where_it_stopped(footage, options, tmp_path):
    prepare([footage / "ada"], tmp_path, options=options, workers=1)
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    calls = []
    report = prepare(
        [footage / "ada"], tmp_path, options=options, workers=1, on_progress=lambda *d: calls.append(d)
    )
    assert calls == [(1, 1)]
    assert report.num_clips == 1
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()} == first


def test_a_manifest_names_speakers_and_says_what_is_not_for_sync(footage, options, tmp_path):
    manifest = tmp_path / "list.tsv"
    manifest.write_text(
        "file\tspeaker_id\tuse\tclass\tcontent_licence_guess\n"
        "ada/one.mpg\tLovelace\topen\tdrawn\tApache-2.0\n"
        "grace/one.mp4\tHopper\tfaces-only\tdrawn\tApache-2.0\n"
    )
    output = tmp_path / "prepared"
    prepare([footage], output, manifest=manifest, options=options, workers=1)
    (record,) = read_index(output)
    assert (record.speaker, record.use, record.licence) == ("Lovelace", "open", "Apache-2.0")
    assert record.collection == "drawn"
    assert dropped_counts(output)["not for sync"] == 1


def test_small_faces_and_short_clips_are_left_out(footage, options, tmp_path):
    from dataclasses import replace

    with pytest.raises(
        DataError, match=r"None of 1 videos or folders gave a usable clip \(face too small: 1\)"
    ):
        prepare([footage / "ada"], tmp_path / "a", options=replace(options, min_face_pixels=500), workers=1)
    with pytest.raises(DataError, match="too short: 1"):
        prepare([footage / "ada"], tmp_path / "b", options=replace(options, min_seconds=5), workers=1)


def test_nothing_to_prepare_is_an_error(tmp_path):
    with pytest.raises(DataError, match="No videos found"):
        prepare([tmp_path], tmp_path / "out")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        prepare([tmp_path / "absent"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_manifest_needs_its_header(tmp_path):
    (tmp_path / "list.tsv").write_text("a.mp4\tada\n")
    with pytest.raises(DataError, match="column named `file`"):
        read_manifest(tmp_path / "list.tsv")


def test_folders_are_searched_and_other_files_passed_over(tmp_path):
    (tmp_path / "a").mkdir()
    make_clip(tmp_path / "a" / "clip.mkv", num_frames=3)
    make_sound(tmp_path / "speech.wav", 0.5)
    assert [source.name for source in find_sources([tmp_path])] == ["a/clip.mkv"]


@pytest.mark.slow
def test_real_clips_are_prepared(shared_clips, tmp_path):
    videos = [
        shared_clips / "grid" / "grid_s30_bbac3n.mpg",
        shared_clips / "promo" / "wth_kalli_1d7f.flv",
        shared_clips / "anchors" / "ar_06594.mp4",
    ]
    report = prepare(videos, tmp_path, manifest=shared_clips / "manifest.tsv", workers=2)
    assert report.num_clips == 3
    records = {record.collection: record for record in read_index(tmp_path)}
    assert records["grid"].num_frames == 75
    assert records["anchors"].speaker == "unlabelled"
    assert records["promo"].num_frames == pytest.approx(13.08 * 25, abs=3)
