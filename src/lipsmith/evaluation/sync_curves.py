"""`lipsmith.evaluation.sync_accuracy` as a picture: what the expert tells apart, and what it does not."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipsmith.evaluation.sync_accuracy import COSINE_BINS, SyncAccuracy
from lipsmith.evaluation.sync_score import MAX_OFFSET_FRAMES

_OFFSETS = np.arange(-MAX_OFFSET_FRAMES, MAX_OFFSET_FRAMES + 1)
_CHANCE: dict[str, Any] = {"color": "0.5", "linestyle": ":", "linewidth": 1}


def draw_accuracy(report: SyncAccuracy, picture: Path, *, title: str = "") -> None:
    """Write a PNG of four plots: offset curve, clips by offset, accuracy by shift, cosines of both kinds of pairs.

    `OSError` when it cannot be written; there is then no half of it.
    """
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    figure.suptitle(
        f"{title + ': ' if title else ''}T_v = {report.frames}, off-sync accuracy {100 * report.accuracy.value:.1f} %, "
        f"{report.num_clips} clips of {report.num_speakers} speakers"
    )
    (curve, offsets), (shifts, cosines) = figure.subplots(2, 2)
    _draw_curve(curve, report)
    _draw_offsets(offsets, report)
    _draw_shifts(shifts, report)
    _draw_cosines(cosines, report)
    for axes in (curve, offsets, shifts, cosines):
        axes.title.set_fontsize(10)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    partial = picture.with_suffix(".partial")
    try:
        figure.savefig(partial, format="png", dpi=80)
        partial.replace(picture)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _draw_curve(axes: Axes, report: SyncAccuracy) -> None:
    axes.plot(_OFFSETS, report.sync.curve, marker=".")
    axes.axvline(0, **_CHANCE)
    axes.set_title("Mean cosine by offset, frames by which the sound is early")


def _draw_offsets(axes: Axes, report: SyncAccuracy) -> None:
    axes.bar(_OFFSETS, [report.sync.offsets.get(int(offset), 0) for offset in _OFFSETS])
    axes.set_title("Clips by their offset")


def _draw_shifts(axes: Axes, report: SyncAccuracy) -> None:
    at = [s.shift for s in report.shifts]
    axes.plot(at, [s.accuracy for s in report.shifts], marker=".", label=f"at {report.threshold:.2f}")
    axes.plot(at, [s.preference for s in report.shifts], marker=".", label="prefers its own sound")
    axes.axhline(0.5, **_CHANCE)
    axes.set_ylim(0.35, 1.02)
    axes.legend(fontsize=8, loc="lower right")
    axes.set_title("Accuracy by size of shift in frames")


def _draw_cosines(axes: Axes, report: SyncAccuracy) -> None:
    edges = np.linspace(-1, 1, COSINE_BINS + 1)
    for shares, name in zip(report.cosines, ("in sync", "off sync"), strict=True):
        axes.stairs(shares, edges, fill=True, alpha=0.5, label=name)
    axes.axvline(report.threshold, color="0.2", linewidth=1, label=f"threshold, {report.threshold_from}")
    axes.axvline(0.5, label="0.5", **_CHANCE)
    axes.legend(fontsize=8, loc="upper left")
    axes.set_title("Pairs by cosine")
