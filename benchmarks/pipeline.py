"""End to end: `lipsmith sync` against the physical floor, the pure transcode of the same file in the same run.

    python benchmarks/pipeline.py                               # 8 s of 512 × 512
    python benchmarks/pipeline.py --cases square portrait long  # and 10 s of 1080 × 1920 HEVC, 60 s of 720p
    python benchmarks/pipeline.py --video talk.mp4 --audio speech.wav --plot stages.png

Every run is a new process, timed from outside: starting, loading and signing are part of it. Transcodes and syncs take
turns, so that what else the machine does meets both. Without --video and --audio: the demo's portrait and voice.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from footage import CASES, make_inputs
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

TRANSCODE = Path(__file__).parent / "transcode.py"
_SYNC = "from lipsmith.cli import main; main()"


def main() -> None:
    """Measure, and publish the result."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--cases", nargs="+", choices=sorted(CASES), default=["square"], help="drawn videos"
    )
    arguments.add_argument("--video", type=Path, help="a talking face, in place of the drawn cases")
    arguments.add_argument("--audio", type=Path, help="speech; looped or cut to the video's length")
    arguments.add_argument(
        "--seconds", type=float, help="length; shorter inputs are looped (default: the case's)"
    )
    arguments.add_argument("--model", default="default", help="name of weights, folder or checkpoint")
    arguments.add_argument("--runtime", default="openvino", help="runtime")
    arguments.add_argument("--device", default="auto", help="device of the runtime")
    arguments.add_argument("--threads", type=int, help="most threads of the runtime")
    arguments.add_argument("--warmups", type=int, default=1, help="runs of each kind that do not count")
    arguments.add_argument(
        "--repeats", type=int, default=3, help="runs of each kind; the medians are reported"
    )
    arguments.add_argument(
        "--plot", type=Path, metavar="FILE", help="a picture of the time per stage (matplotlib)"
    )
    chosen = arguments.parse_args()

    machine = describe_machine()
    names = [chosen.video.stem] if chosen.video else chosen.cases
    cases = {name: measure(name, chosen) for name in names}
    if chosen.plot is not None:
        draw(cases, chosen.plot)
    publish(
        {
            "benchmark": "pipeline",
            "machine": machine,
            "versions": describe_versions(),
            "settings": {
                "model": chosen.model,
                "runtime": chosen.runtime,
                "device": chosen.device,
                "threads": chosen.threads,
                "warmups": chosen.warmups,
                "repeats": chosen.repeats,
            },
            "cases": cases,
        },
        chosen.json,
    )


def measure(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Transcode and sync one video by turns; medians, spreads, and the ratio of whole-process seconds."""
    options = ["--model", chosen.model, "--runtime", chosen.runtime, "--device", chosen.device]
    if chosen.threads is not None:
        options += ["--threads", str(chosen.threads)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # In a process of its own: a child's peak of memory counts from that of its parent on.
        facts, _ = in_fresh_process(make_inputs, folder, name, chosen.video, chosen.audio, chosen.seconds)
        video, audio = folder / "video.mp4", folder / "speech.wav"
        say(f"{name}: {facts['width']}×{facts['height']} {facts['codec']}, {facts['seconds']:g} s")
        transcode = [sys.executable, str(TRANSCODE), str(video), str(folder / "floor.mp4")]
        if facts["variable_rate"]:
            transcode += ["--bf", "0"]  # as the writer does
        sync = [sys.executable, "-c", _SYNC, "sync", str(video), str(audio)]
        sync += ["--output", str(folder / "synced.mp4"), "--force", "--json", *options]
        floors, runs, reports = [], [], []
        for index in range(-chosen.warmups, chosen.repeats):
            floor, _ = run_command(transcode)
            run, answer = run_command(sync)
            say(
                f"  {'warm-up' if index < 0 else f'run {index + 1}'}: sync {run['seconds']:.2f} s, "
                f"transcode {floor['seconds']:.2f} s, ratio {run['seconds'] / floor['seconds']:.2f}, "
                f"{run['peak_memory_mib']:.0f} MiB"
            )
            if index >= 0:
                floors.append(floor)
                runs.append(run)
                reports.append(json.loads(answer))
        sizes = {kind: (folder / file).stat().st_size for kind, file in
                 (("transcode", "floor.mp4"), ("sync", "synced.mp4"))}  # fmt: skip
    median = {"sync": medians(runs), "transcode": medians(floors)}
    num_frames = reports[0]["num_frames"]
    result = {
        "input": facts,
        "num_frames": num_frames,
        "num_synced": reports[0]["num_synced"],
        "ratio": round(median["sync"]["seconds"] / median["transcode"]["seconds"], 3),
        # Of processor time: hardly changed by what else the machine does.
        "processor_ratio": round(
            median["sync"]["processor_seconds"] / median["transcode"]["processor_seconds"], 3
        ),
        "frames_per_second": round(num_frames / median["sync"]["seconds"], 1),
        "median": median,
        "spread": {"sync": spread(runs), "transcode": spread(floors)},
        "stage_seconds": medians([report["seconds"] for report in reports]),
        "seconds_inside": round(statistics.median(report["total_seconds"] for report in reports), 3),
        "output_bytes": sizes,
        "runs": {"sync": runs, "transcode": floors},
    }
    say(
        f"  ratio of the medians {result['ratio']} (of processor time {result['processor_ratio']}), "
        f"{result['frames_per_second']} frames/s; work of the stages:"
    )
    for stage, seconds in result["stage_seconds"].items():
        say(f"  {stage:12} {seconds:7.2f} s")
    return result


def draw(cases: dict[str, dict[str, Any]], path: Path) -> None:
    """Bars: each stage's work in seconds, with whole-process sync and transcode as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(cases), figsize=(6 * len(cases), 4), squeeze=False)
    for panel, (name, case) in zip(panels[0], cases.items(), strict=True):
        stages = case["stage_seconds"]
        panel.barh(list(stages), list(stages.values()), color="#4878a8")
        panel.invert_yaxis()
        for kind, colour in (("sync", "#333333"), ("transcode", "#c44e52")):
            seconds = case["median"][kind]["seconds"]
            panel.axvline(seconds, color=colour, linestyle="--", label=f"whole {kind}: {seconds:.2f} s")
        panel.set_title(f"{name}: {case['ratio']:.2f} × the transcode")
        panel.set_xlabel("seconds of work (stages overlap)")
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    say(f"Drawn to {path}.")


if __name__ == "__main__":
    main()
