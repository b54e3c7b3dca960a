"""Do the lips of a clip belong to its sound? Asked of any expert, best of one that was in no loss.

The numbers, for a clip at 25 frames a second whose windows i = 0 … N − 1 of T_v frames (five, unless the expert is an
ablation) have lip embeddings l_i and sound embeddings s_i of unit length (s_i is the sound of 0.2 s that belongs to the
frames of l_i):

* **preference share**: the share of windows that prefer their own sound to one at least five frames away. For
  a window i it is the mean, over all j with |i − j| ≥ 5, of [l_i · s_i > l_i · s_j], a tie counting one half;
  for a clip the mean over its windows. Chance is 0.5 whatever the clip says. Five frames are the length of a
  window's sound, so the two sounds have nothing in common, and no small offset of the footage is called a fault.
* **offset curve**: the mean of l_i · s_{i − k} over the clip for offsets k = −15 … 15 frames; its highest point
  is **av_offset_frames**. Positive: the sound comes too early. The sign is SyncNet's and `evaluation.lse`'s.
* **confidence**: highest point minus median of the curve, in units of cosine.
* **lse_d**, **lse_c**: SyncNet's numbers with this judge in its place. With the distance d_k = √(2 − 2 c_k) of unit
  vectors, root mean square over the clip, of each point c_k of the curve: the least d_k, and their median minus it.
  They compare with numbers of the same judge only.

Intervals over clips are percentile bootstraps that draw whole clips (or whole speakers), because windows of
one clip are no independent witnesses.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipsmith.timebase import EXPERT_FRAMES

MAX_OFFSET_FRAMES = 15
LEAST_DISTANCE_FRAMES = EXPERT_FRAMES
_DRAWN_AT_ONCE = 1 << 20  # groups of a bootstrap
LEAST_PAIRS = 8  # an offset at which fewer windows meet is a guess: it is left out of the curve


class SyncJudge(Protocol):
    """The part of an expert that judging needs; see `lipsmith.models.expert.SyncExpert`."""

    @property
    def frames(self) -> int:
        """T_v, the number of frames in a window."""
        ...

    def embed_lips(self, frames: Tensor) -> Tensor:
        """Lower halves (B, T, 3, S/2, S), BGR 0–1, to (B, T − T_v + 1, D) of unit length."""
        ...

    def embed_sound(self, windows: Tensor) -> Tensor:
        """Mel windows (B, N, 1, 80, 16) to (B, N, D) of unit length."""
        ...


@dataclass(frozen=True)
class SyncScore:
    """How well one clip is in sync."""

    num_windows: int
    preference_share: float
    """0 to 1, chance 0.5; NaN where the clip is too short for any comparison."""
    av_offset_frames: int | None
    """Frames by which the sound comes too early; None where the clip is too short for a curve."""
    confidence: float
    """Highest point minus median of the curve."""
    curve: NDArray[np.float64]
    """(31,) mean cosine at the offsets −15 … 15; NaN where too few windows meet."""

    @property
    def lse_d(self) -> float:
        """Least distance over the offsets, 0 to 2; NaN where the curve has no point."""
        return float(min(self._distances(), default=float("nan")))

    @property
    def lse_c(self) -> float:
        """Median minus least distance over the offsets; NaN where the curve has no point."""
        distances = self._distances()
        return float(np.median(distances)) - self.lse_d if len(distances) else float("nan")

    def _distances(self) -> NDArray[np.float64]:
        return np.sqrt(np.maximum(0.0, 2 - 2 * self.curve[np.isfinite(self.curve)]))

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values; NaN as None."""
        return {
            "num_windows": self.num_windows,
            "preference_share": _number(self.preference_share),
            "av_offset_frames": self.av_offset_frames,
            "confidence": _number(self.confidence),
            "lse_d": _number(self.lse_d),
            "lse_c": _number(self.lse_c),
            "curve": [_number(value) for value in self.curve],
        }


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """As JSON-ready values; NaN as None."""
        return {"value": _number(self.value), "low": _number(self.low), "high": _number(self.high)}


@dataclass(frozen=True)
class SyncSummary:
    """Sync over many clips, with intervals over clips (or speakers)."""

    num_clips: int
    num_windows: int
    num_unscored: int
    """Clips too short for a score. They are in no average: look at them if there are many."""
    preference_share: Interval
    """Over all windows of all clips."""
    offset_within_one_share: Interval
    """Share of clips whose offset is −1, 0 or 1."""
    confidence: Interval
    lse_d: Interval
    """Mean over the clips, by this judge."""
    lse_c: Interval
    offsets: dict[int, int]
    """Offset → number of clips."""
    curve: NDArray[np.float64]
    """(31,) mean of the clips' curves."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON-ready values; NaN as None."""
        return {
            "num_clips": self.num_clips,
            "num_windows": self.num_windows,
            "num_unscored": self.num_unscored,
            "preference_share": self.preference_share.to_dict(),
            "offset_within_one_share": self.offset_within_one_share.to_dict(),
            "confidence": self.confidence.to_dict(),
            "lse_d": self.lse_d.to_dict(),
            "lse_c": self.lse_c.to_dict(),
            "offsets": {str(offset): count for offset, count in sorted(self.offsets.items())},
            "curve": [_number(value) for value in self.curve],
        }


