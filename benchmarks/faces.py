"""The face stage: milliseconds a frame, and what it misses of what a search of every frame finds.

    python benchmarks/faces.py                                   # a drawn video of 1280 × 720
    python benchmarks/faces.py --clips footage/ --json faces.json
    python benchmarks/faces.py --clips footage/ --no-recall --sizes 1280x720

A clip counts for recall if it shows one clear face: a search of every frame finds a face in nine of ten frames, and a
second one of at least half its width in no more than one of twenty. Recall is the share of the frames with a found face
in which the tracker's box lies on it (their overlap is half of their union or more), searching as rarely as the
pipeline does. Where there are several it may be the largest or the most certain one: a search of a single frame now and
then takes hands for a face larger than the speaker's, or is surer of a small one behind. `lost_frames` are the others.
Milliseconds are processor time of the tracking alone, without decoding, in one thread; the search of every frame is
timed beside it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from footage import CASES, make_video
from measurement import describe_machine, describe_versions, in_fresh_process, parser, publish, say

SUFFIXES = {".mp4", ".mov", ".mkv", ".mpg", ".flv", ".avi", ".webm"}
ONE_FACE_SHARE, SECOND_FACE_SHARE = 0.9, 0.05
LEAST_OVERLAP = 0.5


def measure_clips(paths: Iterable[Path], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each clip."""
    import cv2

    from lipsmith.faces.detect import resolve_detector
    from lipsmith.media.read import read_pictures

    cv2.setNumThreads(1)
    detector = resolve_detector(chosen.detector)
    detector.detect(next(iter(read_pictures(next(iter(paths))))).picture.bgr())  # networks are compiled
    return [measure_clip(path, detector, chosen) for path in paths]


