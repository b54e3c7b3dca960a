"""The data doctor tells clips that are shifted, strange, silent or damaged, and writes what training acts upon."""

import csv
import io
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from lipsmith.data.clips import Clip, ClipRecord, encode_crop, read_index, save_clip, stored_size, write_index
from lipsmith.data.journal import alone_in
from lipsmith.data.samples import DataSelection
from lipsmith.errors import DataError, OutputError
from lipsmith.training import doctor
from lipsmith.training.doctor import Finding, Limits, correct_index, examine, judge, write_report

SIDE = stored_size(96)
FRAMES = 70
LIMITS = Limits(least_confidence=0.4)  # this expert is surer than real ones


class BrightnessExpert:
    """Lips and sound tell the same number, by their brightness and by their level: an expert that is never wrong."""

    frames = 5

    def embed_lips(self, frames: torch.Tensor) -> torch.Tensor:
        return self._embed(frames[:, :-4].mean(dim=(2, 3, 4)))

    def embed_sound(self, windows: torch.Tensor) -> torch.Tensor:
        return self._embed((windows[..., 0].mean(dim=(2, 3)) + 3) / 3)

    @staticmethod
    def _embed(level: torch.Tensor) -> torch.Tensor:
        angle = level.unsqueeze(-1) * torch.linspace(1, 40, 24)
        return torch.cat([angle.sin(), angle.cos()], -1) / 24**0.5


