"""A result of `lipsmith evaluate` as one page: a file that needs nothing else and asks nothing of a network.

Tables with intervals, in the layout of the paper's table 1 where its methods are among the systems; distributions and
offsets; the worst clips as film strips; every failure with its reason; what the numbers were made with.
"""

import base64
import io
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from lipsmith.audio.mel import mel_spectrogram
from lipsmith.data.storage import write_whole
from lipsmith.errors import LipsmithError
from lipsmith.evaluation.benchmark_result import TABLE_1, PaperScores
from lipsmith.evaluation.comparison import Comparison, SystemScores
from lipsmith.evaluation.file_score import FileScore, frames_at_rate
from lipsmith.evaluation.strips import film_strip
from lipsmith.evaluation.sync_score import MAX_OFFSET_FRAMES, Interval
from lipsmith.faces.detect import FaceDetector, resolve_detector
from lipsmith.geometry import Box, Crop, Image
from lipsmith.media.read import first_frame_time, read_frames, read_samples
from lipsmith.timebase import TRAINING_RATE_HZ

logger = logging.getLogger(__name__)

NUM_WORST = 3
MOST_ROWS = 500
"""Rows of the table of all videos; the rest is in the CSV."""
_SYNCNET = "SyncNet v2"
# The paper's test sets, with the number of pairs in their published lists.
_PAPER_LISTS = {"lrs2": 14_239, "lrs3": 14_000, "lrw": 28_000}
_PAPER_DATA = ("LRW", "LRS2", "LRS3")
_REAL_METHOD = "Real Videos"

_STRIP_FRAMES = 12
_STRIP_EVERY = 2  # frames at 25 a second
_STRIP_LATEST = 500  # frames from the start of a long track: what lies before has to be decoded
_STRIP_CELL = 104
_STRIP_MARGIN = 1.5  # side of the picture in sides of the face's box
_JPEG_QUALITY = 85
_MOST_DOTS = 150  # of a system in a chart of distributions
_WIDTH_INCHES = 5.0
_INK, _PALE = "#1b1d21", "#5b616b"


def write_report(
    comparison: Comparison,
    path: Path,
    *,
    title: str = "",
    num_worst: int = NUM_WORST,
    folder: Path | None = None,
    detector: FaceDetector | None = None,
) -> None:
    """Write the page of `comparison` to `path`, whole or not at all.

    Args:
        comparison: what to show.
        path: the HTML file.
        title: of the page; a benchmark's list, or its systems, by default.
        num_worst: clips of each system that are shown as strips, the highest LSE-D first; 0 decodes no video.
        folder: where relative paths of videos are looked for too.
        detector: finds the face for the strips; None: the default one.

    Raises:
        OutputError: it cannot be written.
    """
    page = report_page(comparison, title=title, num_worst=num_worst, folder=folder, detector=detector)
    write_whole(path, page.encode(errors="replace"))


def report_page(
    comparison: Comparison,
    *,
    title: str = "",
    num_worst: int = NUM_WORST,
    folder: Path | None = None,
    detector: FaceDetector | None = None,
) -> str:
    """The page as text; arguments as for `write_report`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "printed": _as_printed,
        "interval": interval_in_words,
        "percent": percent_in_words,
    }
    rows = table_rows(comparison)
    with_paper = bool(comparison.facts.get("list")) or any(row.paper for row in rows)
    scored = [score for system in comparison.systems for score in system.scores if score.is_scored]
    return environment.get_template("report.html").render(
        title=title or _title(comparison),
        comparison=comparison,
        rows=_with_unmeasured(rows) if with_paper else rows,
        with_fid=with_paper or any(system.fid is not None for system in comparison.systems),
        with_paper=with_paper,
        paper_data=_PAPER_DATA,
        warnings=paper_warnings(comparison) if with_paper else [],
        order=method_order(rows) if with_paper else None,
        differences=comparison.differences(),
        qualities=list(dict.fromkeys(name for system in comparison.systems for name in system.quality)),
        charts=_charts(comparison.systems) if scored else [],
        worst=_worst_clips(comparison, num_worst, folder, detector),
        failures=[
            (system.name, item, score)
            for system in comparison.systems
            for item, score in zip(comparison.items, system.scores, strict=True)
            if not score.is_scored
        ],
        all_rows=[
            (system.name, item, score)
            for system in comparison.systems
            for item, score in zip(comparison.items, system.scores, strict=True)
        ],
        most_rows=MOST_ROWS,
        facts=_facts(comparison),
    )


@dataclass(frozen=True)
class ReportRow:
    """A row of the first table: a system's numbers, and the paper's of the same method by test set."""

    name: str
    system: SystemScores | None
    method: str | None
    paper: Mapping[str, PaperScores]

    @property
    def summary(self) -> Any:
        """Of the system; None where the paper's method was not measured."""
        return None if self.system is None else self.system.summary()