def measure_clip(path: Path, detector: Any, chosen: argparse.Namespace) -> dict[str, Any]:
    """Track a clip, and search all of its frames."""
    from lipsmith.errors import LipsmithError
    from lipsmith.faces.track import FaceTracker, primary_box_rows, search
    from lipsmith.geometry import Box
    from lipsmith.media.probe import probe
    from lipsmith.media.read import read_pictures

    row: dict[str, Any] = {"clip": path.name}
    seconds = search_seconds = 0.0
    found = []
    try:
        info = probe(path).video
        if info is None:
            return row | {"failure": "no picture"}
        tracker = FaceTracker(detector, rate=info.rate, pixel_aspect=info.pixel_aspect)
        for shown in read_pictures(path):
            if shown.time >= chosen.seconds:
                break
            start = time.thread_time()
            tracker.add(shown.picture, shown.index)
            tracker.settled()
            seconds += time.thread_time() - start
            if chosen.recall:
                start = time.thread_time()
                found.append(search(detector, shown.picture, float(info.pixel_aspect)))
                search_seconds += time.thread_time() - start
        start = time.thread_time()
        tracks = tracker.finish()
        num_frames = shown.index + (shown.time < chosen.seconds)
        boxes = primary_box_rows(tracks, num_frames)
        seconds += time.thread_time() - start
    except LipsmithError as error:
        return row | {"failure": str(error)}
    row |= {
        "width": info.width,
        "height": info.height,
        "frames": num_frames,
        "ms_a_frame": 1000 * seconds / num_frames,
    }
    if not chosen.recall:
        return row
    with_face = [index for index, faces in enumerate(found) if faces]
    several = sum(
        sum(face.box.width >= max(other.box.width for other in faces) / 2 for face in faces) > 1
        for faces in found
        if faces
    )
    row["search_ms_a_frame"] = 1000 * search_seconds / num_frames
    row["is_one_clear_face"] = bool(
        len(with_face) >= ONE_FACE_SHARE * num_frames and several <= SECOND_FACE_SHARE * num_frames
    )
    hits = 0
    for index in with_face:
        tracked, clearest = Box(*boxes[index].tolist()), found[index][0].box
        largest = max((face.box for face in found[index]), key=lambda box: box.area)
        # Of a face that is not tracked the row is NaN, which overlaps with nothing.
        hits += max(tracked.iou(largest), tracked.iou(clearest)) >= LEAST_OVERLAP
    row["recall"] = hits / len(with_face) if with_face else None
    row["lost_frames"] = len(with_face) - hits
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over all clips, weighted by frames; and by size of picture."""
    rows = [row for row in rows if "failure" not in row]
    clear = [row for row in rows if row.get("is_one_clear_face")]
    sizes: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        sizes.setdefault(f"{row['width']}x{row['height']}", []).append(row)

    def average(chosen: list[dict[str, Any]], name: str) -> float:
        return round(
            sum(row[name] * row["frames"] for row in chosen) / sum(row["frames"] for row in chosen), 3
        )

    by_size = {
        size: {"clips": len(chosen), "ms_a_frame": average(chosen, "ms_a_frame")}
        | ({"search_ms_a_frame": average(chosen, "search_ms_a_frame")} if "recall" in chosen[0] else {})
        for size, chosen in sorted(sizes.items())
    }
    result: dict[str, Any] = {
        "clips": len(rows),
        "ms_a_frame": average(rows, "ms_a_frame"),
        "by_size": by_size,
    }
    if clear:
        result |= {
            "clips_with_one_clear_face": len(clear),
            "frames_of_them": sum(row["frames"] for row in clear),
            "lost_frames": sum(row["lost_frames"] for row in clear),
            "recall": round(
                1 - sum(row["lost_frames"] for row in clear) / sum(row["frames"] for row in clear), 5
            ),
            "clips_with_lost_frames": sum(row["lost_frames"] > 0 for row in clear),
            "worst_recall": round(min(row["recall"] for row in clear), 4),
            "median_clip_ms": round(statistics.median(row["ms_a_frame"] for row in clear), 3),
        }
    return result


def main() -> None:
    """Measure, and publish the result."""
    arguments = parser(__doc__)
    arguments.add_argument("--clips", type=Path, nargs="+", help="videos, or folders of them")
    arguments.add_argument("--seconds", type=Fraction, default=Fraction(60), help="of each clip")
    arguments.add_argument("--sizes", nargs="+", metavar="WxH", help="clips of these sizes only")
    arguments.add_argument("--every", type=int, default=1, help="take one clip of so many")
    arguments.add_argument("--detector", default="mtcnn", help="face detector")
    arguments.add_argument(
        "--recall", action=argparse.BooleanOptionalAction, default=True, help="search every frame, too"
    )
    chosen = arguments.parse_args()

    machine = describe_machine()
    with tempfile.TemporaryDirectory() as scratch:
        if chosen.clips:
            paths = sorted(
                path
                for given in chosen.clips
                for path in (given.rglob("*") if given.is_dir() else [given])
                if path.suffix.lower() in SUFFIXES
            )[:: chosen.every]
        else:
            drawn = CASES["long"]
            paths = [Path(scratch) / "drawn.mp4"]
            make_video(paths[0], 20, size=(drawn.width, drawn.height))
        if chosen.sizes:
            paths = [path for path in paths if size_of(path) in chosen.sizes]
        if not paths:
            raise SystemExit("No such clips.")
        rows, peak = in_fresh_process(measure_clips, paths, chosen)
    totals = summary(rows)
    for size, figures in totals["by_size"].items():
        say(f"{size}: {figures}")
    say(str({name: value for name, value in totals.items() if name != "by_size"}))
    for row in rows:
        if row.get("lost_frames") and row["is_one_clear_face"]:
            say(f"  {row['clip']}: {row['lost_frames']} of {row['frames']} frames lost")
    publish(
        {
            "benchmark": "faces",
            "machine": machine,
            "versions": describe_versions(),
            "settings": {
                "detector": chosen.detector,
                "seconds": float(chosen.seconds),
                "every": chosen.every,
            },
            "peak_memory_mib": round(peak, 1),
            "summary": totals,
            "clips": [
                {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}
                for row in rows
            ],
        },
        chosen.json,
    )


def size_of(path: Path) -> str:
    """Width and height, as in `1280x720`; empty for what is no video."""
    from lipsmith.errors import LipsmithError
    from lipsmith.media.probe import probe

    try:
        picture = probe(path).video
    except LipsmithError:
        return ""
    return "" if picture is None else f"{picture.width}x{picture.height}"


if __name__ == "__main__":
    main()
