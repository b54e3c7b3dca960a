"""The PyTorch runtime: CPU, CUDA (half precision, channels last) or MPS, from `generator.safetensors`."""

import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lipsmith.errors import RuntimeUnavailableError, WeightsError
from lipsmith.machine import core_quota
from lipsmith.models.articulation import articulate
from lipsmith.models.generators import BASELINES, build_generator, paint_lower_part
from lipsmith.models.wav2lip import GENERATORS
from lipsmith.runtime.base import SAFETENSORS_NAME, FloatArray, check_inputs, check_process, split_rows
from lipsmith.weights.card import WeightCard

# Most rows in one pass. A GPU needs many to be busy; on a CPU more than a few only spoil the cache.
BATCH_CPU = 8
BATCH_GPU = 64


class TorchGenerator:
    """A generator as a PyTorch module. See `GeneratorRuntime`.

    On CUDA it computes in half precision: its faces differ by up to about 0.01 from the other runtimes'.
    Where a GPU's memory does not hold a batch, the batch is halved, and stays so.

    Args:
        folder: holds generator.safetensors and card.toml.
        device: "auto" (CUDA, else MPS, else CPU), "cpu", "cuda", "cuda:1", "mps".
        threads: most CPU threads. PyTorch has one number for the whole process.
        articulation: see `resolve_runtime`.

    Raises:
        RuntimeUnavailableError: the device is not present.
        WeightsError: the files are missing, damaged, or do not fit the card.
    """

    name = "torch"

    def __init__(
        self, folder: Path, *, device: str = "auto", threads: int | None = None, articulation: float = 1.0
    ) -> None:
        self._device = find_device(device)
        self.device = str(self._device)
        on_cpu = self._device.type == "cpu"
        if threads is None and on_cpu:
            threads = core_quota()
        if threads is not None:
            torch.set_num_threads(threads)
        self._dtype = torch.float16 if self._device.type == "cuda" else torch.float32
        self._batch = BATCH_CPU if on_cpu else BATCH_GPU
        network = load_generator(Path(folder))
        paint_lower_part(network)
        if articulation != 1:
            articulate(network, articulation)
        self.face_size = int(network.face_size)  # type: ignore[arg-type]
        self.num_references = int(network.num_references)  # type: ignore[arg-type]
        network.to(self._device, self._dtype)
        # mypy does not know this overload.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network: nn.Module | None = network
        self._process = os.getpid()

    @torch.inference_mode()
    def generate(self, mels: FloatArray, faces: FloatArray) -> FloatArray:
        """(n, 1, 80, 16), (n, 6 or 9, S, S) → (n, 3, S, S). See `GeneratorRuntime.generate`."""
        check_inputs(mels, faces, self.face_size, self.num_references)
        if self._network is None:
            raise RuntimeUnavailableError("This generator was closed; resolve a new one.")
        check_process(self._process)
        generated = np.empty((len(faces), 3, self.face_size, self.face_size), np.float32)
        done = 0
        while done < len(faces):
            try:
                for rows in split_rows(len(faces) - done, self._batch):
                    part = slice(done, done + rows.stop - rows.start)
                    generated[part] = self._run(self._network, mels[part], faces[part])
                    done = part.stop
            except torch.OutOfMemoryError as error:
                if self._batch == 1:
                    raise RuntimeUnavailableError(
                        f"The memory of {self.device} does not hold a single face of {self.face_size} "
                        "pixels. Use another device, or the openvino runtime."
                    ) from error
                self._batch //= 2
                torch.cuda.empty_cache()
        return generated

    def _run(self, network: nn.Module, mels: FloatArray, faces: FloatArray) -> FloatArray:
        sound = self._upload(mels).to(self._dtype)
        pictures = self._upload(faces).to(self._dtype, memory_format=torch.channels_last)
        output: FloatArray = network(sound, pictures).float().cpu().numpy()
        return output

    def _upload(self, array: FloatArray) -> torch.Tensor:
        # A copy: PyTorch reads neither read-only arrays nor backward ones.
        tensor = torch.from_numpy(array.copy())
        if self._device.type != "cuda":
            return tensor.to(self._device)
        # From pinned memory, which PyTorch keeps for the next batch, the GPU fetches without the processor, which goes
        # on to the next array meanwhile; and it is the GPU that rounds to half precision and reorders the channels.
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def close(self) -> None:
        """Free the network and, on CUDA, the memory that it held."""
        self._network = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def find_device(name: str) -> torch.device:
    """The device called `name`; "auto" is CUDA, else MPS, else the CPU.

    Raises:
        RuntimeUnavailableError: unknown or not present.
    """
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    present[:0] = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    wanted = name.lower()
    if wanted == "auto":
        wanted = present[0].partition(":")[0]
    if wanted not in present and not (wanted == "cuda" and "cuda:0" in present):
        raise RuntimeUnavailableError(
            f"The torch runtime has no device “{name}” on this machine; it has: auto, {', '.join(present)}."
        )
    return torch.device(wanted)


def load_generator(folder: Path) -> nn.Module:
    """The generator of a weights folder, in evaluation mode, float32, on the CPU.

    Raises:
        WeightsError: the card or the tensors are missing, damaged, or do not fit each other.
    """
    path = folder / SAFETENSORS_NAME
    if not path.is_file():
        raise WeightsError(
            f"{path.name} is missing in {folder}: the torch runtime needs it. "
            "The openvino runtime may find its own files there."
        )
    card = WeightCard.read(folder / "card.toml")
    known = (*GENERATORS, *BASELINES)
    if card.architecture not in known:
        raise WeightsError(
            f"{folder} holds a {card.architecture}; the torch runtime knows {', '.join(known)}."
        )
    network = build_generator(card.architecture, card.width, card.face_size)
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"{path} does not hold a generator of width {card.width:g} and face size {card.face_size}, "
            f"as card.toml says: {str(error).splitlines()[0]}"
        ) from error
    return network.eval()
