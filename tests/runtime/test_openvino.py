"""What the OpenVINO runtime does with files that are not what it reads."""

from pathlib import Path

import numpy as np
import pytest

from lipsmith.engine import import_openvino
from lipsmith.errors import WeightsError
from lipsmith.runtime.openvino import OpenVinoGenerator


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
