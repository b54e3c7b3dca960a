"""What LSE-D, LSE-C and the AV offset say of real clips whose sound was moved, silenced or exchanged.

    python benchmarks/lip_sync_scores.py CLIP CLIP… --judge expert=RUN
    python benchmarks/lip_sync_scores.py CLIP CLIP… --judge syncnet_v2.model --json scores.json

Of every clip the same encoded picture is put together with its own sound, moved by −5 … 5 frames of 40 ms, with
digital silence, and with the speech of the next clip; then `lipsmith evaluate score` looks at the files.
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from measurement import describe_versions, parser, publish, say
from numpy.typing import NDArray

from lipsmith.media.probe import probe
from lipsmith.media.read import first_frame_time, read_frames, read_samples
from lipsmith.media.write import VideoWriter
from lipsmith.timebase import SAMPLE_RATE_HZ, TRAINING_RATE_HZ

SHIFTS = tuple(range(-5, 6))
SAMPLES_PER_FRAME = int(SAMPLE_RATE_HZ / TRAINING_RATE_HZ)
Samples = NDArray[np.float32]


def sounds(own: Samples, foreign: Samples) -> Iterator[tuple[str, Samples]]:
    """Name and samples of every sound that a clip gets; a positive shift brings its own one earlier."""
    for shift in SHIFTS:
        moved = np.zeros_like(own)
        count = abs(shift) * SAMPLES_PER_FRAME
        if shift >= 0:
            moved[: len(own) - count] = own[count:]
        else:
            moved[count:] = own[: len(own) - count]
        yield f"{shift:+d}", moved
    yield "silence", np.zeros_like(own)
    yield "foreign speech", np.resize(foreign, len(own))


def encode_picture(source: Path, path: Path, seconds: float) -> Samples:
    """Write the first `seconds` of a clip's picture, without sound; its sound."""
    info = probe(source)
    if info.video is None:
        raise SystemExit(f"{source} has no picture.")
    last = Fraction(0)
    with VideoWriter(path, width=info.video.width, height=info.video.height, rate=info.video.rate) as writer:
        for frame in read_frames(source):
            if frame.time >= seconds:
                break
            writer.write(frame.image, frame.time)
            last = frame.time
    samples = read_samples(source, origin=first_frame_time(source))
    return samples[: round((last + 1 / info.video.rate) * SAMPLE_RATE_HZ)]


def join(picture: Path, samples: Samples, path: Path) -> None:
    """Write `picture`, its packets as they are, with `samples` as 16-bit sound."""
    with av.open(str(picture)) as source, av.open(str(path), "w") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        sound = target.add_stream("pcm_s16le", rate=SAMPLE_RATE_HZ, layout="mono")
        first = None
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is None:
                continue
            first = packet.pts if first is None else first
            packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, video
            target.mux(packet)
        whole = (samples.clip(-1, 1) * 32767).round().astype(np.int16)
        frame = av.AudioFrame.from_ndarray(whole[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE_HZ, 0, Fraction(1, SAMPLE_RATE_HZ)
        target.mux(sound.encode(frame))
        target.mux(sound.encode(None))


def write_variants(clips: Sequence[Path], folder: Path, seconds: float) -> None:
    """Every clip with every sound, as folder/NAME OF THE SOUND/NAME OF THE CLIP.mkv, unless they are there."""
    if (folder / "foreign speech" / f"{clips[-1].stem}.mkv").exists():
        return
    pictures = [folder / f"{place}.mp4" for place in range(len(clips))]
    own = [encode_picture(clip, picture, seconds) for clip, picture in zip(clips, pictures, strict=True)]
    for place, (clip, picture) in enumerate(zip(clips, pictures, strict=True)):
        for name, samples in sounds(own[place], own[(place + 1) % len(clips)]):
            (folder / name).mkdir(exist_ok=True)
            join(picture, samples, folder / name / f"{clip.stem}.mkv")
        picture.unlink()


def score_folder(folder: Path, options: Sequence[str]) -> dict:
    """What `lipsmith evaluate score FOLDER --json` answers."""
    import json

    run = "from lipsmith.cli import main; main()"
    command = [sys.executable, "-c", run, "evaluate", "score", str(folder), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 12):
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    """Write the files, score them, publish the table."""
    arguments = parser(__doc__)
    arguments.add_argument("clips", type=Path, nargs="+", help="real clips in sync, of different people")
    arguments.add_argument("--judge", help="as for lipsmith evaluate score")
    arguments.add_argument("--protocol", default="tracked-crop")
    arguments.add_argument("--seconds", type=float, default=8.0, help="longest stretch of a clip")
    arguments.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep scores there: goes on where it stopped"
    )
    chosen = arguments.parse_args()
    options = ["--protocol", chosen.protocol]
    options += ["--judge", chosen.judge] if chosen.judge else []
    options += ["--output", str(chosen.keep)] if chosen.keep else []
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.keep / "videos" if chosen.keep else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        write_variants(chosen.clips, folder, chosen.seconds)
        say(f"{len(chosen.clips) * (len(SHIFTS) + 2)} files written.")
        answer = score_folder(folder, options)
    rows: dict[str, dict[str, dict]] = {}
    for row in answer["files"]:
        path = Path(row["path"])
        rows.setdefault(path.parent.name, {})[path.stem] = row
    real = {name: row for name, row in rows["+0"].items() if row["failure"] is None}
    table = []
    for sound, scored in rows.items():
        pairs = [(scored[name], real[name]) for name in real if scored[name]["failure"] is None]
        moved = [row["av_offset_frames"] - at_rest["av_offset_frames"] for row, at_rest in pairs]
        expected = int(sound) if sound[0] in "+-" else None
        table.append(
            {
                "sound": sound,
                "clips": len(pairs),
                "lse_d": round(statistics.mean(row["lse_d"] for row, _ in pairs), 4),
                "lse_c": round(statistics.mean(row["lse_c"] for row, _ in pairs), 4),
                "lse_d_change": round(statistics.mean(row["lse_d"] - at["lse_d"] for row, at in pairs), 4),
                "lse_c_change": round(statistics.mean(row["lse_c"] - at["lse_c"] for row, at in pairs), 4),
                "worse_lse_d": sum(row["lse_d"] > at["lse_d"] for row, at in pairs),
                "worse_lse_c": sum(row["lse_c"] < at["lse_c"] for row, at in pairs),
                "offset_moved_exactly": None
                if expected is None
                else sum(change == expected for change in moved),
            }
        )
    table.sort(key=lambda row: (row["offset_moved_exactly"] is None, _order(row["sound"])))
    result = {
        "benchmark": "lip_sync_scores",
        "versions": describe_versions(),
        "scorer": answer["scorer"],
        "offsets_at_rest": {name: row["av_offset_frames"] for name, row in real.items()},
        "without_score": {
            Path(row["path"]).stem: row["failure"] for row in answer["files"] if row["failure"]
        },
        "table": table,
        "files": [{key: row[key] for key in row if key != "tracks"} for row in answer["files"]],
    }
    for row in table:
        say("  ".join(f"{key} {value}" for key, value in row.items()))
    publish(result, chosen.json)


def _order(sound: str) -> int:
    return int(sound) if sound[0] in "+-" else 99


if __name__ == "__main__":
    main()
