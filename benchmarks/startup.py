"""Start-up: how long help pages take, and how soon a run writes its first frame.

    python benchmarks/startup.py
    python benchmarks/startup.py --video talk.mp4 --audio speech.wav --repeats 9

Each figure is of a new process, timed from outside, with a warm disk. `first_frame` is the time from starting the
process to the first frame that is encoded; `first_start` the same with an empty cache folder, where networks are still
to be compiled.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from footage import make_inputs
from measurement import (
    describe_machine,
    describe_versions,
    in_fresh_process,
    medians,
    parser,
    publish,
    run_command,
    say,
    spread,
)

HELP = "from lipsmith.cli import main; main()"
FIRST_FRAME = """
import sys, time
from pathlib import Path
from lipsmith.cli.app import app  # as the command does
from lipsmith.media import write
video, audio, output, model, mark = sys.argv[1:]
real = write.VideoWriter.write
def first(self, picture, at):
    real(self, picture, at)
    if not Path(mark).exists():
        Path(mark).write_text(str(time.time()))
write.VideoWriter.write = first
from lipsmith import SyncOptions, sync
sync(video, audio, output, model=model, options=SyncOptions(overwrite=True))
"""


def first_frame(folder: Path, model: str, cache: Path) -> dict[str, float]:
    """Seconds to the first frame, and of the whole process."""
    import os

    mark = folder / "mark"
    mark.unlink(missing_ok=True)
    command = [sys.executable, "-c", FIRST_FRAME, str(folder / "video.mp4"), str(folder / "speech.wav"),
               str(folder / "out.mp4"), model, str(mark)]  # fmt: skip
    environment = {**os.environ, "LIPSMITH_CACHE": str(cache), "LIPSMITH_TUNING": "on"}
    start = time.time()
    subprocess.run(command, check=True, env=environment)
    whole = time.time() - start
    return {"first_frame_seconds": float(mark.read_text()) - start, "whole_seconds": whole}


def main() -> None:
    """Measure, and publish the result."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--video", type=Path, help="a talking face; default: the demo's portrait, 512 × 512"
    )
    arguments.add_argument("--audio", type=Path, help="speech")
    arguments.add_argument("--seconds", type=float, default=8, help="length of the video")
    arguments.add_argument("--model", default="default", help="name of weights, folder or checkpoint")
    arguments.add_argument("--warmups", type=int, default=1, help="runs of each kind that do not count")
    arguments.add_argument(
        "--repeats", type=int, default=5, help="runs of each kind; the medians are reported"
    )
    chosen = arguments.parse_args()

    machine = describe_machine()
    kinds: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        facts, _ = in_fresh_process(make_inputs, folder, "square", chosen.video, chosen.audio, chosen.seconds)
        for index in range(-chosen.warmups, chosen.repeats):
            runs: dict[str, dict[str, float]] = {
                "python": run_command([sys.executable, "-c", "pass"])[0],
                "version": run_command([sys.executable, "-c", HELP, "--version"])[0],
                "help": run_command([sys.executable, "-c", HELP, "--help"])[0],
                "sync_help": run_command([sys.executable, "-c", HELP, "sync", "--help"])[0],
                "first_start": first_frame(folder, chosen.model, folder / f"cache{index}"),
                "first_frame": first_frame(folder, chosen.model, folder / f"cache{index}"),
            }
            if index >= 0:
                for kind, figures in runs.items():
                    kinds.setdefault(kind, []).append(figures)
    result: dict[str, Any] = {
        kind: {"median": medians(runs), "spread": spread(runs)} for kind, runs in kinds.items()
    }
    for kind, figures in result.items():
        say(f"{kind:12} {json.dumps(figures['median'])}")
    publish(
        {
            "benchmark": "startup",
            "machine": machine,
            "versions": describe_versions(),
            "input": facts,
            "settings": {"model": chosen.model, "warmups": chosen.warmups, "repeats": chosen.repeats},
            "kinds": result,
        },
        chosen.json,
    )


if __name__ == "__main__":
    main()
