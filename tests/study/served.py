"""A study served by the command itself, in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STOP_SECONDS = 60  # far more than it takes, for machines that are busy


@contextmanager
def served(study: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address and the process of `lipsmith study serve`, which is killed at the end if it still runs."""
    arguments = ["study", "serve", str(study), "--port", "0", *options]
    start = f"from lipsmith.cli import main; main({arguments!r})"
    with subprocess.Popen(
        [sys.executable, "-c", start], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process
        finally:
            if process.poll() is None:
                process.kill()
