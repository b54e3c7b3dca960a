"""Bad input gets one clear sentence and its own exit code, and leaves nothing half-written."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from lipsmith.errors import ExitCode

from .conftest import RATE_HZ, SOUND_RATE_HZ, Command, write_sound

Maker = Callable[[Path, Path], Path]  # (sources, folder) → the bad file


def missing(_media: Path, folder: Path) -> Path:
    return folder / "nothing here.mp4"


def directory(_media: Path, folder: Path) -> Path:
    (folder / "films").mkdir()
    return folder / "films"


def empty(_media: Path, folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def text_as_mp4(_media: Path, folder: Path) -> Path:
    (folder / "notes.mp4").write_text("This is not a film.\n" * 100)
    return folder / "notes.mp4"


def page_as_mp4(_media: Path, folder: Path) -> Path:
    (folder / "page.mp4").write_text("<!DOCTYPE html><html><body>404</body></html>")
    return folder / "page.mp4"


def cut_short(media: Path, folder: Path) -> Path:
    whole = (media / "face.mp4").read_bytes()
    (folder / "part.mp4").write_bytes(whole[: len(whole) // 2])
    return folder / "part.mp4"


def cut_behind_its_index(media: Path, folder: Path) -> Path:
    """Truncated where the index stands in front, so that the file opens."""
    path = folder / "part.mp4"
    with (
        av.open(str(media / "face.mp4")) as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    return path


def without_frames(_media: Path, folder: Path) -> Path:
    """A Matroska file that declares a picture and holds none."""
    path = folder / "frameless.mkv"
    with av.open(str(path), "w") as target:
        picture = target.add_stream("libx264", rate=RATE_HZ)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        sound = target.add_stream("pcm_s16le", rate=SOUND_RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 3200), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = SOUND_RATE_HZ, 0
        target.mux(sound.encode(frame))
        target.mux(sound.encode(None))
    return path


def sound_alone(media: Path, _folder: Path) -> Path:
    return media / "speech.wav"


def picture_alone(media: Path, _folder: Path) -> Path:
    return media / "silent_face.mp4"


def without_samples(_media: Path, folder: Path) -> Path:
    write_sound(folder / "hush.wav", 0)
    return folder / "hush.wav"


def too_short(media: Path, _folder: Path) -> Path:
    return media / "short.wav"


def still_image(media: Path, _folder: Path) -> Path:
    return media / "face.png"


@pytest.fixture
def expect_refusal(run: Command, tmp_path: Path) -> Callable[..., str]:
    """Run a command that must fail; return its sentence once everything else about the failure holds."""

    def check(code: ExitCode, *arguments: object) -> str:
        before = {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}
        done = run(*arguments)
        assert done.code == code, done.err
        assert done.out == ""
        assert "Traceback" not in done.err
        assert len(done.sentences) == 1, done.err
        assert done.sentences[0].startswith("Error: ")
        assert done.sentences[0].endswith((".", ")"))
        after = {path: path.read_bytes() if path.is_file() else None for path in tmp_path.rglob("*")}
        assert after == before
        # Without the folder, whose name tells what is tested.
        return done.sentences[0].replace(f"{tmp_path}{os.sep}", "")

    return check


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (missing, ExitCode.INPUT, "no file"),
        (directory, ExitCode.INPUT, "is a folder"),
        (empty, ExitCode.INPUT, "is empty"),
        (text_as_mp4, ExitCode.INPUT, "not a video"),
        (page_as_mp4, ExitCode.INPUT, "not a video"),
        (cut_short, ExitCode.INPUT, "cut short"),
        (cut_behind_its_index, ExitCode.INPUT, "data ends at 0."),
        (without_frames, ExitCode.INPUT, "no frames"),
        (sound_alone, ExitCode.INPUT, "no picture"),
        (lambda media, _: media / "wall.mp4", ExitCode.NO_FACE, "No face"),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else None,
)
def test_bad_video(
    expect_refusal: Callable[..., str],
    media: Path,
    weights: str,
    tmp_path: Path,
    make: Maker,
    code: ExitCode,
    words: str,
) -> None:
    video = make(media, tmp_path)
    output = tmp_path / "out.mp4"
    sentence = expect_refusal(code, "sync", video, media / "speech.wav", "-o", output, "-m", weights)
    assert video.name in sentence
    assert words in sentence


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing, "no file"),
        (directory, "is a folder"),
        (empty, "is empty"),
        (text_as_mp4, "not a video"),
        (cut_short, "cut short"),
        (picture_alone, "no sound"),
        (still_image, "no sound"),
        (without_samples, "no samples"),
        (too_short, "0.2 s"),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else None,
)
def test_bad_audio(
    expect_refusal: Callable[..., str], media: Path, weights: str, tmp_path: Path, make: Maker, words: str
) -> None:
    audio = make(media, tmp_path)
    output = tmp_path / "out.mp4"
    sentence = expect_refusal(ExitCode.INPUT, "sync", media / "face.mp4", audio, "-o", output, "-m", weights)
    assert audio.name in sentence
    assert words in sentence


def test_an_unreadable_video(
    expect_refusal: Callable[..., str], media: Path, weights: str, tmp_path: Path
) -> None:
    video = tmp_path / "secret.mp4"
    video.write_bytes((media / "face.mp4").read_bytes())
    video.chmod(0)
    if os.access(video, os.R_OK):
        pytest.skip("this user may read anything")
    sources = (video, media / "speech.wav")
    assert "permissions" in expect_refusal(
        ExitCode.INPUT, "sync", *sources, "-o", tmp_path / "out.mp4", "-m", weights
    )


@pytest.mark.parametrize("which", ["video", "audio"])
@pytest.mark.parametrize("way", ["same", "hard link", "symbolic link"])
def test_the_output_is_an_input(
    expect_refusal: Callable[..., str], media: Path, weights: str, tmp_path: Path, which: str, way: str
) -> None:
    sources = {"video": media / "face.mp4", "audio": media / "face.mp4"}
    own = tmp_path / "own.mp4"
    own.write_bytes((media / "face.mp4").read_bytes())
    sources[which] = own
    output = own
    if way != "same":
        output = tmp_path / "other name.mp4"
        if way == "hard link":
            output.hardlink_to(own)
        else:
            output.symlink_to(own)
    sentence = expect_refusal(
        ExitCode.OUTPUT, "sync", sources["video"], sources["audio"], "-o", output, "-m", weights, "--force"
    )
    assert "itself" in sentence


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("no such folder/out.mp4", "There is no folder"),
        (".", ".mp4"),
        ("films.mp4", "is a folder"),
        ("out.txt", ".mp4"),
        ("file/out.mp4", "no folder"),
    ],
)
def test_an_output_that_cannot_be_written(
    expect_refusal: Callable[..., str], media: Path, weights: str, tmp_path: Path, output: str, words: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "films.mp4").mkdir()
    sentence = expect_refusal(
        ExitCode.OUTPUT,
        *("sync", media / "face.png", media / "speech.wav", "-o", tmp_path / output, "-m", weights),
    )
    assert words in sentence


def test_unknown_weights(
    expect_refusal: Callable[..., str], media: Path, weights: str, tmp_path: Path
) -> None:
    sources = (media / "face.png", media / "speech.wav", "-o", tmp_path / "out.mp4")
    sentence = expect_refusal(ExitCode.WEIGHTS, "sync", *sources, "--model", "tinny")
    assert "'tinny'" in sentence
    assert f"'{weights}'" in sentence  # what was probably meant


class _Runs:
    """Unpickling one makes a file called `evidence`."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.evidence,)


