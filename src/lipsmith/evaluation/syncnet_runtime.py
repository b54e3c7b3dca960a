"""SyncNet as fast as this machine can: OpenVINO on a CPU, PyTorch on a GPU."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lipsmith.engine import compile_on_cpu, import_openvino
from lipsmith.errors import RuntimeUnavailableError
from lipsmith.models.syncnet import FlatLipTower, SoundTower, SyncNet

FloatArray = NDArray[np.float32]

# Windows computed at once (benchmarks/scoring.py --batches): more no longer helps on two cores.
BATCH = 4


class OpenVinoSyncNet:
    """SyncNet compiled for this processor, a `lipsmith.evaluation.lse.SyncNetwork`.

    Args:
        network: its weights; not changed.
        threads: most threads; None: one a physical core.
        batch: windows computed at once.

    Raises:
        RuntimeUnavailableError: OpenVINO is not installed.
    """

    device = "cpu"
    runtime = "openvino"

    def __init__(self, network: SyncNet, *, threads: int | None = None, batch: int = BATCH) -> None:
        network = network.eval()
        self._lips = _Tower(FlatLipTower(network), (batch, 3, 5, 224, 224), threads)
        self._sound = _Tower(SoundTower(network), (batch, 1, 13, 20), threads)

    def embed_lips(self, frames: Tensor) -> Tensor:
        """Faces (n, 3, 5, 224, 224), BGR 0–255, to (n, 1024)."""
        return self._lips.embed(frames)

    def embed_sound(self, mfcc: Tensor) -> Tensor:
        """MFCC (n, 1, 13, 20) to (n, 1024)."""
        return self._sound.embed(mfcc)


class TorchSyncNet:
    """SyncNet by PyTorch on a device, in float32; a `lipsmith.evaluation.lse.SyncNetwork` that takes CPU tensors."""

    runtime = "torch"

    def __init__(self, network: SyncNet, device: str) -> None:
        try:
            self._network = network.eval().to(device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
            raise RuntimeUnavailableError(
                f"The device {device!r} cannot be used ({reason}); use cpu."
            ) from error
        self.device = device

    def embed_lips(self, frames: Tensor) -> Tensor:
        """Faces (n, 3, 5, 224, 224), BGR 0–255, to (n, 1024)."""
        return self._network.embed_lips(frames.to(self.device)).cpu()

    def embed_sound(self, mfcc: Tensor) -> Tensor:
        """MFCC (n, 1, 13, 20) to (n, 1024)."""
        return self._network.embed_sound(mfcc.to(self.device)).cpu()


def fast_syncnet(
    network: SyncNet, *, device: str = "auto", threads: int | None = None
) -> OpenVinoSyncNet | TorchSyncNet:
    """`network` ready to score: on a GPU where one is present, else through OpenVINO.

    Args:
        network: its weights.
        device: "auto", "cpu", or a name that PyTorch knows ("cuda", "cuda:1", "mps").
        threads: most CPU threads; None: one a physical core.

    Raises:
        RuntimeUnavailableError: the device is not present, or OpenVINO not installed.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return OpenVinoSyncNet(network, threads=threads) if device == "cpu" else TorchSyncNet(network, device)


class _Tower:
    """One tower as a compiled network of a fixed batch."""

    def __init__(self, tower: nn.Module, shape: tuple[int, ...], threads: int | None) -> None:
        ov = import_openvino()
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # tracing warns of its own internals
            model = ov.convert_model(
                tower.eval(), example_input=torch.zeros(shape), input=[ov.PartialShape(shape)]
            )
        self._request: Any = compile_on_cpu(model, threads=threads).create_infer_request()
        self._rows = np.zeros(shape, np.float32)  # behind a short last batch lie former rows, not read

    def embed(self, inputs: Tensor) -> Tensor:
        batch = len(self._rows)
        rows: FloatArray = inputs.numpy()
        parts = []
        for start in range(0, len(rows), batch):
            piece = rows[start : start + batch]
            self._rows[: len(piece)] = piece
            self._request.infer([self._rows], share_inputs=True)
            parts.append(self._request.get_output_tensor(0).data[: len(piece)].copy())
        return torch.from_numpy(np.concatenate(parts))
