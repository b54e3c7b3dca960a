"""An export agrees with PyTorch, or is not written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lipsmith.runtime.export as export
from lipsmith.errors import OutputError, UsageError, WeightsError
from lipsmith.runtime.base import FloatArray
from lipsmith.runtime.export import PRECISIONS, Precision, export_generator, psnr
from lipsmith.runtime.openvino import OpenVinoGenerator

FACE_SIZE = 16


class SmallGenerator(nn.Module):
    """The least that can be exported: three convolutions and a word from the sound."""

    def __init__(self) -> None:
        super().__init__()
        self.face_size = FACE_SIZE
        self.sound = nn.Conv2d(1, 16, (80, 16))
        self.face = nn.Conv2d(6, 16, 3, padding=1)
        self.output = nn.Conv2d(16, 3, 3, padding=1)
        self.dropout = nn.Dropout(0.5)  # an export of a network in training mode would show

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """(n, 1, 80, 16), (n, 6, S, S) → (n, 3, S, S)."""
        hidden = torch.relu(self.face(faces) + self.sound(mel))
        return torch.sigmoid(self.output(self.dropout(hidden)))


class Forgetful(SmallGenerator):
    """Brighter by `change` than what an export sees of it, so that the two cannot agree."""

    def __init__(self, change: float) -> None:
        super().__init__()
        self.change = change

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """As its parent's."""
        generated = super().forward(mel, faces)
        return generated if torch.jit.is_tracing() else generated + self.change


@pytest.fixture
def network() -> SmallGenerator:
    torch.manual_seed(0)
    return SmallGenerator()


@pytest.fixture
def calibration() -> list[tuple[FloatArray, FloatArray]]:
    """32 rows in batches of 8."""
    random = np.random.default_rng(0)
    return [
        (
            random.uniform(-4, 4, (8, 1, 80, 16)).astype(np.float32),
            random.uniform(0, 1, (8, 6, FACE_SIZE, FACE_SIZE)).astype(np.float32),
        )
        for _ in range(4)
    ]


def expected_of(network: nn.Module, mels: FloatArray, faces: FloatArray) -> FloatArray:
    with torch.inference_mode():
        return network.eval()(torch.tensor(mels), torch.tensor(faces)).numpy()


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 2e-3), ("int8", 5e-2)])
def test_every_precision_runs_and_agrees(
    network: SmallGenerator,
    calibration: list[tuple[FloatArray, FloatArray]],
    tmp_path: Path,
    precision: Precision,
    tolerance: float,
) -> None:
    if precision == "int8":
        pytest.importorskip("nncf")
    network.train()
    path = export_generator(network, tmp_path / "new", precision=precision, calibration=calibration)
    assert network.training  # left as it was
    assert path == tmp_path / "new" / "generator.xml"
    assert sorted(file.name for file in path.parent.iterdir()) == ["generator.bin", "generator.xml"]
    mels, faces = calibration[0]
    generated = OpenVinoGenerator(path.parent).generate(mels, faces)
    np.testing.assert_allclose(generated, expected_of(network, mels, faces), rtol=0, atol=tolerance)


def test_fp16_halves_the_file(network: SmallGenerator, tmp_path: Path) -> None:
    sizes = {
        precision: export_generator(network, tmp_path / precision, precision=precision)
        .with_suffix(".bin")
        .stat()
        .st_size
        for precision in PRECISIONS
        if precision != "int8"
    }
    assert sizes["fp16"] == pytest.approx(sizes["fp32"] / 2, rel=0.01)


def test_int8_is_stored_in_bytes(
    network: SmallGenerator, calibration: list[tuple[FloatArray, FloatArray]], tmp_path: Path
) -> None:
    pytest.importorskip("nncf")
    path = export_generator(network, tmp_path, precision="int8", calibration=calibration)
    num_parameters = sum(parameter.numel() for parameter in network.parameters())
    assert num_parameters < path.with_suffix(".bin").stat().st_size < 1.3 * num_parameters


