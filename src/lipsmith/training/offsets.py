"""The offsets of footage between picture and sound, measured by an expert and written into the index.

Footage has its own offsets; a generator trained on them learns to be late or early. The first expert, trained on
footage as it comes, knows the most common offset as zero; clip by clip it sees who differs.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lipsmith.conditioning import lower_half
from lipsmith.data.clips import ClipRecord, load_clip, read_index, write_index
from lipsmith.data.samples import whole_clip
from lipsmith.evaluation.sync_score import score_clip
from lipsmith.timebase import TRAINING_RATE_HZ
from lipsmith.training.expert import load_expert

LEAST_FRAMES = 60  # a shorter clip's curve is too noisy to shift the clip by
_MAX_FRAMES = 500


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
    expert: Path,
    *,
    least_confidence: float = 0.1,
    on_progress: Callable[[int, int], None] | None = None,
) -> OffsetReport:
    """Measure every clip of a prepared folder and write what was found into its index.

    Clips of under `LEAST_FRAMES` frames stay unmeasured. A clip whose curve peaks less than `least_confidence` above
    its median keeps offset 0. Offsets of one frame are within what people tolerate and within the measure's own error:
    they are corrected to 0 as well. Larger ones are written as `offset_seconds`, with `offset_confidence`, and
    `lipsmith.data.samples.DataSelection` decides which of them are shifted and which are dropped.
    """
    network = load_expert(expert)
    records = read_index(data)
    changed: list[ClipRecord] = []
    histogram: dict[int, int] = {}
    measured = 0
    for position, record in enumerate(records):
        found = replace(record, offset_seconds=0.0, offset_confidence=None)
        if record.num_frames >= LEAST_FRAMES:
            faces, windows = whole_clip(load_clip(found, data), _MAX_FRAMES, network.frames)
            score = score_clip(network, lower_half(faces), windows)
            measured += 1
            if score.av_offset_frames is not None and score.confidence >= least_confidence:
                offset = score.av_offset_frames
                histogram[offset] = histogram.get(offset, 0) + 1
                # The sound comes `offset` frames too early: a frame's own sound stands that much earlier.
                seconds = -offset / float(TRAINING_RATE_HZ) if abs(offset) > 1 else 0.0
                found = replace(
                    found,
                    offset_seconds=seconds,
                    offset_confidence=round(float(np.float32(score.confidence)), 3),
                )
        changed.append(found)
        if on_progress:
            on_progress(position + 1, len(records))
    write_index(data, changed)
    return OffsetReport(len(records), measured, sum(histogram.values()), histogram)
