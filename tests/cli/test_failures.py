"""Errors, interruptions and progress: what reaches the terminal, and with which code the process ends."""

import contextlib
import errno
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lipsmith.pipeline
from lipsmith.cli.failures import explain
from lipsmith.errors import ExitCode, LipsmithError, OutputError, UsageError

from .conftest import Command, Outcome, write_sound


def all_errors() -> list[type[LipsmithError]]:
    return LipsmithError.__subclasses__()


def test_every_error_has_its_own_code() -> None:
    codes = [error.exit_code for error in all_errors()]
    assert len(set(codes)) == len(codes)
    assert ExitCode.OK not in codes and ExitCode.INTERNAL not in codes


@pytest.mark.parametrize("kind", all_errors())
def test_an_error_is_told_as_it_is(kind: type[LipsmithError]) -> None:
    assert explain(kind("What and where.")) == ("What and where.", kind.exit_code)


def test_a_missing_package_names_its_extra() -> None:
    sentence, code = explain(ModuleNotFoundError("No module named 'torch'", name="torch.nn"))
    assert (sentence, code) == ("This needs torch, which is missing: pip install 'lipsmith[torch]'.", 7)


def test_an_unexpected_exception_hints_at_debug() -> None:
    sentence, code = explain(ValueError("two\n  lines"))
    assert code == ExitCode.INTERNAL
    assert "ValueError: two lines." in sentence
    assert "`lipsmith --debug`" in sentence


def test_a_full_disk_is_no_error_of_the_program() -> None:
    sentence, code = explain(OSError(errno.ENOSPC, "No space left on device", "/tmp/x"))
    assert code == ExitCode.OUTPUT
    assert sentence.startswith("There is no room left for /tmp/x (No space left on device).")


@pytest.fixture
def failing(run: Command, monkeypatch: pytest.MonkeyPatch, media: Path, tmp_path: Path) -> Command:
    """Run a `sync` whose pipeline raises the given exception, with options of `lipsmith` itself."""

    def run_failing(error: BaseException, *options: str) -> Outcome:
        def raise_it(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(lipsmith.pipeline, "sync", raise_it)
        return run(*options, "sync", media / "face.png", media / "speech.wav", "-o", tmp_path / "out.mp4")

    return run_failing


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (RuntimeError("boom"), ExitCode.INTERNAL),
        (OutputError("The disk is full."), ExitCode.OUTPUT),
        (UsageError("No."), ExitCode.USAGE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_exception_ends_with_one_line(failing: Command, error: BaseException, code: ExitCode) -> None:
    done = failing(error)
    assert (done.code, done.out, len(done.sentences)) == (code, "", 1)


def test_debug_shows_where(failing: Command) -> None:
    done = failing(RuntimeError("boom"), "--debug")
    assert done.code == ExitCode.INTERNAL
    assert "Traceback" in done.err and "in raise_it" in done.err
    assert "Traceback" not in failing(RuntimeError("boom")).err


def sync_command(media: Path, weights: str, folder: Path, seconds: float) -> list[str]:
    write_sound(folder / "long.wav", seconds)
    # Tests that run under `nohup` pass on that hang-ups are ignored.
    unignored = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    program = f"{unignored}; from lipsmith.cli import main; main()"
    arguments = ["sync", media / "face.png", folder / "long.wav", "-o", folder / "out.mp4", "-m", weights]
    return [sys.executable, "-c", program, *map(str, arguments)]


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_leaves_nothing_half_written(
    media: Path, weights: str, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    process = subprocess.Popen(
        sync_command(media, weights, tmp_path, 60), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 240  # beside other work, importing and loading alone can take a minute
        while not list(tmp_path.glob(".out*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert list(tmp_path.glob(".out*")), "it wrote nothing before it ended"
        process.send_signal(sent)
        _, words = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == code
    assert "Traceback" not in words
    assert [path.name for path in tmp_path.iterdir()] == ["long.wav"]


def test_an_interrupt_while_the_command_line_is_imported_shows_no_traceback() -> None:
    program = """
import sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
from lipsmith.cli import main
main(["--version"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_what_nohup_ignores_stays_ignored(run: Command, media: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    seen = []
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "lipsmith.provenance.inspect.inspect", lambda _: seen.append(signal.getsignal(signal.SIGHUP))
            )
            run("inspect", media / "face.mp4")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [signal.SIG_IGN]


def test_progress_is_drawn_on_a_terminal_only(
    run: Command, media: Path, weights: str, tmp_path: Path
) -> None:
    command = sync_command(media, weights, tmp_path, 2)
    terminal, end = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=end, text=True)
    os.close(end)
    drawn = b""
    with contextlib.suppress(OSError):  # the far end is closed
        while block := os.read(terminal, 4096):
            drawn += block
    os.close(terminal)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert out == f"{tmp_path / 'out.mp4'}\n"
    assert b"render" in drawn and b"50/50" in drawn
    piped = run("sync", media / "face.png", tmp_path / "long.wav", "-o", tmp_path / "two.mp4", "-m", weights)
    assert "render" not in piped.err and "\x1b" not in piped.err
