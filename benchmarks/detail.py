"""What detail lent by the reference's frame gives to pasted mouths, and what it costs.

    python benchmarks/detail.py CLIP CLIP… --speech SPEECH
    python benchmarks/detail.py CLIP CLIP… --speech SPEECH --repeats 3 --json detail.json

Every clip is lip-synced with and without it, by turns, for as long as `--seconds`. Detail is what a blur of 1/96 of the
face's height takes from the mouth's region, in grey levels; `amplitude` is its root mean square over that of the real
frames, every sixth frame; `change` that of its difference from one frame to the next over its own amplitude: a picture
that flickers has more than the real one. Milliseconds are processor time of the whole run for each frame.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from measurement import describe_machine, describe_versions, parser, publish, say

from lipsmith import pipeline
from lipsmith.data.synthetic import write_wav
from lipsmith.faces.detect import FaceDetector
from lipsmith.geometry import Box, Image
from lipsmith.media.read import read_frames, read_samples
from lipsmith.pipeline import LipSyncer, SyncOptions
from lipsmith.timebase import SAMPLE_RATE_HZ

EVERY = 6
WAYS = ("with", "without")


@contextmanager
def lending(way: str) -> Iterator[None]:
    """References lend their detail inside, or do not."""
    paste = pipeline.paste_into
    if way == "without":
        pipeline.paste_into = lambda *given: paste(*given[:-1], ())  # the last is what the references lend
    try:
        yield
    finally:
        pipeline.paste_into = paste


def detail(image: Image, face: Box) -> np.ndarray:
    """Of the mouth's region: the middle three fifths of the face's width, from above the lips to the chin."""
    top, bottom = int(face.top + 0.58 * face.height), int(face.top + 0.95 * face.height)
    left, right = int(face.left + 0.2 * face.width), int(face.right - 0.2 * face.width)
    grey = cv2.cvtColor(image[top:bottom, left:right], cv2.COLOR_BGR2GRAY).astype(np.float32)
    return grey - cv2.GaussianBlur(grey, (0, 0), max(face.height / 96, 1.0))


def measure_pictures(
    real: Path, made: dict[str, Path], num_frames: int, detector: FaceDetector
) -> dict[str, Any]:
    """Amplitudes and changes of detail."""
    videos = {"real": real, **made}
    energy, change = dict.fromkeys(videos, 0.0), dict.fromkeys(videos, 0.0)
    heights, face, before = [], None, {}
    frames = zip(*(islice(read_frames(path), num_frames) for path in videos.values()), strict=False)
    for index, shown in enumerate(frames):
        if index % EVERY == 0:
            found = detector.detect(shown[0].image)
            face = found[0].box if found else None
        if face is None or index % EVERY > 1:
            continue
        now = {name: detail(frame.image, face) for name, frame in zip(videos, shown, strict=True)}
        if index % EVERY == 0:
            heights.append(face.height)
            before = now
            for name in videos:
                energy[name] += float(np.square(now[name]).mean())
        else:
            for name in videos:
                change[name] += float(np.square(now[name] - before[name]).mean())
    return {
        "face_height": round(statistics.median(heights)),
        "amplitude": {name: round((energy[name] / energy["real"]) ** 0.5, 2) for name in made},
        "change": {name: round((change[name] / energy[name]) ** 0.5, 2) for name in videos},
    }


def measure_clip(clip: Path, speech: Path, syncer: LipSyncer, repeats: int, folder: Path) -> dict[str, Any]:
    """One row."""
    made = {way: folder / f"{clip.stem}_{way}.mp4" for way in WAYS}
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    num_frames = 0
    for turn in range(repeats + 1):  # the first is the warm-up
        for way, output in made.items():
            start = time.process_time()
            with lending(way):
                report = syncer.sync(clip, speech, output, options=SyncOptions(overwrite=True, length="cut"))
            num_frames = report.num_frames
            if turn:
                spent[way].append((time.process_time() - start) * 1000 / num_frames)
    cost = {way: [round(value, 1) for value in values] for way, values in spent.items()}
    row = measure_pictures(clip, made, num_frames, syncer.detector)
    return {"clip": clip.name, "frames": num_frames, **row, "milliseconds": cost}


def main() -> None:
    """Measure, and print the rows."""
    arguments = parser((__doc__ or "").splitlines()[0])
    arguments.add_argument("clips", type=Path, nargs="+")
    arguments.add_argument("--speech", type=Path, required=True, help="whose sound every clip gets")
    arguments.add_argument("--seconds", type=float, default=3.0)
    arguments.add_argument("--repeats", type=int, default=1)
    chosen = arguments.parse_args()
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as name, LipSyncer.load("default") as syncer:
        speech = Path(name) / "speech.wav"
        write_wav(speech, read_samples(chosen.speech)[: int(chosen.seconds * SAMPLE_RATE_HZ)])
        rows = []
        for clip in chosen.clips:
            rows.append(measure_clip(clip, speech, syncer, chosen.repeats, Path(name)))
            say(str(rows[-1]))
    publish(
        {"benchmark": "detail", "machine": machine, "versions": describe_versions(), "rows": rows},
        chosen.json,
    )


if __name__ == "__main__":
    main()
