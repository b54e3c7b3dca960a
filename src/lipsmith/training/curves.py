"""A run's losses and measures over its steps, as a picture and for TensorBoard."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_COLUMNS = 3
_ROW_INCHES = 2.4
_UNDRAWN = ("step", "seconds", "skipped")


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of measures of a run's `log.jsonl`, events left out."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if "event" not in line]


def draw_curves(log: Path, picture: Path, title: str) -> None:
    """Draw every measure of a log over the steps, one small plot each, as a PNG."""
    lines = read_log(log)
    names = list(dict.fromkeys(name for line in lines for name in line if name not in _UNDRAWN))
    rows = max(-(-len(names) // _COLUMNS), 1)
    height = _ROW_INCHES * rows
    figure = Figure(figsize=(4 * _COLUMNS, height))
    # Not by a layout engine, which draws everything twice: a picture is made at every validation.
    figure.subplots_adjust(left=0.05, right=0.98, bottom=0.3 / height, top=1 - 0.6 / height, hspace=0.35)
    figure.suptitle(title, y=1 - 0.1 / height)
    for number, name in enumerate(names):
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes = figure.add_subplot(rows, _COLUMNS, number + 1)
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 60 else "")
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    partial = picture.with_suffix(".partial")
    figure.savefig(partial, format="png", dpi=80)
    partial.replace(picture)


class CurveWriter:
    """Writes scalars for TensorBoard, where tensorboardX is installed.

    Args:
        folder: of the event files.
        step: first step that is written; what earlier sessions wrote of it and later ones is hidden.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            logger.info("tensorboardX is not installed: no curves for TensorBoard.")
            self._writer = None
        else:
            self._writer = SummaryWriter(str(folder), purge_step=step)

    def write(self, step: int, measures: Mapping[str, float]) -> None:
        """Add the measures of one validation."""
        if self._writer is not None:
            for name, value in measures.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
