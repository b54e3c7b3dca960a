"""Live use: how late `LipSyncer.stream` gives a frame back, with sources that keep to the clock.

    python benchmarks/live.py
    python benchmarks/live.py --video talk.mp4 --audio speech.wav --rates 25 50 --chunk 0.01

Frames and chunks of sound appear at their own time, as from a camera and a microphone. A frame's latency is the time
from its appearing to its coming back: the stated look-ahead, waiting for the end of the chunk that completes it, and
computing. `computing` is what is left beyond the moment at which the last sample that the frame needs was there. A rate
is kept up with where the latency does not grow: `late_frames` counts those later than look-ahead, a chunk and a frame.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
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
    say,
    spread,
)


def run_live(video: Path, audio: Path, rate: Fraction, chosen: argparse.Namespace) -> dict[str, Any]:
    """One live run: latencies of the frames after the first second, in milliseconds."""
    import numpy as np

    from lipsmith import LipSyncer
    from lipsmith.media.read import read_frames, read_samples

    images = []
    for frame in read_frames(video):  # decoded before, as a camera hands them over
        images.append(frame.image)
        if len(images) >= chosen.seconds * rate:
            break
    samples = read_samples(audio)[: round(len(images) / rate * 16_000)]
    chunk = round(chosen.chunk * 16_000)
    appeared = []

    with LipSyncer.load(
        chosen.model, runtime=chosen.runtime, device=chosen.device, threads=chosen.threads
    ) as syncer:
        look_ahead = float(syncer.look_ahead_seconds)
        list(
            syncer.stream(images[:10], [samples[:16_000]], rate=rate)
        )  # networks are compiled at their first use
        start = time.perf_counter() + 0.2

        def wait_until(seconds: float) -> None:
            time.sleep(max(0.0, start + seconds - time.perf_counter()))

        def frames() -> Iterator[Any]:
            for index, image in enumerate(images):
                wait_until(float(index / rate))
                appeared.append(start + float(index / rate))
                yield image

        def chunks() -> Iterator[Any]:
            for first in range(0, len(samples), chunk):
                part = samples[first : first + chunk]
                wait_until((first + len(part)) / 16_000)  # a microphone gives what it has heard
                yield part

        busy = time.process_time()
        came = [time.perf_counter() for _ in syncer.stream(frames(), chunks(), rate=rate)]
        busy = time.process_time() - busy
    latency = 1000 * (np.array(came) - np.array(appeared))
    # Sound that a frame needs is there with the end of the chunk that holds its last sample.
    needed = (np.arange(len(came)) / float(rate) + look_ahead) / chosen.chunk
    there = np.minimum(np.ceil(needed - 1e-9) * chosen.chunk, len(samples) / 16_000)
    computing = 1000 * (np.array(came) - start - there)
    settled = slice(round(rate), None)
    most = 1000 * (look_ahead + chosen.chunk + 1 / float(rate))
    return {
        "latency_ms": float(np.median(latency[settled])),
        "latency_p95_ms": float(np.percentile(latency[settled], 95)),
        "latency_max_ms": float(latency[settled].max()),
        "computing_ms": float(np.median(computing[settled])),
        "computing_p95_ms": float(np.percentile(computing[settled], 95)),
        "processor_ms": 1000 * busy / len(came),  # a frame; hardly changed by what else the machine does
        "late_frames": float((latency[settled] > most).sum()),
        "frames": float(len(came)),
        "look_ahead_ms": 1000 * look_ahead,
    }


def main() -> None:
    """Measure, and publish the result."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--video", type=Path, help="a talking face; default: the demo's portrait, 512 × 512"
    )
    arguments.add_argument("--audio", type=Path, help="speech")
    arguments.add_argument("--seconds", type=float, default=8, help="length of a run")
    arguments.add_argument("--rates", type=float, nargs="+", default=[25], help="frames a second")
    arguments.add_argument("--chunk", type=float, default=0.02, help="seconds of sound that come together")
    arguments.add_argument("--model", default="default", help="name of weights, folder or checkpoint")
    arguments.add_argument("--runtime", default="openvino", help="runtime")
    arguments.add_argument("--device", default="auto", help="device of the runtime")
    arguments.add_argument("--threads", type=int, help="most threads of the runtime")
    arguments.add_argument("--warmups", type=int, default=1, help="runs that do not count")
    arguments.add_argument("--repeats", type=int, default=3, help="runs; the medians are reported")
    chosen = arguments.parse_args()

    machine = describe_machine()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        facts, _ = in_fresh_process(
            make_inputs, Path(scratch), "square", chosen.video, chosen.audio, chosen.seconds
        )
        for rate in chosen.rates:
            runs, peaks = [], []
            for index in range(-chosen.warmups, chosen.repeats):
                figures, peak = in_fresh_process(
                    run_live, Path(scratch) / "video.mp4", Path(scratch) / "speech.wav",
                    Fraction(rate).limit_denominator(1001), chosen,
                )  # fmt: skip
                if index >= 0:
                    runs.append(figures)
                    peaks.append(peak)
            row = {
                "rate": rate,
                "median": medians(runs),
                "spread": spread(runs),
                "peak_memory_mib": round(statistics.median(peaks), 1),
            }
            rows.append(row)
            say(
                f"{rate:g} frames/s: {row['median']['latency_ms']:.0f} ms from a frame's appearing "
                f"(95 %: {row['median']['latency_p95_ms']:.0f}), of which look-ahead "
                f"{row['median']['look_ahead_ms']:.1f}, computing {row['median']['computing_ms']:.1f} "
                f"(95 %: {row['median']['computing_p95_ms']:.1f}; processor time a frame "
                f"{row['median']['processor_ms']:.1f}); {row['median']['late_frames']:.0f} frames late"
            )
    publish(
        {
            "benchmark": "live",
            "machine": machine,
            "versions": describe_versions(),
            "input": facts,
            "settings": {
                name: getattr(chosen, name)
                for name in ("model", "runtime", "device", "threads", "chunk", "warmups", "repeats")
            },
            "rows": rows,
        },
        chosen.json,
    )


if __name__ == "__main__":
    main()
