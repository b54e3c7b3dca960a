"""The offsets of footage between picture and sound, measured by an expert and written into the index.

Footage has its own offsets; a generator trained on them learns to be late or early. The first expert, trained on
footage as it comes, knows the most common offset as zero; clip by clip it sees who differs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipsmith.training.doctor import Limits, correct_index, examine
from lipsmith.training.expert import load_expert


@dataclass(frozen=True)
class OffsetReport:
    """Offsets found: how many clips at each number of frames, of how many that were long and clear enough."""

    num_clips: int
    num_measured: int
    num_clear: int
    histogram: dict[int, int]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "num_clips": self.num_clips,
            "num_measured": self.num_measured,
            "num_clear": self.num_clear,
            "histogram": {str(offset): count for offset, count in sorted(self.histogram.items())},
        }


def measure_offsets(
    data: Path,
    expert: Path | str,
    *,
    least_confidence: float = 0.1,
    on_progress: Callable[[int, int], None] | None = None,
) -> OffsetReport:
    """Measure every clip of a prepared folder and write what was found into its index, leaving nothing out.

    The part of the data doctor (`lipsmith.training.doctor`) that concerns offsets: short clips stay unmeasured, unclear
    ones and those within a frame keep offset 0, the others are written as `offset_seconds` with `offset_confidence`,
    and `lipsmith.data.samples.DataSelection` decides which of them are shifted and which are dropped.
    """
    limits = Limits(least_confidence=least_confidence, least_speech=0)
    report = examine(data, load_expert(expert), limits, on_progress=on_progress)
    correct_index(data, report, exclude=False)
    return OffsetReport(
        len(report.findings), report.num_measured, sum(report.offsets.values()), report.offsets
    )
