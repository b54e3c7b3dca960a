"""A real face, real files, the real detector: only the generator is a stand-in that returns what it is shown."""

import wave
from fractions import Fraction

import av
import numpy as np
import pytest

from lipsmith import InputError, LipSyncer, NoFaceError, SyncOptions
from lipsmith.conditioning import DEFAULT_PADDING
from lipsmith.faces.detect import resolve_detector
from lipsmith.media.probe import probe
from lipsmith.media.read import read_frames, read_samples
from lipsmith.media.write import EncoderOptions, VideoWriter
from lipsmith.weights.card import WeightCard

NTSC = Fraction(30000, 1001)
SIDE = 208


class Mirror:
    """A generator that returns its reference, or that reference with a dark lower half."""

    name, device, face_size, num_references = "mirror", "cpu", 96, 1

    def __init__(self):
        self.is_dark = False

    def generate(self, mels, faces):
        generated = faces[:, 3:].copy()
        if self.is_dark:
            generated[:, :, 60:80, 34:62] = 0
        return generated

    def close(self):
        pass


@pytest.fixture(scope="module")
def portrait():
    """The face of a public-domain portrait, 300 × 300 BGR."""
    data = pytest.importorskip("skimage.data")
    return np.ascontiguousarray(data.astronaut()[0:300, 70:370, ::-1])


def pan(portrait, num_frames):
    """Frames of SIDE × SIDE that wander over the portrait."""
    for index in range(num_frames):
        left = round(46 + 30 * np.sin(index / 9))
        top = round(20 + 15 * np.cos(index / 7))
        yield np.ascontiguousarray(portrait[top : top + SIDE, left : left + SIDE])


def write_video(path, images, times, rate):
    with VideoWriter(path, width=SIDE, height=SIDE, rate=rate, options=EncoderOptions(quality=12)) as writer:
        for image, time in zip(images, times, strict=True):
            writer.write(image, time)


