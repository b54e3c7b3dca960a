"""How many seconds of video are scored in a second, by SyncNet and, on request, by an expert.

    python benchmarks/scoring.py
    python benchmarks/scoring.py --video interview.mp4 --expert RUN --json scoring.json

Speed does not depend on what weights have learned, so SyncNet's are random ones. Without --video, a portrait of
512 × 512 that sways, with a synthetic voice. Each row is a process of its own; the judge is opened beforehand.
"""

import tempfile
import time
from pathlib import Path

from footage import make_speech, make_video
from lip_sync_scores import encode_picture, join
from measurement import describe_machine, describe_versions, in_fresh_process, medians, parser, publish, say

from lipsmith.media.read import read_samples

PROTOCOLS = ("whole-clip", "tracked-crop")


def write_syncnet(path: Path) -> None:
    """SyncNet's weights file, untrained."""
    import torch

    from lipsmith.models.syncnet import SyncNet

    torch.manual_seed(0)
    torch.save(SyncNet().state_dict(), path)


def write_video(path: Path, seconds: float, source: Path | None) -> None:
    """A video of a face with speech."""
    picture = path.with_suffix(".picture.mp4")
    if source is None:
        speech = path.with_suffix(".wav")
        make_video(picture, seconds)
        make_speech(speech, seconds)
        samples = read_samples(speech)
    else:
        samples = encode_picture(source, picture, seconds)
    join(picture, samples, path)


def time_scoring(
    judge: str, protocol: str, video: Path, device: str, threads: int | None, batch: int | None
) -> dict[str, float]:
    """Seconds to open the judge, and seconds of video scored in a second."""
    from lipsmith.evaluation import syncnet_runtime
    from lipsmith.evaluation.file_score import FileScorer

    if batch is not None:
        defaults = syncnet_runtime.OpenVinoSyncNet.__init__.__kwdefaults__
        assert defaults is not None
        defaults["batch"] = batch
    begun = time.perf_counter()
    scorer = FileScorer.open(judge, protocol, device=device, threads=threads)  # type: ignore[arg-type]
    opened = time.perf_counter() - begun
    worked = time.process_time()
    score = scorer.score(video)
    worked = time.process_time() - worked
    if score.failure is not None or score.duration_seconds is None:
        raise SystemExit(score.failure)
    return {
        "open_seconds": opened,
        "video_seconds": score.duration_seconds,
        "score_seconds": score.seconds,
        "processor_seconds": worked,
        "times_real_time": score.duration_seconds / score.seconds,
        "windows": score.num_windows,
    }


def main() -> None:
    """Measure, and publish the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--video", type=Path, help="a face that speaks, instead of the portrait")
    arguments.add_argument("--seconds", type=float, default=10.0, help="of it")
    arguments.add_argument("--expert", help="an expert to measure too: its run folder or file")
    arguments.add_argument("--protocols", nargs="+", default=list(PROTOCOLS), choices=PROTOCOLS)
    arguments.add_argument(
        "--batches", type=int, nargs="+", default=[None], help="windows at once, of SyncNet"
    )
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--threads", type=int, help="most threads of the networks")
    arguments.add_argument("--repeats", type=int, default=3, help="measurements; the median is reported")
    chosen = arguments.parse_args()
    machine = describe_machine()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        video, weights = Path(scratch) / "face.mkv", Path(scratch) / "syncnet.pth"
        write_video(video, chosen.seconds, chosen.video)
        write_syncnet(weights)
        judges = {"syncnet": str(weights)} | ({"expert": f"expert={chosen.expert}"} if chosen.expert else {})
        for name, judge in judges.items():
            for protocol in chosen.protocols:
                for batch in chosen.batches if name == "syncnet" else [None]:
                    runs, peaks = [], []
                    for _ in range(chosen.repeats):
                        figures, peak = in_fresh_process(
                            time_scoring, judge, protocol, video, chosen.device, chosen.threads, batch
                        )
                        runs.append(figures)
                        peaks.append(peak)
                    row = {
                        "judge": name,
                        "protocol": protocol,
                        "batch": batch or "default",
                        **medians(runs),
                        "slowest": round(min(run["times_real_time"] for run in runs), 2),
                        "peak_memory_mib": round(max(peaks), 1),
                    }
                    rows.append(row)
                    say(
                        f"{name} {protocol} batch {row['batch']}: {row['times_real_time']:.2f} × real time "
                        f"(slowest {row['slowest']}), {row['processor_seconds']:.1f} processor seconds, "
                        f"opened in {row['open_seconds']:.2f} s"
                    )
    publish(
        {"benchmark": "scoring", "machine": machine, "versions": describe_versions(), "rows": rows},
        chosen.json,
    )


if __name__ == "__main__":
    main()
