"""What every generator runtime promises (`lipsmith.runtime.GeneratorRuntime`)."""

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lipsmith.conditioning import lower_half
from lipsmith.errors import RuntimeUnavailableError, UsageError, WeightsError
from lipsmith.models.generators import BASELINES
from lipsmith.models.wav2lip import GENERATORS
from lipsmith.runtime import RUNTIMES, GeneratorRuntime, resolve_runtime
from lipsmith.runtime.base import FloatArray
from lipsmith.timebase import SILENCE
from lipsmith.weights.card import WeightCard
from lipsmith.weights.checkpoint import architecture_of, write_weights

FACE_SIZE = 96
ROWS = 21  # a multiple of no runtime's batch
# The same rows in other batches, or by another runtime on a CPU: only the order of additions differs, which a network
# of random layers magnifies.
SAME = 2e-4


ARCHITECTURES = {**GENERATORS, **BASELINES}


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def network(request: pytest.FixtureRequest) -> nn.Module:
    """A small generator of each architecture whose faces differ from row to row: its batch norms are used to noise."""
    torch.manual_seed(0)
    network = ARCHITECTURES[request.param](width=0.125, face_size=FACE_SIZE).train()
    with torch.no_grad():
        network.output_block[1].weight.normal_(0, 0.3)  # the warping head would begin by moving nothing
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = (
                    None  # all passes count alike: else sound fades out on its way through the layers
                )
        for _ in range(5):
            network(torch.rand(4, 1, 80, 16) * 8 - 4, _faces(network, torch.rand(4, 9, FACE_SIZE, FACE_SIZE)))
    return network.eval()


