"""What the PyTorch runtime does with devices, scarce memory and files that do not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lipsmith.errors import RuntimeUnavailableError, WeightsError
from lipsmith.models.wav2lip import Wav2Lip
from lipsmith.runtime.base import FloatArray
from lipsmith.runtime.torch import TorchGenerator, find_device, load_generator
from lipsmith.weights.card import WeightCard

WIDTH = 0.125


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A weights folder for this runtime alone."""
    torch.manual_seed(0)
    save_file(Wav2Lip(width=WIDTH).state_dict(), tmp_path / "generator.safetensors")
    write_card(tmp_path, WIDTH)
    return tmp_path


def write_card(folder: Path, width: float) -> None:
    WeightCard(name="tiny", kind="generator", architecture="wav2lip", width=width, face_size=96).write(
        folder / "card.toml"
    )


def test_tensors_of_another_width_than_the_card_says(folder: Path) -> None:
    write_card(folder, 0.5)
    with pytest.raises(WeightsError, match=r"generator of width 0\.5 and face size 96, as card\.toml says"):
        load_generator(folder)


def test_a_missing_card_is_named(folder: Path) -> None:
    (folder / "card.toml").unlink()
    with pytest.raises(WeightsError, match=r"card\.toml"):
        load_generator(folder)


def test_half_precision_files_are_computed_in_single(folder: Path) -> None:
    halves = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in Wav2Lip(width=WIDTH).state_dict().items()
    }
    save_file(halves, folder / "generator.safetensors")
    assert {parameter.dtype for parameter in load_generator(folder).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("cuda", "mps", "name", "expected"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, True, "auto", "cuda"),
        (2, False, "cuda:1", "cuda:1"),
        (1, False, "CUDA", "cuda"),
        (1, True, "cpu", "cpu"),
    ],
)
def test_auto_prefers_cuda_then_mps(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, name: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert str(find_device(name)) == expected


@pytest.mark.parametrize("name", ["cuda:2", "mps", "cuda:", ""])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(RuntimeUnavailableError, match="auto, cuda:0, cuda:1, cpu"):
        find_device(name)


class SmallDevice(TorchGenerator):
    """One whose memory holds `capacity` rows."""

    capacity: int

    def _run(self, network: Wav2Lip, mels: FloatArray, faces: FloatArray) -> FloatArray:
        self.tried.append(len(faces))
        if len(faces) > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._run(network, mels, faces)

    def __init__(self, folder: Path, capacity: int) -> None:
        super().__init__(folder, device="cpu")
        self.capacity = capacity
        self.tried: list[int] = []


def test_a_batch_that_memory_does_not_hold_is_halved_and_stays_so(folder: Path) -> None:
    random = np.random.default_rng(0)
    mels = random.uniform(-4, 4, (11, 1, 80, 16)).astype(np.float32)
    faces = random.uniform(0, 1, (11, 6, 96, 96)).astype(np.float32)
    small = SmallDevice(folder, capacity=3)
    generated = small.generate(mels, faces)
    assert small.tried == [8, 4, 2, 2, 2, 2, 2, 1]
    expected = TorchGenerator(folder, device="cpu").generate(mels, faces)
    np.testing.assert_allclose(generated, expected, rtol=0, atol=1e-5)
    small.tried.clear()
    small.generate(mels[:3], faces[:3])
    assert small.tried == [2, 1]


def test_memory_that_does_not_hold_one_face_ends_with_advice(folder: Path) -> None:
    small = SmallDevice(folder, capacity=0)
    with pytest.raises(RuntimeUnavailableError, match=r"single face of 96 pixels.*openvino"):
        small.generate(np.zeros((1, 1, 80, 16), np.float32), np.zeros((1, 6, 96, 96), np.float32))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_half_precision_on_cuda_stays_close(folder: Path) -> None:
    random = np.random.default_rng(0)
    mels = random.uniform(-4, 4, (70, 1, 80, 16)).astype(np.float32)
    faces = random.uniform(0, 1, (70, 6, 96, 96)).astype(np.float32)
    expected = TorchGenerator(folder, device="cpu").generate(mels, faces)
    generated = TorchGenerator(folder, device="cuda").generate(mels, faces)
    np.testing.assert_allclose(generated, expected, rtol=0, atol=0.01)
