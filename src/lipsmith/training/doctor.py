"""The data doctor: what is wrong with prepared clips, clip by clip, and what would be done about it.

An expert tells how far picture and sound are apart, and how surely (see `lipsmith.evaluation.sync_score`); the clip
itself tells whether it can be read, whether anybody speaks, and how sharp the face is. Nothing is changed until
`correct_index` is called: it writes offsets, which training corrects to zero, and the reasons of clips to leave out.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lipsmith.conditioning import lower_half
from lipsmith.data.clips import Clip, ClipRecord, read_index, write_index
from lipsmith.data.journal import alone_in
from lipsmith.data.reader import LEAST_SKIPS, ClipSet
from lipsmith.data.samples import whole_clip
from lipsmith.data.storage import Location
from lipsmith.errors import DataError
from lipsmith.evaluation.sync_score import SyncJudge, score_clip
from lipsmith.timebase import TRAINING_RATE_HZ

LEAST_FRAMES = 60  # a shorter clip's curve is too noisy to shift the clip by, or to leave it out
TOLERATED_FRAMES = 1  # within what people tolerate, and within the measure's own error
_MAX_FRAMES = 500
Verdict = Literal["keep", "shift", "drop"]


@dataclass(frozen=True)
class Limits:
    """What a clip must reach to be kept.

    Attributes:
        least_confidence: Highest point minus median of the offset curve, in units of cosine; below it nobody can tell
            whether lips and sound belong together.
        most_offset_frames: A clip further out of sync is left out rather than shifted.
        least_speech: Share of the frames in which somebody speaks.
        least_sharpness: Variance of the Laplacian of the face.
    """

    least_confidence: float = 0.1
    most_offset_frames: int = 7
    least_speech: float = 0.1
    least_sharpness: float = 0.0


@dataclass(frozen=True)
class Finding:
    """What was found about one clip.

    `offset_frames` is positive where the sound comes too early; it, `confidence` and `preference` (share of windows
    that prefer their own sound, chance 0.5) are None where no expert was asked or the clip is too short.
    """

    id: str
    source: str
    speaker: str
    collection: str
    seconds: float
    face_pixels: float
    sharpness: float
    speech: float | None
    offset_frames: int | None
    confidence: float | None
    preference: float | None
    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class DoctorReport:
    """Findings about all clips of a prepared folder."""

    findings: tuple[Finding, ...]
    curve: NDArray[np.float64] | None
    """(31,) mean cosine at the offsets −15 … 15 over the measured clips."""

    @property
    def offsets(self) -> dict[int, int]:
        """Offset in frames → clips whose offset is clear."""
        known = [f for f in self.findings if f.reason not in (UNCLEAR, NO_SPEECH)]
        clear = [f.offset_frames for f in known if f.offset_frames is not None]
        return dict(sorted(Counter(clear).items()))

    @property
    def reasons(self) -> dict[str, int]:
        """Reason → clips that would be left out, the most frequent first."""
        return dict(Counter(f.reason for f in self.findings if f.verdict == "drop").most_common())

    @property
    def num_measured(self) -> int:
        """Clips that the expert could judge."""
        return sum(finding.confidence is not None for finding in self.findings)

    def with_verdict(self, verdict: Verdict) -> list[Finding]:
        """The findings with this verdict."""
        return [finding for finding in self.findings if finding.verdict == verdict]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "num_clips": len(self.findings),
            "num_measured": self.num_measured,
            "keep": len(self.with_verdict("keep")),
            "shift": len(self.with_verdict("shift")),
            "drop": self.reasons,
            "offsets": {str(offset): count for offset, count in self.offsets.items()},
            "curve": None if self.curve is None else [round(float(value), 4) for value in self.curve],
            "clips": [asdict(finding) for finding in self.findings],
        }

    def table(self) -> str:
        """The findings as CSV, one clip a line."""
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(Finding)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(finding) for finding in self.findings)
        return text.getvalue()

    def in_words(self, most: int = 40) -> str:
        """Histogram of offsets, then the clips that would be shifted or left out, at most `most` of each."""
        lines = []
        if self.num_measured:
            lines.append("offset   clips")
            largest = max(self.offsets.values(), default=1)
            for offset, count in self.offsets.items():
                lines.append(f"{offset:+6d} {count:7d} {'█' * max(1, round(40 * count / largest))}")
        for verdict, title in (("shift", "would be shifted"), ("drop", "would be left out")):
            chosen = self.with_verdict(verdict)  # type: ignore[arg-type]
            if chosen:
                lines += ["", f"{len(chosen)} {title}:", f"{'offset':>6} {'conf.':>6} {'pref.':>6}  clip"]
                lines += [_line(finding) for finding in chosen[:most]]
                lines += [f"… and {len(chosen) - most} more"] if len(chosen) > most else []
        return "\n".join(lines)


UNREADABLE = "cannot be read"
NO_SPEECH = "hardly any speech"
BLURRED = "not sharp"
FAR_OUT = "far out of sync"
UNCLEAR = "lips and sound do not match"
_DOCTORS_OWN = (UNREADABLE, NO_SPEECH, BLURRED, FAR_OUT, UNCLEAR)


def examine(
    data: Location,
    expert: SyncJudge | None,
    limits: Limits = Limits(),
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> DoctorReport:
    """Look at every clip of a prepared folder; see `Limits` for what is asked of it.

    Args:
        data: The prepared folder.
        expert: Best one that was trained on other footage, or a first one on this: it knows the most common offset as
            zero. None to leave sync out.
        limits: What a clip must reach.
        on_progress: Called with (clips done, clips in all).

    Raises:
        DataError: No index, or most clips cannot be read.
    """
    # As the footage came: what an earlier visit wrote into the index must not be measured again.
    records = [replace(record, offset_seconds=0.0) for record in read_index(data)]
    clips = ClipSet(data, records, memory_bytes=0)
    findings = []
    curves = []
    for number, record in enumerate(records):
        clip = clips.get(number)
        finding, curve = _examine_clip(record, clip, expert, limits)
        findings.append(finding)
        if curve is not None:
            curves.append(curve)
        if on_progress:
            on_progress(number + 1, len(records))
    mean = np.nanmean(np.stack(curves), axis=0) if curves else None
    return DoctorReport(tuple(findings), mean)


def correct_index(data: Path, report: DoctorReport, *, exclude: bool = True) -> None:
    """Write the findings into the index: offsets with their confidence, and, with `exclude`, who is left out and why.

    Findings of an earlier visit are replaced. `lipsmith.data.samples.DataSelection` acts upon them in training.

    Raises:
        DataError: Most clips are unclear to the expert, so that it is the expert who is to be mended.
        OutputError: The folder is being prepared just now, or cannot be written.
    """
    unclear = report.reasons.get(UNCLEAR, 0)
    if exclude and unclear >= LEAST_SKIPS and 2 * unclear > report.num_measured:
        raise DataError(
            f"{unclear} of {report.num_measured} measured clips are unclear to this expert, which is more likely the "
            "expert's fault: train it longer or on other footage, or lower --min-confidence. The index stays as it was."
        )
    found = {finding.id: finding for finding in report.findings}
    with alone_in(data):
        write_index(data, [_corrected(record, found.get(record.id), exclude) for record in read_index(data)])


def write_report(report: DoctorReport, folder: Path) -> list[Path]:
    """Write `doctor.json`, `doctor.csv` and `doctor.png` (see `doctor_picture.draw_report`) into `folder`."""
    import cv2

    from lipsmith.data.storage import write_whole
    from lipsmith.training.doctor_picture import draw_report

    parts = {
        "doctor.json": json.dumps(report.to_dict(), indent=1, ensure_ascii=False).encode(
            errors="backslashreplace"
        ),
        "doctor.csv": report.table().encode(errors="surrogateescape"),
        "doctor.png": cv2.imencode(".png", draw_report(report))[1].tobytes(),
    }
    for name, content in parts.items():
        write_whole(folder / name, content)
    return [folder / name for name in parts]


def _examine_clip(
    record: ClipRecord, clip: Clip | None, expert: SyncJudge | None, limits: Limits
) -> tuple[Finding, NDArray[np.float64] | None]:
    base = Finding(
        id=record.id,
        source=record.source,
        speaker=record.speaker,
        collection=record.collection,
        seconds=round(record.num_frames / float(TRAINING_RATE_HZ), 2),
        face_pixels=record.face_pixels,
        sharpness=record.sharpness,
        speech=None,
        offset_frames=None,
        confidence=None,
        preference=None,
        verdict="keep",
        reason="",
    )
    if clip is None:
        return replace(base, verdict="drop", reason=UNREADABLE), None
    base = replace(base, speech=round(float(clip.speaking().mean()), 3))
    curve = None
    if expert is not None and record.num_frames >= LEAST_FRAMES:
        faces, windows = whole_clip(clip, _MAX_FRAMES, expert.frames)
        score = score_clip(expert, lower_half(faces), windows)
        if score.av_offset_frames is not None:
            curve = score.curve
            base = replace(
                base,
                offset_frames=score.av_offset_frames,
                confidence=round(float(score.confidence), 3),
                preference=round(float(score.preference_share), 3),
            )
    verdict, reason = judge(base, limits)
    return replace(base, verdict=verdict, reason=reason), curve


def judge(finding: Finding, limits: Limits) -> tuple[Verdict, str]:
    """What is to be done with a clip of which this was found, and why."""
    if finding.speech is not None and finding.speech < limits.least_speech:
        return "drop", NO_SPEECH
    if finding.sharpness < limits.least_sharpness:
        return "drop", BLURRED
    if finding.confidence is None or finding.offset_frames is None:
        return "keep", ""
    if finding.confidence < limits.least_confidence:
        return "drop", UNCLEAR
    if abs(finding.offset_frames) > limits.most_offset_frames:
        return "drop", FAR_OUT
    if abs(finding.offset_frames) > TOLERATED_FRAMES:
        return (
            "shift",
            f"sound {abs(finding.offset_frames)} frames too {'early' if finding.offset_frames > 0 else 'late'}",
        )
    return "keep", ""


def _corrected(record: ClipRecord, finding: Finding | None, exclude: bool) -> ClipRecord:
    if finding is None:
        return record
    clear = finding.offset_frames is not None and finding.reason not in (UNCLEAR, NO_SPEECH)
    excluded = finding.reason if exclude and finding.verdict == "drop" else ""
    if not excluded and record.excluded not in _DOCTORS_OWN:
        excluded = record.excluded
    frames = finding.offset_frames or 0
    # The sound comes so many frames too early: a frame's own sound stands that much earlier.
    moved = clear and abs(frames) > TOLERATED_FRAMES
    return replace(
        record,
        offset_seconds=-frames / float(TRAINING_RATE_HZ) if moved else 0.0,
        offset_confidence=finding.confidence if clear else None,
        excluded=excluded,
    )


def _line(finding: Finding) -> str:
    offset = "" if finding.offset_frames is None else f"{finding.offset_frames:+d}"
    numbers = ["" if value is None else f"{value:.2f}" for value in (finding.confidence, finding.preference)]
    return f"{offset:>6} {numbers[0]:>6} {numbers[1]:>6}  {finding.source}: {finding.reason}"
