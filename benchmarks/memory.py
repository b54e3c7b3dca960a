"""Peak memory of `lipsmith.sync` for a short and a long version of the same video, each in its own process.

    python benchmarks/memory.py
    python benchmarks/memory.py --video talk.mp4 --audio speech.wav --long 600

The design promises that memory does not grow with length; the ratio that is printed says whether it is kept.
"""

import tempfile
from pathlib import Path
from typing import Any

from footage import make_speech, make_video
from measurement import describe_machine, describe_versions, in_fresh_process, parser, publish, say


def sync_once(video: Path, audio: Path, output: Path, model: str, options: dict[str, Any]) -> dict[str, Any]:
    """The report of one run, as JSON has it."""
    from lipsmith.pipeline import SyncOptions, sync

    return sync(video, audio, output, model=model, options=SyncOptions(overwrite=True, **options)).to_dict()


def main() -> None:
    """Measure, and publish the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--video", type=Path, help="a talking face; looped")
    arguments.add_argument("--audio", type=Path, help="speech; looped")
    arguments.add_argument("--short", type=float, default=10, help="seconds of the short version")
    arguments.add_argument("--long", type=float, default=600, help="seconds of the long version")
    arguments.add_argument("--model", default="default", help="name of weights, folder or checkpoint")
    arguments.add_argument("--runtime", default="openvino", help="runtime")
    chosen = arguments.parse_args()

    machine = describe_machine()
    versions = {}
    for name, seconds in (("short", chosen.short), ("long", chosen.long)):
        with tempfile.TemporaryDirectory() as scratch:
            video, audio, output = (
                Path(scratch) / file for file in ("video.mp4", "speech.wav", "synced.mp4")
            )
            make_video(video, seconds, chosen.video)
            make_speech(audio, seconds, chosen.audio)
            report, peak = in_fresh_process(
                sync_once, video, audio, output, chosen.model, {"runtime": chosen.runtime}
            )
        versions[name] = {
            "seconds": seconds,
            "num_frames": report["num_frames"],
            "num_synced": report["num_synced"],
            "frames_per_second": report["frames_per_second"],
            "peak_memory_mib": round(peak, 1),
        }
        say(
            f"{seconds:g} s: {peak:.0f} MiB, {report['num_frames']} frames, "
            f"{report['frames_per_second']:.1f} frames/s"
        )

    ratio = versions["long"]["peak_memory_mib"] / versions["short"]["peak_memory_mib"]
    say(f"long / short: {ratio:.3f}")
    publish(
        {
            "benchmark": "memory",
            "machine": machine,
            "versions": describe_versions(),
            "input": {
                "video": chosen.video.name if chosen.video else "portrait",
                "audio": chosen.audio.name if chosen.audio else "demo speech",
                "model": chosen.model,
                "runtime": chosen.runtime,
            },
            "ratio": round(ratio, 4),
            **versions,
        },
        chosen.json,
    )


if __name__ == "__main__":
    main()
