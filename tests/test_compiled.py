"""Compiled networks are kept, verified, and never believed when something is wrong."""

import os
from pathlib import Path

import numpy as np
import pytest

from lipsmith.compiled import compiled_path, keep_compiled, read_compiled
from lipsmith.engine import compile_on_cpu, import_openvino


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIPSMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LIPSMITH_TUNING", "on")
    return tmp_path / "cache" / "compiled"


class Product:
    """Builds a network that multiplies by a number, and counts how often."""

    def __init__(self, factor: float) -> None:
        self.factor, self.num_built = factor, 0

    def __call__(self) -> object:
        self.num_built += 1
        ov = import_openvino()
        given = ov.opset13.parameter([1, 4], np.float32, name="given")
        factors = np.full((4, 4), self.factor, np.float32)
        product = ov.opset13.matmul(given, ov.opset13.constant(factors), False, False)
        return ov.Model([product], [given], "product")


def result(compiled: object) -> float:
    return float(compiled.create_infer_request().infer([np.ones((1, 4), np.float32)])[0][0, 0])  # type: ignore[attr-defined]


def test_a_network_is_compiled_once_and_gives_the_same_afterwards(cache: Path) -> None:
    build = Product(3)
    assert [result(compile_on_cpu(build, known_by="product")) for _ in range(3)] == [12, 12, 12]
    assert build.num_built == 1
    assert len(list(cache.iterdir())) == 1


def test_another_name_or_setting_is_another_network(cache: Path) -> None:
    build = Product(3)
    compile_on_cpu(build, known_by="product")
    compile_on_cpu(build, known_by="other")
    compile_on_cpu(build, known_by="product", options={"NUM_STREAMS": 2})
    compile_on_cpu(build, known_by="product", threads=1)
    assert build.num_built == 4


def test_without_a_name_or_a_wish_nothing_is_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_on_cpu(Product(3))
    monkeypatch.setenv("LIPSMITH_TUNING", "off")
    compile_on_cpu(Product(3), known_by="product")
    assert not cache.exists()


@pytest.mark.parametrize("place", [0, 31, 32, 500, -1])
def test_one_wrong_byte_is_noticed(cache: Path, place: int) -> None:
    build = Product(3)
    compile_on_cpu(build, known_by="product")
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert read_compiled(path) is None
    assert result(compile_on_cpu(build, known_by="product")) == 12
    assert build.num_built == 2
    assert read_compiled(path) is not None  # and mended


@pytest.mark.parametrize("blob", [b"", b"not what OpenVINO writes" * 100])
def test_whole_files_of_something_else_are_ignored(cache: Path, blob: bytes) -> None:
    build = Product(3)
    compile_on_cpu(build, known_by="product")
    (path,) = cache.iterdir()
    keep_compiled(path, blob)
    assert result(compile_on_cpu(build, known_by="product")) == 12
    assert build.num_built == 2


def test_a_folder_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_bytes(b"a file where the folder should be")
    assert result(compile_on_cpu(Product(3), known_by="product")) == 12


def test_a_file_that_may_only_be_read_is_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compiled_path("product")
    keep_compiled(path, b"blob")

    def refuse(path: Path) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr(os, "utime", refuse)  # as for a file of another user's
    assert read_compiled(path) == b"blob"


def test_what_was_not_used_for_long_goes_first(cache: Path) -> None:
    paths = [compiled_path(str(number)) for number in range(30)]
    for number, path in enumerate(paths):
        keep_compiled(path, b"blob")
        os.utime(path, (number, number))
        if number == 10:
            for old in paths[:2]:
                assert read_compiled(old) == b"blob"  # and is young again
    kept = [path.exists() for path in paths]
    assert kept == [True] * 2 + [False] * 6 + [True] * 22


def test_a_generator_and_the_detector_start_from_what_was_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lipsmith.faces import mtcnn
    from lipsmith.runtime.openvino import OpenVinoGenerator
    from lipsmith.weights import resolve

    _, folder = resolve("default")
    rng = np.random.default_rng(0)
    mels, faces = rng.random((3, 1, 80, 16), np.float32), rng.random((3, 9, 96, 96), np.float32)
    image = rng.integers(0, 256, (200, 240, 3), dtype=np.uint8)
    made, proposed = [], []
    for _ in range(2):
        made.append(OpenVinoGenerator(folder, threads=1).generate(mels, faces))
        detector = mtcnn.MtcnnDetector(thresholds=(0.0, 0.0, 0.0))
        proposed.append([found.box for found in detector.detect(image)])
        monkeypatch.setattr(mtcnn, "_read_weights", lambda name: pytest.fail("the networks were built again"))
    np.testing.assert_array_equal(*made)
    assert proposed[0] == proposed[1] != []
    assert len(list(cache.iterdir())) == 4
