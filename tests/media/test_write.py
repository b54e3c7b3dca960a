"""What `VideoWriter` writes comes back unchanged, and what fails leaves nothing behind."""

import gc
import os
import resource
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from lipsmith.errors import InputError, OutputError, UsageError
from lipsmith.media.probe import Colour, probe
from lipsmith.media.read import first_frame_time, read_frames, read_pictures, read_samples
from lipsmith.media.write import EncoderOptions, VideoWriter, output_colour, require_output
from lipsmith.picture import ArrayPicture, PlanarPicture

from ..media_samples import beep_times, frame_number, make_clip, make_sound, numbered_image

NTSC = Fraction(30_000, 1001)
PAL = Fraction(25)


def write(path: Path, times: list[Fraction], *, width: int = 96, height: int = 64, **settings) -> Path:
    settings = {"rate": PAL, **settings}
    with VideoWriter(path, width=width, height=height, **settings) as writer:
        for number, time in enumerate(times):
            writer.write(numbered_image(number, width, height), time)
    return path


def at_rate(rate: Fraction, num_frames: int) -> list[Fraction]:
    return [number / rate for number in range(num_frames)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".MP4"])
@pytest.mark.parametrize("rate", [PAL, NTSC, Fraction(24_000, 1001), Fraction(15), Fraction(2997, 100)])
@pytest.mark.parametrize("variable", [None, False])
def test_constant_rates_are_exact(tmp_path: Path, rate: Fraction, suffix: str, variable: bool | None) -> None:
    path = write(tmp_path / f"out{suffix}", at_rate(rate, 45), rate=rate, variable_rate=variable)
    frames = list(read_frames(path))
    assert [frame_number(frame.image) for frame in frames] == list(range(45))
    assert [frame.time for frame in frames] == at_rate(rate, 45)
    video = probe(path).video
    assert video is not None
    assert (video.rate, video.duration, video.variable_rate) == (rate, 45 / rate, False)


def test_variable_times_are_kept(tmp_path: Path) -> None:
    times = [Fraction(0), Fraction(1, 7), Fraction(3, 10), Fraction(31, 100), Fraction(2)]
    path = write(tmp_path / "out.mp4", times)
    found = [frame.time for frame in read_frames(path)]
    assert [round(time * 90_000) for time in found] == [round(time * 90_000) for time in times]
    video = probe(path).video
    assert video is not None
    assert video.duration is not None
    assert abs(video.duration - (2 + 1 / PAL)) < Fraction(1, 10_000)  # the last frame has its moment


def test_an_average_rate_of_odd_numbers_does_not_drift(tmp_path: Path) -> None:
    rate = Fraction(123_456_789, 4_115_226)
    found = [frame.time for frame in read_frames(write(tmp_path / "out.mp4", at_rate(rate, 90), rate=rate))]
    assert abs(found[-1] - 89 / rate) < Fraction(1, 90_000)


def test_matroska_keeps_milliseconds(tmp_path: Path) -> None:
    path = write(tmp_path / "out.mkv", at_rate(NTSC, 40), rate=NTSC)
    frames = list(read_frames(path))
    assert [frame_number(frame.image) for frame in frames] == list(range(40))
    assert max(abs(frame.time - frame.index / NTSC) for frame in frames) <= Fraction(1, 1000)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout", "kept_rate"),
    [
        ("s.wav", "pcm_s16le", 16_000, "mono", 16_000),
        ("s.wav", "pcm_s24le", 44_100, "stereo", 44_100),
        ("s.mp3", "libmp3lame", 22_050, "stereo", 22_050),
        ("s.flac", "flac", 192_000, "5.1", 48_000),
        ("s.wav", "pcm_s16le", 48_000, "7.1", 48_000),
    ],
)
def test_sound_stays_in_time_at_its_own_rate_and_channels(
    tmp_path: Path, suffix: str, name: str, codec: str, rate: int, layout: str, kept_rate: int
) -> None:
    sound = make_sound(tmp_path / name, 3.2, sound_codec=codec, sound_rate=rate, sound_layout=layout)
    path = write(tmp_path / f"out.{suffix}", at_rate(PAL, 80), audio=sound)
    audio = probe(path).audio
    assert audio is not None
    assert (audio.sample_rate, audio.codec) == (kept_rate, "aac")
    assert audio.channels == {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8}[layout]
    samples = read_samples(path, origin=first_frame_time(path))
    assert beep_times(samples) == pytest.approx([0, 1, 2, 3], abs=0.004)


