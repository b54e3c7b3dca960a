"""End to end: how many output frames a second `lipsmith.sync` makes, and where the time goes.

    python benchmarks/sync_speed.py
    python benchmarks/sync_speed.py --video talk.mp4 --audio speech.wav --seconds 30 --repeats 5

Each run is a new process, loading included. Without --video and --audio: the demo's portrait and voice.
"""

import tempfile
from pathlib import Path
from typing import Any

from footage import make_speech, make_video
from measurement import describe_machine, describe_versions, in_fresh_process, medians, parser, publish, say


def sync_once(video: Path, audio: Path, output: Path, model: str, options: dict[str, Any]) -> dict[str, Any]:
    """The report of one run, as JSON has it."""
    from lipsmith.pipeline import SyncOptions, sync

    return sync(video, audio, output, model=model, options=SyncOptions(overwrite=True, **options)).to_dict()


def main() -> None:
    """Measure, and publish the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--video", type=Path, help="a talking face")
    arguments.add_argument("--audio", type=Path, help="speech")
    arguments.add_argument("--seconds", type=float, default=10, help="length; shorter inputs are looped")
    arguments.add_argument("--model", default="default", help="name of weights, folder or checkpoint")
    arguments.add_argument("--runtime", default="openvino", help="runtime")
    arguments.add_argument("--device", default="auto", help="device of the runtime")
    arguments.add_argument("--threads", type=int, help="most threads of the runtime")
    arguments.add_argument("--repeats", type=int, default=3, help="runs; the medians are reported")
    chosen = arguments.parse_args()
    options = {"runtime": chosen.runtime, "device": chosen.device, "threads": chosen.threads}

    machine = describe_machine()
    with tempfile.TemporaryDirectory() as scratch:
        video, audio, output = (Path(scratch) / name for name in ("video.mp4", "speech.wav", "synced.mp4"))
        make_video(video, chosen.seconds, chosen.video)
        make_speech(audio, chosen.seconds, chosen.audio)
        runs = []
        for index in range(chosen.repeats):
            report, peak = in_fresh_process(sync_once, video, audio, output, chosen.model, options)
            report["peak_memory_mib"] = round(peak, 1)
            runs.append(report)
            say(
                f"run {index + 1}: {report['frames_per_second']:.1f} frames/s, "
                f"{report['total_seconds']:.1f} s, {peak:.0f} MiB"
            )

    figures = ("frames_per_second", "total_seconds", "peak_memory_mib")
    median = medians([{name: run[name] for name in figures} for run in runs])
    stages = medians([run["seconds"] for run in runs])
    for stage, seconds in stages.items():
        say(f"  {stage:12} {seconds:7.2f} s")
    publish(
        {
            "benchmark": "sync_speed",
            "machine": machine,
            "versions": describe_versions(),
            "input": {
                "video": chosen.video.name if chosen.video else "portrait",
                "audio": chosen.audio.name if chosen.audio else "demo speech",
                "seconds": chosen.seconds,
                "model": chosen.model,
                **options,
            },
            "median": median | {"stage_seconds": stages},
            "runs": runs,
        },
        chosen.json,
    )


if __name__ == "__main__":
    main()
