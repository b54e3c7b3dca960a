"""What the OpenVINO runtime does with files that are not what it reads."""

from pathlib import Path

import numpy as np
import pytest

import lipsmith.runtime.openvino as openvino
import lipsmith.runtime.tuning as tuning
from lipsmith.engine import import_openvino
from lipsmith.errors import WeightsError
from lipsmith.runtime.openvino import OpenVinoGenerator
from lipsmith.runtime.tuning import Division


def save_network(folder: Path, *, face_size: int = 8, audio_columns: int = 16) -> None:
    """A generator that returns its reference and ignores the sound, as generator.xml."""
    ov = import_openvino()
    ops = ov.opset13
    mels = ops.parameter([-1, 1, 80, audio_columns], np.float32, name="mels")
    faces = ops.parameter([-1, 6, face_size, face_size], np.float32, name="faces")
    mean = ops.reduce_mean(mels, np.array([1, 2, 3]), True)
    silent = ops.multiply(mean, np.float32(0))
    reference = ops.gather(faces, np.array([3, 4, 5]), np.array(1))
    ov.save_model(
        ov.Model([ops.add(reference, silent)], [mels, faces], "reference"), folder / "generator.xml"
    )


def test_face_size_is_read_from_the_file(tmp_path: Path) -> None:
    save_network(tmp_path, face_size=24)
    runtime = OpenVinoGenerator(tmp_path)
    faces = np.random.default_rng(0).random((6, 6, 24, 24), np.float32)
    assert runtime.face_size == 24
    np.testing.assert_array_equal(runtime.generate(np.ones((6, 1, 80, 16), np.float32), faces), faces[:, 3:])


def test_another_network_is_told_by_its_shapes(tmp_path: Path) -> None:
    save_network(tmp_path, audio_columns=12)
    with pytest.raises(WeightsError, match=r"no lip-sync generator.*80,12.*not \(n, 1, 80, 16\)"):
        OpenVinoGenerator(tmp_path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    save_network(tmp_path)
    (tmp_path / "generator.bin").unlink()
    with pytest.raises(WeightsError, match=r"generator\.bin is missing"):
        OpenVinoGenerator(tmp_path)


def test_cut_weights_are_refused(tmp_path: Path) -> None:
    save_network(tmp_path)
    (tmp_path / "generator.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"generator\.xml is damaged"):
        OpenVinoGenerator(tmp_path)


@pytest.mark.parametrize("division", [Division(1, 1), Division(4, 1), Division(2, 2), Division(4, 3)])
@pytest.mark.parametrize("num_rows", [1, 3, 8, 13])
def test_every_division_gives_every_row_its_face(tmp_path: Path, division: Division, num_rows: int) -> None:
    save_network(tmp_path)
    runtime = OpenVinoGenerator(tmp_path, division=division)
    faces = np.random.default_rng(0).random((num_rows, 6, 8, 8), np.float32)
    mels = np.ones((num_rows, 1, 80, 16), np.float32)
    for _ in range(4):  # padded at first, then by a network for calls of this size
        np.testing.assert_array_equal(runtime.generate(mels, faces), faces[:, 3:])


def test_calls_of_one_size_get_a_network_of_that_size(tmp_path: Path) -> None:
    save_network(tmp_path)
    runtime = OpenVinoGenerator(tmp_path, division=Division(4, 2))
    shapes = []
    for num_rows in (8, 8, 3, 8, 3, 3, 3, 1, 1, 1, 8):
        faces = np.zeros((num_rows, 6, 8, 8), np.float32)
        runtime.generate(np.zeros((num_rows, 1, 80, 16), np.float32), faces)
        shapes.append(sorted(runtime._networks))
    full = (4, 2)
    assert shapes[:6] == [[full]] * 6  # no size but the full one came three times in a row
    assert shapes[6:9] == [[(2, 2), full]] * 3
    assert shapes[9:] == [[(1, 1), full]] * 2  # live use: one face, all threads


def test_the_best_division_is_tried_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPSMITH_TUNING", "on")
    monkeypatch.setenv("LIPSMITH_CACHE", str(tmp_path / "cache"))
    clock = iter(range(10**6))
    monkeypatch.setattr(openvino.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(openvino, "candidates", lambda threads: [Division(4, 2), Division(8, 1)])
    monkeypatch.setattr(tuning.Trial, "best", property(lambda trial: Division(8, 1)))
    save_network(tmp_path)
    runtime = OpenVinoGenerator(tmp_path)
    faces = np.random.default_rng(0).random((8, 6, 8, 8), np.float32)
    mels = np.ones((8, 1, 80, 16), np.float32)
    used = []
    while runtime._trial is not None:
        np.testing.assert_array_equal(runtime.generate(mels, faces), faces[:, 3:])
        used.append(runtime._division)
    assert used[0] == Division(4, 2) and used[-1] == Division(8, 1)
    assert sorted(runtime._networks) == [(8, 1)]  # one network in memory, not one a candidate

    again = OpenVinoGenerator(tmp_path)
    assert (again._division, again._trial) == (Division(8, 1), None)
    monkeypatch.setenv("LIPSMITH_TUNING", "off")
    fixed = OpenVinoGenerator(tmp_path)
    assert (fixed._division, fixed._trial) == (Division(4, 2), None)


def test_faces_that_come_one_by_one_are_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPSMITH_TUNING", "on")
    monkeypatch.setenv("LIPSMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(openvino, "candidates", lambda threads: [Division(4, 2), Division(8, 1)])
    save_network(tmp_path)
    runtime = OpenVinoGenerator(tmp_path)
    compiled = []
    make = openvino._Network
    monkeypatch.setattr(openvino, "_Network", lambda *given, **named: compiled.append(given) or make(*given))
    for _ in range(tuning.FACES_BEFORE + 3 * tuning.FACES_TIMED):
        runtime.generate(np.zeros((1, 1, 80, 16), np.float32), np.zeros((1, 6, 8, 8), np.float32))
    assert (
        len(compiled) == 1
    )  # the one for single faces; live, each further one would be a frame that is late
    assert not (tmp_path / "cache" / tuning.FILE_NAME).exists()