def preference_shares(
    similarity: NDArray[np.floating], least_distance: int = LEAST_DISTANCE_FRAMES
) -> NDArray[np.float64]:
    """Share of the far sounds to which each window prefers its own, ties one half.

    Args:
        similarity: (N, N), row i column j: lips of window i with sound of window j; larger is more alike.
        least_distance: only sounds at least this many frames away are compared with.

    Returns:
        (N,) 0 to 1, NaN for a window without any sound that far away.
    """
    _require_square(similarity)
    position = np.arange(len(similarity))
    far = np.abs(position[:, None] - position[None, :]) >= least_distance
    own = np.diagonal(similarity)[:, None]
    wins = (own > similarity) + 0.5 * (own == similarity)
    num_far = far.sum(axis=1)
    total = np.where(far, wins, 0.0).sum(axis=1)
    return np.where(num_far > 0, total / np.maximum(num_far, 1), np.nan)


def offset_curve(
    similarity: NDArray[np.floating],
    max_offset: int = MAX_OFFSET_FRAMES,
    least_pairs: int = LEAST_PAIRS,
) -> NDArray[np.float64]:
    """Mean similarity of the lips of window i with the sound of window i − k, for k = −max_offset … max_offset.

    Returns:
        (2 · max_offset + 1,), NaN where fewer than `least_pairs` windows meet.
    """
    _require_square(similarity)
    num_windows = len(similarity)
    curve = np.full(2 * max_offset + 1, np.nan)
    for index, offset in enumerate(range(-max_offset, max_offset + 1)):
        if num_windows - abs(offset) >= max(least_pairs, 1):
            curve[index] = np.diagonal(similarity, -offset).mean(dtype=np.float64)
    return curve


def score_similarity(similarity: NDArray[np.floating]) -> SyncScore:
    """The score of one clip from its (N, N) similarities of lips (rows) with sounds (columns)."""
    curve = offset_curve(similarity)
    usable = np.isfinite(curve)
    offset, confidence = None, float("nan")
    # One point has no rivals: it would call every clip that is short enough perfectly in sync.
    if usable.sum() >= 3:
        offset = int(np.nanargmax(curve)) - MAX_OFFSET_FRAMES
        confidence = float(np.nanmax(curve) - np.nanmedian(curve))
    shares = preference_shares(similarity)
    comparable = shares[np.isfinite(shares)]
    return SyncScore(
        num_windows=len(similarity),
        preference_share=float(comparable.mean()) if comparable.size else float("nan"),
        av_offset_frames=offset,
        confidence=confidence,
        curve=curve,
    )