def bare_pickle(path: Path, evidence: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": _Runs(evidence)}))


def pickle_in_a_checkpoint(path: Path, evidence: Path) -> None:
    import torch

    torch.save({"state_dict": _Runs(evidence)}, path)


def page(path: Path, _evidence: Path) -> None:
    path.write_text("<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title></html>")


def archive(path: Path, _evidence: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "weights are elsewhere")


def text(path: Path, _evidence: Path) -> None:
    path.write_text("to be uploaded\n")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (bare_pickle, "run any code"),
        (pickle_in_a_checkpoint, "would run code"),
        (page, "HTML page"),
        (archive, "zip archive"),
        (text, "text"),
    ],
)
@pytest.mark.parametrize("command", ["sync", "identify", "import", "export"])
def test_a_file_that_is_no_checkpoint(
    expect_refusal: Callable[..., str],
    media: Path,
    tmp_path: Path,
    make: Callable[[Path, Path], None],
    words: str,
    command: str,
) -> None:
    checkpoint, evidence = tmp_path / "wav2lip_gan.pth", tmp_path / "evidence"
    make(checkpoint, evidence)
    arguments = {
        "sync": (
            "sync",
            media / "face.png",
            media / "speech.wav",
            "-o",
            tmp_path / "o.mp4",
            "-m",
            checkpoint,
        ),
        "identify": ("weights", "identify", checkpoint),
        "import": ("weights", "import", checkpoint, "--name", "mine"),
        "export": ("export", checkpoint, "-o", tmp_path / "mine"),
    }[command]
    assert words in expect_refusal(ExitCode.WEIGHTS, *arguments)
    assert not evidence.exists()


@pytest.mark.parametrize("make", [missing, directory, empty, text_as_mp4])
def test_inspect_of_no_media(
    expect_refusal: Callable[..., str], media: Path, tmp_path: Path, make: Maker
) -> None:
    path = make(media, tmp_path)
    assert path.name in expect_refusal(ExitCode.INPUT, "inspect", path)