def write_speech(path, seconds, rate_hz=22050):
    """Syllables: bursts of noise, four a second."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    bursts = np.clip(np.sin(2 * np.pi * 4 * time), 0, 1) * np.random.default_rng(0).normal(0, 0.2, len(time))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((np.clip(bursts, -1, 1) * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def mirror():
    return Mirror()


@pytest.fixture(scope="module")
def syncer(mirror):
    card = WeightCard(
        name="mirror",
        kind="generator",
        architecture="wav2lip",
        width=1.0,
        face_size=96,
        crop_padding=DEFAULT_PADDING,
    )
    return LipSyncer(card, mirror, resolve_detector("mtcnn"))


@pytest.fixture(autouse=True)
def own_identity(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LIPSMITH_IDENTITY", str(tmp_path_factory.getbasetemp() / "identity"))


@pytest.fixture(scope="module")
def panned(portrait, tmp_path_factory):
    """45 frames at 29.97 a second: 1.5 s."""
    path = tmp_path_factory.mktemp("source") / "panned.mp4"
    write_video(path, pan(portrait, 45), [index / NTSC for index in range(45)], NTSC)
    return path


def speech_of(folder, seconds):
    path = folder / f"speech {seconds} s.wav"
    write_speech(path, seconds)
    return path


def stream_seconds(path, kind):
    """Duration of a stream as its packets tell it."""
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        packets = [packet for packet in container.demux(stream) if packet.pts is not None]
        end = max((packet.pts + packet.duration) * packet.time_base for packet in packets)
        start = min(packet.pts * packet.time_base for packet in packets)
        return end - max(start, 0)


def peak_signal_to_noise(image, other):
    return 10 * np.log10(255**2 / max(np.mean((image.astype(float) - other) ** 2), 1e-9))


def test_a_generator_that_changes_nothing_gives_the_same_video_with_the_new_sound(syncer, panned, tmp_path):
    speech = speech_of(tmp_path, 1.4)
    report = syncer.sync(
        panned, speech, tmp_path / "out.mp4", options=SyncOptions(encoder=EncoderOptions(quality=8))
    )
    assert report.num_frames == report.num_synced == 42
    assert report.without_face == []
    written = list(read_frames(report.output))
    source = list(read_frames(panned))[:42]
    assert [frame.time for frame in written] == [frame.time for frame in source]
    assert (
        min(peak_signal_to_noise(one.image, other.image) for one, other in zip(written, source, strict=True))
        > 38
    )
    assert probe(report.output).video.rate == NTSC
    heard, given = read_samples(report.output)[: 16000 * 7 // 5], read_samples(speech)[: 16000 * 7 // 5]
    assert np.corrcoef(heard[: len(given)], given[: len(heard)])[0, 1] > 0.9


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.3])
@pytest.mark.parametrize("length", ["loop", "bounce", "hold"])
def test_the_output_lasts_as_long_as_the_sound_within_one_frame(syncer, panned, tmp_path, seconds, length):
    report = syncer.sync(
        panned,
        speech_of(tmp_path, seconds),
        tmp_path / "out.mp4",
        options=SyncOptions(length=length, provenance=False),
    )
    assert abs(stream_seconds(report.output, "video") - Fraction(seconds)) <= 1 / NTSC
    assert abs(stream_seconds(report.output, "audio") - Fraction(seconds)) <= 1 / NTSC
    assert report.num_frames == round(Fraction(seconds) * NTSC)


def test_cut_ends_both_with_the_picture(syncer, panned, tmp_path):
    report = syncer.sync(
        panned,
        speech_of(tmp_path, 4),
        tmp_path / "out.mp4",
        options=SyncOptions(length="cut", provenance=False),
    )
    assert report.num_frames == 45
    assert abs(stream_seconds(report.output, "video") - 45 / NTSC) <= 1 / NTSC
    assert abs(stream_seconds(report.output, "audio") - 45 / NTSC) <= 1 / NTSC


def test_a_variable_frame_rate_is_kept(syncer, portrait, tmp_path):
    times = [Fraction(int(time), 90000) for time in np.cumsum([0, *[3003, 3003, 9009, 1502] * 9])]
    write_video(tmp_path / "variable.mp4", pan(portrait, len(times)), times, Fraction(25))
    report = syncer.sync(
        tmp_path / "variable.mp4",
        speech_of(tmp_path, 1.2),
        tmp_path / "out.mp4",
        options=SyncOptions(provenance=False),
    )
    written = [frame.time for frame in read_frames(report.output)]
    wanted = [time for time in times if time < Fraction("1.2")]
    np.testing.assert_allclose([float(time) for time in written], [float(time) for time in wanted], atol=2e-5)


def test_only_the_mouth_changes_and_frames_without_a_face_are_left_alone(
    syncer, mirror, portrait, tmp_path, monkeypatch
):
    images = list(pan(portrait, 40))
    for index in range(15, 28):
        images[index] = np.full_like(images[index], 90)
    write_video(tmp_path / "gap.mp4", images, [index / NTSC for index in range(40)], NTSC)
    monkeypatch.setattr(mirror, "is_dark", True)
    report = syncer.sync(
        tmp_path / "gap.mp4",
        speech_of(tmp_path, 40 / float(NTSC)),
        tmp_path / "out.mp4",
        options=SyncOptions(encoder=EncoderOptions(quality=4)),
    )
    (gap,) = report.without_face
    assert (gap.first, gap.last) == (15, 27)
    source = [frame.image.astype(int) for frame in read_frames(tmp_path / "gap.mp4")]
    for index, frame in enumerate(read_frames(report.output)):
        changed = (np.abs(frame.image - source[index]) > 40).any(axis=2)
        assert changed[: SIDE // 3].sum() == 0
        assert (changed.sum() > 200) == (index not in range(15, 28))


def test_a_still_picture_becomes_a_video(syncer, portrait, tmp_path):
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "portrait.png").write_bytes(cv2.imencode(".png", portrait)[1].tobytes())
    report = syncer.sync(tmp_path / "portrait.png", speech_of(tmp_path, 1), tmp_path / "out.mp4")
    assert report.num_frames == report.num_synced == 25
    assert probe(report.output).video.rate == 25
    assert stream_seconds(report.output, "video") == 1


def test_the_output_says_that_it_is_synthetic(syncer, panned, tmp_path):
    from lipsmith.provenance.inspect import inspect

    options = SyncOptions()
    report = syncer.sync(panned, speech_of(tmp_path, 1), tmp_path / "marked.mp4", options=options)
    assert inspect(report.output).says_synthetic
    options = SyncOptions(provenance=False)
    report = syncer.sync(panned, speech_of(tmp_path, 1), tmp_path / "unmarked.mp4", options=options)
    assert not inspect(report.output).is_marked


def test_a_video_without_a_face_leaves_nothing_behind(syncer, tmp_path):
    images = [np.full((SIDE, SIDE, 3), 90, np.uint8)] * 30
    write_video(tmp_path / "empty.mp4", images, [index / NTSC for index in range(30)], NTSC)
    speech = speech_of(tmp_path, 1)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(NoFaceError, match=r"empty\.mp4"):
        syncer.sync(tmp_path / "empty.mp4", speech, tmp_path / "out.mp4")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_video_is_one_clear_error_and_leaves_nothing_behind(syncer, panned, tmp_path, share):
    whole = panned.read_bytes()
    (tmp_path / "cut short.mp4").write_bytes(whole[: int(share * len(whole))])
    speech = speech_of(tmp_path, 1.4)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"cut short\.mp4"):
        syncer.sync(tmp_path / "cut short.mp4", speech, tmp_path / "out.mp4")
    assert sorted(tmp_path.iterdir()) == before


def test_an_interrupt_while_writing_leaves_an_older_output_as_it_was(syncer, panned, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"older")

    def interrupt(progress):
        if progress.stage == "render" and progress.done > 5:
            raise KeyboardInterrupt

    speech = speech_of(tmp_path, 1.4)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        syncer.sync(
            panned, speech, tmp_path / "out.mp4", options=SyncOptions(overwrite=True), on_progress=interrupt
        )
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "out.mp4").read_bytes() == b"older"


def test_real_clips_keep_their_length_and_show_a_face(syncer, shared_clips, tmp_path):
    clips = sorted(shared_clips.glob("grid/*"))[:1] + sorted(shared_clips.glob("anchors/*"))[:1]
    speech = next(iter(sorted(shared_clips.glob("usgov/*"))))
    for number, clip in enumerate(clips):
        report = syncer.sync(clip, speech, tmp_path / f"{number}.mp4", options=SyncOptions(provenance=False))
        seconds = Fraction(len(read_samples(speech)), 16000)
        assert abs(stream_seconds(report.output, "video") - seconds) <= 1 / report.rate
        assert report.num_synced > 0.9 * report.num_frames