def clip_similarity(
    expert: SyncJudge, lower_halves: NDArray[np.float32], windows: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Cosines of every lip window of a clip with every sound of it, (N, N).

    Args:
        expert: the judge; if it is a module it is asked in evaluation mode, on the device of its parameters.
        lower_halves: (T, 3, S/2, S) BGR 0–1 at 25 frames a second, T ≥ T_v, consecutive.
        windows: (N, 80, 16) or (N, 1, 80, 16), N = T − T_v + 1: the mel that belongs to frames i … i + T_v − 1,
            see `lipsmith.timebase.expert_lead`. More windows than that are ignored from the end on, so one
            window per frame may be given as well.
    """
    num_windows = len(lower_halves) - expert.frames + 1
    if num_windows < 1:
        raise ValueError(
            f"{len(lower_halves)} frames are fewer than the {expert.frames} that the expert sees"
        )
    if len(windows) < num_windows:
        raise ValueError(
            f"{len(windows)} mel windows do not cover the {num_windows} windows of {len(lower_halves)} frames"
        )
    sounds = windows.reshape(len(windows), 1, *windows.shape[-2:])[:num_windows]
    with _judging(expert) as device:
        lips = torch.from_numpy(np.ascontiguousarray(lower_halves, dtype=np.float32)).to(device)
        mels = torch.from_numpy(np.ascontiguousarray(sounds, dtype=np.float32)).to(device)
        lip = expert.embed_lips(lips[None])[0].float()
        sound = expert.embed_sound(mels[None])[0].float()
        similarity = lip @ sound.T
    if similarity.shape != (num_windows, num_windows):
        raise ValueError(
            f"the expert gave {tuple(lip.shape)} lip and {tuple(sound.shape)} sound embeddings for "
            f"{num_windows} windows"
        )
    return similarity.cpu().numpy()


def score_clip(
    expert: SyncJudge, lower_halves: NDArray[np.float32], windows: NDArray[np.float32]
) -> SyncScore:
    """Score one clip with a judge; arguments as for `clip_similarity`."""
    return score_similarity(clip_similarity(expert, lower_halves, windows))


def summarise(
    scores: Sequence[SyncScore],
    groups: Sequence[str] | None = None,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> SyncSummary:
    """Put the scores of many clips together.

    Args:
        scores: one per clip.
        groups: the speaker of each clip; with it the bootstrap draws speakers, which gives the wider, honest
            interval for "people that training never saw". Without it, it draws clips.
    """
    if groups is not None and len(groups) != len(scores):
        raise ValueError(f"{len(groups)} groups for {len(scores)} scores")
    keep = [
        i for i, s in enumerate(scores) if np.isfinite(s.preference_share) and s.av_offset_frames is not None
    ]
    used = [scores[i] for i in keep]
    labels = [groups[i] if groups is not None else str(i) for i in keep]
    # Each statistic is a ratio of sums over clips, so a resample needs no more than the clips' sums.
    num_windows = np.array([score.num_windows for score in used], dtype=np.float64)
    preferred = np.array([score.preference_share * score.num_windows for score in used])
    ones = np.ones(len(used))
    offsets = [score.av_offset_frames for score in used if score.av_offset_frames is not None]
    within = np.array([abs(offset) <= 1 for offset in offsets], dtype=np.float64)
    counts: dict[int, int] = {}
    for offset in offsets:
        counts[offset] = counts.get(offset, 0) + 1

    def interval(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> Interval:
        return bootstrap_ratio(numerator, denominator, labels, num_resamples=num_resamples, seed=seed)

    return SyncSummary(
        num_clips=len(used),
        num_windows=int(num_windows.sum()),
        num_unscored=len(scores) - len(used),
        preference_share=interval(preferred, num_windows),
        offset_within_one_share=interval(within, ones),
        confidence=interval(np.array([score.confidence for score in used]), ones),
        lse_d=interval(np.array([score.lse_d for score in used]), ones),
        lse_c=interval(np.array([score.lse_c for score in used]), ones),
        offsets=counts,
        curve=_mean_curve([score.curve for score in used]),
    )


def bootstrap_ratio(
    numerator: NDArray[np.float64],
    denominator: NDArray[np.float64],
    labels: Sequence[str],
    *,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Σ numerator / Σ denominator over clips, with a 95 % percentile interval from resampling whole groups of clips.

    Args:
        numerator, denominator: (clips,).
        labels: (clips,) group of each clip; clips of one group are drawn together.
    """
    if len(labels) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    _, group = np.unique(np.asarray(labels), return_inverse=True)
    num_groups = int(group.max()) + 1
    tops = np.bincount(group, weights=numerator, minlength=num_groups)
    bottoms = np.bincount(group, weights=denominator, minlength=num_groups)
    random = np.random.default_rng(seed)
    ratios = np.empty(num_resamples)
    # A few resamples at a time: of all at once the indices alone are half a gigabyte for the pairs of LRW.
    step = max(1, _DRAWN_AT_ONCE // num_groups)
    for start in range(0, num_resamples, step):
        some = ratios[start : start + step]
        drawn = random.integers(num_groups, size=(len(some), num_groups))
        some[:] = tops[drawn].sum(axis=1) / bottoms[drawn].sum(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Interval(float(tops.sum() / bottoms.sum()), float(low), float(high))


@contextmanager
def _judging(expert: SyncJudge) -> Iterator[torch.device]:
    """Evaluation mode without gradients; yields the expert's device and puts its mode back."""
    device, was_training = torch.device("cpu"), False
    if isinstance(expert, nn.Module):
        parameter = next(expert.parameters(), None)
        device = parameter.device if parameter is not None else device
        was_training = expert.training
        expert.eval()
    try:
        with torch.inference_mode():
            yield device
    finally:
        if isinstance(expert, nn.Module):
            expert.train(was_training)


def _mean_curve(curves: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean of the clips at each offset, over the clips that have a value there."""
    mean = np.full(2 * MAX_OFFSET_FRAMES + 1, np.nan)
    if curves:
        stacked = np.stack(curves)
        present = np.isfinite(stacked)
        any_present = present.any(axis=0)
        total = np.where(present, stacked, 0.0).sum(axis=0)
        mean[any_present] = total[any_present] / present.sum(axis=0)[any_present]
    return mean


def _require_square(similarity: NDArray[np.floating]) -> None:
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarities are {similarity.shape}: one row and one column per window are needed")


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