def _clip(name: str, *, early: int = 0, other: bool = False, silent: bool = False) -> Clip:
    """Frame i has a random brightness that its own sound repeats, which comes `early` frames too early."""
    level = np.random.default_rng(len(name)).uniform(0.1, 0.9, FRAMES)
    heard = np.random.default_rng(99).uniform(0.1, 0.9, FRAMES) if other else level
    crops = [encode_crop(np.full((SIDE, SIDE, 3), round(255 * value), np.uint8)) for value in level]
    record = ClipRecord(name, f"{name}.mp4", f"speaker of {name}", FRAMES, 96, 25.0, 90.0, 50.0)
    times = [Fraction(i, 25) for i in range(FRAMES)]
    mel = np.full((80, 80 * (FRAMES + 30) // 25), -4, np.float32)
    if not silent:
        for i, value in enumerate(heard):
            first = max(0, (i - early) * 80 // 25)
            mel[:, first : (i + 1 - early) * 80 // 25] = 3 * round(255 * value) / 255 - 3
    return Clip(record, crops, times, mel, 0)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    clips = [
        _clip("good"),
        _clip("early", early=4),
        _clip("far_out", early=10),
        _clip("strangers", other=True),
        _clip("in_silence", silent=True),
        _clip("damaged_one"),
    ]
    for clip in clips:
        save_clip(clip, tmp_path)
    write_index(tmp_path, [clip.record for clip in clips])
    path = tmp_path / clips[-1].record.file
    path.write_bytes(path.read_bytes()[:200])
    return tmp_path


def test_every_ill_is_told(prepared: Path) -> None:
    seen = []
    report = examine(prepared, BrightnessExpert(), LIMITS, on_progress=lambda *done: seen.append(done))
    found = {finding.id: finding for finding in report.findings}
    assert {
        name: (f.verdict, f.offset_frames)
        for name, f in found.items()
        if name in ("good", "early", "far_out")
    } == {
        "good": ("keep", 0),
        "early": ("shift", 4),
        "far_out": ("drop", 10),
    }
    assert found["early"].reason == "sound 4 frames too early"
    assert found["far_out"].reason == doctor.FAR_OUT
    assert found["strangers"].reason == doctor.UNCLEAR
    assert found["in_silence"].reason == doctor.NO_SPEECH
    assert found["damaged_one"].reason == doctor.UNREADABLE
    assert report.offsets == {0: 1, 4: 1, 10: 1}
    assert report.reasons == {
        name: 1 for name in (doctor.FAR_OUT, doctor.UNCLEAR, doctor.NO_SPEECH, doctor.UNREADABLE)
    }
    assert seen[-1] == (6, 6)
    words = report.in_words()
    assert "    +4" in words and "1 would be shifted" in words and "4 would be left out" in words


def test_the_index_is_corrected_and_training_acts_upon_it(prepared: Path) -> None:
    before = read_index(prepared)
    report = examine(prepared, BrightnessExpert(), LIMITS)
    assert read_index(prepared) == before  # looking changes nothing
    correct_index(prepared, report)
    after = {record.id: record for record in read_index(prepared)}
    assert after["early"].offset_seconds == pytest.approx(-0.16)
    assert after["good"].offset_seconds == 0 and not after["good"].excluded
    used = [record.id for record in DataSelection(hold_out=0).records(after.values(), "train")]
    assert used == ["early", "good"]
    # Corrected, its sound is where its lips are; asked again, the doctor measures the footage and not the correction.
    again = {finding.id: finding for finding in examine(prepared, BrightnessExpert(), LIMITS).findings}
    assert again["early"].offset_frames == 4
    # Milder limits bring a clip back.
    mild = examine(
        prepared, BrightnessExpert(), Limits(most_offset_frames=15, least_speech=0, least_confidence=-1)
    )
    correct_index(prepared, mild)
    assert {record.id for record in read_index(prepared) if record.excluded} == {"damaged_one"}


def test_an_index_that_is_being_written_is_not_corrected(prepared: Path) -> None:
    report = examine(prepared, None)
    before = read_index(prepared)
    with alone_in(prepared), pytest.raises(OutputError, match="Another `lipsmith prepare` is writing"):
        correct_index(prepared, report)
    assert read_index(prepared) == before


def test_without_an_expert_the_clips_themselves_are_looked_at(prepared: Path) -> None:
    report = examine(prepared, None, Limits(least_sharpness=60))
    assert report.num_measured == 0 and report.curve is None
    assert report.reasons == {doctor.BLURRED: 4, doctor.NO_SPEECH: 1, doctor.UNREADABLE: 1}


def test_an_expert_to_whom_most_is_unclear_empties_no_index(prepared: Path) -> None:
    record = read_index(prepared)[0]
    write_index(prepared, [replace(record, id=f"c{i}") for i in range(12)])
    finding = Finding("c0", "", "", "", 2.8, 90, 50, 1.0, 3, 0.01, 0.5, "drop", doctor.UNCLEAR)
    report = doctor.DoctorReport(tuple(replace(finding, id=f"c{i}") for i in range(12)), None)
    with pytest.raises(DataError, match="12 of 12 measured clips are unclear to this expert"):
        correct_index(prepared, report)
    assert not any(record.excluded for record in read_index(prepared))


def test_limits_are_inclusive() -> None:
    finding = Finding("c", "", "", "", 2.8, 90, 50, 0.1, -7, 0.1, 0.6, "keep", "")
    assert judge(finding, Limits()) == ("shift", "sound 7 frames too late")
    assert judge(replace(finding, offset_frames=-8), Limits()) == ("drop", doctor.FAR_OUT)
    assert judge(replace(finding, offset_frames=1), Limits()) == ("keep", "")
    assert judge(replace(finding, confidence=0.09), Limits()) == ("drop", doctor.UNCLEAR)
    assert judge(replace(finding, confidence=None), Limits()) == ("keep", "")


def test_the_report_is_a_table_and_a_picture(prepared: Path, tmp_path: Path) -> None:
    import cv2

    report = examine(prepared, BrightnessExpert(), LIMITS)
    written = write_report(report, tmp_path / "report")
    assert [path.name for path in written] == ["doctor.json", "doctor.csv", "doctor.png"]
    rows = list(csv.DictReader(io.StringIO(written[1].read_text())))
    assert [row["id"] for row in rows] == [finding.id for finding in report.findings]
    assert rows[1]["offset_frames"] == "4" and rows[5]["offset_frames"] == ""
    picture = cv2.imread(str(written[2]))
    assert picture.shape == (600, 1040, 3)
    kept, shifted, dropped = (
        (picture[:300, :520] == colour).all(axis=-1).sum()
        for colour in ((150, 130, 60), (40, 150, 235), (60, 60, 210))
    )
    # One clip each in the histogram, and three that would go: far out, strangers, in silence.
    assert shifted == pytest.approx(kept, rel=0.05) and kept > 100
    assert dropped == pytest.approx(3 * kept, rel=0.4)
    empty = doctor.DoctorReport(tuple(f for f in examine(prepared, None).findings), None)
    assert write_report(empty, tmp_path / "empty")[2].stat().st_size > 1000