def table_rows(comparison: Comparison) -> list[ReportRow]:
    """A row for each system, the paper's methods in the paper's order, then the others in their own."""
    rows = [
        ReportRow(system.name, system, method, _paper(method))
        for system in comparison.systems
        for method in [paper_method(system.name)]
    ]
    return _in_paper_order(rows)


def paper_method(system: str) -> str | None:
    """The method of the paper's table 1 that a system is named after, without case, spaces and signs; `real` too."""
    plain = _plain(system)
    if plain == "real":
        return _REAL_METHOD
    return next((row.method for row in TABLE_1 if _plain(row.method) == plain), None)


def paper_warnings(comparison: Comparison) -> list[str]:
    """Why the measured numbers do not compare with the paper's; empty where they do."""
    scorer, facts = comparison.scorer, comparison.facts
    found = []
    if scorer["judge"] != _SYNCNET:
        found.append(
            f"Another judge: {scorer['judge']} here, {_SYNCNET} in the paper. LSE-D and LSE-C of the two do not "
            "compare, not even roughly: their distances have other units."
        )
    elif scorer["protocol"] != "whole-clip":
        found.append(
            f"Another protocol: {scorer['protocol']} here, whole clips in the paper. LSE-D and LSE-C of the two do "
            "not compare."
        )
    name = str(facts.get("list") or "")
    is_paper_list = any(
        data in name.lower() and len(comparison.items) == count for data, count in _PAPER_LISTS.items()
    )
    if not is_paper_list:
        footage = f"the list {name} of {len(comparison.items)} pairs" if name else "videos of your own"
        found.append(
            f"Other footage: {footage} here, LRW, LRS2 and LRS3 in the paper. Other faces and other speech give "
            "other levels: compare the order of the methods."
        )
    features = facts.get("features")
    if features and not features.get("is_standard", True):
        found.append("Another FID: not by the standard Inception features.")
    return found


def method_order(rows: Sequence[ReportRow]) -> dict[str, list[str]] | None:
    """Names of the measured systems that the paper has too, best LSE-D first: here, and on LRS2 in the paper.

    None where there are fewer than two.
    """
    known = [
        (row.name, row.summary.lse_d.value, row.paper["LRS2"].lse_d)
        for row in rows
        if row.system is not None and row.paper and row.summary.num_scored
    ]
    if len(known) < 2:
        return None
    return {
        "here": [name for name, _, _ in sorted(known, key=lambda entry: entry[1])],
        "paper": [name for name, _, _ in sorted(known, key=lambda entry: entry[2])],
    }


def worst_scores(comparison: Comparison, system: SystemScores, count: int) -> list[tuple[str, FileScore]]:
    """The items of a system with the highest LSE-D, and their scores; the worst first."""
    scored = [pair for pair in zip(comparison.items, system.scores, strict=True) if pair[1].is_scored]
    return sorted(scored, key=lambda pair: -(pair[1].lse_d or 0.0))[:count]


def clip_strip(path: Path, score: FileScore, detector: FaceDetector) -> Image:
    """Frames of a scored video around the face, a second from the middle of its track, with the sound below.

    Raises:
        LipsmithError: the video cannot be read.
        ValueError: it ends before the strip begins.
    """
    first = strip_start(score)
    shown = islice(
        frames_at_rate(read_frames(path)), first, first + _STRIP_FRAMES * _STRIP_EVERY, _STRIP_EVERY
    )
    frames = [frame.image for frame in shown]
    if not frames:
        raise ValueError(f"{path} ends before frame {first}")
    if score.protocol == "tracked-crop":
        frames = _around_face(frames, detector)
    mel = mel_spectrogram(read_samples(path, origin=first_frame_time(path)))
    # One cell a frame at half the rate, since only every other frame was kept.
    return film_strip(
        {"face": np.stack(frames)},
        mel,
        num_frames=len(frames),
        every=1,
        rate=TRAINING_RATE_HZ / _STRIP_EVERY,
        mel_seconds=float(first / TRAINING_RATE_HZ),
        cell=_STRIP_CELL,
        label_width=0,
    )


