"""`lipsmith sync` and `demo` through the front door: what they write, and where they say what."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import av
import pytest

from lipsmith.cli.sync import Length
from lipsmith.errors import ExitCode
from lipsmith.timeline import LENGTH_POLICIES

from .conftest import RATE_HZ, Command

SPEECH_SECONDS = 0.8


def picture_seconds(path: Path) -> float:
    """Frames times their nominal length."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0)) / RATE_HZ


def test_the_lengths_offered_are_those_of_the_library() -> None:
    assert {length.value for length in Length} == set(LENGTH_POLICIES)


def test_sync_writes_a_video_as_long_as_the_speech(
    run: Command, media: Path, weights: str, tmp_path: Path
) -> None:
    output = tmp_path / "synced.mp4"
    done = run("sync", media / "face.mp4", media / "speech.wav", "-o", output, "--model", weights)
    assert (done.code, done.out) == (ExitCode.OK, f"{output}\n")
    assert picture_seconds(output) == pytest.approx(SPEECH_SECONDS, abs=1 / RATE_HZ)
    assert "20 frames, 20 synced, 0 without a face" in done.err
    assert "generate" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["synced.mp4"]


def test_the_report_as_json_is_all_of_standard_output(
    run: Command, media: Path, weights: str, tmp_path: Path
) -> None:
    done = run(
        "sync", media / "face.mp4", media / "speech.wav", "-o", tmp_path / "o.mp4", "-m", weights, "--json"
    )
    report = json.loads(done.out)
    assert done.code == ExitCode.OK
    assert (report["num_frames"], report["num_synced"], report["without_face"]) == (20, 20, [])
    assert report["model"] == weights
    assert report["output"] == str(tmp_path / "o.mp4")
    assert set(report["seconds"]) >= {"decode", "track", "generate", "compose", "encode", "sign"}


def test_credentials_beside_a_video_are_replaced_on_request_only(
    run: Command, media: Path, weights: str, tmp_path: Path
) -> None:
    output, beside = tmp_path / "talk.mkv", tmp_path / "talk.c2pa"
    beside.write_text("of talk.avi")
    command = ("sync", media / "face.mp4", media / "speech.wav", "-o", output, "-m", weights)
    refused = run(*command)
    assert refused.code == ExitCode.OUTPUT and "talk.c2pa exists already" in refused.err
    assert beside.read_text() == "of talk.avi" and not output.exists()
    unsigned = run(*command, "--no-provenance")
    assert unsigned.code == ExitCode.OK and "talk.c2pa does not fit this output" in unsigned.err
    assert beside.read_text() == "of talk.avi"
    assert run(*command, "--force").code == ExitCode.OK
    assert run("inspect", output).code == ExitCode.OK


def test_a_still_image_and_a_video_as_speech(run: Command, media: Path, weights: str, tmp_path: Path) -> None:
    output = tmp_path / "still.mp4"
    done = run("sync", media / "face.png", media / "face.mp4", "-o", output, "--model", weights)
    assert done.code == ExitCode.OK, done.err
    assert picture_seconds(output) == pytest.approx(SPEECH_SECONDS, abs=1 / RATE_HZ)


def test_a_file_name_is_never_a_command(run: Command, media: Path, weights: str, tmp_path: Path) -> None:
    speech = media / "a speech; with $(words).wav"
    output = tmp_path / "-o $(rm).mp4"
    done = run("sync", media / "face.png", speech, "-o", output, "--model", weights)
    assert done.code == ExitCode.OK, done.err
    assert output.stat().st_size > 0


def test_an_existing_output_is_replaced_only_when_told(
    run: Command, media: Path, weights: str, tmp_path: Path
) -> None:
    output = tmp_path / "out.mp4"
    output.write_text("precious")
    arguments = ("sync", media / "face.png", media / "speech.wav", "-o", output, "--model", weights)
    refused = run(*arguments)
    assert refused.code == ExitCode.OUTPUT
    assert output.read_text() == "precious"
    assert run(*arguments, "--force").code == ExitCode.OK
    assert picture_seconds(output) == pytest.approx(SPEECH_SECONDS, abs=1 / RATE_HZ)