@pytest.fixture(scope="module")
def folder(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights folder."""
    card = WeightCard(
        name="tiny",
        kind="generator",
        architecture=next(name for name, kind in ARCHITECTURES.items() if type(network) is kind),
        width=0.125,
        face_size=FACE_SIZE,
        licence="CC0-1.0",
    )
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    write_weights(network, card, folder)
    return folder


@pytest.fixture(scope="module", params=sorted(RUNTIMES))
def runtime(request: pytest.FixtureRequest, folder: Path) -> Iterator[GeneratorRuntime]:
    """Each runtime of the table, on a CPU."""
    runtime = resolve_runtime(request.param, folder, device="cpu")
    yield runtime
    runtime.close()


def _faces(network: nn.Module, faces: Any) -> Any:
    """As many of the faces (n, 9, S, S) as the network sees at a time."""
    return faces[:, : 3 + 3 * network.num_references]


@pytest.fixture(scope="module")
def inputs(network: nn.Module) -> tuple[FloatArray, FloatArray]:
    """Windows of sound and faces."""
    random = np.random.default_rng(1)
    mels = random.uniform(-4, 4, (ROWS, 1, 80, 16)).astype(np.float32)
    return mels, _faces(network, random.uniform(0, 1, (ROWS, 9, FACE_SIZE, FACE_SIZE)).astype(np.float32))


def test_names_itself(runtime: GeneratorRuntime) -> None:
    assert isinstance(runtime, GeneratorRuntime)
    assert runtime.name in RUNTIMES
    assert runtime.device == "cpu"
    assert runtime.face_size == FACE_SIZE


def test_gives_what_the_network_gives(
    runtime: GeneratorRuntime, network: nn.Module, inputs: tuple[FloatArray, FloatArray]
) -> None:
    with torch.inference_mode():
        expected = network(*map(torch.tensor, inputs)).numpy()
    assert np.ptp(expected, axis=0).mean() > 0.01  # rows differ, else this and the following show little
    generated = runtime.generate(*inputs)
    np.testing.assert_allclose(_painted(network, generated), _painted(network, expected), rtol=0, atol=SAME)


def _painted(network: nn.Module, faces: FloatArray) -> FloatArray:
    """What a runtime promises to be the network's: the lower half where no more is pasted."""
    name = next(name for name, kind in ARCHITECTURES.items() if type(network) is kind)
    return lower_half(faces) if architecture_of(name).paints == "lower half" else faces


def test_output_is_faces_from_0_to_1(
    runtime: GeneratorRuntime, inputs: tuple[FloatArray, FloatArray]
) -> None:
    generated = runtime.generate(*inputs)
    assert generated.shape == (ROWS, 3, FACE_SIZE, FACE_SIZE)
    assert generated.dtype == np.float32
    assert 0 <= generated.min() < generated.max() <= 1


@pytest.mark.parametrize("chunk", [1, 7, 8])
def test_chunks_give_the_same_as_all_at_once(
    runtime: GeneratorRuntime, inputs: tuple[FloatArray, FloatArray], chunk: int
) -> None:
    mels, faces = inputs
    parts = [
        runtime.generate(mels[start : start + chunk], faces[start : start + chunk])
        for start in range(0, ROWS, chunk)
    ]
    np.testing.assert_allclose(np.concatenate(parts), runtime.generate(mels, faces), rtol=0, atol=SAME)


def test_rows_keep_their_order(runtime: GeneratorRuntime, inputs: tuple[FloatArray, FloatArray]) -> None:
    mels, faces = inputs
    backwards = runtime.generate(mels[::-1], faces[::-1])  # strides below 0, too
    np.testing.assert_allclose(backwards[::-1], runtime.generate(mels, faces), rtol=0, atol=SAME)


def test_a_result_outlives_the_next_call(
    runtime: GeneratorRuntime, inputs: tuple[FloatArray, FloatArray]
) -> None:
    mels, faces = inputs
    first = runtime.generate(mels[:4], faces[:4])
    kept = first.copy()
    runtime.generate(mels[4:8], faces[4:8])
    np.testing.assert_array_equal(first, kept)


def test_inputs_stay_as_they_were(runtime: GeneratorRuntime, inputs: tuple[FloatArray, FloatArray]) -> None:
    mels, faces = (array[:3].copy() for array in inputs)
    for array in (mels, faces):
        array.setflags(write=False)
    runtime.generate(mels, faces)
    np.testing.assert_array_equal(mels, inputs[0][:3])
    np.testing.assert_array_equal(faces, inputs[1][:3])


def test_no_rows_give_no_faces(runtime: GeneratorRuntime, inputs: tuple[FloatArray, FloatArray]) -> None:
    mels, faces = inputs
    assert runtime.generate(mels[:0], faces[:0]).shape == (0, 3, FACE_SIZE, FACE_SIZE)


@pytest.mark.parametrize(
    ("mels", "faces", "reason"),
    [
        (np.zeros((2, 1, 80, 16)), np.zeros((2, 9, 96, 96), np.float32), "mels is float64"),
        (np.zeros((2, 1, 80, 16), np.float32), np.zeros((2, 9, 96, 96), np.uint8), "faces is uint8"),
        (
            np.zeros((2, 80, 16), np.float32),
            np.zeros((2, 9, 96, 96), np.float32),
            r"mels has shape \(2, 80, 16\)",
        ),
        (np.zeros((2, 1, 80, 16), np.float32), np.zeros((2, 96, 96, 9), np.float32), "faces has shape"),
        (np.zeros((2, 1, 80, 16), np.float32), np.zeros((2, 9, 128, 128), np.float32), "faces has shape"),
        (
            np.zeros((2, 1, 80, 16), np.float32),
            np.zeros((3, 9, 96, 96), np.float32),
            "2 windows of sound for 3",
        ),
    ],
)
def test_other_arrays_are_refused(
    runtime: GeneratorRuntime, network: nn.Module, mels: FloatArray, faces: FloatArray, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        runtime.generate(mels, _faces(network, faces))


def test_too_few_and_too_many_references_are_refused(runtime: GeneratorRuntime, network: nn.Module) -> None:
    seen = 3 + 3 * network.num_references
    for channels in {3, 6, 9, 12} - {seen}:
        faces = np.zeros((1, channels, FACE_SIZE, FACE_SIZE), np.float32)
        with pytest.raises(ValueError, match=rf"faces has shape .*it must be \(n, {seen}, 96, 96\)"):
            runtime.generate(np.zeros((1, 1, 80, 16), np.float32), faces)


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_a_closed_one_says_so(folder: Path, inputs: tuple[FloatArray, FloatArray], name: str) -> None:
    runtime = resolve_runtime(name, folder, device="cpu")
    runtime.close()
    runtime.close()
    with pytest.raises(RuntimeUnavailableError, match="closed"):
        runtime.generate(*inputs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_fork_is_told_and_does_not_hang(
    runtime: GeneratorRuntime, inputs: tuple[FloatArray, FloatArray]
) -> None:
    runtime.generate(*inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own, of forks beside threads
        child = os.fork()
    if not child:
        signal.alarm(10)
        try:
            runtime.generate(*inputs)
        except RuntimeUnavailableError as error:
            os._exit(7 if "before this process was forked" in str(error) else 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_an_unknown_device_is_named_with_those_present(folder: Path, name: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"no device “abacus”.*it has: auto, cpu"):
        resolve_runtime(name, folder, device="abacus")


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_threads_are_a_positive_number(
    folder: Path, inputs: tuple[FloatArray, FloatArray], runtime: GeneratorRuntime, name: str
) -> None:
    with pytest.raises(UsageError, match="0 threads"):
        resolve_runtime(name, folder, threads=0)
    mels, faces = inputs[0][:5], inputs[1][:5]
    before = torch.get_num_threads()
    try:
        single = resolve_runtime(name, folder, device="cpu", threads=1).generate(mels, faces)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_allclose(single, runtime.generate(mels, faces), rtol=0, atol=SAME)


def _faces_saying(folder: Path, name: str, articulation: float, *inputs: FloatArray) -> FloatArray:
    runtime = resolve_runtime(name, folder, device="cpu", articulation=articulation)
    try:
        return runtime.generate(*inputs)
    finally:
        runtime.close()


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_articulation_moves_the_code_of_sound_away_from_that_of_silence(
    network: nn.Module, folder: Path, inputs: tuple[FloatArray, FloatArray], name: str
) -> None:
    mels, faces = inputs[0][:3], inputs[1][:3]
    silent = np.full_like(mels, SILENCE)
    codes: list[torch.Tensor] = []

    def listen(module: nn.Module, given: object, code: torch.Tensor) -> torch.Tensor:
        codes.append(code.clone())
        rest = codes[0]
        return torch.relu(2.5 * code - 1.5 * rest)

    hook = network.sound_code.register_forward_hook(listen)  # type: ignore[union-attr,operator]
    with torch.inference_mode():
        at_rest = network(*map(torch.tensor, (silent, faces))).numpy()
        expected = network(*map(torch.tensor, (mels, faces))).numpy()
    hook.remove()
    assert np.abs(expected - at_rest).mean() > 100 * SAME
    for factor, heard, wanted in ((2.5, mels, expected), (0, mels, at_rest), (2.5, silent, at_rest)):
        said = _faces_saying(folder, name, factor, heard, faces)
        np.testing.assert_allclose(_painted(network, said), _painted(network, wanted), rtol=0, atol=SAME)


@pytest.mark.parametrize("articulation", [-0.1, 3.1, float("nan")])
def test_an_articulation_of_no_mouth_is_refused(folder: Path, articulation: float) -> None:
    with pytest.raises(UsageError, match="it can be 0 to 3"):
        resolve_runtime("openvino", folder, articulation=articulation)


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_an_empty_folder_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=r"generator\.\w+ is missing in .*" + tmp_path.name):
        resolve_runtime(name, tmp_path, device="cpu")


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    for file in folder.iterdir():
        content = b"<!DOCTYPE html>" if file.stem == "generator" else file.read_bytes()
        (tmp_path / file.name).write_bytes(content)
    with pytest.raises(WeightsError, match=str(tmp_path / "generator")):
        resolve_runtime(name, tmp_path, device="cpu")


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_one_that_is_not_installed_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delitem(sys.modules, RUNTIMES[name].partition(":")[0], raising=False)
    monkeypatch.setitem(sys.modules, name, None)  # importing it fails, as where it is absent
    with pytest.raises(RuntimeUnavailableError, match=rf"{name}.*pip install '?(lipsmith\[)?{name}"):
        resolve_runtime(name, folder)


def test_an_unknown_runtime_is_named_with_those_there_are(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"“abacus”.*openvino, torch"):
        resolve_runtime("abacus", folder)
