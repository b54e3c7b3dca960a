"""The data doctor's findings as one picture: offsets, confidence against offset, mean curve, and what would go."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import cv2
import numpy as np

from lipsmith.evaluation.sync_score import MAX_OFFSET_FRAMES
from lipsmith.geometry import Image

if TYPE_CHECKING:
    from lipsmith.training.doctor import DoctorReport

_WIDTH, _HEIGHT = 520, 300
_LEFT, _TOP, _BOTTOM, _RIGHT = 56, 34, 40, 16
_PAPER, _INK, _GRID = (250, 250, 250), (40, 40, 40), (215, 215, 215)
_FRAMES = "frames, + sound early"
_COLOURS = {"keep": (150, 130, 60), "shift": (40, 150, 235), "drop": (60, 60, 210)}  # BGR


class _Plot:
    """Axes, a title, and a map from values to pixels."""

    def __init__(self, title: str, across: tuple[float, float], up: tuple[float, float], label: str) -> None:
        self.image = np.full((_HEIGHT, _WIDTH, 3), _PAPER, np.uint8)
        self.across, self.up = across, up
        self.text(title, (_LEFT, 22), 0.5)
        self.text(label, (_WIDTH // 2 - 60, _HEIGHT - 8), 0.42)

    def text(self, words: str, corner: tuple[int, int], size: float = 0.38) -> None:
        cv2.putText(self.image, words, corner, cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)

    def pixel(self, x: float, y: float) -> tuple[int, int]:
        share_x = (x - self.across[0]) / (self.across[1] - self.across[0])
        share_y = (y - self.up[0]) / (self.up[1] - self.up[0])
        return (
            round(_LEFT + share_x * (_WIDTH - _LEFT - _RIGHT)),
            round(_HEIGHT - _BOTTOM - share_y * (_HEIGHT - _TOP - _BOTTOM)),
        )

    def axes(self, ticks_x: Iterable[float], ticks_y: Iterable[float]) -> None:
        for y in ticks_y:
            left, right = self.pixel(self.across[0], y), self.pixel(self.across[1], y)
            cv2.line(self.image, left, right, _GRID, 1)
            self.text(f"{y:g}", (8, left[1] + 4))
        for x in ticks_x:
            foot = self.pixel(x, self.up[0])
            cv2.line(self.image, foot, (foot[0], foot[1] + 4), _INK, 1)
            self.text(f"{x:g}", (foot[0] - 8, foot[1] + 18))
        cv2.line(
            self.image,
            self.pixel(self.across[0], self.up[0]),
            self.pixel(self.across[1], self.up[0]),
            _INK,
            1,
        )


def draw_report(report: "DoctorReport") -> Image:
    """Draw a report, uint8 BGR.

    Left to right, above: the clips at each offset; each clip's confidence over its offset. Below: the mean offset
    curve; how many clips are kept, shifted and left out, by reason.
    """
    rows = [[_offsets(report), _scatter(report)], [_curve(report), _verdicts(report)]]
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def _ticks(highest: float) -> list[float]:
    step = 10 ** np.floor(np.log10(max(highest, 1e-6)))
    step = next(s for s in (step, 2 * step, 5 * step) if highest / s <= 5.5) if highest / step > 5.5 else step
    return [float(value) for value in np.arange(0, highest * (1 + 1e-9), step)]


def _offsets(report: "DoctorReport") -> Image:
    counts: dict[int, dict[str, int]] = {}
    for finding in report.findings:
        if finding.offset_frames is not None:
            at = counts.setdefault(finding.offset_frames, {})
            at[finding.verdict] = at.get(finding.verdict, 0) + 1
    reach = MAX_OFFSET_FRAMES + 0.7
    highest = max((sum(at.values()) for at in counts.values()), default=1)
    plot = _Plot(
        f"offset of {report.num_measured} measured clips",
        (-reach, reach),
        (0, highest),
        _FRAMES,
    )
    plot.axes(range(-15, 16, 5), _ticks(highest))
    for offset, at in counts.items():
        base = 0
        for verdict, colour in _COLOURS.items():
            top = base + at.get(verdict, 0)
            if top > base:
                cv2.rectangle(
                    plot.image, plot.pixel(offset - 0.4, base), plot.pixel(offset + 0.4, top), colour, -1
                )
            base = top
    return plot.image


def _scatter(report: "DoctorReport") -> Image:
    measured = [f for f in report.findings if f.offset_frames is not None and f.confidence is not None]
    highest = max((f.confidence or 0 for f in measured), default=1.0) * 1.05
    reach = MAX_OFFSET_FRAMES + 0.7
    plot = _Plot("confidence of each clip", (-reach, reach), (0, max(highest, 0.1)), _FRAMES)
    plot.axes(range(-15, 16, 5), _ticks(max(highest, 0.1)))
    spread = np.random.default_rng(0)
    for finding in measured:
        x = (finding.offset_frames or 0) + spread.uniform(-0.3, 0.3)
        centre = plot.pixel(x, max(0.0, finding.confidence or 0))
        cv2.circle(plot.image, centre, 2, _COLOURS[finding.verdict], -1, cv2.LINE_AA)
    return plot.image


def _curve(report: "DoctorReport") -> Image:
    reach = MAX_OFFSET_FRAMES + 0.7
    if report.curve is None or not np.isfinite(report.curve).any():
        plot = _Plot("mean offset curve: nothing measured", (-reach, reach), (0, 1), _FRAMES)
        plot.axes(range(-15, 16, 5), [])
        return plot.image
    low, high = float(np.nanmin(report.curve)), float(np.nanmax(report.curve))
    high = max(high, low + 0.01)
    plot = _Plot("mean offset curve (cosine)", (-reach, reach), (low, high), _FRAMES)
    plot.axes(range(-15, 16, 5), [round(low, 3), round((low + high) / 2, 3), round(high, 3)])
    offsets = np.arange(-MAX_OFFSET_FRAMES, MAX_OFFSET_FRAMES + 1)
    points = [
        plot.pixel(float(x), float(y)) for x, y in zip(offsets, report.curve, strict=True) if np.isfinite(y)
    ]
    cv2.polylines(plot.image, [np.array(points, np.int32)], False, _COLOURS["keep"], 2, cv2.LINE_AA)
    return plot.image


def _verdicts(report: "DoctorReport") -> Image:
    rows = [("keep", "kept", len(report.with_verdict("keep")))]
    rows.append(("shift", "shifted to 0", len(report.with_verdict("shift"))))
    rows += [("drop", reason, count) for reason, count in list(report.reasons.items())[:5]]
    image = np.full((_HEIGHT, _WIDTH, 3), _PAPER, np.uint8)
    title = f"what becomes of {len(report.findings)} clips"
    cv2.putText(image, title, (_LEFT, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)
    most = max(count for _, _, count in rows) or 1
    for number, (verdict, words, count) in enumerate(rows):
        top = _TOP + 12 + 34 * number
        cv2.putText(
            image, f"{words}: {count}", (16, top + 10), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA
        )
        length = round(240 * count / most)
        if count:
            cv2.rectangle(image, (250, top), (250 + max(2, length), top + 14), _COLOURS[verdict], -1)
    return image