@pytest.mark.parametrize(("precision", "change"), [("fp32", 0.001), ("fp16", 0.05)])
def test_disagreement_is_measured_and_nothing_is_written(
    tmp_path: Path, precision: Precision, change: float
) -> None:
    torch.manual_seed(0)
    (tmp_path / "generator.xml").write_text("former")
    with pytest.raises(WeightsError, match=f"{precision} generator was not written.* up to {change:g}, and"):
        export_generator(Forgetful(change), tmp_path, precision=precision)
    assert [file.name for file in tmp_path.iterdir()] == ["generator.xml"]
    assert (tmp_path / "generator.xml").read_text() == "former"


def test_int8_is_judged_by_its_lower_half(
    calibration: list[tuple[FloatArray, FloatArray]], tmp_path: Path
) -> None:
    pytest.importorskip("nncf")
    torch.manual_seed(0)
    # A change of 0.1 everywhere is an error of 20 dB.
    with pytest.raises(
        WeightsError, match=r"8 samples.* to (19\.\d|20\.\d) dB .*, and 38 dB .* is the least"
    ):
        export_generator(Forgetful(0.1), tmp_path, precision="int8", calibration=calibration)
    assert list(tmp_path.iterdir()) == []


class Moody(SmallGenerator):
    """Gives another face than an export when the sound is at its loudest everywhere."""

    def forward(self, mel: Tensor, faces: Tensor) -> Tensor:
        """As its parent's."""
        generated = super().forward(mel, faces)
        if torch.jit.is_tracing():
            return generated
        return generated + 0.03 * (mel.amin(dim=(1, 2, 3), keepdim=True) >= 4)


def test_int8_is_judged_by_its_worst_face_too(
    calibration: list[tuple[FloatArray, FloatArray]], tmp_path: Path
) -> None:
    pytest.importorskip("nncf")
    torch.manual_seed(0)
    calibration[0][0][0] = 4  # the first row of all is judged
    # An error of 30.5 dB in one face of eight is 39.5 dB over all.
    with pytest.raises(WeightsError, match=r" to (38|39)\.\d dB \((29|30)\.\d dB in the worst\)"):
        export_generator(Moody(), tmp_path, precision="int8", calibration=calibration)


def test_given_samples_are_checked_too(
    network: SmallGenerator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[int] = []
    monkeypatch.setattr(export, "_check_agreement", lambda *arguments: seen.append(len(arguments[-1])))
    mels, faces = np.zeros((5, 1, 80, 16), np.float32), np.zeros((5, 6, FACE_SIZE, FACE_SIZE), np.float32)
    export_generator(network, tmp_path, precision="fp32", calibration=[(mels, faces)])
    assert seen == [7]  # and two of noise


def test_int8_without_samples_is_refused(network: SmallGenerator, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"at least 16 calibration samples.*there are 0"):
        export_generator(network, tmp_path, precision="int8")


def test_an_unknown_precision_is_refused(network: SmallGenerator, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"“int4”.*fp32, fp16, int8"):
        export_generator(network, tmp_path, precision="int4")  # type: ignore[arg-type]


def test_damaged_weights_are_refused(network: SmallGenerator, tmp_path: Path) -> None:
    with torch.no_grad():
        network.output.bias.fill_(float("nan"))
    with pytest.raises(WeightsError, match="not numbers"):
        export_generator(network, tmp_path, precision="fp32")


def test_a_folder_that_cannot_be_written_is_named(network: SmallGenerator, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written to .*file"):
        export_generator(network, tmp_path / "file" / "folder", precision="fp32")


def test_nothing_is_printed(
    network: SmallGenerator,
    calibration: list[tuple[FloatArray, FloatArray]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("nncf")
    export_generator(network, tmp_path, precision="int8", calibration=calibration)
    assert capfd.readouterr() == ("", "")


def test_psnr_of_a_known_error() -> None:
    black, grey = np.zeros((1, 3, 4, 4), np.float32), np.full((1, 3, 4, 4), 0.01, np.float32)
    assert psnr(grey, black) == pytest.approx(40)
    assert psnr(black, black) == float("inf")
