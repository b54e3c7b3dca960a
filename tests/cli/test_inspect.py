"""`lipsmith inspect`: the answer on standard output, and what the exit code says of the Content Credentials."""

import json
from pathlib import Path

import pytest

from lipsmith.errors import ExitCode

from .conftest import Command


@pytest.fixture
def synced(run: Command, media: Path, weights: str, tmp_path: Path) -> Path:
    output = tmp_path / "dubbed.mp4"
    assert run("sync", media / "face.png", media / "speech.wav", "-o", output, "-m", weights).code == 0
    return output


def test_a_file_as_it_was_signed_verifies(run: Command, synced: Path) -> None:
    done = run("inspect", synced)
    assert (done.code, done.err) == (ExitCode.OK, "")
    assert "valid, unchanged since signing" in done.out


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_a_changed_file_is_told_by_answer_and_exit_code(
    run: Command, synced: Path, options: tuple[str, ...]
) -> None:
    data = synced.read_bytes()
    assert data.count(b"model tiny (") == 1
    synced.write_bytes(data.replace(b"model tiny (", b"model tine ("))

    done = run("inspect", synced, *options)

    assert done.code == ExitCode.UNVERIFIED == 11
    assert len(done.sentences) == 1 and "do not verify" in done.err
    if options:
        assert json.loads(done.out)["credentials"]["state"] == "tampered"
    else:
        assert "TAMPERED: changed after signing" in done.out


def test_a_file_without_marks_has_nothing_to_verify(run: Command, media: Path) -> None:
    done = run("inspect", media / "face.mp4")
    assert (done.code, done.err) == (ExitCode.OK, "")
    assert "Nothing is known about how it was made." in done.out