def test_channels_stay_in_their_places(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "left.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="stereo")
        tone = np.round(8000 * np.sin(np.arange(16_000) / 5)).astype(np.int16)
        both = np.stack([tone, np.zeros_like(tone)], axis=1).reshape(1, -1)  # left, right, left, …
        frame = av.AudioFrame.from_ndarray(both, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(stream.encode(frame))
    path = write(tmp_path / "out.mp4", at_rate(PAL, 25), audio=tmp_path / "left.wav")
    with av.open(str(path)) as container:
        decoded = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    left, right = np.sqrt(np.mean(decoded[:, 2000:14_000] ** 2, axis=1))
    assert left == pytest.approx(8000 / 32_768 / np.sqrt(2), rel=0.02)
    assert right < 0.001


@pytest.mark.parametrize("seconds", [Fraction(5, 2), Fraction(3), Fraction(4), Fraction(29_029, 10_000)])
def test_duration_cuts_or_fills_the_sound(tmp_path: Path, seconds: Fraction) -> None:
    sound = make_sound(tmp_path / "s.wav", 3.0, sound_codec="pcm_s16le", sound_rate=44_100)
    path = write(tmp_path / "out.mp4", at_rate(PAL, round(seconds * 25)), audio=sound, duration=seconds)
    audio = probe(path).audio
    assert audio is not None
    assert audio.duration is not None
    assert abs(audio.duration - seconds) <= Fraction(1, 44_100)
    assert abs(len(read_samples(path)) - seconds * 16_000) <= 1
    assert len(beep_times(read_samples(path))) == min(3, -(-seconds // 1))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc lists the open files")
def test_the_sound_file_is_closed_with_the_output(tmp_path: Path) -> None:
    sound = make_sound(tmp_path / "s.wav", 3.0, sound_codec="pcm_s16le")
    writer = VideoWriter(
        tmp_path / "out.mp4", width=96, height=64, rate=PAL, audio=sound, duration=Fraction(1)
    )
    writer.write(numbered_image(0, 96, 64), Fraction(0))
    assert sound in open_files()
    writer.close()
    assert sound not in open_files()


def open_files() -> list[Path]:
    links = Path("/proc/self/fd").iterdir()
    return [link.readlink() for link in links if os.path.lexists(link)]


def test_without_a_duration_all_of_the_sound_is_kept(tmp_path: Path) -> None:
    sound = make_sound(tmp_path / "s.wav", 3.0, sound_codec="pcm_s16le")
    path = write(tmp_path / "out.mp4", at_rate(PAL, 10), audio=sound)
    assert len(read_samples(path)) == 48_000


def test_the_sound_of_a_video_is_taken(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "source.mkv", sound_seconds=2.0, sound_layout="stereo")
    path = write(tmp_path / "out.mp4", at_rate(PAL, 50), audio=source, duration=Fraction(2))
    assert beep_times(read_samples(path)) == pytest.approx([0, 1], abs=0.004)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_the_sound_of_a_video_keeps_its_time(tmp_path: Path, suffix: str) -> None:
    source = make_clip(tmp_path / f"late.{suffix}", num_frames=60, sound_seconds=2.0, sound_start=0.7)
    path = write(tmp_path / "out.mp4", at_rate(PAL, 60), audio=source)
    assert beep_times(read_samples(path)) == pytest.approx([0.7, 1.7], abs=0.004)


def test_sound_and_picture_are_interleaved(tmp_path: Path) -> None:
    sound = make_sound(tmp_path / "s.wav", 20.0, sound_codec="pcm_s16le")
    path = write(tmp_path / "out.mp4", at_rate(PAL, 500), audio=sound)
    with av.open(str(path)) as container:
        places = [
            (packet.pos, packet.stream.type, float(packet.pts * packet.time_base))
            for packet in container.demux()
            if packet.size
        ]
    reached = {"video": 0.0, "audio": 0.0}
    for _, kind, time in sorted(places):
        reached[kind] = max(reached[kind], time)
        assert abs(reached["video"] - reached["audio"]) < 2.5


def test_tags_survive(tmp_path: Path) -> None:
    tags = {"comment": "Lips are synthetic — AI", "lipsmith": '{"model": "default"}', "synthetic": "yes"}
    for suffix in ("mp4", "mov", "mkv"):
        path = write(tmp_path / f"out.{suffix}", at_rate(PAL, 3), metadata=tags)
        with av.open(str(path)) as container:
            found = {key.lower(): value for key, value in container.metadata.items()}
        assert tags.items() <= found.items()


def test_the_index_of_an_mp4_stands_in_front(tmp_path: Path) -> None:
    data = write(tmp_path / "out.mp4", at_rate(PAL, 30)).read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("width", "height"), [(97, 64), (96, 65), (97, 65)])
def test_odd_sizes_gain_a_repeated_edge(tmp_path: Path, width: int, height: int) -> None:
    path = write(
        tmp_path / "out.mp4",
        at_rate(PAL, 3),
        width=width,
        height=height,
        options=EncoderOptions(quality=0),
    )
    image = next(read_frames(path)).image
    assert image.shape == (height + height % 2, width + width % 2, 3)
    original = numbered_image(0, width, height).astype(int)
    assert np.abs(image[:height, :width] - original).max() <= 2
    assert np.abs(image[-1, :width].astype(int) - original[-1]).max() <= 2
    assert np.abs(image[:height, -1].astype(int) - original[:, -1]).max() <= 2


def smooth_colours(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    return np.stack([40 + 170 * x, 60 + 150 * y, 200 - 140 * x * y], axis=2).astype(np.uint8)


@pytest.mark.parametrize("size", [(320, 240), (1280, 720)])
@pytest.mark.parametrize(
    "colour", [None, Colour(6, 6, 6), Colour(1, 1, 1), Colour(5, 5, 6, True), Colour(9, 9, 16), Colour(0)]
)
def test_colours_do_not_shift(tmp_path: Path, size: tuple[int, int], colour: Colour | None) -> None:
    image = smooth_colours(*size)
    path = tmp_path / "out.mp4"
    with VideoWriter(
        path,
        width=size[0],
        height=size[1],
        rate=PAL,
        colour=colour,
        options=EncoderOptions(quality=4, preset="ultrafast"),
    ) as writer:
        for number in range(3):
            writer.write(image, number / PAL)
    errors = next(read_frames(path)).image.astype(int) - image
    assert np.abs(errors.mean(axis=(0, 1))).max() < 0.4  # a conversion that truncates is off by 1.5 to 2.5
    assert np.abs(errors).max() <= 6
    video = probe(path).video
    assert video is not None
    assert video.colour == output_colour(colour, *size)


def test_colour_tags_of_the_source_are_kept_where_they_can_be() -> None:
    assert output_colour(None, 640, 480) == Colour(6, 6, 6)
    assert output_colour(None, 1920, 1080) == Colour(1, 1, 1)
    assert output_colour(Colour(1), 640, 480) == Colour(1, 1, 1)
    assert output_colour(Colour(9, 9, 18, full_range=True), 640, 480) == Colour(9, 9, 18)
    assert output_colour(Colour(0, 1, 13), 640, 480) == Colour(6, 6, 6)


def test_pixel_aspect_is_kept(tmp_path: Path) -> None:
    video = probe(write(tmp_path / "out.mp4", at_rate(PAL, 2), pixel_aspect=Fraction(16, 15))).video
    assert video is not None
    assert video.pixel_aspect == Fraction(16, 15)


def test_finalize_sees_the_whole_hidden_file(tmp_path: Path) -> None:
    seen = []

    def finalize(hidden: Path) -> None:
        seen.append(hidden)
        assert hidden.name.startswith(".out.partial-")
        assert hidden.parent == tmp_path
        assert len(list(read_frames(hidden))) == 3
        assert not (tmp_path / "out.mp4").exists()

    write(tmp_path / "out.mp4", at_rate(PAL, 3), finalize=finalize)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert len(seen) == 1


def test_what_finalize_returns_is_called_when_the_file_has_its_name(tmp_path: Path) -> None:
    seen: list[bool] = []
    path = tmp_path / "out.mp4"
    write(path, at_rate(PAL, 3), finalize=lambda _: lambda: seen.append(path.exists()))
    assert seen == [True]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["frames", "finalize"])
def test_a_failure_leaves_nothing_and_keeps_the_older_file(
    tmp_path: Path, error: type[BaseException], where: str
) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    sound = make_sound(tmp_path / "s.wav", 1.0, sound_codec="pcm_s16le")

    def fail(_: Path) -> None:
        raise error

    with (
        pytest.raises(error),
        VideoWriter(path, width=96, height=64, rate=PAL, audio=sound, finalize=fail) as writer,
    ):
        for number in range(60):
            writer.write(numbered_image(number), number / PAL)
        if where == "frames":
            raise error
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.mp4", "s.wav"]
    assert path.read_bytes() == b"older"


def test_a_writer_that_nobody_holds_leaves_nothing(tmp_path: Path) -> None:
    """As after a signal that comes when it is made, and its `with` block is not entered yet."""
    VideoWriter(tmp_path / "out.mp4", width=64, height=48, rate=Fraction(25))
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_no_frames(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No frames were written"):
        write(tmp_path / "out.mp4", [])
    assert list(tmp_path.iterdir()) == []


def test_frames_that_do_not_fit(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="uint8 64×96×3, not uint8 10×10×3"),
        VideoWriter(tmp_path / "out.mp4", width=96, height=64, rate=PAL) as writer,
    ):
        writer.write(np.zeros((10, 10, 3), np.uint8), Fraction(0))
    with pytest.raises(ValueError, match="must increase"):
        write(tmp_path / "out.mp4", [Fraction(0), Fraction(0)])
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for path, sentence in (
        (tmp_path / "nowhere" / "out.mp4", "There is no folder"),
        (tmp_path / "folder.mp4", "is a folder"),
        (tmp_path / "out.avi", r"use one of \.mp4, \.mov, \.mkv"),
        (tmp_path / "out", r"use one of \.mp4, \.mov, \.mkv"),
        (tmp_path / f"{'long' * 100}.mp4", "the name is too long"),
    ):
        with pytest.raises(OutputError, match=sentence):
            require_output(path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is the folder where nobody may write")
def test_a_folder_that_is_not_writable() -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        require_output("/proc/out.mp4")


def test_unknown_encoders_and_options(tmp_path: Path) -> None:
    for codec in ("libnothing", "aac", "rawvideo"):
        with pytest.raises(OutputError, match="use libx264"):
            write(tmp_path / "out.mp4", at_rate(PAL, 2), options=EncoderOptions(codec=codec))
    with pytest.raises(
        OutputError, match=r"does not start with preset nonsense and quality 18 \(Invalid arg"
    ):
        write(tmp_path / "out.mp4", at_rate(PAL, 2), options=EncoderOptions(preset="nonsense"))
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_the_encoder_does_not_have_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    with pytest.raises(OutputError, match="libx264 has no option 'tunee'; leave it out"):
        VideoWriter(
            path,
            width=16,
            height=16,
            rate=PAL,
            options=EncoderOptions(extra={"tune": "film", "tunee": "film"}),
        )
    VideoWriter(path, width=16, height=16, rate=PAL, options=EncoderOptions(extra={"tune": "film"})).abort()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    not hasattr(os, "sched_getscheduler"), reason="Linux alone tells how a thread is scheduled"
)
def test_no_encoder_makes_the_calling_thread_a_real_time_one(tmp_path: Path) -> None:
    before = os.sched_getscheduler(0)
    for codec in ("libx264", "libsvtav1"):  # the second does, where root runs it
        VideoWriter(
            tmp_path / f"{codec}.mp4", width=64, height=64, rate=PAL, options=EncoderOptions(codec=codec)
        ).abort()
        assert os.sched_getscheduler(0) == before


def test_presets_have_one_name_for_every_encoder(tmp_path: Path) -> None:
    options = EncoderOptions(codec="libsvtav1", preset="ultrafast", quality=35)
    path = write(tmp_path / "out.mp4", at_rate(PAL, 3), options=options)
    video = probe(path).video
    assert video is not None
    assert video.codec in ("av1", "libdav1d", "libaom-av1")
    assert [frame_number(frame.image) for frame in read_frames(path)] == [0, 1, 2]


@pytest.mark.parametrize("codec", ["libx264", "h264", "libx265", "libsvtav1", "libvpx-vp9", "libvpx"])
def test_encoders_hear_the_quality(tmp_path: Path, codec: str) -> None:
    sizes = {}
    for quality in (4, 51):
        path = tmp_path / f"{quality}.mkv"
        noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
        options = EncoderOptions(codec=codec, quality=quality, extra={"g": "1"})
        with VideoWriter(path, width=96, height=64, rate=PAL, options=options) as writer:
            for time in at_rate(PAL, 10):
                writer.write(noise, time)
        sizes[quality] = path.stat().st_size
    assert sizes[4] > 2 * sizes[51]


def test_presets_of_vp9_are_speeds(tmp_path: Path) -> None:
    made = [
        write(
            tmp_path / f"{preset}.mp4",
            at_rate(PAL, 5),
            options=EncoderOptions(codec="libvpx-vp9", preset=preset),
        )
        for preset in ("ultrafast", "slower")
    ]
    assert made[0].read_bytes() != made[1].read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EncoderOptions(codec="ffv1", preset="slow"), "ffv1 takes no preset, so that preset slow would"),
        (EncoderOptions(codec="ffv1", quality=18), "ffv1 takes no quality, so that quality 18 would"),
    ],
)
def test_a_quality_or_preset_that_would_do_nothing_is_refused(
    tmp_path: Path, options: EncoderOptions, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        write(tmp_path / "out.mkv", at_rate(PAL, 2), options=options)
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "out.mkv", at_rate(PAL, 2), options=EncoderOptions(codec=options.codec))
    assert len(list(read_frames(tmp_path / "out.mkv"))) == 2


