"""What an expert is worth: does it tell in-sync from off-sync pairs of people that it never saw?

    python -m lipsmith.evaluation.sync_accuracy RUN --data PREPARED [--recipe R] [--split test] [--json F] [--picture F]

All numbers come from the cosines c_ij of lips i with sound j of the same clip, i, j = 0 … N − 1, of every held-out
clip.

* **Off-sync accuracy** (paper, section 4.5 and table 3). A pair (i, i) is in sync, a pair (i, j) with |i − j| ≥ 1 is
  off sync; as in the paper's training, an off-sync pair is any other moment of the same clip, be it one frame away. The
  expert says "in sync" where the cosine is above a threshold. The accuracy is the expected share of right answers when
  a window is drawn at random, then with even odds its own sound or one of the others: in-sync and off-sync pairs weigh
  alike, all windows weigh alike, all off-sync sounds of one window weigh alike. It is the exact expectation, without
  the noise of a draw. Chance is 0.5.
* **The threshold.** The cosine of embeddings that are never negative is the paper's probability of being in sync
  (equation 1): `accuracy_at_half` takes it at its word, with the threshold 0.5. An expert trained by a contrast orders
  moments without learning where 0.5 is, so `accuracy` takes the threshold that would be best on *another* split: on the
  validation speakers when the test speakers are scored, on the training clips when the validation speakers are. It
  is never chosen on the clips that are scored.
* **By size of shift** s = 1 … 15 frames: the accuracy of even odds between the own sound and the one s frames earlier
  or later, at the same threshold; and the **preference**, the share of windows whose own sound is more alike than the
  shifted one, ties one half, which needs no threshold.
* **Retrieval over ±15 frames**: a window that has all 31 sounds from 15 frames before its own to 15 after it picks the
  most alike. **Top 1** is the share that pick their own (chance 1/31), **within one** their own or a neighbour (3/31);
  equally alike sounds share the pick. Windows nearer to an end are not asked.
* Offset curve, offsets of the clips and the preference over sounds at least five frames away: `sync_score`.

Intervals are 95 % bootstraps that draw whole speakers.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipsmith.conditioning import lower_half
from lipsmith.data.clips import Clip
from lipsmith.data.reader import ClipSet
from lipsmith.data.samples import Split, whole_clip
from lipsmith.errors import DataError, ExitCode, LipsmithError, OutputError
from lipsmith.evaluation.sync_score import (
    MAX_OFFSET_FRAMES,
    Interval,
    SyncJudge,
    SyncSummary,
    bootstrap_ratio,
    clip_similarity,
    score_similarity,
    summarise,
)

Similarity = NDArray[np.floating]
"""(N, N) cosines: lips of window i in row i, sound of window j in column j; or some of them."""

LEAST_SHIFT_FRAMES = 1
NUM_CANDIDATES = 2 * MAX_OFFSET_FRAMES + 1
COSINE_BINS = 40
_MAX_FRAMES = 250
_THRESHOLD_CLIPS = 60


@dataclass(frozen=True)
class ShiftAccuracy:
    """How well sounds `shift` frames away, earlier or later, are told from the own one."""

    shift: int
    num_pairs: int
    """Off-sync pairs at this shift."""
    refused: float
    """Share of them that is called off sync."""
    accuracy: float
    """Mean of `refused` and the share of in-sync pairs that is called in sync."""
    preference: float
    """Share of pairs whose window is more like its own sound; needs no threshold."""

    def to_dict(self) -> dict[str, float | None]:
        """As JSON-ready values; NaN as None."""
        return {name: _number(value) for name, value in self.__dict__.items()}


@dataclass(frozen=True)
class SyncAccuracy:
    """An expert on clips of people that it never saw; definitions are in the module's description."""

    frames: int
    """T_v of the expert."""
    num_clips: int
    num_speakers: int
    num_windows: int
    num_unscored: int
    """Clips with too few frames for any off-sync pair."""
    accuracy_at_half: Interval
    accuracy: Interval
    threshold: float
    threshold_from: str
    """The clips that `threshold` was found on."""
    accepted: float
    """Share of in-sync pairs called in sync at `threshold`."""
    refused: float
    """Share of off-sync pairs called off sync at `threshold`."""
    shifts: tuple[ShiftAccuracy, ...]
    num_retrieved: int
    """Windows that had all 31 candidates."""
    top1: Interval
    within_one: Interval
    sync: SyncSummary
    cosines: tuple[NDArray[np.float64], NDArray[np.float64]]
    """(40,) ×2, shares of in-sync and of off-sync pairs by cosine, in bins from −1 to 1."""

    def measures(self) -> dict[str, float]:
        """The numbers for a line of a log; those that the clips were too few or too short for are left out."""
        found = {
            "accuracy": self.accuracy.value,
            "accuracy_at_half": self.accuracy_at_half.value,
            "threshold": self.threshold,
            **{f"accuracy_shift_{s.shift}": s.accuracy for s in self.shifts if s.shift in (1, 2, 3, 5, 10)},
            "retrieval": self.top1.value,
            "retrieval_within_one": self.within_one.value,
            "preference": self.sync.preference_share.value,
            "offset_within_one": self.sync.offset_within_one_share.value,
            "confidence": self.sync.confidence.value,
        }
        return {name: float(value) for name, value in found.items() if np.isfinite(value)}

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values; NaN as None."""
        counts = ("frames", "num_clips", "num_speakers", "num_windows", "num_unscored", "num_retrieved")
        intervals = ("accuracy_at_half", "accuracy", "top1", "within_one")
        return {
            **{name: getattr(self, name) for name in counts},
            **{name: getattr(self, name).to_dict() for name in intervals},
            "threshold": _number(self.threshold),
            "threshold_from": self.threshold_from,
            "accepted": _number(self.accepted),
            "refused": _number(self.refused),
            "shifts": [shift.to_dict() for shift in self.shifts],
            "sync": self.sync.to_dict(),
            "cosines": {
                "in_sync": self.cosines[0].tolist(),
                "off_sync": self.cosines[1].tolist(),
            },
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def to_markdown(self) -> str:
        """The numbers as tables; in brackets the 95 % interval over speakers."""
        rows = [
            (f"off-sync accuracy, threshold {self.threshold:.3f} ({self.threshold_from})", self.accuracy),
            ("off-sync accuracy, threshold 0.5", self.accuracy_at_half),
            ("prefers its own sound to one ≥ 5 frames away", self.sync.preference_share),
            ("finds its own sound among 31", self.top1),
            ("finds its own sound or a neighbour", self.within_one),
            ("clips whose offset is within one frame", self.sync.offset_within_one_share),
        ]
        lines = [
            f"T_v = {self.frames}: {self.num_clips} clips, {self.num_speakers} speakers, {self.num_windows} windows.",
            "",
            "| measure | value |",
            "|---|---|",
            *(f"| {name} | {_percent(interval)} |" for name, interval in rows),
            f"| confidence | {self.sync.confidence.value:.3f} |",
            "",
            "| shift in frames | accuracy | off sync refused | prefers its own | pairs |",
            "|---|---|---|---|---|",
        ]
        for s in self.shifts:
            shares = " | ".join(f"{100 * share:.1f} %" for share in (s.accuracy, s.refused, s.preference))
            lines.append(f"| ±{s.shift} | {shares} | {s.num_pairs} |")
        return "\n".join(lines) + "\n"


def measure_accuracy(
    expert: SyncJudge,
    clips: Sequence[Clip],
    threshold_clips: Sequence[Clip],
    *,
    threshold_from: str,
    max_frames: int = _MAX_FRAMES,
    num_resamples: int = 2000,
    on_progress: Callable[[int, int], None] | None = None,
) -> SyncAccuracy:
    """Score an expert on held-out clips.

    Args:
        expert: any; a module is asked in evaluation mode.
        clips: of people that it never saw; of longer ones the middle `max_frames` frames.
        threshold_clips: other clips, on which the threshold is found.
        threshold_from: what to call those in the report.
        max_frames: see `clips`.
        num_resamples: of the bootstrap.
        on_progress: called with (clips done, clips in all), both kinds together.

    Raises:
        DataError: no clip is long enough for an off-sync pair, among the scored or among the others.
    """
    done, total = 0, len(clips) + len(threshold_clips)

    def cosines(chosen: Sequence[Clip]) -> list[Similarity]:
        nonlocal done
        found = []
        for clip in chosen:
            found.append(_similarity(expert, clip, max_frames))
            done += 1
            if on_progress:
                on_progress(done, total)
        return found

    threshold = find_threshold(cosines(threshold_clips))
    return accuracy_of(
        cosines(clips),
        [clip.record.speaker for clip in clips],
        frames=expert.frames,
        threshold=threshold,
        threshold_from=threshold_from,
        num_resamples=num_resamples,
    )


def find_threshold(similarities: Sequence[Similarity], least_shift: int = LEAST_SHIFT_FRAMES) -> float:
    """The threshold with the highest accuracy on some clips, in the middle between the two cosines beside it.

    Of several as good ones the highest. `DataError` where no clip has an off-sync pair.
    """
    own, other, shares = _pairs(similarities, least_shift)
    if not len(own):
        raise DataError(
            "No clip is long enough to find a threshold on: an off-sync pair needs another moment."
        )
    scores = np.concatenate([own, other])
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    # Accepting one more pair adds a right answer if it is in sync, and takes one away if it is not.
    gained = np.cumsum(np.concatenate([np.ones(len(own)), -shares])[order])
    # Equal cosines are accepted together.
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    best = int(last[np.argmax(gained[last])])
    if gained[best] <= 0:
        return float(scores[0])  # no better than accepting nothing
    return float(scores[best] if best == len(scores) - 1 else (scores[best] + scores[best + 1]) / 2)


def accuracy_of(
    similarities: Sequence[Similarity],
    speakers: Sequence[str],
    *,
    frames: int,
    threshold: float,
    threshold_from: str,
    least_shift: int = LEAST_SHIFT_FRAMES,
    num_resamples: int = 2000,
) -> SyncAccuracy:
    """The report on clips whose cosines are known.

    Args:
        similarities: one for each clip.
        speakers: one for each clip.
        frames: T_v of the expert.
        threshold: on the cosine, found on other clips.
        threshold_from: what those were.
        least_shift: frames from which on another moment counts as off sync.
        num_resamples: of the bootstrap.

    Raises:
        DataError: no clip has an off-sync pair.
    """
    kept = [i for i, similarity in enumerate(similarities) if len(similarity) > least_shift]
    if not kept:
        raise DataError("None of the held-out clips is long enough for an off-sync pair.")
    used, people = [similarities[i] for i in kept], [speakers[i] for i in kept]

    def interval(numbers: Sequence[tuple[float, float]]) -> Interval:
        tops, bottoms = np.array(numbers, np.float64).T
        present = bottoms > 0
        labels = [person for person, is_present in zip(people, present, strict=True) if is_present]
        return bootstrap_ratio(tops[present], bottoms[present], labels, num_resamples=num_resamples)

    def accuracy(at: float) -> Interval:
        counts = []
        for similarity in used:
            own, other, shares = _pairs([similarity], least_shift)
            counts.append((float((own > at).sum() + shares[other <= at].sum()), 2.0 * len(own)))
        return interval(counts)

    own, other, shares = _pairs(used, least_shift)
    accepted, refused = float((own > threshold).mean()), float(shares[other <= threshold].sum() / len(own))
    retrieved = [_retrieve(similarity) for similarity in used]
    edges = np.linspace(-1, 1, COSINE_BINS + 1)
    return SyncAccuracy(
        frames=frames,
        num_clips=len(used),
        num_speakers=len(set(people)),
        num_windows=sum(map(len, used)),
        num_unscored=len(similarities) - len(used),
        accuracy_at_half=accuracy(0.5),
        accuracy=accuracy(threshold),
        threshold=threshold,
        threshold_from=threshold_from,
        accepted=accepted,
        refused=refused,
        shifts=tuple(_at_shift(used, s, threshold) for s in range(1, MAX_OFFSET_FRAMES + 1)),
        num_retrieved=sum(len(first) for first, _ in retrieved),
        top1=interval([(first.sum(), len(first)) for first, _ in retrieved]),
        within_one=interval([(near.sum(), len(near)) for _, near in retrieved]),
        sync=summarise([score_similarity(s) for s in used], people, num_resamples=num_resamples),
        cosines=(
            np.histogram(own.clip(-1, 1), edges)[0] / len(own),
            np.histogram(other.clip(-1, 1), edges, weights=shares)[0] / len(own),
        ),
    )


def _similarity(expert: SyncJudge, clip: Clip, max_frames: int) -> Similarity:
    if len(clip) < expert.frames:
        return np.zeros((0, 0), np.float32)
    faces, windows = whole_clip(clip, max_frames, expert.frames)
    return clip_similarity(expert, lower_half(faces), windows)


def _pairs(
    similarities: Sequence[Similarity], least_shift: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Cosines of in-sync pairs, of off-sync pairs, and what share of its window's off-sync pairs each of the latter is.

    Windows without any off-sync pair are left out, so that both kinds weigh alike.
    """
    own, other, shares = [np.zeros(0)], [np.zeros(0)], [np.zeros(0)]
    for similarity in similarities:
        position = np.arange(len(similarity))
        far = np.abs(position[:, None] - position[None, :]) >= least_shift
        counts = far.sum(axis=1)
        own.append(np.diagonal(similarity)[counts > 0])
        other.append(similarity[far])
        shares.append(np.repeat(1 / np.maximum(counts, 1), counts))
    first, second, third = (np.concatenate(part).astype(np.float64) for part in (own, other, shares))
    return first, second, third