def strip_start(score: FileScore) -> int:
    """The frame at 25 a second with which the strip of a scored video begins."""
    if not score.tracks:
        return 0
    track = score.tracks[0]
    middle = (track.num_frames - _STRIP_FRAMES * _STRIP_EVERY) // 2
    return track.first_frame + min(max(middle, 0), _STRIP_LATEST)


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A number with so many digits after the point, or a dash."""
    if value is None or math.isnan(value):
        return "—"
    return f"{value:{'+' if sign and value else ''}.{digits}f}".replace("-", "−")


def interval_in_words(found: Interval, digits: int = 3, sign: bool = False) -> str:
    """The ends of an interval, or nothing where there is no number."""
    if math.isnan(found.value):
        return ""
    return f"{number(found.low, digits, sign)} to {number(found.high, digits, sign)}"


def percent_in_words(share: float | None, sign: bool = False) -> str:
    """A share of 1 in per cent, or a dash."""
    if share is None or math.isnan(share):
        return "—"
    return number(100 * share, 0, sign) + " %"


def _as_printed(value: float | None) -> str:
    """A number of the paper's, with its four digits."""
    return "—" if value is None else f"{value:#.4g}"


def _title(comparison: Comparison) -> str:
    name = comparison.facts.get("list")
    if name:
        return f"Lip-sync benchmark: {name}"
    names = [system.name for system in comparison.systems]
    return "Lip-sync scores: " + (names[0] if len(names) == 1 else ", ".join(names))


def _paper(method: str | None) -> dict[str, PaperScores]:
    return {row.data: row for row in TABLE_1 if row.method == method}


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _in_paper_order(rows: Sequence[ReportRow]) -> list[ReportRow]:
    methods = list(dict.fromkeys(row.method for row in TABLE_1))
    return sorted(rows, key=lambda row: methods.index(row.method) if row.method else len(methods))