@pytest.mark.parametrize("codec", ["h264_nvenc", "hevc_nvenc", "h264_qsv"])
def test_an_encoder_whose_device_is_missing_says_so(tmp_path: Path, codec: str) -> None:
    try:
        write(
            tmp_path / "out.mp4", at_rate(PAL, 2), options=EncoderOptions(codec=codec), width=320, height=240
        )
    except OutputError as error:
        assert "device" in str(error) or "is not available" in str(error)
        assert "folder" not in str(error)
        assert list(tmp_path.iterdir()) == []
    else:  # the device is there
        assert len(list(read_frames(tmp_path / "out.mp4"))) == 2


def test_sound_that_is_none_fails_before_any_frame(tmp_path: Path) -> None:
    silent = make_clip(tmp_path / "silent.mp4", num_frames=2)
    with pytest.raises(InputError, match="has no sound"):
        VideoWriter(tmp_path / "out.mp4", width=96, height=64, rate=PAL, audio=silent)
    assert [entry.name for entry in tmp_path.iterdir()] == ["silent.mp4"]


def test_a_full_disk(tmp_path: Path) -> None:
    script = f"""
import resource, signal, sys
import numpy as np
from fractions import Fraction
from lipsmith.errors import OutputError
from lipsmith.media.write import VideoWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, {resource.RLIM_INFINITY}))
noise = np.random.default_rng(0)
try:
    with VideoWriter({str(tmp_path / "out.mp4")!r}, width=320, height=240, rate=Fraction(25)) as writer:
        for number in range(50):
            writer.write(noise.integers(0, 255, (240, 320, 3), np.uint8), Fraction(number, 25))
except OutputError as error:
    sys.exit(str(error))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "the disk is full" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ffmpeg_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "out.mp4", at_rate(PAL, 30))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("width", "height"), [(96, 64), (90, 62)])
def test_planes_that_nobody_touched_arrive_bit_by_bit(tmp_path: Path, width: int, height: int) -> None:
    source = make_clip(tmp_path / "source.mp4", num_frames=20, width=width, height=height)
    lossless = EncoderOptions(quality=0)
    for name, copied in (("out.mp4", False), ("copied.mp4", True)):
        target = tmp_path / name
        with VideoWriter(target, width=width, height=height, rate=PAL, options=lossless) as writer:
            for shown in read_pictures(source):
                assert isinstance(shown.picture, PlanarPicture)
                writer.write(shown.picture.copy() if copied else shown.picture, shown.time)
        pairs = list(zip(read_pictures(source), read_pictures(target), strict=True))
        assert len(pairs) == 20
        for before, after in pairs:
            assert after.time == before.time
            for plane in ("luma", "blue", "red"):
                np.testing.assert_array_equal(getattr(after.picture, plane), getattr(before.picture, plane))


def test_key_frames_of_the_source_are_not_copied(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "source.mp4", num_frames=20, codec="mpeg4")  # a key frame each 12
    target = tmp_path / "out.mp4"
    with VideoWriter(target, width=96, height=64, rate=PAL) as writer:
        for shown in read_pictures(source):
            writer.write(shown.picture, shown.time)
    with av.open(str(target)) as container:
        keys = [frame.key_frame for frame in container.decode(video=0)]
    assert keys == [True] + [False] * 19


def test_planes_of_another_matrix_are_converted(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "source.mp4", num_frames=3)
    red = np.zeros((64, 96, 3), np.uint8)
    red[..., 2] = 200
    picture = next(read_pictures(source)).picture
    assert isinstance(picture, PlanarPicture)
    copied = picture.copy()
    for plane, level in ((copied.luma, 53), (copied.blue, 108), (copied.red, 216)):  # that red in BT.709
        plane[:] = level
    in_709 = PlanarPicture(copied.luma, copied.blue, copied.red, 1, copied.source)
    target = tmp_path / "out.mp4"
    with VideoWriter(target, width=96, height=64, rate=PAL, options=EncoderOptions(quality=0)) as writer:
        writer.write(in_709, Fraction(0))
    (frame,) = read_frames(target)
    assert np.abs(frame.image.astype(int) - red).max() <= 5


@pytest.mark.parametrize(
    "settings",
    [{"pixel_format": "yuv444p"}, {"width": 95}, {"rotation": 90}, {"pixel_format": "yuv420p10le"}],
)
def test_other_forms_are_read_as_bgr(tmp_path: Path, settings: dict) -> None:
    if settings.get("width") == 95:
        settings = {**settings, "pixel_format": "yuv444p"}
    source = make_clip(tmp_path / "source.mp4", num_frames=4, **settings)
    shown = list(read_pictures(source))
    assert [frame_number(frame.picture.bgr()) for frame in shown] == list(range(4))
    assert all(isinstance(frame.picture, ArrayPicture) for frame in shown)
