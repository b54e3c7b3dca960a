import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from lipsmith import errors, pipeline
from lipsmith.audio.mel import mel_spectrogram
from lipsmith.audio.voice import silence_pauses, speech_activity
from lipsmith.audio.windows import WindowStream
from lipsmith.faces.detect import Detection
from lipsmith.geometry import Box
from lipsmith.media.probe import MediaInfo, VideoStream
from lipsmith.media.read import TimedPicture
from lipsmith.media.write import EncoderOptions
from lipsmith.picture import ArrayPicture
from lipsmith.pipeline import LipSyncer, Progress, SyncOptions
from lipsmith.timebase import SILENCE, window_start
from lipsmith.weights.card import WeightCard

WIDTH, HEIGHT, SIZE = 96, 80, 32
FACE = Box(24, 8, 72, 72)
CARD = WeightCard(
    name="fake",
    kind="generator",
    architecture="wav2lip",
    width=1.0,
    face_size=SIZE,
    window_lead_seconds=Fraction(1, 25),
    files={"generator.xml": "00"},
)
RATE = Fraction(30000, 1001)


class Runtime:
    """Returns the reference, or a grey face; remembers what it heard and saw, and how many faces came at once."""

    name, device, face_size, num_references = "fake", "cpu", SIZE, 1

    def __init__(self, *, grey=False):
        self.grey = grey
        self.heard = []
        self.references = []
        self.batches = []
        self.is_closed = False

    def generate(self, mels, faces):
        assert faces.dtype == np.float32
        assert faces.shape == (len(mels), 6, SIZE, SIZE)
        assert not faces[:, :3, SIZE // 2 :].any()
        np.testing.assert_array_equal(faces[:, :3, : SIZE // 2], faces[:, 3:, : SIZE // 2])
        self.heard += [mel[0].copy() for mel in mels]
        self.references += list(faces[:, 3:].copy())
        self.batches.append(len(mels))
        return np.full_like(faces[:, 3:], 0.5) if self.grey else faces[:, 3:].copy()

    def close(self):
        self.is_closed = True


class Detector:
    """Sees one face in every frame whose first pixel is not black."""

    name = "fake"

    def detect(self, image):
        return [Detection(FACE, 1.0)] if image[0, 0].any() else []


class Writer:
    """Stands in for `VideoWriter` and keeps everything."""

    def __init__(self, path, **settings):
        self.path, self.settings = path, settings
        self.frames, self.times = [], []
        self.is_complete = False

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.is_complete = kind is None
        if self.is_complete and self.settings["finalize"] is not None:
            self.settings["finalize"](self.path)

    def write(self, picture, time):
        self.frames.append(picture.bgr())
        self.times.append(time)


def make_frame(index, rate=RATE, *, has_face=True):
    """A frame whose texture belongs to its index."""
    image = np.random.default_rng(index).integers(1, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    if not has_face:
        image[0, 0] = 0
    return TimedPicture(index, index / rate, ArrayPicture(image))


def make_shot(num_frames, *, without_face=()):
    """Frames that no cut divides: they differ in one corner."""
    frames = []
    for index in range(num_frames):
        image = make_frame(0, has_face=index not in without_face).picture.image
        image[72:, :8] = index
        frames.append(TimedPicture(index, index / RATE, ArrayPicture(image)))
    return frames


class Studio:
    """A pipeline whose files are arrays: what is read and written is in the attributes."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.frames = [make_frame(index) for index in range(30)]
        self.rate = RATE
        self.is_image = False
        self.variable_rate = None
        self.samples = np.random.default_rng(1).normal(0, 0.1, 16000).astype(np.float32)  # as loud as speech
        self.runtime = Runtime()
        self.detector = Detector()
        self.card = CARD
        self.writers = []
        self.num_readings = 0
        for name in ("video.mp4", "speech.wav"):
            (folder / name).write_bytes(b"stands for a file")
        monkeypatch.setattr(pipeline, "probe", self.probe)
        monkeypatch.setattr(pipeline, "read_pictures", self.read_frames)
        monkeypatch.setattr(pipeline, "read_sample_blocks", self.read_sample_blocks)
        monkeypatch.setattr(pipeline, "VideoWriter", self.make_writer)

    def probe(self, path):
        picture = VideoStream(
            width=WIDTH,
            height=HEIGHT,
            rate=self.rate,
            time_base=Fraction(1, 90000),
            num_frames=len(self.frames),
            duration=None,
            rotation=0,
            codec="h264",
            pixel_format="yuv420p",
            variable_rate=self.variable_rate,
        )
        return MediaInfo(Path(path), "mp4", None, picture, object(), self.is_image)

    def read_frames(self, path):
        self.num_readings += 1
        yield from self.frames

    def read_sample_blocks(self, path):
        yield from np.array_split(self.samples, 3)

    def make_writer(self, path, **settings):
        self.writers.append(Writer(path, **settings))
        return self.writers[-1]

    def sync(self, *, on_progress=None, output="out.mp4", **options):
        self.syncer = LipSyncer(self.card, self.runtime, self.detector)
        return self.syncer.sync(
            self.folder / "video.mp4",
            self.folder / "speech.wav",
            self.folder / output,
            options=SyncOptions(**{"provenance": False, **options}),
            on_progress=on_progress,
        )

    @property
    def written(self):
        return self.writers[-1]


@pytest.fixture(params=["two passes", "one pass"])
def studio(request, tmp_path, monkeypatch):
    threads_before = set(threading.enumerate())
    made = Studio(tmp_path, monkeypatch)
    made.variable_rate = False if request.param == "one pass" else None
    yield made
    assert set(threading.enumerate()) <= threads_before, "a stage's thread is still alive"


def test_a_generator_that_returns_its_reference_reproduces_every_frame(studio):
    report = studio.sync()
    assert report.num_frames == report.num_synced == 30
    for written, frame in zip(studio.written.frames, studio.frames, strict=True):
        np.testing.assert_array_equal(written, frame.picture.image)
    assert studio.written.times == [frame.time for frame in studio.frames]
    assert studio.written.is_complete


def test_only_the_lower_face_changes(studio):
    studio.runtime = Runtime(grey=True)
    studio.sync()
    for written, frame in zip(studio.written.frames, studio.frames, strict=True):
        changed = (written != frame.picture.image).any(axis=2)
        rows, columns = np.nonzero(changed)
        assert rows.min() >= 8 + 32
        assert rows.max() < 72
        assert columns.min() >= 24
        assert columns.max() < 72
        assert changed.sum() > 500


def test_steady_references_show_one_mouth_of_each_shot(studio):
    from .mouths import seen_mouth, show_mouth

    studio.card = replace(CARD, reference="steady")
    smooth = [
        cv2.GaussianBlur(make_frame(seed).picture.image, (0, 0), 6).astype(np.float32) for seed in (0, 1)
    ]
    scenes = [np.clip((scene - scene.mean()) * 8 + 128, 1, 255).astype(np.uint8) for scene in smooth]
    eyes = (slice(16, 20), slice(30, 60))
    for index in range(30):
        image = scenes[index // 15].copy()
        image[eyes] = 1  # nothing white lies over the face
        show_mouth(image, index % 15)
        studio.frames[index] = TimedPicture(index, index / RATE, ArrayPicture(image))
    report = studio.sync()
    assert report.num_synced == 30
    # The fifth of the fifteen frames of a shot: a mouth at rest, of those that are looked at ahead.
    np.testing.assert_allclose([seen_mouth(face) for face in studio.runtime.references], 4, atol=0.2)


@pytest.mark.parametrize(("form", "count"), [("frame", 0), ("steady", 1), ("pair", 2)])
def test_a_face_is_pasted_beside_references_that_are_not_the_frame_itself(studio, monkeypatch, form, count):
    studio.card = replace(CARD, reference=form)
    studio.runtime.num_references = max(count, 1)
    studio.runtime.generate = lambda mels, faces: faces[:, 3:6].copy()
    beside = []
    paste = pipeline.paste_into

    def noting(*given):
        beside.append(given[4])
        return paste(*given)

    monkeypatch.setattr(pipeline, "paste_into", noting)
    studio.sync()
    assert len(beside) == 30 and {len(references) for references in beside} == {count}
    assert {one.shape for references in beside for one in references} <= {(SIZE, SIZE, 3)}


def test_a_pair_shows_a_mouth_at_rest_and_the_widest_and_the_first_is_pasted_beside(studio):
    from .mouths import seen_mouth, show_mouth

    studio.card = replace(CARD, reference="pair")
    smooth = cv2.GaussianBlur(make_frame(0).picture.image, (0, 0), 6).astype(np.float32)
    scene = np.clip((smooth - smooth.mean()) * 8 + 128, 1, 255).astype(np.uint8)
    for index in range(30):
        image = scene.copy()
        image[16:20, 30:60] = 1  # nothing white lies over the face
        show_mouth(image, (index + 7) % 15)
        studio.frames[index] = TimedPicture(index, index / RATE, ArrayPicture(image))

    class Seeing(Runtime):
        num_references = 2

        def generate(self, mels, faces):
            self.references += list(faces[:, 3:].copy())
            return faces[:, 3:6].copy()  # says nothing new: the mouth at rest

    studio.runtime = Seeing()
    studio.sync()
    shown = studio.runtime.references
    assert {face.shape for face in shown} == {(6, SIZE, SIZE)}
    at_rest, opened = ([seen_mouth(face[part]) for face in shown] for part in (slice(0, 3), slice(3, 6)))
    assert np.ptp(at_rest) < 0.2 and np.ptp(opened) < 0.2
    assert 2 < at_rest[0] < 6 and opened[0] > 13
    # In the output all mouths are the one at rest.
    written = [image[56:60, 46:50, 0].mean() for image in studio.written.frames]
    assert np.ptp(written) < 3


def test_each_frame_hears_its_own_window(studio):
    studio.samples = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    studio.sync(close_in_silence=False)
    mel = mel_spectrogram(studio.samples)
    padded = np.pad(mel, ((0, 0), (40, 40)), constant_values=SILENCE)
    for frame, heard in zip(studio.frames, studio.runtime.heard, strict=True):
        start = window_start(frame.time, Fraction(1, 25)) + 40
        np.testing.assert_allclose(heard, padded[:, start : start + 16], atol=1e-5)


def test_the_lead_can_be_chosen(studio):
    studio.sync(close_in_silence=False)
    own = studio.runtime.heard
    studio.runtime = Runtime()
    studio.sync(close_in_silence=False, audio_lead_seconds=0)
    # One frame of 40 ms is 3.2 columns: the window of frame 5 starts at column 13 instead of 10.
    np.testing.assert_allclose(studio.runtime.heard[5][:, :10], own[5][:, 3:13], atol=1e-5)


def test_the_mouth_moves_as_far_as_is_asked_or_as_the_card_says(monkeypatch):
    card = replace(CARD, articulation=1.25)
    asked = []

    def resolve_runtime(*_, articulation, **__):
        asked.append(articulation)
        return Runtime()

    monkeypatch.setattr("lipsmith.weights.resolve", lambda model: (card, Path("w")))
    monkeypatch.setattr("lipsmith.pipeline.resolve_detector", lambda name: None)
    monkeypatch.setattr("lipsmith.pipeline.resolve_runtime", resolve_runtime)
    for articulation in (None, 0.0, 1.5):
        syncer = LipSyncer.load("w", articulation=articulation)
    assert asked == [1.25, 0.0, 1.5]
    # It is part of the network by now: another wish is told, not passed over.
    with pytest.raises(errors.UsageError, match=r"LipSyncer\.load\(…, articulation=2\)"):
        syncer.sync("v.mp4", "a.wav", "o.mp4", options=SyncOptions(articulation=2))
    with pytest.raises(errors.InputError):
        syncer.sync("v.mp4", "a.wav", "o.mp4", options=SyncOptions(articulation=1.5))


def test_a_card_that_promises_other_references_than_the_network_sees_is_refused(monkeypatch):
    closed = []
    runtime = Runtime()
    runtime.close = lambda: closed.append(True)
    monkeypatch.setattr(
        "lipsmith.weights.resolve", lambda model: (replace(CARD, reference="pair"), Path("w"))
    )
    monkeypatch.setattr("lipsmith.pipeline.resolve_detector", lambda name: None)
    monkeypatch.setattr("lipsmith.pipeline.resolve_runtime", lambda *_, **__: runtime)
    with pytest.raises(errors.WeightsError, match=r"fake see 1 references .* reference = 'pair'"):
        LipSyncer.load("w")
    assert closed == [True]


def test_where_nobody_speaks_the_generator_hears_silence(studio):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3e-4, 32000)
    noise[:8000] += 0.3 * rng.normal(0, 1, 8000)
    studio.samples = noise.astype(np.float32)
    studio.frames = [make_frame(index) for index in range(60)]
    studio.sync()
    assert studio.runtime.heard[3].max() > 0
    assert (studio.runtime.heard[45] == SILENCE).all()
    studio.runtime = Runtime()
    studio.sync(close_in_silence=False)
    assert studio.runtime.heard[45].max() > SILENCE


def test_what_is_heard_in_a_stream_is_the_whole_mel_with_its_pauses_silenced(studio):
    rng = np.random.default_rng(0)
    studio.samples = (rng.normal(0, 0.1, 32000) * (np.arange(32000) // 8000 % 2 + 0.001)).astype(np.float32)
    studio.frames = [make_frame(index) for index in range(60)]
    studio.sync()
    mel = mel_spectrogram(studio.samples)
    activity = speech_activity(mel)
    assert 0.3 < activity.mean() < 0.8
    windows = WindowStream([silence_pauses(mel, activity)])
    for frame, heard in zip(studio.frames, studio.runtime.heard, strict=True):
        expected = windows.batch([window_start(frame.time, Fraction(1, 25))])[0, 0]
        np.testing.assert_allclose(heard, expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_nothing(studio, batch_size):
    studio.frames[4] = make_frame(4, has_face=False)
    studio.runtime = Runtime(grey=True)
    studio.sync()
    before = studio.written.frames
    studio.runtime = Runtime(grey=True)
    studio.sync(batch_size=batch_size)
    assert max(studio.runtime.batches) <= batch_size
    np.testing.assert_array_equal(before, studio.written.frames)


def test_frames_without_a_face_pass_through_and_are_reported(studio):
    studio.frames = [make_frame(index, has_face=not 8 <= index < 17) for index in range(30)]
    studio.runtime = Runtime(grey=True)
    report = studio.sync()
    assert report.num_frames == 30
    assert report.num_synced == 21
    (gap,) = report.without_face
    assert (gap.first, gap.last) == (8, 16)
    assert gap.start_seconds == pytest.approx(float(8 / RATE))
    assert gap.end_seconds == pytest.approx(float(17 / RATE))
    assert "No face in 9 of 30 frames (0.3–0.6 s): they are unchanged." in report.warnings
    for index, written in enumerate(studio.written.frames):
        assert np.array_equal(written, studio.frames[index].picture.image) == (8 <= index < 17)


def test_no_face_at_all_writes_nothing(studio):
    studio.frames = [make_frame(index, has_face=False) for index in range(30)]
    with pytest.raises(errors.NoFaceError, match=r"any of 30 frames.*video\.mp4"):
        studio.sync()
    assert not any(writer.is_complete for writer in studio.writers)


def test_a_second_face_that_is_not_there_is_named(studio):
    with pytest.raises(errors.NoFaceError, match="there is no face 2"):
        studio.sync(face=1)


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("loop", [*range(30), *range(30), *range(15)]),
        ("bounce", [*range(30), *range(28, -1, -1), *range(1, 17)]),
        ("auto", [*range(30), *range(28, -1, -1), *range(1, 17)]),
        ("hold", [*range(30), *[29] * 45]),
        ("cut", range(30)),
    ],
)
def test_a_short_video_follows_the_length_policy(studio, policy, order):
    studio.samples = np.tile(studio.samples, 3)[:40000]  # 2.5 s: 75 frames
    report = studio.sync(length=policy)
    np.testing.assert_array_equal(
        studio.written.frames, [studio.frames[index].picture.image for index in order]
    )
    steps = np.diff([float(time) for time in studio.written.times])
    np.testing.assert_allclose(steps, float(1 / RATE), rtol=1e-9)
    duration = 30 / RATE if policy == "cut" else Fraction("2.5")
    assert studio.written.settings["duration"] == duration
    assert report.duration_seconds == float(duration)
    assert abs(studio.written.times[-1] + 1 / RATE - duration) <= 1 / RATE


def test_a_long_video_ends_with_the_sound_and_its_rest_is_not_even_decoded(studio, monkeypatch):
    decoded = []

    def read_frames(path):
        for index in range(10_000):
            decoded.append(index)
            yield make_frame(index)

    monkeypatch.setattr(pipeline, "read_pictures", read_frames)
    report = studio.sync()
    assert report.num_frames == 30
    assert max(decoded) < 40


def test_a_still_image_is_repeated_and_tracked_once(studio):
    studio.frames, studio.is_image, studio.rate = [make_frame(0)], True, Fraction(25)
    studio.runtime = Runtime(grey=True)
    report = studio.sync()
    assert report.num_frames == report.num_synced == 25
    assert studio.written.times == [Fraction(index, 25) for index in range(25)]
    for written in studio.written.frames[1:]:
        np.testing.assert_array_equal(written, studio.written.frames[0])  # composed afresh, not on top


def test_a_variable_rate_is_kept(studio):
    rng = np.random.default_rng(3)
    times = [Fraction(0), *np.cumsum(rng.integers(10, 60, 29)).tolist()]
    studio.frames = [
        TimedPicture(index, Fraction(time, 1000), make_frame(index).picture)
        for index, time in enumerate(times)
    ]
    studio.sync(length="cut")
    end = 1 - 1 / RATE / 2
    assert studio.written.times == [frame.time for frame in studio.frames if frame.time < end]


@pytest.mark.parametrize("length", ["auto", "cut"])
@pytest.mark.parametrize("keep_track", [False, True])
def test_a_video_that_stands_still_where_the_sound_ends_goes_on(studio, length, keep_track):
    studio.rate = Fraction(25)
    times = [Fraction(index, 25) for index in [*range(10), *range(60, 70)]]
    studio.frames = [TimedPicture(index, time, make_frame(index).picture) for index, time in enumerate(times)]
    for seconds in (4, 1):  # at first the whole video is seen
        studio.samples = np.random.default_rng(1).normal(0, 0.1, seconds * 16000).astype(np.float32)
        report = studio.sync(length=length, keep_track=keep_track, overwrite=True)
    assert (report.num_frames, report.duration_seconds) == (25, 1)
    assert studio.written.times == [Fraction(index, 25) for index in range(25)]
    for written in studio.written.frames[10:]:
        np.testing.assert_array_equal(written, studio.written.frames[9])


def test_a_slide_show_is_shown_at_a_rate_at_which_a_mouth_can_speak(studio):
    studio.rate = Fraction(1)
    studio.frames = [TimedPicture(index, Fraction(index), make_frame(index).picture) for index in range(2)]
    studio.samples = np.random.default_rng(1).normal(0, 0.1, 48000).astype(np.float32)
    report = studio.sync(length="loop")
    assert (report.num_frames, report.rate, studio.written.settings["rate"]) == (75, 25, 25)
    assert studio.written.times == [Fraction(index, 25) for index in range(75)]
    for second, shown in enumerate((0, 1, 0)):
        np.testing.assert_array_equal(
            studio.written.frames[25 * second + 24], studio.frames[shown].picture.bgr()
        )
    assert not np.array_equal(studio.runtime.heard[0], studio.runtime.heard[10])


@pytest.mark.parametrize("length", ["loop", "bounce"])
def test_the_number_of_frames_in_memory_does_not_grow_with_length(studio, monkeypatch, length):
    class Pixels(np.ndarray):
        """Can be weakly referenced."""

    def most_alive(num_frames, num_seconds):
        most = 0
        alive = {}

        def read_frames(path):
            nonlocal most
            for index in range(num_frames):
                image = make_frame(index).picture.image.view(Pixels)
                alive[id(image)] = weakref.ref(image, lambda _, key=id(image): alive.pop(key))
                most = max(most, len(alive))
                frame = TimedPicture(index, index / RATE, ArrayPicture(image))
                del image
                yield frame
                del frame

        monkeypatch.setattr(pipeline, "read_pictures", read_frames)
        studio.samples = np.zeros(num_seconds * 16000, np.float32)
        monkeypatch.setattr(pipeline, "VideoWriter", _Shredder)
        studio.sync(batch_size=4, length=length)
        return most

    monkeypatch.setattr(pipeline, "_KEPT_BYTES", 10 * WIDTH * HEIGHT * 3)
    bound = 4 * 5 + 2 + 2 + 6 + 2 + 31 + (10 if length == "bounce" else 1)
    if studio.variable_rate is False:
        bound += 31 + 2 * 5 + 19  # the smoothing's reach, two looks and a search
    assert most_alive(40, 2) <= bound
    assert most_alive(80, 12) <= bound


class _Shredder(Writer):
    def write(self, image, time):
        pass


class BrokenError(Exception):
    pass


def _fail_after(count, error):
    calls = iter(range(10_000))

    def fail(*args, **settings):
        if next(calls) >= count:
            raise error

    return fail


@pytest.mark.parametrize(
    "error", [BrokenError("here"), KeyboardInterrupt(), errors.InputError("cut short at 0.8 s")]
)
@pytest.mark.parametrize("stage", ["first pass", "second pass", "generate", "compose", "encode", "progress"])
def test_an_exception_in_any_stage_ends_the_run(studio, monkeypatch, stage, error):
    fail = _fail_after(5, error)
    on_progress = None
    studio.frames = [make_frame(index) for index in range(200)]
    studio.samples = np.tile(studio.samples, 8)
    if stage.endswith("pass"):

        def read_frames(path):
            studio.num_readings += 1
            for frame in studio.frames:
                if studio.variable_rate is False or studio.num_readings == (
                    1 if stage == "first pass" else 2
                ):
                    fail()
                yield frame

        monkeypatch.setattr(pipeline, "read_pictures", read_frames)
    elif stage == "generate":
        generate = studio.runtime.generate
        studio.runtime.generate = lambda mels, faces: (fail(), generate(mels, faces))[1]
    elif stage == "compose":
        paste = pipeline.paste_into
        monkeypatch.setattr(pipeline, "paste_into", lambda *args: (fail(), paste(*args))[1])
    elif stage == "encode":
        monkeypatch.setattr(Writer, "write", fail)
    else:
        monkeypatch.setattr(pipeline, "_PROGRESS_SECONDS", 0)
        on_progress = fail
    with pytest.raises(type(error)) as raised:
        studio.sync(on_progress=on_progress)
    assert raised.value is error
    assert not any(writer.is_complete for writer in studio.writers)


@pytest.mark.parametrize("studio", ["two passes"], indirect=True)
def test_a_video_that_got_shorter_between_the_passes_is_no_success(studio, monkeypatch):
    def read_frames(path):
        studio.num_readings += 1
        yield from studio.frames[: 30 if studio.num_readings == 1 else 20]

    monkeypatch.setattr(pipeline, "read_pictures", read_frames)
    with pytest.raises(errors.InputError, match="only 20 of 30 frames"):
        studio.sync()
    assert not studio.written.is_complete


def test_sound_under_a_fifth_of_a_second_is_refused_before_the_video_is_read(studio):
    studio.samples = studio.samples[:3199]
    with pytest.raises(errors.InputError, match=r"lasts 0\.20 s; at least 0\.2 s"):
        studio.sync()
    assert studio.num_readings == 0
    studio.samples = np.resize(studio.samples, 3200)
    assert studio.sync().num_frames == 6


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
@pytest.mark.parametrize("source", ["video.mp4", "speech.wav"])
def test_an_output_that_is_an_input_is_refused(studio, link, source):
    output = source
    if link is not None:
        output = "link.mp4"
        link(studio.folder / source, studio.folder / output)
    with pytest.raises(errors.OutputError, match="itself"):
        studio.sync(output=output, overwrite=True)
    assert (studio.folder / source).read_bytes() == b"stands for a file"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (".", "suffix"),
        ("nowhere/out.mp4", "no folder"),
        ("out.txt", "suffix"),
        ("old.mp4", "exists already"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(studio, output, words):
    (studio.folder / "old.mp4").write_bytes(b"old")
    with pytest.raises(errors.OutputError, match=words):
        studio.sync(output=output)
    assert studio.num_readings == 0
    assert (studio.folder / "old.mp4").read_bytes() == b"old"


def test_an_encoder_that_does_not_start_is_found_before_the_faces_are_searched(studio):
    studio.variable_rate = None  # two passes, the first of which can take long
    for options in (EncoderOptions(codec="libnothing"), EncoderOptions(preset="nonsense")):
        with pytest.raises(errors.OutputError, match="libx264"):
            studio.sync(encoder=options)
    assert (studio.num_readings, studio.writers) == (0, [])
    assert sorted(path.name for path in studio.folder.iterdir()) == ["speech.wav", "video.mp4"]


def test_an_existing_output_may_be_replaced_on_request(studio):
    (studio.folder / "old.mp4").write_bytes(b"old")
    assert studio.sync(output="old.mp4", overwrite=True).num_frames == 30


def test_inputs_without_the_stream_that_is_needed_are_refused(studio, monkeypatch):
    whole = studio.probe("x")
    without = {
        "video.mp4": MediaInfo(Path("video.mp4"), "wav", None, None, whole.audio, False),
        "speech.wav": MediaInfo(Path("speech.wav"), "mp4", None, whole.video, None, False),
    }
    for name, words in (("video.mp4", "no picture"), ("speech.wav", "no sound")):
        monkeypatch.setattr(
            pipeline, "probe", lambda path, name=name: without[name] if path.name == name else whole
        )
        with pytest.raises(errors.InputError, match=words):
            studio.sync()


@pytest.mark.parametrize(
    "options",
    [
        {"length": "stretch"},
        {"batch_size": 0},
        {"face": -1},
        {"audio_lead_seconds": 40},
        {"audio_lead_seconds": Fraction(-3, 2)},
        {"audio_lead_seconds": float("nan")},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(errors.UsageError):
        SyncOptions(**options)


def test_progress_counts_each_pass_to_its_end(studio, monkeypatch):
    monkeypatch.setattr(pipeline, "_PROGRESS_SECONDS", 0)
    seen: list[Progress] = []
    studio.sync(on_progress=seen.append)
    tracked = [progress.done for progress in seen if progress.stage == "track"]
    rendered = [progress.done for progress in seen if progress.stage == "render"]
    assert tracked == (list(range(31)) if studio.variable_rate is None else [])
    assert rendered == list(range(31))
    assert {progress.total for progress in seen} == {30}
    assert seen[0].seconds_left is None
    assert seen[-1].seconds_left == 0


def test_the_report_holds_the_seconds_of_every_stage_and_can_be_written_as_json(studio):
    report = studio.sync()
    assert set(report.seconds) == {"listen", "decode", "track", "crop", "generate", "compose", "encode"}
    assert all(seconds > 0 for seconds in report.seconds.values())
    values = json.loads(json.dumps(report.to_dict()))
    assert values["num_frames"] == 30
    assert values["output"].endswith("out.mp4")
    assert values["rate"] == pytest.approx(29.97, abs=0.001)
    assert values["model"] == "fake"
    assert values["length"] == "hold"
    assert values["frames_per_second"] == pytest.approx(30 / values["total_seconds"])


def test_sound_without_speech_is_worth_a_warning(studio):
    studio.samples = np.zeros(16000, np.float32)
    (warning,) = studio.sync().warnings
    assert "No speech" in warning
    assert all((heard == SILENCE).all() for heard in studio.runtime.heard)


def test_a_face_much_larger_than_the_models_is_worth_a_warning(studio, monkeypatch):
    assert studio.sync().warnings == []
    monkeypatch.setattr(pipeline, "_LARGE_FACE", 1.9)
    (warning,) = studio.sync().warnings
    assert "64 pixels high on screen and 32 in the model" in warning


def test_provenance_is_on_unless_it_is_turned_off(studio, monkeypatch, tmp_path):
    from lipsmith.provenance import container_metadata, content_credentials

    monkeypatch.setenv("LIPSMITH_IDENTITY", str(tmp_path / "identity"))
    calls = []

    def sign(path, record, **settings):
        calls.append((path, record, settings))
        return content_credentials.Signature(None, ("a note",))

    monkeypatch.setattr(content_credentials, "sign", sign)
    studio.frames[3] = make_frame(3, has_face=False)
    report = studio.sync(provenance=True)
    ((path, record, settings),) = calls
    assert path.name == "out.mp4"
    assert (record.num_frames_changed, record.num_frames_unchanged) == (
        report.num_synced,
        30 - report.num_synced,
    )
    assert (record.model, record.source_video, record.source_audio) == ("fake", "video.mp4", "speech.wav")
    assert settings["parent"].name == "video.mp4"
    assert settings["identity"].is_local
    assert studio.written.settings["metadata"] == container_metadata(record)
    assert "a note" in report.warnings
    studio.sync(provenance=False)
    assert studio.written.settings["metadata"] == {}
    assert studio.written.settings["finalize"] is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.OutputError("No space left."), (errors.OutputError, "No space left.")),
        (ValueError("odd"), (errors.ProvenanceError, "could not be signed (ValueError: odd).")),
    ],
)
def test_a_video_that_cannot_be_signed_is_kept_under_a_name_that_says_so(
    studio, monkeypatch, tmp_path, error, told
):
    from lipsmith.provenance import content_credentials

    monkeypatch.setenv("LIPSMITH_IDENTITY", str(tmp_path / "identity"))
    kept, output = tmp_path / "out.unsigned.mp4", tmp_path / "out.mp4"
    kept.write_text("of before")

    def sign(path, record, **settings):
        output.write_text("finished")  # as the writer has by then
        raise error

    monkeypatch.setattr(content_credentials, "sign", sign)
    with pytest.raises(told[0]) as raised:
        studio.sync(provenance=True)
    (other,) = (path for path in tmp_path.glob("out.unsigned-*.mp4"))
    assert told[1] in str(raised.value) and f"kept without Content Credentials, as {other}" in str(
        raised.value
    )
    assert (other.read_text(), kept.read_text(), output.exists()) == ("finished", "of before", False)


@pytest.mark.parametrize(
    ("text", "words"), [("künstlich", "plain ASCII"), (" ", "needs a text"), ("", "needs a text")]
)
def test_a_visible_mark_that_cannot_be_drawn_is_refused_before_the_video_is_read(studio, text, words):
    with pytest.raises(errors.UsageError, match=words):
        studio.sync(visible_mark=text)
    assert studio.num_readings == 0


def test_a_visible_mark_is_on_every_frame(studio):
    studio.sync(visible_mark=True)
    assert all(
        (written != frame.picture.image).any()
        for written, frame in zip(studio.written.frames, studio.frames, strict=True)
    )
    np.testing.assert_array_equal(studio.frames[0].picture.image, make_frame(0).picture.image)


def test_track_and_render_work_on_arrays(studio):
    images = [frame.picture.image for frame in studio.frames]
    syncer = LipSyncer(CARD, Runtime(), Detector())
    track = syncer.track(images, rate=RATE)
    assert len(track) == 30
    assert max(abs(box.left - FACE.left) + abs(box.bottom - FACE.bottom) for box in track) < 1e-6
    track[7] = None
    rendered = list(syncer.render(iter(images), track, studio.samples, RATE))
    np.testing.assert_array_equal(rendered, images)
    grey = LipSyncer(CARD, Runtime(grey=True), Detector())
    changed = [
        (new != old).any()
        for new, old in zip(grey.render(images, track, studio.samples, RATE), images, strict=True)
    ]
    assert changed == [index != 7 for index in range(30)]


@pytest.mark.parametrize(
    "samples",
    [np.zeros(16000, np.int16), np.zeros((16000, 2), np.float32), np.full(16000, 3e4, np.float32)],
)
def test_render_refuses_samples_that_it_would_hear_as_noise(studio, samples):
    studio.sync()
    image = make_frame(0).picture.bgr()
    with pytest.raises(ValueError, match="it must be mono floats from -1 to 1"):
        next(studio.syncer.render([image], [FACE], samples, RATE))


def test_leaving_render_early_stops_its_threads(studio):
    syncer = LipSyncer(CARD, Runtime(), Detector())
    rendered = syncer.render(
        (make_frame(index).picture.image for index in range(10_000)), [FACE] * 10_000, studio.samples, RATE
    )
    next(rendered)
    rendered.close()


def test_a_syncer_closes_its_runtime():
    runtime = Runtime()
    with LipSyncer(CARD, runtime, Detector()):
        assert not runtime.is_closed
    assert runtime.is_closed


def be_interrupted(folder, variable_rate):
    """A run of two hundred frames that sends ^C to its own process; writes what is left of it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it
    threads_before = set(threading.enumerate())
    ended_by = None
    with pytest.MonkeyPatch.context() as patch:
        studio = Studio(folder, patch)
        studio.variable_rate = variable_rate
        studio.frames = [make_frame(index) for index in range(200)]
        studio.samples = np.tile(studio.samples, 8)
        generate = studio.runtime.generate

        def interrupted(mels, faces):
            if len(studio.runtime.batches) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return generate(mels, faces)

        studio.runtime.generate = interrupted
        try:
            studio.sync(batch_size=2)
        except KeyboardInterrupt:
            ended_by = "KeyboardInterrupt"
        left = [thread.name for thread in set(threading.enumerate()) - threads_before]
    sys.stdout.write(json.dumps([ended_by, [writer.is_complete for writer in studio.writers], left]))


@pytest.mark.skipif(os.name == "nt", reason="a process cannot send itself ^C there")
@pytest.mark.parametrize("passes", ["one", "two"])
def test_a_real_interrupt_while_the_caller_waits_for_a_stage_ends_the_run(tmp_path, passes):
    # In a process of its own: the signal belongs to a whole process, and a test's worker has other things to do.
    command = [sys.executable, __file__, str(tmp_path), passes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["KeyboardInterrupt", [False], []]


def both_ways(studio, **options):
    """The number of readings in one pass, whose result is that of two passes."""
    reports, readings = [], []
    for variable_rate in (False, None):
        studio.variable_rate, studio.num_readings = variable_rate, 0
        reports.append(studio.sync(**options))
        readings.append(studio.num_readings)
    one, two = [writer for writer in studio.writers if writer.is_complete]
    np.testing.assert_array_equal(one.frames, two.frames)
    assert one.times == two.times
    assert reports[0].without_face == reports[1].without_face
    assert reports[0].num_synced == reports[1].num_synced
    return readings[0]


@pytest.mark.parametrize("studio", ["one pass"], indirect=True)
@pytest.mark.parametrize(
    ("seconds", "length", "num_readings"),
    [(2.5, "auto", 1), (3.1, "auto", 1), (4.5, "loop", 2), (4.5, "bounce", 2), (2.5, "cut", 2)],
)
def test_one_pass_gives_what_two_passes_give(studio, seconds, length, num_readings):
    studio.frames = make_shot(90, without_face=[*range(12, 30), *range(80, 90)])
    studio.samples = np.resize(studio.samples, int(seconds * 16000))
    studio.runtime = Runtime(grey=True)
    assert both_ways(studio, length=length) == num_readings


@pytest.mark.parametrize("studio", ["one pass"], indirect=True)
def test_a_larger_face_that_comes_late_takes_two_more_passes(studio):
    class Growing(Detector):
        """From frame 140 on, a larger face stands beside the one that was there."""

        def detect(self, image):
            larger = [Detection(Box(46, 0, 96, 80), 1.0)] if not image[0, 1].any() else []
            return [Detection(Box(4, 20, 30, 60), 1.0), *larger]

    studio.detector = Growing()
    studio.frames = make_shot(200)
    for frame in studio.frames[140:]:
        frame.picture.image[0, 1] = 0
    studio.samples = np.tile(studio.samples, 7)[: 200 * 16000 * 1001 // 30000]
    studio.runtime = Runtime(grey=True)
    assert both_ways(studio) == 3
    assert len(studio.writers) == 3


class _CountingDetector(Detector):
    def __init__(self):
        self.num_looks = 0

    def detect(self, image):
        self.num_looks += 1
        return super().detect(image)


def _kept(studio):
    return studio.folder / "video.mp4.lipsmith-track"


def test_a_kept_track_spares_the_second_speech_the_detector(studio):
    studio.detector = _CountingDetector()
    studio.frames = make_shot(60, without_face=range(20, 35))
    studio.samples = np.resize(studio.samples, 2 * 16000)
    studio.runtime = Runtime(grey=True)
    first = studio.sync(keep_track=True)
    assert first.warnings == studio.sync().warnings  # it says nothing while all is well
    looks, frames = studio.detector.num_looks, studio.written.frames
    second = studio.sync(keep_track=True)
    assert studio.detector.num_looks == looks
    assert "track" not in second.seconds
    np.testing.assert_array_equal(studio.written.frames, frames)
    assert second.without_face == first.without_face
    assert second.num_synced == first.num_synced
    # A shorter speech uses the beginning; a longer one too, as the track is whole.
    for seconds, num_frames in ((1.5, 45), (3.0, 90)):
        studio.samples = np.resize(studio.samples, int(seconds * 16000))
        report = studio.sync(keep_track=True)
        assert report.num_frames == num_frames
        assert studio.detector.num_looks == looks
    assert sorted(path.name for path in studio.folder.iterdir()) == [
        "speech.wav",
        "video.mp4",
        "video.mp4.lipsmith-track",
    ]


def test_a_track_that_ends_before_the_speech_is_made_anew(studio):
    studio.detector = _CountingDetector()
    studio.frames = make_shot(90)
    studio.samples = np.resize(studio.samples, 16000)
    studio.sync(keep_track=True)
    looks = studio.detector.num_looks
    studio.samples = np.resize(studio.samples, 32000)
    report = studio.sync(keep_track=True)
    assert studio.detector.num_looks > looks
    assert any("ends before the speech does: the face was searched for again" in w for w in report.warnings)
    assert report.num_frames == 60
    assert studio.sync(keep_track=True).warnings == []


@pytest.mark.parametrize("change", ["damaged", "cut off", "other video", "other face", "other detector"])
def test_a_kept_track_that_does_not_fit_is_ignored_with_a_word(studio, change):
    studio.detector = _CountingDetector()
    studio.sync(keep_track=True)
    content = _kept(studio).read_bytes()
    looks, options = studio.detector.num_looks, {}
    if change == "damaged":
        _kept(studio).write_bytes(content[:200] + b"?" * 50 + content[250:])
    elif change == "cut off":
        _kept(studio).write_bytes(content[: len(content) // 2])
    elif change == "other video":
        (studio.folder / "video.mp4").write_bytes(b"another video")
    elif change == "other detector":
        studio.detector.name = "better"
    elif change == "other face":
        studio.detector.detect = lambda image: [Detection(FACE, 1.0), Detection(Box(0, 10, 20, 34), 1.0)]
        options = {"face": 1}
    report = studio.sync(keep_track=True, **options)
    (warning,) = report.warnings
    assert str(_kept(studio)) in warning
    assert warning.endswith(": the face was searched for again.")
    assert ("is damaged" in warning) == (change in ("damaged", "cut off"))
    assert change == "other face" or studio.detector.num_looks > looks
    assert studio.sync(keep_track=True, **options).warnings == []  # it was replaced


def test_a_folder_that_cannot_be_written_costs_the_track_alone(studio, monkeypatch):
    def fail(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pipeline, "write_track", fail)
    report = studio.sync(keep_track=True)
    assert report.num_synced == 30
    assert report.warnings == [f"The track could not be kept in {_kept(studio)}: Permission denied."]


def test_without_a_wish_nothing_is_kept_or_believed(studio):
    studio.detector = _CountingDetector()
    studio.sync(keep_track=True)
    looks = studio.detector.num_looks
    studio.sync()
    assert studio.detector.num_looks == 2 * looks
    _kept(studio).unlink()
    studio.sync()
    assert not _kept(studio).exists()


def test_a_kept_track_without_a_face_in_its_beginning_is_no_face(studio):
    studio.frames = make_shot(60, without_face=range(40))
    studio.samples = np.resize(studio.samples, 32000)
    studio.sync(keep_track=True)
    studio.samples = np.resize(studio.samples, 16000)
    with pytest.raises(errors.NoFaceError, match="any of 30 frames"):
        studio.sync(keep_track=True)


def test_a_still_image_keeps_no_track(studio):
    studio.frames, studio.is_image, studio.rate = [make_frame(0)], True, Fraction(25)
    assert studio.sync(keep_track=True).warnings == []
    assert not _kept(studio).exists()


@pytest.mark.parametrize("studio", ["one pass"], indirect=True)
def test_frames_too_large_to_be_kept_are_decoded_twice_from_the_start(studio, monkeypatch):
    monkeypatch.setattr(pipeline, "_AHEAD_BYTES", 20 * WIDTH * HEIGHT * 3)
    assert studio.sync().num_frames == 30
    assert studio.num_readings == 2
    assert len(studio.writers) == 1  # no output was begun in vain


@pytest.mark.parametrize("studio", ["one pass"], indirect=True)
def test_times_that_are_not_constant_after_all_take_two_more_passes(studio):
    studio.frames = make_shot(30)
    late = studio.frames[20]
    studio.frames[20] = TimedPicture(20, late.time + Fraction(1, 200), late.picture)
    assert studio.sync().num_frames == 30
    assert studio.num_readings == 3
    assert studio.written.settings["variable_rate"]


@pytest.mark.parametrize("studio", ["one pass"], indirect=True)
def test_progress_of_one_pass_knows_how_long_a_repeated_video_gets(studio, monkeypatch):
    monkeypatch.setattr(pipeline, "_PROGRESS_SECONDS", 0)
    studio.samples = np.tile(studio.samples, 3)[:40000]
    seen: list[Progress] = []
    studio.sync(on_progress=seen.append, length="loop")
    assert {progress.total for progress in seen} == {75}
    assert seen[-1].done == 75


if __name__ == "__main__":
    be_interrupted(Path(sys.argv[1]), False if sys.argv[2] == "one" else None)