def _with_unmeasured(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """The rows, and one for each of the paper's methods that is not among the systems."""
    measured = {row.method for row in rows}
    absent = [method for method in dict.fromkeys(row.method for row in TABLE_1) if method not in measured]
    return _in_paper_order([*rows, *(ReportRow(method, None, method, _paper(method)) for method in absent)])


def _facts(comparison: Comparison) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the numbers were made with, by group: name and value."""
    scorer = comparison.scorer
    judging = {
        "Judge": scorer["judge"],
        "SHA-256 of its weights": scorer["judge_digest"],
        "Runtime": scorer.get("runtime"),
        "Protocol": scorer["protocol"],
        "Rule": scorer.get("rule"),
        **{f"Setting {name}": value for name, value in scorer.get("settings", {}).items()},
    }
    list_facts = {
        "Pair list": comparison.facts.get("list"),
        "SHA-256 of its pairs": comparison.facts.get("list_digest"),
        **{f"FID {name}": value for name, value in (comparison.facts.get("features") or {}).items()},
        **{f"Made with {name}": value for name, value in (comparison.facts.get("making") or {}).items()},
    }
    groups = [
        ("Command", {"as it was called": comparison.command}),
        ("Judge", judging),
        ("Footage", list_facts),
        *((f"System {system.name}", system.facts) for system in comparison.systems),
        ("Versions and machine", comparison.environment),
    ]
    said = [
        (
            name,
            [
                (str(key), _in_words(value))
                for key, value in values.items()
                if value not in (None, "", {}, [])
            ],
        )
        for name, values in groups
    ]
    return [(name, values) for name, values in said if values]


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return str(value)


def _worst_clips(
    comparison: Comparison, count: int, folder: Path | None, detector: FaceDetector | None
) -> list[dict[str, Any]]:
    """By system: its worst clips, each with a strip as a data address, or a sentence why there is none."""
    if count < 1:
        return []
    found = []
    for system in comparison.systems:
        clips = []
        for item, score in worst_scores(comparison, system, count):
            path = _find(score.path, folder)
            strip, reason = "", f"{score.path} is not there any more."
            if path is not None:
                detector = detector or resolve_detector("mtcnn")
                try:
                    strip, reason = _jpeg(clip_strip(path, score, detector)), ""
                except (LipsmithError, ValueError) as error:
                    logger.warning("%s: no strip: %s", path, error)
                    reason = f"No picture: {error}"
            start = float(strip_start(score) / TRAINING_RATE_HZ)
            clips.append({"item": item, "score": score, "strip": strip, "reason": reason, "start": start})
        found.append({"system": system.name, "clips": clips})
    return found


def _find(path: Path, folder: Path | None) -> Path | None:
    places = [path] if folder is None else [path, folder / path]
    return next((place for place in places if place.is_file()), None)


def _around_face(frames: list[Image], detector: FaceDetector) -> list[Image]:
    """One square of each frame around where the largest face is in some of them; whole frames where there is none."""
    looked = (frames[0], frames[len(frames) // 2], frames[-1])
    boxes = [
        max((face.box for face in faces), key=lambda box: box.area)
        for faces in map(detector.detect, looked)
        if faces
    ]
    if not boxes:
        return frames
    left, top, right, bottom = np.median(
        [(box.left, box.top, box.right, box.bottom) for box in boxes], axis=0
    ).tolist()
    x, y = (left + right) / 2, (top + bottom) / 2
    half = max(right - left, bottom - top) * _STRIP_MARGIN / 2
    crop = Crop.around(Box(x - half, y - half, x + half, y + half), _STRIP_CELL)
    return [crop.extract(frame) for frame in frames]


def _jpeg(picture: Image) -> str:
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _charts(systems: Sequence[SystemScores]) -> list[tuple[str, str, str]]:
    """Heading, caption and data address of each chart."""
    style: dict[Any, Any] = {
        "svg.hashsalt": "lipsmith",
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _PALE,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with mpl.rc_context(style):
        return [
            (
                "LSE-D by system",
                "Less is better. Box: the middle half of the videos; line: median; whiskers: 5 % to 95 %.",
                _svg(_draw_distribution(systems, "lse_d", "LSE-D")),
            ),
            (
                "LSE-C by system",
                "More is better. Box, line and whiskers as before.",
                _svg(_draw_distribution(systems, "lse_c", "LSE-C")),
            ),
            (
                "Offset by system",
                "Videos by AV offset in frames of 40 ms; right of zero the sound comes too early. Dark: within one "
                "frame. A constant lag is invisible to LSE-D and LSE-C, and shows here alone.",
                _svg(_draw_offsets(systems)),
            ),
        ]


def _draw_distribution(systems: Sequence[SystemScores], name: str, label: str) -> Figure:
    values = [
        np.array([getattr(score, name) for score in system.scores if score.is_scored], np.float64)
        for system in systems
    ]
    figure = Figure(figsize=(_WIDTH_INCHES, 0.8 + 0.5 * len(systems)), layout="constrained")
    axes = figure.add_subplot()
    places = list(range(len(systems)))
    shown = [place for place in places if len(values[place])]
    axes.boxplot(
        [values[place] for place in shown],
        positions=shown,
        orientation="horizontal",
        whis=(5, 95),
        widths=0.55,
        showfliers=False,
        medianprops={"color": "#b2182b", "linewidth": 2},
        boxprops={"color": _INK},
    )
    for place in shown:
        if len(values[place]) <= _MOST_DOTS:
            # Spread evenly up and down, so that equal values stay apart.
            spread = 0.16 * np.sin(2.4 * np.arange(len(values[place])))
            axes.plot(values[place], place + spread, ".", color="#2166ac", alpha=0.45, markersize=4)
    _name_systems(axes, systems)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _draw_offsets(systems: Sequence[SystemScores]) -> Figure:
    figure = Figure(figsize=(_WIDTH_INCHES, 0.7 + 0.75 * len(systems)), layout="constrained")
    rows = figure.subplots(len(systems), 1, sharex=True, squeeze=False)[:, 0]
    for axes, system in zip(rows, systems, strict=True):
        offsets = system.summary().offsets
        colours = ["#2166ac" if abs(offset) <= 1 else "#8fbadb" for offset in offsets]
        axes.bar(list(offsets), list(offsets.values()), width=0.85, color=colours)
        axes.set_ylabel(_shortened(system.name), rotation=0, ha="right", va="center")
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=3)
        axes.axvline(0, color=_PALE, linewidth=0.6)
    rows[-1].set_xlim(-MAX_OFFSET_FRAMES - 1, MAX_OFFSET_FRAMES + 1)
    rows[-1].set_xticks(range(-MAX_OFFSET_FRAMES, MAX_OFFSET_FRAMES + 1, 5))
    rows[-1].set_xlabel("AV offset in frames")
    return figure


def _name_systems(axes: Any, systems: Sequence[SystemScores]) -> None:
    axes.set_yticks(range(len(systems)), [_shortened(system.name) for system in systems])
    axes.set_ylim(len(systems) - 0.5, -0.5)


def _shortened(name: str) -> str:
    # A dollar sign would begin a formula.
    return (name if len(name) <= 18 else name[:17] + "…").replace("$", r"\$")


def _svg(figure: Figure) -> str:
    """The figure as a data address: as a picture of its own its names meet no others'."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(text.getvalue().encode()).decode()