def test_the_output_is_marked_unless_told_otherwise(
    run: Command, media: Path, weights: str, tmp_path: Path
) -> None:
    source = (media / "face.png", media / "speech.wav")
    marked, plain = tmp_path / "marked.mp4", tmp_path / "plain.mp4"
    assert run("sync", *source, "-o", marked, "-m", weights).code == ExitCode.OK
    assert run("sync", *source, "-o", plain, "-m", weights, "--no-provenance").code == ExitCode.OK
    with av.open(str(marked)) as container:
        assert "AI-generated lip movements" in container.metadata["comment"]
    with av.open(str(plain)) as container:
        assert "comment" not in container.metadata


def test_the_encoder_options_reach_the_encoder(
    run: Command, media: Path, weights: str, tmp_path: Path
) -> None:
    sizes = {}
    for crf in (10, 45):
        output = tmp_path / f"{crf}.mp4"
        done = run(
            *("sync", media / "face.mp4", media / "speech.wav", "-o", output, "-m", weights),
            *("--crf", crf, "--preset", "ultrafast", "--no-provenance"),
        )
        assert done.code == ExitCode.OK, done.err
        sizes[crf] = output.stat().st_size
    assert sizes[10] > 3 * sizes[45]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--audio-lead", "soon"), "number of seconds"),
        (("--audio-lead", "40"), "more than a second"),
        (("--face", "0"), "--face"),
        (("--crf", "99"), "--crf"),
        (("--length", "stretch"), "--length"),
        (("--certificate", "mine.pem"), "--private-key"),
        (("--no-provenance", "--certificate", "a.pem", "--private-key", "b.pem"), "--no-provenance"),
    ],
)
def test_options_that_make_no_sense(
    run: Command, media: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    done = run("sync", media / "face.png", media / "speech.wav", "-o", tmp_path / "o.mp4", *options)
    assert done.code == ExitCode.USAGE
    assert words in done.err
    assert not list(tmp_path.iterdir())


def test_demo_syncs_the_portrait(run: Command, media: Path, weights: str, tmp_path: Path) -> None:
    output = tmp_path / "new folder" / "demo.mp4"
    done = run("demo", "--output", output, "--model", weights)
    assert done.code == ExitCode.OK, done.err
    assert done.out == f"{output}\n"
    assert done.sentences[-1] == f"The result is in {output}"
    assert picture_seconds(output) == pytest.approx(9.15, abs=1 / RATE_HZ)


def test_demo_into_a_folder_that_cannot_be_made(run: Command, weights: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("demo", "--output", tmp_path / "file" / "demo.mp4", "--model", weights)
    assert (done.code, len(done.sentences)) == (ExitCode.OUTPUT, 1)
    assert "cannot be made" in done.err and "--output" in done.err


def test_demo_without_its_extra(
    run: Command, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    done = run("demo", "--output", tmp_path / "demo.mp4", "--model", weights)
    assert done.code == ExitCode.RUNTIME
    assert "pip install 'lipsmith[demo]'" in done.err
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder(run: Command, media: Path, weights: str, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        if _can_write(folder):
            pytest.skip("this user may write anywhere")
        done = run("sync", media / "face.png", media / "speech.wav", "-o", folder / "o.mp4", "-m", weights)
    finally:
        folder.chmod(stat.S_IRWXU)
    assert done.code == ExitCode.OUTPUT
    assert not list(folder.iterdir())


def _can_write(folder: Path) -> bool:
    try:
        (folder / "probe").touch()
    except OSError:
        return False
    (folder / "probe").unlink()
    return True


def test_sync_needs_none_of_the_training_packages(media: Path, weights: str, tmp_path: Path) -> None:
    output = tmp_path / "lean.mp4"
    program = (
        "import sys\n"
        "absent = ['torch', 'safetensors', 'nncf', 'pytest', 'yaml', 'skimage', 'scipy', 'tensorflow']\n"
        "sys.modules.update(dict.fromkeys(absent))\n"
        "from lipsmith.cli import main\n"
        "main(sys.argv[1:])\n"
    )
    arguments = ["sync", media / "face.mp4", media / "speech.wav", "-o", output, "-m", weights]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == ExitCode.OK, done.stderr
    assert picture_seconds(output) == pytest.approx(SPEECH_SECONDS, abs=1 / RATE_HZ)
