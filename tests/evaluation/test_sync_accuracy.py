"""The numbers about an expert, on tables of cosines whose answers are known."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lipsmith.data.clips import Clip, ClipRecord, load_clip, read_index
from lipsmith.data.synthetic import prepare_synthetic
from lipsmith.errors import DataError, ExitCode
from lipsmith.evaluation.sync_accuracy import (
    SyncAccuracy,
    accuracy_of,
    find_threshold,
    main,
    measure_accuracy,
    spread_clips,
)
from lipsmith.training.expert import build_expert
from lipsmith.training.recipe import ExpertModel
from lipsmith.training.run import save_weights


def report(
    similarities: list[np.ndarray],
    threshold: float,
    speakers: list[str] | None = None,
    least_shift: int = 1,
) -> SyncAccuracy:
    return accuracy_of(
        similarities,
        speakers or ["ada"] * len(similarities),
        frames=5,
        threshold=threshold,
        threshold_from="nothing",
        least_shift=least_shift,
        num_resamples=200,
    )


def circle(count: int, early: int = 0) -> np.ndarray:
    """Moments 0.1 rad apart; window j sounds like moment j + early."""
    moment = 0.1 * np.arange(count)
    return np.cos(moment[:, None] - (moment + 0.1 * early)[None, :])


class TestAccuracy:
    def test_a_table_by_hand(self) -> None:
        table = np.array([[0.9, 0.2], [0.6, 0.4]])
        strict, mild = report([table], 0.55), report([table], 0.3)
        # Of the own sounds, 0.9 is above 0.55; of the others, 0.2 is below it.
        assert (strict.accepted, strict.refused, strict.accuracy.value) == (0.5, 0.5, 0.5)
        assert (mild.accepted, mild.refused, mild.accuracy.value) == (1.0, 0.5, 0.75)
        assert strict.accuracy_at_half.value == mild.accuracy_at_half.value == 0.5

    def test_all_other_sounds_of_a_window_weigh_as_much_as_its_own(self) -> None:
        table = np.zeros((4, 4))
        table[0, 1] = 0.8  # one of three wrong for one of four windows
        np.fill_diagonal(table, 0.9)
        found = report([table], 0.5)
        assert found.refused == pytest.approx(1 - 1 / 12)
        assert found.accuracy.value == pytest.approx(1 - 1 / 24)

    def test_windows_weigh_alike_and_speakers_are_drawn(self) -> None:
        right, wrong = np.eye(30), 1 - np.eye(10)
        found = report([right, wrong], 0.5, ["ada", "grace"])
        assert found.accuracy.value == pytest.approx(30 / 40)
        assert (found.accuracy.low, found.accuracy.high) == pytest.approx((0, 1))
        assert (found.num_clips, found.num_speakers, found.num_windows) == (2, 2, 40)

    def test_neighbours_can_be_left_out(self) -> None:
        table = circle(20)
        assert report([table], np.cos(0.25)).accuracy.value < 0.95
        assert report([table], np.cos(0.25), least_shift=3).accuracy.value == 1.0

    def test_an_expert_that_answers_the_same_to_everything(self) -> None:
        found = report([np.full((50, 50), 0.7)], find_threshold([np.full((40, 40), 0.7)]))
        assert found.accuracy.value == found.accuracy_at_half.value == 0.5
        assert found.top1.value == pytest.approx(1 / 31)
        assert found.within_one.value == pytest.approx(3 / 31)
        assert [s.preference for s in found.shifts] == [0.5] * 15

    def test_noise_is_at_chance_with_a_threshold_from_elsewhere(self) -> None:
        rng = np.random.default_rng(0)
        threshold = find_threshold([rng.standard_normal((30, 30)) / 5])
        found = report([rng.standard_normal((200, 200)) / 5], threshold)
        assert found.accuracy.value == pytest.approx(0.5, abs=0.05)
        assert found.top1.value == pytest.approx(1 / 31, abs=0.03)

    def test_clips_without_an_off_sync_pair_are_counted(self) -> None:
        found = report([np.eye(20), np.eye(1), np.zeros((0, 0))], 0.5)
        assert (found.num_clips, found.num_unscored) == (1, 2)
        with pytest.raises(DataError, match="long enough for an off-sync pair"):
            report([np.eye(1)], 0.5)


class TestThreshold:
    def test_in_the_middle_of_the_gap(self) -> None:
        assert find_threshold([0.2 + 0.4 * np.eye(5)]) == pytest.approx(0.4)

    def test_the_best_of_a_table(self) -> None:
        # In sync: 0.9, 0.4, 0.4; off sync: 0.3 mostly, one window has 0.5 twice.
        table = np.full((3, 3), 0.3)
        table[0, 1:] = 0.5
        np.fill_diagonal(table, [0.9, 0.4, 0.4])
        # Above 0.35: 3 of 3 accepted, 2 of 3 refused. Above 0.7: 1 of 3 and 3 of 3.
        assert find_threshold([table]) == pytest.approx(0.35)

    def test_equal_cosines_are_not_torn_apart(self) -> None:
        table = np.array([[0.5, 0.5], [0.1, 0.5]])
        assert find_threshold([table]) == pytest.approx(0.3)

    def test_nothing_to_find_it_on(self) -> None:
        with pytest.raises(DataError, match="another moment"):
            find_threshold([np.eye(1)])


class TestShifts:
    def test_known_angles(self) -> None:
        found = report([circle(60)], float(np.cos(0.25)))
        assert [s.accuracy for s in found.shifts] == [0.5, 0.5, *[1.0] * 13]
        assert {s.preference for s in found.shifts} == {1.0}
        assert [s.num_pairs for s in found.shifts] == [2 * (60 - shift) for shift in range(1, 16)]
        assert found.sync.offsets == {0: 1}

    def test_a_shift_longer_than_the_clip_has_no_number(self) -> None:
        found = report([np.eye(4)], 0.5)
        assert found.shifts[2].num_pairs == 2 and found.shifts[3].num_pairs == 0
        assert np.isnan(found.shifts[3].accuracy)
        assert json.loads(found.to_json())["shifts"][3]["accuracy"] is None


class TestRetrieval:
    @pytest.mark.parametrize(("early", "top1", "near"), [(0, 1, 1), (1, 0, 1), (-1, 0, 1), (2, 0, 0)])
    def test_the_pick_is_the_most_alike(self, early: int, top1: float, near: float) -> None:
        found = report([circle(50, early)], 0.5)
        assert (found.top1.value, found.within_one.value) == (top1, near)

    def test_windows_near_an_end_are_not_asked(self) -> None:
        assert report([np.eye(40)], 0.5).num_retrieved == 10
        short = report([np.eye(30)], 0.5)
        assert short.num_retrieved == 0 and np.isnan(short.top1.value)
        assert "retrieval" not in short.measures() and "accuracy" in short.measures()
        assert "| finds its own sound among 31 | – |" in short.to_markdown()


def test_measures_are_what_a_log_can_hold() -> None:
    measures = report([circle(60)], float(np.cos(0.25))).measures()
    assert measures["accuracy_shift_1"] == 0.5 and measures["accuracy_shift_5"] == 1.0
    assert measures["retrieval"] == measures["preference"] == measures["offset_within_one"] == 1.0
    assert json.loads(json.dumps(measures, allow_nan=False)) == measures


def test_clips_are_spread_over_all() -> None:
    assert spread_clips(list(range(10)), 4) == [0, 3, 6, 9]  # type: ignore[arg-type, comparison-overlap]
    assert spread_clips(list(range(3)), 8) == [0, 1, 2]  # type: ignore[arg-type, comparison-overlap]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    prepare_synthetic(folder, num_speakers=4, clips_per_speaker=1, seconds=1.6)
    return folder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained expert with windows of three frames."""
    folder = tmp_path_factory.mktemp("run") / "small"
    folder.mkdir()
    torch.manual_seed(0)
    model = ExpertModel(width=0.125, embedding=16, frames=3)
    save_weights(build_expert(model), folder / "best.safetensors", {"model": model.model_dump_json()})
    held_out = "data: {validation: [drawn_2], test: [drawn_3]}"
    (folder / "recipe.json").write_text(f"task: expert\nname: small\nsteps: 1\n{held_out}\n")
    return folder