def _at_shift(similarities: Sequence[Similarity], shift: int, threshold: float) -> ShiftAccuracy:
    every: list[Similarity] = []
    own: list[Similarity] = [np.zeros(0)]
    shifted: list[Similarity] = [np.zeros(0)]
    for similarity in similarities:
        diagonal = np.diagonal(similarity)
        every.append(diagonal)
        if len(similarity) > shift:
            own += [diagonal[:-shift], diagonal[shift:]]
            shifted += [np.diagonal(similarity, shift), np.diagonal(similarity, -shift)]
    mine, others, in_sync = (np.concatenate(part) for part in (own, shifted, every))
    if not len(others):
        return ShiftAccuracy(shift, 0, float("nan"), float("nan"), float("nan"))
    refused = float((others <= threshold).mean())
    preference = float(((mine > others) + 0.5 * (mine == others)).mean())
    return ShiftAccuracy(
        shift, len(others), refused, (refused + float((in_sync > threshold).mean())) / 2, preference
    )


def _retrieve(similarity: Similarity) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each window with all 31 candidates: its share of the pick on its own sound, and on that or a neighbour."""
    reach = MAX_OFFSET_FRAMES
    middle = np.arange(reach, len(similarity) - reach)
    if not len(middle):
        return np.zeros(0), np.zeros(0)
    candidates = similarity[middle[:, None], middle[:, None] + np.arange(-reach, reach + 1)]
    picked = candidates == candidates.max(axis=1, keepdims=True)
    picks = picked / picked.sum(axis=1, keepdims=True)
    return picks[:, reach], picks[:, reach - 1 : reach + 2].sum(axis=1)


def spread_clips(clips: Sequence[Clip], count: int) -> list[Clip]:
    """At most `count` clips, evenly from the whole list: as many people as possible.

    Those of a `ClipSet` that cannot be read are left out.
    """
    chosen = np.unique(np.linspace(0, len(clips) - 1, min(count, len(clips))).round().astype(int)).tolist()
    found = [clips.get(i) if isinstance(clips, ClipSet) else clips[i] for i in chosen]
    return [clip for clip in found if clip is not None]


def main(arguments: list[str] | None = None) -> int:
    """Run with `arguments` (those of the process when None); returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m lipsmith.evaluation.sync_accuracy", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("expert", help="run folder of an expert, its weights, or a checkpoint")
    parser.add_argument("--data", required=True, help="folder that `lipsmith prepare` wrote")
    parser.add_argument(
        "--recipe", type=Path, help="whose `data` says who is held out; the run's own when left out"
    )
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--max-frames", type=int, default=_MAX_FRAMES, help="longest stretch of a clip")
    parser.add_argument("--limit", type=int, help="score only so many clips, spread over all")
    parser.add_argument(
        "--threshold-clips", type=int, default=_THRESHOLD_CLIPS, help="how many clips of the other split"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw everything, as a PNG")
    options = parser.parse_args(arguments)
    try:
        _report(options)
    except LipsmithError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return ExitCode.OK


def _report(options: argparse.Namespace) -> None:
    from lipsmith.evaluation.held_out import load_clips, open_judge
    from lipsmith.evaluation.sync_curves import draw_accuracy

    path = Path(options.expert)
    recipe = options.recipe or (path if path.is_dir() else path.parent) / "recipe.json"
    other: Split = "validation" if options.split == "test" else "train"
    clips = load_clips(options.data, recipe, options.split)
    report = measure_accuracy(
        open_judge(options.expert),
        spread_clips(clips, options.limit or len(clips)),
        spread_clips(load_clips(options.data, recipe, other), options.threshold_clips),
        threshold_from="training clips" if other == "train" else f"{other} clips",
        max_frames=options.max_frames,
        on_progress=lambda done, total: _show(f"\r{done} of {total} clips"),
    )
    _show("\n")
    sys.stdout.write(report.to_markdown())
    try:
        if options.json:
            options.json.write_text(report.to_json())
        if options.picture:
            draw_accuracy(report, options.picture, title=path.name)
    except OSError as error:
        raise OutputError(f"{error.filename} cannot be written: {error.strerror}.") from error


def _show(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(text)


def _percent(interval: Interval) -> str:
    if not np.isfinite(interval.value):
        return "–"
    return f"{100 * interval.value:.1f} % [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