def test_an_expert_is_asked_with_its_own_window(drawn: Path) -> None:
    clips = [load_clip(record, drawn) for record in read_index(drawn)]
    torch.manual_seed(0)
    expert = build_expert(ExpertModel(width=0.125, embedding=16, frames=3))
    seen: list[tuple[int, int]] = []
    found = measure_accuracy(
        expert,
        clips[:2],
        clips[2:],
        threshold_from="others",
        max_frames=30,
        num_resamples=10,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert (found.frames, found.num_clips, found.num_windows) == (3, 2, 2 * 28)
    assert 0.3 < found.accuracy.value < 0.7  # it has learned nothing
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_command(drawn: Path, run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, picture = tmp_path / "accuracy.json", tmp_path / "accuracy.png"
    arguments = [str(run_folder), "--data", str(drawn), "--max-frames", "40"]
    assert main([*arguments, "--json", str(results), "--picture", str(picture)]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("T_v = 3: 1 clips, 1 speakers, 38 windows.")
    written = json.loads(results.read_text())
    assert (written["frames"], written["threshold_from"]) == (3, "validation clips")
    assert sum(written["cosines"]["in_sync"]) == pytest.approx(1)
    assert sum(written["cosines"]["off_sync"]) == pytest.approx(1)
    assert cv2.imread(str(picture)).shape == (600, 880, 3)

    assert main([*arguments, "--split", "validation", "--json", str(results)]) == ExitCode.OK
    assert json.loads(results.read_text())["threshold_from"] == "training clips"
    assert main([*arguments, "--picture", str(tmp_path / "no" / "folder.png")]) == ExitCode.OUTPUT
    assert main([str(tmp_path), "--data", str(drawn)]) == ExitCode.RECIPE
    assert "recipe.json cannot be read" in capsys.readouterr().err


def test_a_folder_by_the_name_of_installed_weights_is_written_with_a_dot(
    drawn: Path,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "judge").symlink_to(run_folder)
    monkeypatch.chdir(tmp_path)
    assert main(["./judge", "--data", str(drawn), "--max-frames", "20"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("T_v = 3:")  # the installed judge has 5


def test_of_the_training_clips_only_those_of_the_threshold_are_read(
    drawn: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lipsmith.data import reader

    read: list[str] = []

    def note(record: ClipRecord, *where: object, **known: bool) -> Clip:
        read.append(record.speaker)
        return load_clip(record, drawn)

    monkeypatch.setattr(reader, "load_clip", note)
    arguments = [
        "--data",
        str(drawn),
        "--max-frames",
        "20",
        "--split",
        "validation",
        "--threshold-clips",
        "1",
    ]
    assert main([str(run_folder), *arguments]) == ExitCode.OK
    assert sorted(read) == ["drawn_0", "drawn_2"]
